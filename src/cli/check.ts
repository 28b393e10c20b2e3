import { isUtf8 } from 'node:buffer';
import { Option, type Command } from 'commander';
import { z } from 'zod';
import {
  CounterChecker,
  HistoryReader,
  LEVELS,
  LinearizabilityChecker,
  ListAppendChecker,
  SetChecker,
  WindowChecker,
  type KeyVersion,
  type Level,
  type Operation,
  type Result,
  type Work,
} from '../check/index.js';
import { messageOf } from '../lib/errors.js';
import { durationOrNone } from './arguments.js';
import { EXIT, Exit, UsageError } from './exit.js';
import { beginLifetime, type Lifetime } from './lifetime.js';
import { linesOf, openFile, type Line } from './lines.js';
import { showProgress, type Progress } from './progress.js';
import { jsonLine, write, type Terminal } from './terminal.js';
import { fromJsonFields } from './values.js';

/** `tidemark check`: judges a recorded history. */
const MODELS = ['register', 'set', 'counter', 'list-append'] as const;

type ModelName = (typeof MODELS)[number];

interface CheckArguments {
  readonly model?: ModelName;
  readonly level: Level;
  readonly versions?: string;
  readonly timeout: number;
  readonly json: boolean;
}

interface Checker {
  add(operation: Operation): void;
  check(): Work<Result>;
}

const HELP = `
A history is a file of JSON lines: an event when an operation begins, another when it ends.

  {"index":0,"timeNs":100,"process":0,"type":"invoke","f":"write","key":"x","value":1}
  {"index":1,"timeNs":200,"process":0,"type":"ok","f":"write","key":"x","value":1}

type is invoke, ok, fail (it certainly had no effect) or info (nobody knows; the process number is then
used up). Models, and the operations (f) by which they are recognised when --model is not given:

  register     write, cas ([old, new]), read   each key is linearizable
  set          add, read (a list)              nothing that was acknowledged is lost
  counter      increment, read (a number)      reads are within what can have been counted
  list-append  txn, append, read (a list)      transactions are isolated as --level says

A txn is a list of steps, [["append","x",1],["r","y",[3]]], with null for what is not read yet. A cycle among
the transactions is shown with the reason of each of its edges.

--versions holds every read of a register against the exact versions of its key as well:

  tidemark history x --json > versions.jsonl && tidemark check run.jsonl --versions versions.jsonl

Exit codes: 0 valid; 1 not valid; 2 unknown (time-out, memory, something not looked at,
nothing there) or a bad file.
docs/formats.md describes the format.`;

export function addCheck(program: Command, terminal: Terminal): void {
  program
    .command('check')
    .description('judge a recorded history: is there an explanation for what the clients were told?')
    .argument('<file>', 'JSON lines; - is standard input')
    .addOption(new Option('--model <model>', 'what the keys are; by the operations if not given').choices(MODELS))
    .addOption(new Option('--level <level>', 'of list-append').choices(LEVELS).default('strict-serializable'))
    .option('--versions <file>', 'all versions of the keys, as `tidemark history KEY --json` prints them')
    .addOption(new Option('--timeout <duration>', 'say unknown after').default(60_000, '60s').argParser(durationOrNone))
    .option('--json', 'print JSON', false)
    .addHelpText('after', HELP)
    .action((file: string, options: CheckArguments) => checkFile(file, options, terminal));
}

async function checkFile(file: string, options: CheckArguments, terminal: Terminal): Promise<void> {
  const lifetime = beginLifetime();
  try {
    const intake = new Intake(options);
    const reader = new HistoryReader((operation) => intake.add(operation));
    await readLines(file, terminal, lifetime, (line) => reader.line(textOf(line)));
    reader.end();
    const { name, checkers } = await intake.finish((path, take) => readLines(path, terminal, lifetime, take));
    const deadlineMs = performance.now() + options.timeout;
    const results: Result[] = [];
    for (const checker of checkers) results.push(await runWork(checker.check(), deadlineMs, terminal, lifetime));
    if (intake.operations === 0) results.push(NOTHING);
    await report(name, results, options, terminal);
  } finally {
    lifetime.end();
  }
}

/** A run that recorded nothing has not passed. */
const NOTHING: Result = { verdict: 'unknown', findings: [], unknown: ['the history holds no operation'], counts: {} };

/** Chooses the checker by the first operation that tells; until then operations wait. */
class Intake {
  operations = 0;
  readonly #options: CheckArguments;
  #waiting: Operation[] = [];
  #name: ModelName | undefined;
  #checkers: Checker[] = [];
  #window: WindowChecker | undefined;

  constructor(options: CheckArguments) {
    this.#options = options;
    if (options.model !== undefined) this.#choose(options.model);
  }

