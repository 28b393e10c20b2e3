import { isUtf8 } from 'node:buffer';
import { Option, type Command } from 'commander';
import { z } from 'zod';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { Bytes } from '../lib/bytes.js';
import { formatTimestamp } from '../mvcc/timestamp.js';
import { integer } from './arguments.js';
import {
  dataCommand,
  encodingOf,
  rangeOf,
  readAt,
  readOptionsOf,
  withRange,
  withRead,
  type DataArguments,
  type RangeArguments,
  type ReadArguments,
} from './data-arguments.js';
import { withDatabase } from './database.js';
import { EXIT, Exit, UsageError } from './exit.js';
import { forEachInFlight } from './in-flight.js';
import { beginLifetime } from './lifetime.js';
import { linesOf, openFile, type Line } from './lines.js';
import { OutputFile } from './output-file.js';
import { showProgress } from './progress.js';
import { jsonLine, LineWriter, write, type Terminal } from './terminal.js';
import { fromJsonFields, jsonFields, type Encoding } from './values.js';

/**
 * `tidemark import` and `tidemark export`: JSON lines, one record each:
 *
 *     {"key":"city/IS/39/Reykjavík/0","value":"..."}      text is UTF-8
 *     {"keyBase64":"AP8=","valueBase64":"..."}            bytes that are not
 *
 * An export is one moment of the whole range, however long it takes; its file has its name only when it is whole. An import sets
 * each key to its value: after an interruption it may simply be run again, from the start or from the line that it named.
 */
interface ImportArguments extends DataArguments {
  readonly inFlight: number;
  readonly fromLine: number;
}

interface ExportArguments extends RangeArguments, ReadArguments {
  readonly output: string;
}

export function addTransfer(program: Command, terminal: Terminal): void {
  dataCommand(program, 'import', 'set keys from a file of JSON lines: {"key": ..., "value": ...}')
    .argument('<file>', '- is standard input')
    .addOption(new Option('--in-flight <n>', 'records at a time').default(512).argParser(integer(1, 16_384)))
    .addOption(new Option('--from-line <n>', 'skip the lines before').default(1).argParser(integer(1, Number.MAX_SAFE_INTEGER)))
    .action((file: string, options: ImportArguments) => importFile(file, options, terminal));
  withRead(withRange(dataCommand(program, 'export', 'write keys and values as JSON lines, all as of one moment')))
    .option('-o, --output <file>', '- is standard output', '-')
    .action((prefix: string | undefined, options: ExportArguments) => exportRange(prefix, options, terminal));
}

async function importFile(file: string, options: ImportArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const handle = file === '-' ? undefined : await openFile(file, 'r');
  const input = handle?.createReadStream() ?? terminal.stdin;
  const total = (await handle?.stat())?.size;
  const lifetime = beginLifetime();
  const progress = showProgress(terminal, { title: 'Importing', total, unit: 'bytes' });
  const mark = new LineMark(options.fromLine);
  try {
    await withDatabase(options, (db) =>
      forEachInFlight(linesOf(input, options.fromLine), options.inFlight, lifetime.signal, async (line) => {
        const record = parseLine(line, encoding);
        if (record !== undefined) await db.put(record.key, record.value);
        mark.done(line.number, record === undefined ? 0 : 1);
        progress.update(line.endByte);
      }),
    );
    if (lifetime.signal.aborted) throw new Exit(EXIT.INTERRUPTED);
  } catch (error) {
    progress.end();
    terminal.stderr.write(`tidemark: all lines before line ${mark.next} are imported; go on with --from-line ${mark.next}\n`);
    throw error;
  } finally {
    lifetime.end();
    await handle?.close();
  }
  progress.end();
  const { records } = mark;
  await write(terminal.stdout, options.json ? jsonLine({ imported: records }) : `imported ${records} records\n`);
}

/** Lines are finished in any order; `next` is the first that is not. */
class LineMark {
  records = 0;
  next: number;
  readonly #ahead = new Set<number>();

  constructor(first: number) {
    this.next = first;
  }

  done(line: number, records: number): void {
    this.records += records;
    this.#ahead.add(line);
    while (this.#ahead.delete(this.next)) this.next += 1;
  }
}

/** Undefined for an empty line. */
function parseLine({ number, data }: Line, encoding: Encoding): { key: Bytes; value: Bytes } | undefined {
  try {
    if (!isUtf8(data)) throw new UsageError('it is not UTF-8');
    const text = data.toString('utf8').trim();
    if (text === '') return undefined;
    const object = z.record(z.string(), z.unknown()).parse(JSON.parse(text));
    return { key: fromJsonFields(object, 'key', encoding), value: fromJsonFields(object, 'value', encoding) };
  } catch (error) {
    const why = error instanceof z.ZodError ? 'it is not a JSON object' : messageOf(error);
    throw new UsageError(`line ${number} is no record: ${why}`);
  }
}

async function exportRange(prefix: string | undefined, options: ExportArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const range = rangeOf(prefix, options);
  const readOptions = readOptionsOf(options);
  const file = options.output === '-' ? undefined : await OutputFile.open(options.output);
  const output = file?.stream ?? terminal.stdout;
  const lifetime = beginLifetime();
  const { signal } = lifetime;
  let count = 0;
  let asOf = 0;
  try {
    await withDatabase(options, async (db) => {
      const lines = new LineWriter(output);
      const entries = db.scan({ ...range, ...readAt(db, readOptions), signal });
      for await (const { key, value } of entries) {
        await lines.add(jsonLine({ ...jsonFields('key', key, encoding), ...jsonFields('value', value, encoding) }));
        count += 1;
      }
      await lines.flush();
      asOf = entries.served?.timestamp ?? asOf;
    });
    await file?.keep();
  } catch (error) {
    await file?.giveUp();
    const otherwise = file?.otherwise ?? '';
    if (signal.aborted) throw interrupted(otherwise === '' ? `after ${count} records` : otherwise);
    if (otherwise !== '' && !options.json) terminal.stderr.write(`tidemark: ${otherwise}\n`);
    throw error;
  } finally {
    lifetime.end();
  }
  const remark = `exported ${count} records as of ${asOf} (${formatTimestamp(asOf)})\n`;
  terminal.stderr.write(options.json ? jsonLine({ exported: count, asOf }) : remark);
}

function interrupted(what: string): TidemarkError {
  return new TidemarkError('CANCELLED', 'INTERRUPTED', `interrupted; ${what}`);
}
