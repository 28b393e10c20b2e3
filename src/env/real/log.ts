import { destination, pino, type DestinationStream, type Logger as Pino } from 'pino';
import type { Fields, Logger } from '../telemetry.js';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

export interface LogOptions {
  /** The lowest level that is written; default `info`. */
  readonly level?: LogLevel;
  /** On every line. */
  readonly fields?: Fields;
  /** One readable line instead of JSON; default: whether stderr is a terminal. */
  readonly pretty?: boolean;
  /** Takes every finished line with its end of line; default: stderr. */
  readonly write?: (line: string) => void;
}

/**
 * A logger that writes synchronously: the last line before a process dies is the one that matters. JSON has `time` (ISO),
 * `level`, `message` and the fields.
 */
export function createLogger(options: LogOptions = {}): Logger {
  const write = options.write;
  const out: DestinationStream = write === undefined ? destination({ dest: 2, sync: true }) : { write };
  const pretty = options.pretty ?? (write === undefined && process.stderr.isTTY);
  const root = pino(
    {
      level: options.level ?? 'info',
      base: null,
      messageKey: 'message',
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    pretty ? { write: (line) => out.write(prettyLine(line)) } : out,
  );
  return new PinoLogger(options.fields === undefined ? root : root.child(options.fields));
}

class PinoLogger implements Logger {
  readonly #pino: Pino;

  constructor(logger: Pino) {
    this.#pino = logger;
  }

  debug(message: string, fields: Fields = {}): void {
    this.#pino.debug(fields, message);
  }

  info(message: string, fields: Fields = {}): void {
    this.#pino.info(fields, message);
  }

  warn(message: string, fields: Fields = {}): void {
    this.#pino.warn(fields, message);
  }

  error(message: string, fields: Fields = {}): void {
    this.#pino.error(fields, message);
  }

  child(fields: Fields): Logger {
    return new PinoLogger(this.#pino.child(fields));
  }
}

/** `04:12:52.123 info  listening  node=1 address="127.0.0.1:7101"` from a line of JSON. */
function prettyLine(json: string): string {
  const { time, level, message, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const clock = typeof time === 'string' ? time.slice(11, 23) : '';
  const facts = Object.entries(fields).map(([name, value]) => ` ${name}=${JSON.stringify(value)}`);
  const gap = facts.length > 0 ? ' ' : '';
  return `${clock} ${String(level).padEnd(5)} ${String(message)}${gap}${facts.join('')}\n`;
}
