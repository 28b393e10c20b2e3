import { Option, type Command } from 'commander';
import type { Database, ReadOptions, ScanOptions } from '../client/index.js';
import type { Bytes } from '../lib/bytes.js';
import { parseTimestamp, type Timestamp } from '../mvcc/timestamp.js';
import { durationOrNone, integer, moment, withConnection, type ConnectionArguments } from './arguments.js';
import { UsageError } from './exit.js';
import { decode, type Encoding } from './values.js';

/** What the commands that deal with keys and values have in common: how these are written, which are meant, how fresh. */
export interface DataArguments extends ConnectionArguments {
  readonly hex: boolean;
  readonly base64: boolean;
}

export function dataCommand(program: Command, name: string, description: string): Command {
  return withConnection(program.command(name))
    .addOption(new Option('--hex', 'keys and values are hexadecimal').default(false).conflicts('base64'))
    .addOption(new Option('--base64', 'keys and values are base64').default(false).conflicts('hex'))
    .description(description);
}

export function encodingOf({ hex, base64 }: DataArguments): Encoding {
  return hex ? 'hex' : base64 ? 'base64' : 'text';
}

export interface ReadArguments {
  readonly asOf?: string;
  readonly consistency?: 'linearizable' | 'bounded' | 'local';
  readonly maxStaleness?: number;
  readonly atLeast?: number;
}

export function withRead(command: Command): Command {
  return command
    .addOption(
      new Option('--as-of <time>', 'the state at a timestamp, an ISO time, or a span before now like -10s')
        .conflicts(['consistency', 'maxStaleness', 'atLeast'])
        .argParser(moment('--as-of')),
    )
    .addOption(
      new Option('--consistency <level>', 'how fresh; linearizable if not given').choices(['linearizable', 'bounded', 'local']),
    )
    .addOption(new Option('--max-staleness <duration>', 'of bounded reads; 5s if not given').argParser(durationOrNone))
    .addOption(atLeast('from any replica, as of this timestamp, printed before, or later'));
}

/** The token of a session, of reads and of writes. */
function atLeast(description: string): Option {
  return new Option('--at-least <timestamp>', description).argParser(integer(1, Number.MAX_SAFE_INTEGER));
}

export interface WriteArguments extends DataArguments {
  readonly atLeast?: number;
}

export function withWrite(command: Command): Command {
  return command.addOption(atLeast('commit above this timestamp, printed before'));
}

const MAX_STALENESS_MS = 5000;

export function readOptionsOf({ asOf, consistency, maxStaleness, atLeast }: ReadArguments): ReadOptions {
  if (asOf !== undefined) return { asOf };
  if (atLeast !== undefined) {
    if (consistency !== undefined && consistency !== 'bounded') {
      throw new UsageError('--at-least goes with --consistency bounded');
    }
    return { atLeast, maxStalenessMs: maxStaleness };
  }
  if (consistency === 'bounded') return { consistency, maxStalenessMs: maxStaleness ?? MAX_STALENESS_MS };
  if (maxStaleness !== undefined) throw new UsageError('--max-staleness needs --consistency bounded');
  return { consistency };
}

/**
 * The moment that was asked for. What a span before now is only the clock of the cluster says, so it is read when there is a
 * connection, and what is wrong with it is said of the option.
 */
export function momentAt(db: Database, text: string, option: string): Timestamp {
  return parseTimestamp(text, db.now(), option);
}

export function readAt(db: Database, options: ReadOptions): ReadOptions {
  return options.asOf === undefined ? options : { ...options, asOf: momentAt(db, String(options.asOf), '--as-of') };
}

export interface RangeArguments extends DataArguments {
  readonly start?: string;
  readonly end?: string;
}

export function withRange(command: Command): Command {
  return command
    .argument('[prefix]', 'only keys that begin so')
    .option('--start <key>', 'from this key on')
    .option('--end <key>', 'up to this key, exclusive');
}

export function rangeOf(prefix: string | undefined, options: RangeArguments): Pick<ScanOptions, 'prefix' | 'start' | 'end'> {
  const { start, end } = options;
  const encoding = encodingOf(options);
  if (prefix !== undefined && (start !== undefined || end !== undefined)) {
    throw new UsageError('give a prefix, or --start and --end, not both');
  }
  const key = (text: string | undefined, what: string): Bytes | undefined =>
    text === undefined ? undefined : decode(text, encoding, what);
  return { prefix: key(prefix, 'prefix'), start: key(start, '--start'), end: key(end, '--end') };
}
