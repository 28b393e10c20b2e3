import { isUtf8 } from 'node:buffer';
import type { Command } from 'commander';
import { z } from 'zod';
import type { ConditionOf, MutationOf, Write } from '../client/index.js';
import type { Bytes } from '../lib/bytes.js';
import { messageOf } from '../lib/errors.js';
import { formatTimestamp, isTimestamp, parseTimestamp, type Timestamp } from '../mvcc/timestamp.js';
import { dataCommand, encodingOf, withWrite, type WriteArguments } from './data-arguments.js';
import { withDatabase } from './database.js';
import { EXIT, Exit, UsageError } from './exit.js';
import { linesOf, openFile, type Line } from './lines.js';
import { jsonLine, write, type Terminal } from './terminal.js';
import { fromJsonFields, type Encoding } from './values.js';

/**
 * `tidemark txn`: one atomic Write, read from JSON lines. What the lines mean is in HELP, which is what users see.
 */
const HELP = `
Reads lines of JSON, from a file or standard input, and does all that they say at one moment, or nothing.
Each line is a condition or a change:

  {"if":"exists","key":"cart"}                       the key exists
  {"if":"absent","key":"cart"}                       it does not
  {"if":"version","key":"cart","version":123}        it has this version ("tidemark get cart --json" tells it); 0: it is absent
  {"if":"value","key":"cart","value":"open"}         it has this value
  {"if":"unchanged","prefix":"cart/","since":123}    nothing with this prefix was put, deleted or added since this timestamp
                                                     ("served.timestamp" of "tidemark scan cart/ --json", which tells it also
                                                     where there are no keys); also "start", "end"
  {"put":"cart","value":"paid"}                      set a key
  {"delete":"cart"}                                  delete a key

Bytes that are not UTF-8: "keyBase64", "valueBase64", "putBase64", "deleteBase64", "prefixBase64", ...
Empty lines, and lines that begin with #, mean nothing. Each key is changed at most once. The order of the lines does not
matter: the conditions are checked against what was there before.

Example: take 5 from ada's account and give it to bob, if nobody was faster:

  tidemark txn <<'END'
  {"if":"value","key":"{bank}ada","value":"20"}
  {"if":"absent","key":"{bank}bob"}
  {"put":"{bank}ada","value":"15"}
  {"put":"{bank}bob","value":"5"}
  END

Exit codes: 0 committed; 4 a condition did not hold, and nothing was done; 5 unknown: it may have been committed, or may still
be; 6 unavailable, and nothing was done; 2 a line is wrong.`;

export function addTxn(program: Command, terminal: Terminal): void {
  withWrite(dataCommand(program, 'txn', 'check conditions and change keys, all at one moment or not at all'))
    .argument('[file]', 'JSON lines; - is standard input', '-')
    .addHelpText('after', HELP)
    .action((file: string, options: WriteArguments) => transact(file, options, terminal));
}

async function transact(file: string, options: WriteArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const parts = await readParts(file, encoding, terminal);
  const conditions = parts.flatMap((part) => (part.condition === undefined ? [] : [part]));
  const request: Write = {
    conditions: parts.flatMap(({ condition }) => condition ?? []),
    mutations: parts.flatMap(({ mutation }) => mutation ?? []),
  };
  const outcome = await withDatabase(options, (db) => db.write(request, { atLeast: options.atLeast }));
  const { applied, version, served, failed } = outcome;
  if (applied) {
    const done = `${counted(conditions.length, 'condition')} held, ${counted(parts.length - conditions.length, 'key')} changed`;
    const text = `committed at ${version} (${formatTimestamp(version)}): ${done}\n`;
    await write(terminal.stdout, options.json ? jsonLine({ applied, version, served }) : text);
    return;
  }
  const failing = conditions[failed?.condition ?? -1];
  const found = failed?.version ?? 0;
  if (options.json) {
    await write(terminal.stdout, jsonLine({ applied, failed: { line: failing?.line, version: found }, served }));
  } else {
    terminal.stderr.write(`tidemark: not committed: line ${failing?.line ?? 0} does not hold, ${present(failing, found)}\n`);
  }
  throw new Exit(EXIT.CONDITION_FAILED);
}

interface Part {
  /** Where it stands in the input. */
  readonly line: number;
  readonly condition?: ConditionOf<Bytes>;
  readonly mutation?: MutationOf<Bytes>;
}

