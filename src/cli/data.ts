import { Option, type Command } from 'commander';
import type { Condition, Mutation } from '../bucket/requests.js';
import type { Database, WriteOptions, WriteOutcome } from '../client/index.js';
import type { Bytes } from '../lib/bytes.js';
import { formatTimestamp, TIMESTAMP_MAX, type Timestamp } from '../mvcc/timestamp.js';
import { integer, moment } from './arguments.js';
import {
  dataCommand,
  encodingOf,
  momentAt,
  rangeOf,
  readAt,
  readOptionsOf,
  withRange,
  withRead,
  withWrite,
  type DataArguments,
  type RangeArguments,
  type ReadArguments,
  type WriteArguments,
} from './data-arguments.js';
import { withDatabase } from './database.js';
import { EXIT, Exit } from './exit.js';
import { jsonLine, LineWriter, write, type Terminal } from './terminal.js';
import { decode, encode, jsonFields, readValue, type Encoding } from './values.js';

/** `tidemark put|get|delete|scan|history`: one request each. */
interface ChangeArguments extends WriteArguments {
  readonly ifAbsent?: boolean;
  readonly ifExists?: boolean;
  readonly ifVersion?: number;
}

interface GetArguments extends DataArguments, ReadArguments {
  readonly raw: boolean;
}

interface ScanArguments extends RangeArguments, ReadArguments {
  readonly limit?: number;
  readonly reverse: boolean;
  readonly keysOnly: boolean;
}

interface HistoryArguments extends DataArguments {
  readonly newest?: string;
  readonly oldest?: string;
  readonly asOf?: string;
  readonly limit?: number;
}

const SCAN_HELP = `
With --json each line has key, value, version and served: who answered, and as of when, which is the same for all. Where there
are no keys, a line on standard error has served alone. Its timestamp is the "since" of a condition "unchanged" (tidemark txn):

  since=$(tidemark scan room/7/ --json 2>&1 | tail -n 1 | jq .served.timestamp)`;

export function addData(program: Command, terminal: Terminal): void {
  const command = (name: string, description: string): Command => dataCommand(program, name, description);
  const limit = (): Option =>
    new Option('--limit <n>', 'at most so many').argParser(integer(1, Number.MAX_SAFE_INTEGER));

  withConditions(command('put', 'set a key'))
    .argument('<key>')
    .argument('<value>', '- is standard input, @file a file, @@text is text that begins with @')
    .action((key: string, value: string, options: ChangeArguments) => put(key, value, options, terminal));
  withConditions(command('delete', 'delete a key; one that does not exist is deleted already'))
    .argument('<key>')
    .action((key: string, options: ChangeArguments) => remove(key, options, terminal));
  withRead(command('get', 'print the value of a key'))
    .argument('<key>')
    .option('--raw', 'the bytes of the value and nothing else, not even an end of line', false)
    .action((key: string, options: GetArguments) => get(key, options, terminal));
  withRead(withRange(command('scan', 'print keys and values in the order of keys')))
    .addOption(limit())
    .option('--reverse', 'from the last key to the first', false)
    .option('--keys-only', 'without values', false)
    .addHelpText('after', SCAN_HELP)
    .action((prefix: string | undefined, options: ScanArguments) => scan(prefix, options, terminal));
  command('history', 'print the versions of a key, newest first')
    .argument('<key>')
    .option('--newest <time>', 'from the version of that time on', moment('--newest'))
    .option('--oldest <time>', 'back to that time', moment('--oldest'))
    .option('--as-of <time>', 'the versions that there were at a timestamp, an ISO time, or a span before now', moment('--as-of'))
    .addOption(limit())
    .action((key: string, options: HistoryArguments) => history(key, options, terminal));
}

function withConditions(command: Command): Command {
  return withWrite(command)
    .addOption(new Option('--if-absent', 'only if the key does not exist').conflicts(['ifExists', 'ifVersion']))
    .addOption(new Option('--if-exists', 'only if the key exists').conflicts('ifVersion'))
    .addOption(
      new Option('--if-version <version>', 'only if the key has this version, a number; 0: if it does not exist').argParser(
        integer(0, TIMESTAMP_MAX),
      ),
    );
}

function conditionsOf(key: Bytes, { ifAbsent, ifExists, ifVersion }: ChangeArguments): Condition[] {
  if (ifAbsent === true || ifVersion === 0) return [{ kind: 'absent', key }];
  if (ifExists === true) return [{ kind: 'exists', key }];
  if (ifVersion === undefined) return [];
  return [{ kind: 'version', key, version: ifVersion }];
}

async function put(keyText: string, valueText: string, options: ChangeArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const key = decode(keyText, encoding, 'key');
  const value = await readValue(valueText, encoding, terminal.stdin);
  await change({ kind: 'put', key, value }, options, terminal);
}

async function remove(keyText: string, options: ChangeArguments, terminal: Terminal): Promise<void> {
  await change({ kind: 'delete', key: decode(keyText, encodingOf(options), 'key') }, options, terminal);
}

