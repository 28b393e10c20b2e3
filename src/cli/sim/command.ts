import type { FileHandle } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { Mutant } from '../../lib/mutants.js';
import type { DiagramRecord } from '../../sim/diagram/record.js';
import type { SwarmPlan } from '../../sim/swarm/plan.js';
import type { Recorder } from '../../sim/swarm/record.js';
import type { SwarmResult } from '../../sim/swarm/swarm.js';
import { duration, integer } from '../arguments.js';
import { EXIT, Exit, UsageError } from '../exit.js';
import { beginLifetime } from '../lifetime.js';
import { openFile } from '../lines.js';
import { showProgress, type Progress } from '../progress.js';
import { jsonLine, write, type Terminal } from '../terminal.js';
import type { Jobs } from './pool.js';

/** `tidemark sim`: seeds of the swarm of simulated clusters, in order, until one fails. */
interface SimArguments {
  readonly seeds?: SeedRange;
  readonly seed?: SeedRange;
  readonly jobs: number;
  readonly keepGoing: boolean;
  readonly mutant?: string;
  readonly plan?: string;
  readonly twice: boolean;
  readonly shrink: boolean;
  readonly shrinkFor: number;
  readonly trace?: string;
  readonly svg?: string;
  readonly json: boolean;
}

interface SeedRange {
  readonly first: number;
  readonly last: number;
}

interface Totals {
  seeds: number;
  simulatedMs: number;
  readonly failed: string[];
}

const JOBS_MAX = 256;
const SEED_DIGITS_MAX = 12;
const PROBLEMS_DRAWN = 6;

/** Loaded only here: the process of a node never has the simulator in it. */
async function loadSimulator() {
  const [job, swarm, plans, shrinking, schema, pool, commit, record, drawing] = await Promise.all([
    import('./job.js'),
    import('../../sim/swarm/swarm.js'),
    import('../../sim/swarm/plan.js'),
    import('../../sim/swarm/shrink.js'),
    import('./plan-schema.js'),
    import('./pool.js'),
    import('./commit.js'),
    import('../../sim/diagram/record.js'),
    import('../../sim/diagram/draw.js'),
  ]);
  return { ...job, ...swarm, ...plans, ...shrinking, ...schema, ...pool, ...commit, ...record, ...drawing };
}

type Simulator = Awaited<ReturnType<typeof loadSimulator>>;

export function addSim(program: Command, terminal: Terminal): void {
  program
    .command('sim')
    .description('run simulated clusters under random faults; the same seed is the same run')
    .addOption(
      new Option('--seeds <first..last>', 'these seeds, in order; if not given, 1..200').argParser(seedRange).conflicts('seed'),
    )
    .addOption(new Option('--seed <n>', 'this seed alone').argParser(oneSeed))
    .addOption(
      new Option('--jobs <n>', `processes that run seeds at a time (this machine has room for ${availableParallelism()})`)
        .default(1)
        .argParser(integer(1, JOBS_MAX)),
    )
    .option('--keep-going', 'run the other seeds though one has failed', false)
    .option('--plan <json>', 'fields of the plan instead of those that the seed draws')
    .option('--mutant <name>', 'plant a bug: somebody must notice')
    .option('--twice', 'run each seed twice and compare the traces', false)
    .option('--shrink', 'look for a smaller plan that fails as well as that of the first seed that does', false)
    .addOption(new Option('--shrink-for <duration>', 'at most so long').default(120_000, '2m').argParser(duration))
    .option('--trace <file>', 'write the log of the first run that fails there, or of the last one')
    .option('--svg <file>', 'draw the first run that fails, or the last one: who sent what to whom, and what befell them')
    .option('--json', 'print JSON, a line for each seed', false)
    .action((options: SimArguments) => simulate(options, terminal));
}

