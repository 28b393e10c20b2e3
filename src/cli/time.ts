import { Option, type Command } from 'commander';
import type { Diff, Pin } from '../client/index.js';
import type { Bytes } from '../lib/bytes.js';
import { formatTimestamp, later, type Timestamp } from '../mvcc/timestamp.js';
import { duration, moment, withConnection, type ConnectionArguments } from './arguments.js';
import { dataCommand, encodingOf, momentAt, rangeOf, withRange, type RangeArguments } from './data-arguments.js';
import { withDatabase } from './database.js';
import { Exit, EXIT } from './exit.js';
import { jsonLine, LineWriter, table, write, type Terminal } from './terminal.js';
import { encode, jsonFields, type Encoding } from './values.js';

/** `tidemark diff`: what changed between two moments; `tidemark pin`: moments that are kept readable. */
interface DiffArguments extends RangeArguments {
  readonly from: string;
  readonly to?: string;
  readonly keysOnly: boolean;
}

interface PinArguments extends ConnectionArguments {
  readonly asOf: string;
  readonly expires?: number;
}

const MOMENT = 'a timestamp, an ISO time, or a span before now like -10s';
const SIGNS = { added: '+', changed: '~', removed: '-' } as const;

export function addTime(program: Command, terminal: Terminal): void {
  withRange(dataCommand(program, 'diff', 'print what changed between two moments, in the order of keys'))
    .requiredOption('--from <time>', MOMENT, moment('--from'))
    .option('--to <time>', `${MOMENT}; now, if not given`, moment('--to'))
    .option('--keys-only', 'without values', false)
    .action((prefix: string | undefined, options: DiffArguments) => diff(prefix, options, terminal));
  const pin = program.command('pin').description('keep moments readable that would be too old');
  withConnection(pin.command('add'))
    .description('keep a moment readable, under a name; again with the same moment, to set when it expires')
    .argument('<name>')
    .option('--as-of <time>', MOMENT, moment('--as-of'), 'now')
    .addOption(
      new Option('--expires <duration>', 'remove it by itself after; if not given, it stays in the list').argParser(duration),
    )
    .action((name: string, options: PinArguments) => addPin(name, options, terminal));
  withConnection(pin.command('remove'))
    .description('let a moment go')
    .argument('<name>')
    .action((name: string, options: ConnectionArguments) => removePin(name, options, terminal));
  withConnection(pin.command('list'))
    .description('the pins, and the earliest moment that can be read everywhere')
    .action((options: ConnectionArguments) => listPins(options, terminal));
}

async function diff(prefix: string | undefined, options: DiffArguments, terminal: Terminal): Promise<void> {
  const encoding = encodingOf(options);
  const { from, to, keysOnly, json } = options;
  const range = rangeOf(prefix, options);
  await withDatabase(options, async (db) => {
    const lines = new LineWriter(terminal.stdout);
    const until = to === undefined ? undefined : momentAt(db, to, '--to');
    const changes = db.diff({ ...range, from: momentAt(db, from, '--from'), to: until });
    let count = 0;
    for await (const { kind, key, before, after, served } of changes) {
      count += 1;
      if (json) {
        const sides = keysOnly ? {} : { before: side(before, encoding), after: side(after, encoding) };
        await lines.add(jsonLine({ kind, ...jsonFields('key', key, encoding), ...sides, served }));
      } else {
        const shown = [before, after].flatMap((each) => (each === undefined ? [] : [encode(each.value, encoding)]));
        await lines.add(`${SIGNS[kind]} ${encode(key, encoding)}${keysOnly ? '' : `\t${shown.join('\t')}`}\n`);
      }
    }
    await lines.flush();
    // Standard output has changes only, for whoever reads them line by line.
    if (count === 0) terminal.stderr.write(json ? jsonLine(momentsOf(changes)) : `tidemark: ${equal(momentsOf(changes))}\n`);
  });
}

interface Moments {
  readonly from: Timestamp;
  readonly to: Timestamp;
}

function momentsOf({ from, to = from }: Diff): Moments {
  return { from, to };
}

function equal({ from, to }: Moments): string {
  return `nothing changed from ${from} (${formatTimestamp(from)}) to ${to} (${formatTimestamp(to)})`;
}

function side(shown: { readonly value: Bytes; readonly version: number } | undefined, encoding: Encoding): object | undefined {
  return shown && { ...jsonFields('value', shown.value, encoding), version: shown.version };
}

async function addPin(name: string, options: PinArguments, terminal: Terminal): Promise<void> {
  const pin = await withDatabase(options, async (db) => {
    await db.ready();
    const expires = options.expires === undefined ? undefined : later(db.now(), options.expires);
    return db.pin(name, momentAt(db, options.asOf, '--as-of'), { expires });
  });
  const line = `pinned ${pin.name} at ${pin.timestamp} (${formatTimestamp(pin.timestamp)})\n`;
  await write(terminal.stdout, options.json ? jsonLine({ ...pin }) : line);
}

async function removePin(name: string, options: ConnectionArguments, terminal: Terminal): Promise<void> {
  const existed = await withDatabase(options, async (db) => {
    const { pins } = await db.pins();
    // Also if it was not in the list: it may be just on its way there, and to remove what is absent does no harm.
    await db.unpin(name);
    return pins.some((pin) => pin.name === name);
  });
  if (options.json) await write(terminal.stdout, jsonLine(existed ? { removed: name } : { found: false, name }));
  else if (existed) await write(terminal.stdout, `removed ${name}\n`);
  else terminal.stderr.write(`tidemark: there is no pin ${name}; \`tidemark pin list\` shows those that there are\n`);
  if (!existed) throw new Exit(EXIT.NOT_FOUND);
}

const NEVER_REMARK =
  'never: it stays in the list until it is removed, but holds its moment no longer than limits.pinMsMax (30 days, if not set); ' +
  'then it is lost\n';

async function listPins(options: ConnectionArguments, terminal: Terminal): Promise<void> {
  const { pins, horizon } = await withDatabase(options, (db) => db.pins());
  if (options.json) {
    await write(terminal.stdout, jsonLine({ horizon, pins }));
    return;
  }
  const state = ({ lost, complete }: Pin): string => {
    if (lost) return 'lost';
    return complete ? 'held' : 'incomplete: add it again, or remove it';
  };
  const rows = pins.map((pin) => [
    pin.name,
    String(pin.timestamp),
    formatTimestamp(pin.timestamp),
    pin.expires === 0 ? 'never' : formatTimestamp(pin.expires),
    state(pin),
  ]);
  await write(terminal.stdout, table(['PIN', 'TIMESTAMP', 'TIME', 'EXPIRES', 'STATE'], rows));
  if (pins.some(({ expires, lost }) => expires === 0 && !lost)) await write(terminal.stdout, NEVER_REMARK);
  await write(terminal.stdout, `earliest readable: ${horizon} (${formatTimestamp(horizon)})\n`);
}
