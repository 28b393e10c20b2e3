import { Option, type Command } from 'commander';
import { streamFrom } from '../client/changes.js';
import type { ChangeEvent, Database } from '../client/index.js';
import { TidemarkError } from '../lib/errors.js';
import { formatTimestamp, parseTimestamp, TIMESTAMP_MAX, type Timestamp } from '../mvcc/timestamp.js';
import { integer, moment } from './arguments.js';
import { dataCommand, encodingOf, rangeOf, withRange, type RangeArguments } from './data-arguments.js';
import { withDatabase } from './database.js';
import { beginLifetime } from './lifetime.js';
import { jsonLine, LineWriter, type Terminal } from './terminal.js';
import { encode, jsonFields, type Encoding } from './values.js';

/** `tidemark watch`: a change stream, printed. */
interface WatchArguments extends RangeArguments {
  readonly from: string;
  readonly before: boolean;
  readonly marks: boolean;
  readonly until?: string;
  readonly limit?: number;
}

const HELP = `
Prints one line for each change, in the order of commit timestamps over all keys: timestamp, time, what, key, value.
Nothing is left out, nothing comes twice, and a stopped watch can go on where it was: it ends with its cursor.

  tidemark watch                             what changes from now on; Ctrl-C ends it
  tidemark watch city/ --from -10m           the changes of the last ten minutes under city/, then the new ones
  tidemark watch --from beginning --json     first what there is (kind "entry"), then what changes
  tidemark watch --from c1.9Ka...            what changed since a watch that ended with this cursor
  tidemark watch --from -1h --until now      the changes of the last hour, and no more

With --json each line has kind (entry, put, delete or mark), key, value, before (with --before), timestamp, time,
transaction (equal in the changes of one commit) and cursor. A mark says that everything up to its timestamp was printed.`;

export function addWatch(program: Command, terminal: Terminal): void {
  withRange(dataCommand(program, 'watch', 'print changes as they are committed'))
    .option('--from <where>', 'now, beginning, a cursor, a timestamp, an ISO time, or a span before now like -10s', whence, 'now')
    .option('--before', 'also what each key held before', false)
    .option('--marks', 'also marks: up to when all changes were printed', false)
    .option('--until <time>', 'end when all until then was printed; now, a timestamp, an ISO time or a span', moment('--until'))
    .addOption(new Option('--limit <n>', 'end after so many changes').argParser(integer(1, Number.MAX_SAFE_INTEGER)))
    .addHelpText('after', HELP)
    .action((prefix: string | undefined, options: WatchArguments) => watch(prefix, options, terminal));
}

/** Refuses what is no place to begin at; which moment or place it is only the cluster can tell. */
function whence(text: string): string {
  streamFrom(text, (time) => parseTimestamp(time, TIMESTAMP_MAX, '--from'));
  return text;
}

async function watch(prefix: string | undefined, options: WatchArguments, terminal: Terminal): Promise<void> {
  const range = rangeOf(prefix, options);
  const lifetime = beginLifetime();
  try {
    await withDatabase(options, async (db) => {
      const { signal } = lifetime;
      const until = options.until === undefined ? Infinity : untilOf(options.from, options.until, await nowOf(db));
      await using changes = db.changes({ ...range, from: options.from, before: options.before, signal });
      const cursor = await print(changes, until, options, terminal);
      const shown = cursor ?? changes.cursor;
      if (shown === undefined) return;
      terminal.stderr.write(options.json ? jsonLine({ cursor: shown }) : `tidemark: go on with --from ${shown}\n`);
    });
  } finally {
    lifetime.end();
  }
}

/** Refuses an end before the beginning, as far as that is known: where a cursor stands it does not say. */
function untilOf(fromText: string, untilText: string, now: Timestamp): Timestamp {
  const until = parseTimestamp(untilText, now, '--until');
  const begin = streamFrom(fromText, (text) => parseTimestamp(text, now, '--from'));
  const from = begin.kind === 'now' ? now : begin.kind === 'timestamp' ? begin.timestamp : 0;
  if (from <= until) return until;
  const message = `the range is inverted: --from ${fromText} is above --until ${untilText}`;
  throw new TidemarkError('INVALID_ARGUMENT', 'RANGE_INVERTED', message, { details: { field: 'from' } });
}

/** At or above all that was acknowledged before, whosever clock is ahead: a linearizable scan chooses such a moment. */
async function nowOf(db: Database): Promise<Timestamp> {
  for await (const { key } of db.scan({ limit: 1, keysOnly: true })) if (key.length > 0) break;
  return db.now();
}

/** Answers with the cursor behind what was printed, where that is not the end of what was read. */
async function print(
  changes: ReturnType<Database['changes']>,
  until: number,
  options: WatchArguments,
  terminal: Terminal,
): Promise<string | undefined> {
  const encoding = encodingOf(options);
  const lines = new LineWriter(terminal.stdout);
  let count = 0;
  let printed: string | undefined;
  for await (const event of changes) {
    if (event.kind !== 'mark' && event.kind !== 'entry' && event.timestamp > until) break;
    printed = event.cursor;
    if (event.kind === 'mark') {
      if (options.marks) await lines.add(options.json ? jsonOf(event, encoding) : textOf(event, encoding));
      // What came before it is complete, and who waits for it should see it.
      await lines.flush();
      if (event.timestamp >= until) break;
      continue;
    }
    await lines.add(options.json ? jsonOf(event, encoding) : textOf(event, encoding));
    count += 1;
    if (count === options.limit) break;
  }
  await lines.flush();
  return printed;
}

function jsonOf(event: ChangeEvent, encoding: Encoding): string {
  const { kind, timestamp, cursor } = event;
  const time = formatTimestamp(timestamp);
  if (event.kind === 'mark') return jsonLine({ kind, timestamp, time, cursor });
  const key = jsonFields('key', event.key, encoding);
  const value = event.kind === 'delete' ? {} : jsonFields('value', event.value, encoding);
  if (event.kind === 'entry') return jsonLine({ kind, ...key, ...value, version: event.version, timestamp, time, cursor });
  const before = event.before && { version: event.before.version, ...jsonFields('value', event.before.value, encoding) };
  return jsonLine({ kind, ...key, ...value, before, timestamp, time, transaction: event.transaction, cursor });
}

function textOf(event: ChangeEvent, encoding: Encoding): string {
  const when = `${event.timestamp}\t${formatTimestamp(event.timestamp)}\t${event.kind}`;
  if (event.kind === 'mark') return `${when}\n`;
  const value = event.kind === 'delete' ? '' : `\t${encode(event.value, encoding)}`;
  const before = event.kind === 'entry' || event.before === undefined ? '' : `\t(was ${encode(event.before.value, encoding)})`;
  return `${when}\t${encode(event.key, encoding)}${value}${before}\n`;
}