function seedRange(text: string): SeedRange {
  const match = /^(\d+)(?:\.\.(\d+))?$/.exec(text);
  const [, from = '', to = from] = match ?? [];
  if (match === null || Math.max(from.length, to.length) > SEED_DIGITS_MAX) {
    throw new InvalidArgumentError(`Expected a seed like 7, or seeds like 1..200, of at most ${SEED_DIGITS_MAX} digits.`);
  }
  const [first, last] = [Number(from), Number(to)];
  if (last < first) throw new InvalidArgumentError(`The first seed, ${first}, is above the last one, ${last}.`);
  return { first, last };
}

function oneSeed(text: string): SeedRange {
  if (text.includes('..')) throw new InvalidArgumentError('Expected one seed like 7; --seeds takes several.');
  return seedRange(text);
}

/** Opened before the first run: who finds out only behind the last seed that there is no such folder has lost all of them. */
async function openOutputs({ trace, svg }: SimArguments): Promise<{ readonly trace?: FileHandle; readonly svg?: FileHandle }> {
  const traceFile = trace === undefined ? {} : { trace: await openFile(trace, 'w') };
  try {
    return { ...traceFile, ...(svg === undefined ? {} : { svg: await openFile(svg, 'w') }) };
  } catch (error) {
    await traceFile.trace?.close();
    throw error;
  }
}

async function simulate(options: SimArguments, terminal: Terminal): Promise<void> {
  const simulator = await loadSimulator();
  const mutant = mutantOf(options.mutant, simulator.MUTANT_NAMES);
  const plan = planOf(options.plan, simulator);
  const { first, last } = options.seeds ?? options.seed ?? { first: 1, last: 200 };
  const { twice, trace } = options;
  const jobs: Jobs = {
    count: last - first + 1,
    at: (index) => ({ seed: first + index, plan, mutant, twice, keepLog: trace !== undefined }),
  };
  const outputs = await openOutputs(options);
  const lifetime = beginLifetime();
  const progress = showProgress(terminal, { title: 'Simulating', total: jobs.count, unit: 'seeds' });
  const totals: Totals = { seeds: 0, simulatedMs: 0, failed: [] };
  const beganMs = performance.now();
  let failed: SwarmResult | undefined;
  let shown: SwarmResult | undefined;
  try {
    for await (const result of simulator.runJobs(jobs, options.jobs)) {
      count(totals, result, progress);
      shown = failed ?? result;
      if (options.json) await write(terminal.stdout, jsonLine(fieldsOf(result)));
      if (result.problems.length > 0) {
        totals.failed.push(result.seed);
        failed ??= result;
        const text = simulator.explain(result, replayOf(result, options, plan));
        await write(terminal.stderr, `tidemark ${await simulator.codeVersion()}: ${text}\n`);
        if (!options.keepGoing) break;
      }
      if (lifetime.signal.aborted) break;
    }
    progress.end();
    if (!options.json) await write(terminal.stdout, summary(totals, performance.now() - beganMs));
    if (shown !== undefined) {
      await outputs.trace?.writeFile(`${shown.log.join('\n')}\n`);
      await outputs.svg?.writeFile(await draw(simulator, shown, options, mutant));
    }
    if (failed === undefined) {
      if (options.shrink) await write(terminal.stderr, 'nothing failed, so there is no plan to make smaller\n');
      return;
    }
    if (options.shrink) await shrink(simulator, failed, options, mutant, terminal, lifetime.signal);
    throw new Exit(EXIT.ERROR);
  } finally {
    lifetime.end();
    await outputs.trace?.close();
    await outputs.svg?.close();
  }
}

function planOf(text: string | undefined, { parsePlan }: Simulator): Partial<SwarmPlan> | undefined {
  if (text === undefined) return undefined;
  const plan = parsePlan(text);
  if (Array.isArray(plan)) throw new UsageError(`--plan: ${plan.join('\n  ')}`);
  return plan as Partial<SwarmPlan>;
}