async function change(mutation: Mutation, options: ChangeArguments, terminal: Terminal): Promise<void> {
  const conditions = conditionsOf(mutation.key, options);
  const { atLeast } = options;
  const outcome = await withDatabase(options, (db) => changeIn(db, mutation, conditions, { atLeast }));
  const { applied, version, failed, served } = outcome;
  const word = mutation.kind === 'put' ? 'put' : 'deleted';
  if (options.json) {
    const result = applied ? { applied, version } : { applied, failedVersion: failed?.version ?? 0 };
    await write(terminal.stdout, jsonLine({ ...result, served }));
  } else if (applied) {
    await write(terminal.stdout, `${word}, version ${version} (${formatTimestamp(version)})\n`);
  } else {
    const present = failed?.version === 0 ? 'the key does not exist' : `the key has version ${failed?.version ?? 0}`;
    terminal.stderr.write(`tidemark: not ${word}: the condition does not hold, ${present}\n`);
  }
  if (!applied) throw new Exit(EXIT.CONDITION_FAILED);
}

/** A Put or a Delete if that is all that is asked for: what is wrong with a key or value is then said of `key` and `value`. */
async function changeIn(
  db: Database,
  mutation: Mutation,
  conditions: readonly Condition[],
  options: WriteOptions,
): Promise<WriteOutcome> {
  if (conditions.length > 0) return db.write({ conditions, mutations: [mutation] }, options);
  const { key } = mutation;
  const written = mutation.kind === 'put' ? await db.put(key, mutation.value, options) : await db.delete(key, options);
  return { applied: true, ...written };
}

async function get(keyText: string, options: GetArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const key = decode(keyText, encoding, 'key');
  const readOptions = readOptionsOf(options);
  const entry = await withDatabase(options, (db) => db.get(key, readAt(db, readOptions)));
  const { found, served } = entry;
  if (options.json) {
    const fields = entry.found ? { ...jsonFields('value', entry.value, encoding), version: entry.version } : {};
    await write(terminal.stdout, jsonLine({ found, ...jsonFields('key', key, encoding), ...fields, served }));
  } else if (entry.found) {
    await write(terminal.stdout, options.raw ? entry.value : printed(entry.value, encoding));
  } else {
    terminal.stderr.write(`tidemark: no such key${served.consistency === 'asOf' ? ' at that time' : ''}\n`);
  }
  if (!found) throw new Exit(EXIT.NOT_FOUND);
}

/** A value by itself is printed as it is, control characters and all: it may be a text of many lines. */
function printed(value: Bytes, encoding: Encoding): Bytes | string {
  return encoding === 'text' ? Buffer.concat([value, Buffer.from('\n')]) : `${value.toString(encoding)}\n`;
}

async function scan(prefix: string | undefined, options: ScanArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const { limit, reverse, keysOnly, json } = options;
  const range = rangeOf(prefix, options);
  const readOptions = readOptionsOf(options);
  await withDatabase(options, async (db) => {
    const lines = new LineWriter(terminal.stdout);
    const entries = db.scan({ ...range, ...readAt(db, readOptions), limit, reverse, keysOnly });
    let count = 0;
    for await (const { key, value, version, served } of entries) {
      count += 1;
      if (json) {
        const values = keysOnly ? {} : jsonFields('value', value, encoding);
        await lines.add(jsonLine({ ...jsonFields('key', key, encoding), ...values, version, served }));
      } else {
        await lines.add(`${encode(key, encoding)}${keysOnly ? '' : `\t${encode(value, encoding)}`}\n`);
      }
    }
    await lines.flush();
    // Standard output has records only, for whoever reads them line by line.
    if (count === 0) terminal.stderr.write(json ? jsonLine({ served: entries.served }) : nothing(entries.served?.timestamp ?? 0));
  });
}

function nothing(timestamp: Timestamp): string {
  return `tidemark: no keys, as of ${timestamp} (${formatTimestamp(timestamp)})\n`;
}

async function history(keyText: string, options: HistoryArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const key = decode(keyText, encoding, 'key');
  const { newest, oldest, asOf, limit } = options;
  let count = 0;
  await withDatabase(options, async (db) => {
    const lines = new LineWriter(terminal.stdout);
    const at = (text: string | undefined, option: string): Timestamp | undefined =>
      text === undefined ? undefined : momentAt(db, text, option);
    const moments = { newest: at(newest, '--newest'), oldest: at(oldest, '--oldest'), asOf: at(asOf, '--as-of') };
    for await (const { version, deleted, value, served } of db.history(key, { ...moments, limit })) {
      count += 1;
      const time = formatTimestamp(version);
      const fields = { ...jsonFields('key', key, encoding), ...(deleted ? {} : jsonFields('value', value, encoding)) };
      const shown = deleted ? '(deleted)' : encode(value, encoding);
      await lines.add(options.json ? jsonLine({ ...fields, version, time, deleted, served }) : `${version}\t${time}\t${shown}\n`);
    }
    await lines.flush();
  });
  if (count > 0) return;
  if (!options.json) terminal.stderr.write('tidemark: no versions of that key\n');
  throw new Exit(EXIT.NOT_FOUND);
}
