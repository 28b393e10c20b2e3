import type { Fields, Logger, Metrics } from '../env/env.js';

/** What a simulated world's processes log, in order, with virtual time: the trace of a run. */
export class SimLog {
  readonly lines: string[] = [];
  /** Told of every line, also of those that are no longer kept. */
  onLine: ((line: string) => void) | undefined;
  readonly #nowMs: () => number;
  readonly #linesMax: number;

  constructor(nowMs: () => number, linesMax = 20_000) {
    this.#nowMs = nowMs;
    this.#linesMax = linesMax;
  }

  logger(fields: Fields): Logger {
    const write = (level: string, message: string, more: Fields = {}): void => {
      if (this.lines.length >= this.#linesMax) this.lines.splice(0, this.#linesMax / 2);
      const line = `${this.#nowMs().toFixed(3)} ${level} ${message} ${JSON.stringify({ ...fields, ...more })}`;
      this.lines.push(line);
      this.onLine?.(line);
    };
    return {
      debug: (message, more) => write('debug', message, more),
      info: (message, more) => write('info', message, more),
      warn: (message, more) => write('warn', message, more),
      error: (message, more) => write('error', message, more),
      child: (more) => this.logger({ ...fields, ...more }),
    };
  }
}

const NOTHING = { add: () => undefined, set: () => undefined, observe: () => undefined };

/** Nobody looks at the metrics of a simulated world. */
export const NO_METRICS: Metrics = {
  counter: () => NOTHING,
  gauge: () => NOTHING,
  histogram: () => NOTHING,
};