async function readParts(file: string, encoding: Encoding, terminal: Terminal): Promise<Part[]> {
  const handle = file === '-' ? undefined : await openFile(file, 'r');
  const parts: Part[] = [];
  try {
    for await (const line of linesOf(handle?.createReadStream() ?? terminal.stdin, 1)) {
      const part = parseLine(line, encoding);
      if (part !== undefined) parts.push(part);
      if (parts.length > PARTS_MAX) throw new UsageError(`there are more than ${PARTS_MAX} conditions and changes`);
    }
  } finally {
    await handle?.close();
  }
  if (parts.length > 0) return parts;
  throw new UsageError('there is nothing to do: expected lines of JSON, see tidemark txn --help');
}

/** Far above what any server takes (which says so by itself): this keeps a wrong file out of memory. */
const PARTS_MAX = 1_000_000;

/** Undefined for an empty line or a remark. */
function parseLine({ number, data }: Line, encoding: Encoding): Part | undefined {
  try {
    if (!isUtf8(data)) throw new UsageError('it is not UTF-8');
    const text = data.toString('utf8').trim();
    if (text === '' || text.startsWith('#')) return undefined;
    const object = z.record(z.string(), z.unknown()).parse(JSON.parse(text));
    const fields = new Fields(object, encoding);
    const part = fields.has('if') ? { condition: conditionOf(fields) } : { mutation: mutationOf(fields) };
    fields.end();
    return { line: number, ...part };
  } catch (error) {
    const why = error instanceof z.ZodError ? 'it is not a JSON object' : messageOf(error);
    throw new UsageError(`line ${number} is neither a condition nor a change: ${why}`);
  }
}

/** The fields of a line; one that nobody asked for is an error, since it may have been meant to matter. */
class Fields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #encoding: Encoding;
  readonly #used = new Set<string>();

  constructor(object: Readonly<Record<string, unknown>>, encoding: Encoding) {
    this.#object = object;
    this.#encoding = encoding;
  }

  has(name: string): boolean {
    return name in this.#object || `${name}Base64` in this.#object;
  }

  bytes(name: string): Bytes {
    this.#used.add(name).add(`${name}Base64`);
    return fromJsonFields(this.#object, name, this.#encoding);
  }

  word(name: string): string {
    this.#used.add(name);
    return String(this.#object[name]);
  }

  /** A number, or its text. */
  version(name: string): Timestamp {
    this.#used.add(name);
    const text = String(this.#object[name]);
    const version = Number(text);
    if (/^\d+$/.test(text) && isTimestamp(version)) return version;
    throw new UsageError(`'${name}' is ${text.slice(0, 64)}: a version is a whole number, 0 or more`);
  }

  /** A number, an ISO time, or the text of a number. */
  timestamp(name: string): Timestamp {
    this.#used.add(name);
    const value = this.#object[name];
    if (typeof value !== 'number' && typeof value !== 'string') throw new UsageError(`'${name}' is not a timestamp`);
    return value === 0 ? 0 : parseTimestamp(String(value), 0, name);
  }

  end(): void {
    for (const name of Object.keys(this.#object)) if (!this.#used.has(name)) throw new UsageError(`'${name}' means nothing here`);
  }
}

function conditionOf(fields: Fields): ConditionOf<Bytes> {
  const kind = fields.word('if');
  switch (kind) {
    case 'exists':
    case 'absent':
      return { kind, key: fields.bytes('key') };
    case 'version':
      return { kind, key: fields.bytes('key'), version: fields.version('version') };
    case 'value':
      return { kind, key: fields.bytes('key'), value: fields.bytes('value') };
    case 'unchanged': {
      const bound = (name: string): Bytes | undefined => (fields.has(name) ? fields.bytes(name) : undefined);
      return { kind, prefix: bound('prefix'), start: bound('start'), end: bound('end'), since: fields.timestamp('since') };
    }
    default:
      throw new UsageError(`'if' is '${kind}'; expected exists, absent, version, value or unchanged`);
  }
}

function mutationOf(fields: Fields): MutationOf<Bytes> {
  if (fields.has('put')) return { kind: 'put', key: fields.bytes('put'), value: fields.bytes('value') };
  if (fields.has('delete')) return { kind: 'delete', key: fields.bytes('delete') };
  throw new UsageError("it has none of 'if', 'put', 'delete'");
}

function present(failing: Part | undefined, version: Timestamp): string {
  if (failing?.condition?.kind === 'unchanged') return `the range was changed at ${version} (${formatTimestamp(version)})`;
  return version === 0 ? 'the key does not exist' : `the key has version ${version}`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