  add(operation: Operation): void {
    this.operations += 1;
    if (this.#name === undefined) {
      const model = modelOf(operation);
      if (model === undefined) {
        this.#waiting.push(operation);
        return;
      }
      this.#choose(model);
    }
    for (const checker of this.#checkers) checker.add(operation);
  }

  async finish(
    read: (path: string, take: (line: Line) => void) => Promise<void>,
  ): Promise<{ name: ModelName; checkers: readonly Checker[] }> {
    if (this.#name === undefined) this.#choose('register');
    if (this.#options.versions !== undefined) {
      if (this.#window === undefined) throw new UsageError(`--versions is for registers; this is a ${this.#name}`);
      const window = this.#window;
      await read(this.#options.versions, (line) => {
        const version = parseVersion(line);
        if (version !== undefined) window.addVersion(version);
      });
    }
    return { name: this.#name ?? 'register', checkers: this.#checkers };
  }

  #choose(name: ModelName): void {
    this.#name = name;
    switch (name) {
      case 'register':
        this.#window = this.#options.versions === undefined ? undefined : new WindowChecker();
        this.#checkers = [new LinearizabilityChecker(), ...(this.#window === undefined ? [] : [this.#window])];
        break;
      case 'set':
        this.#checkers = [new SetChecker()];
        break;
      case 'counter':
        this.#checkers = [new CounterChecker()];
        break;
      case 'list-append':
        this.#checkers = [new ListAppendChecker(this.#options.level)];
        break;
    }
    for (const operation of this.#waiting) for (const checker of this.#checkers) checker.add(operation);
    this.#waiting = [];
  }
}

/** Every model has reads; a read says what it is only by its answer. */
function modelOf({ f, outcome, output }: Operation): ModelName | undefined {
  switch (f) {
    case 'add':
      return 'set';
    case 'increment':
      return 'counter';
    case 'txn':
    case 'append':
      return 'list-append';
    case 'read':
      return outcome === 'ok' && Array.isArray(output) ? 'set' : undefined;
    default:
      return 'register';
  }
}

const SHOW_AFTER_MS = 1000;
const SLICE_MS = 50;

/** Quick work needs no bar. */
class LateProgress {
  readonly #terminal: Terminal;
  readonly #startedMs = performance.now();
  #shown: Progress | undefined;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  update(title: string, unit: string, done: number, total: number | undefined): void {
    if (performance.now() - this.#startedMs < SHOW_AFTER_MS) return;
    this.#shown ??= showProgress(this.#terminal, { title, total, unit, done });
    this.#shown.update(done);
  }

  end(): void {
    this.#shown?.end();
  }
}

async function readLines(file: string, terminal: Terminal, lifetime: Lifetime, take: (line: Line) => void): Promise<void> {
  const handle = file === '-' ? undefined : await openFile(file, 'r');
  const progress = new LateProgress(terminal);
  try {
    const total = (await handle?.stat())?.size;
    for await (const line of linesOf(handle?.createReadStream() ?? terminal.stdin, 1)) {
      if (lifetime.signal.aborted) throw new Exit(EXIT.INTERRUPTED);
      take(line);
      progress.update('Reading', 'bytes', line.endByte, total);
    }
  } catch (error) {
    // There may be two files.
    throw error instanceof UsageError ? new UsageError(`${file === '-' ? 'standard input' : file}: ${error.message}`) : error;
  } finally {
    progress.end();
    await handle?.close();
  }
}

function textOf({ number, data }: Line): string {
  if (!isUtf8(data)) throw new UsageError(`line ${number} is not UTF-8`);
  return data.toString('utf8');
}

/** In slices, so that a signal is heard and a bar is drawn. */
async function runWork(work: Work<Result>, deadlineMs: number, terminal: Terminal, lifetime: Lifetime): Promise<Result> {
  const progress = new LateProgress(terminal);
  let sliceMs = performance.now();
  let step = work.next();
  try {
    while (step.done !== true) {
      const { stage, done, total } = step.value;
      progress.update(stage, 'steps', done, total);
      if (performance.now() - sliceMs > SLICE_MS) {
        await new Promise((resolve) => setImmediate(resolve));
        sliceMs = performance.now();
      }
      if (lifetime.signal.aborted) throw new Exit(EXIT.INTERRUPTED);
      step = work.next(performance.now() > deadlineMs);
    }
  } finally {
    progress.end();
  }
  return step.value;
}

async function report(model: ModelName, results: readonly Result[], options: CheckArguments, terminal: Terminal): Promise<void> {
  const findings = results.flatMap((result) => result.findings);
  const unknown = results.flatMap((result) => result.unknown);
  const counts = results[0]?.counts ?? {};
  const verdict = findings.length > 0 ? 'invalid' : unknown.length > 0 ? 'unknown' : 'valid';
  if (options.json) {
    await write(terminal.stdout, jsonLine({ verdict, model, counts, findings, unknown }));
  } else {
    const words = { valid: 'valid', invalid: 'NOT VALID', unknown: 'UNKNOWN' };
    const size = Object.entries(counts).map(([what, count]) => `${count} ${what}`);
    const lines = [`${words[verdict]} (${model}: ${size.join(', ')})`];
    for (const { title, details, kind } of findings) lines.push('', `${title}  [${kind}]`, ...details.map((line) => `  ${line}`));
    for (const why of unknown) lines.push('', `not known: ${why}`);
    await write(terminal.stdout, `${lines.join('\n')}\n`);
  }
  if (verdict === 'invalid') throw new Exit(EXIT.ERROR);
  if (verdict === 'unknown') throw new Exit(EXIT.USAGE);
}

const VersionLine = z.looseObject({ version: z.number().int().nonnegative(), deleted: z.boolean() });

/** A line of `tidemark history --json`. */
function parseVersion(line: Line): KeyVersion | undefined {
  const text = textOf(line);
  if (text.trim() === '') return undefined;
  try {
    const object = VersionLine.parse(JSON.parse(text));
    const key = fromJsonFields(object, 'key').toString('utf8');
    if (object.deleted) return { key, version: object.version, value: null };
    const value = fromJsonFields(object, 'value');
    return { key, version: object.version, value: isUtf8(value) ? value.toString('utf8') : { base64: value.toString('base64') } };
  } catch (error) {
    const why = error instanceof z.ZodError ? issuesOf(error) : messageOf(error);
    throw new UsageError(`line ${line.number} of the versions is no version of a key: ${why}`);
  }
}

/** In one line. */
function issuesOf({ issues }: z.ZodError): string {
  return issues.map(({ path, message }) => (path.length === 0 ? message : `'${path.join('.')}': ${message}`)).join('; ');
}