function mutantOf(name: string | undefined, names: readonly Mutant[]): Mutant | undefined {
  const mutant = names.find((each) => each === name);
  if (name !== undefined && mutant === undefined) {
    throw new UsageError(`--mutant ${name}: there is no such bug; there are ${names.join(', ')}`);
  }
  return mutant;
}

function count(totals: Totals, { simulatedMs }: SwarmResult, progress: Progress): void {
  totals.seeds += 1;
  totals.simulatedMs += simulatedMs;
  progress.update(totals.seeds);
}

function fieldsOf({ seed, trace, simulatedMs, events, problems, counts }: SwarmResult): object {
  return { seed: Number(seed), trace, simulatedMs: Math.round(simulatedMs), events, problems, counts };
}

function summary({ seeds, simulatedMs, failed }: Totals, tookMs: number): string {
  const perMinute = Math.round((seeds * 60_000) / Math.max(1, tookMs));
  const speed = Math.round(simulatedMs / Math.max(1, tookMs));
  const seconds = Math.round(simulatedMs / 1000);
  const bad = failed.length === 0 ? '' : `; ${failed.length} failed: ${failed.join(', ')}`;
  const size = `${seeds} seed${seeds === 1 ? '' : 's'}, ${seconds} simulated seconds`;
  return `${size}: ${perMinute} seeds a minute, ${speed} times as fast as time${bad}\n`;
}

function replayOf({ seed }: SwarmResult, { mutant, twice }: SimArguments, plan?: Partial<SwarmPlan>): string {
  const bug = mutant === undefined ? '' : ` --mutant ${mutant}`;
  const instead = plan === undefined ? '' : ` --plan '${JSON.stringify(plan).replaceAll("'", "'\\''")}'`;
  return `tidemark sim --seed ${seed}${twice ? ' --twice' : ''}${bug}${instead}`;
}

/** Runs it once more, which is the same run, and looks on. */
async function draw(
  { runSwarm, DiagramRecord, drawDiagram, codeVersion }: Simulator,
  { seed, plan, problems, trace }: SwarmResult,
  options: SimArguments,
  mutant: Mutant | undefined,
): Promise<string> {
  let seen: { record: DiagramRecord; recorder: Recorder } | undefined;
  const again = await runSwarm(seed, {
    plan,
    mutant,
    observe: (cluster, recorder) => {
      seen = { record: new DiagramRecord(cluster), recorder };
    },
  });
  if (seen === undefined) throw new Error('nobody was shown the run');
  const { length } = problems;
  const title = `seed ${seed}: ${length === 0 ? 'nothing is wrong' : `${length} problem${length === 1 ? '' : 's'}`}`;
  const replay = `tidemark ${await codeVersion()}; ${replayOf(again, options, options.plan === undefined ? undefined : plan)}`;
  const notes = [replay, ...problems.slice(0, PROBLEMS_DRAWN).map((problem) => problem.split('\n')[0] ?? '')];
  if (again.trace !== trace) notes.push('this is another run of the seed than the one that was told of: its trace differs');
  return drawDiagram({ title, notes, ...seen });
}

async function shrink(
  { runJob, shrinkPlan, describePlan }: Simulator,
  failed: SwarmResult,
  options: SimArguments,
  mutant: Mutant | undefined,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<void> {
  const untilMs = performance.now() + options.shrinkFor;
  let tries = 0;
  const fails = async (plan: SwarmPlan): Promise<boolean> => {
    tries += 1;
    // As the seeds were run: what fails may be that a second run differs.
    const job = { seed: Number(failed.seed), plan, mutant, twice: options.twice, keepLog: false };
    return (await runJob(job)).problems.length > 0;
  };
  const plan = await shrinkPlan(failed.plan, fails, () => !signal.aborted && performance.now() < untilMs);
  const text = `smallest of ${tries} plans: ${describePlan(plan)}\nreplay: ${replayOf(failed, options, plan)}\n`;
  await write(terminal.stderr, text);
}
