import { writeFile } from 'node:fs/promises';
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { Mutant } from '../lib/mutants.js';
import type { SwarmPlan } from '../sim/swarm/plan.js';
import type { SwarmResult } from '../sim/swarm/swarm.js';
import { duration } from './arguments.js';
import { EXIT, Exit, UsageError } from './exit.js';
import { beginLifetime } from './lifetime.js';
import { showProgress } from './progress.js';
import { jsonLine, write, type Terminal } from './terminal.js';
import { VERSION } from './version.js';

/** `tidemark sim`: seeds of the swarm of simulated clusters, one after the other, until one fails. */
interface SimArguments {
  readonly seeds?: SeedRange;
  readonly seed?: SeedRange;
  readonly mutant?: string;
  readonly plan?: Partial<SwarmPlan>;
  readonly twice: boolean;
  readonly shrink: boolean;
  readonly shrinkFor: number;
  readonly trace?: string;
  readonly json: boolean;
}

interface SeedRange {
  readonly first: number;
  readonly last: number;
}

interface Totals {
  seeds: number;
  simulatedMs: number;
}

/** Loaded only here: the process of a node never has the simulator in it. */
async function loadSimulator() {
  const [swarm, plans, shrinking] = await Promise.all([
    import('../sim/swarm/swarm.js'),
    import('../sim/swarm/plan.js'),
    import('../sim/swarm/shrink.js'),
  ]);
  return { ...swarm, ...plans, ...shrinking };
}

type Simulator = Awaited<ReturnType<typeof loadSimulator>>;

export function addSim(program: Command, terminal: Terminal): void {
  program
    .command('sim')
    .description('run simulated clusters under random faults; the same seed is the same run')
    .addOption(new Option('--seeds <first..last>', 'these seeds, in order').argParser(seedRange).conflicts('seed'))
    .addOption(new Option('--seed <n>', 'this seed alone').argParser(seedRange))
    .addOption(new Option('--plan <json>', 'fields of the plan instead of those that the seed draws').argParser(planOf))
    .option('--mutant <name>', 'plant a bug: somebody must notice')
    .option('--twice', 'run each seed twice and compare the traces', false)
    .option('--shrink', 'look for a smaller plan that fails as well', false)
    .addOption(new Option('--shrink-for <duration>', 'at most so long').default(120_000, '2m').argParser(duration))
    .option('--trace <file>', 'write the log of the last run there')
    .option('--json', 'print JSON, a line for each seed', false)
    .action((options: SimArguments) => simulate(options, terminal));
}

function seedRange(text: string): SeedRange {
  const match = /^(\d{1,12})(?:\.\.(\d{1,12}))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = Number(match?.[2] ?? match?.[1]);
  if (match === null || last < first) throw new InvalidArgumentError('Expected a seed like 7, or seeds like 1..200.');
  return { first, last };
}

function planOf(text: string): Partial<SwarmPlan> {
  try {
    const plan: unknown = JSON.parse(text);
    if (typeof plan === 'object' && plan !== null && !Array.isArray(plan)) return plan;
  } catch {
    // Said below.
  }
  throw new InvalidArgumentError('Expected a JSON object with fields of a plan.');
}

async function simulate(options: SimArguments, terminal: Terminal): Promise<void> {
  const simulator = await loadSimulator();
  const mutant = mutantOf(options.mutant, simulator.MUTANT_NAMES);
  const { first, last } = options.seeds ?? options.seed ?? { first: 1, last: 200 };
  const lifetime = beginLifetime();
  const progress = showProgress(terminal, { title: 'Simulating', total: last - first + 1, unit: 'seeds' });
  const totals: Totals = { seeds: 0, simulatedMs: 0 };
  const beganMs = performance.now();
  let failed: SwarmResult | undefined;
  try {
    for (let seed = first; seed <= last && failed === undefined && !lifetime.signal.aborted; seed += 1) {
      const result = await runSeed(simulator, seed, options, mutant);
      totals.seeds += 1;
      totals.simulatedMs += result.simulatedMs;
      progress.update(totals.seeds);
      if (options.trace !== undefined) await writeFile(options.trace, `${result.log.join('\n')}\n`);
      if (options.json) {
        const { trace, simulatedMs, events, problems, counts } = result;
        await write(terminal.stdout, jsonLine({ seed, trace, simulatedMs: Math.round(simulatedMs), events, problems, counts }));
      }
      if (result.problems.length > 0) failed = result;
    }
    progress.end();
    if (!options.json) await write(terminal.stdout, summary(totals, performance.now() - beganMs));
    if (failed === undefined) return;
    await write(terminal.stderr, `tidemark ${VERSION}: ${simulator.explain(failed, replayOf(failed, options, options.plan))}\n`);
    if (options.shrink) await shrink(simulator, failed, options, mutant, terminal, lifetime.signal);
    throw new Exit(EXIT.ERROR);
  } finally {
    lifetime.end();
  }
}

function mutantOf(name: string | undefined, names: readonly Mutant[]): Mutant | undefined {
  const mutant = names.find((each) => each === name);
  if (name !== undefined && mutant === undefined) {
    throw new UsageError(`--mutant ${name}: there is no such bug; there are ${names.join(', ')}`);
  }
  return mutant;
}

async function runSeed(
  { runSwarm, planOfSeed }: Simulator,
  seed: number,
  { plan, twice }: SimArguments,
  mutant: Mutant | undefined,
): Promise<SwarmResult> {
  const run = (): Promise<SwarmResult> => runSwarm(seed, { plan: { ...planOfSeed(seed), ...plan }, mutant });
  const result = await run();
  if (!twice) return result;
  const again = await run();
  if (again.trace === result.trace) return result;
  return { ...result, problems: [...result.problems, `a second run has another trace: ${result.trace}, ${again.trace}`] };
}

function summary({ seeds, simulatedMs }: Totals, tookMs: number): string {
  const perMinute = Math.round((seeds * 60_000) / Math.max(1, tookMs));
  const speed = Math.round(simulatedMs / Math.max(1, tookMs));
  const seconds = Math.round(simulatedMs / 1000);
  return `${seeds} seeds, ${seconds} simulated seconds: ${perMinute} seeds a minute, ${speed} times as fast as time\n`;
}

function replayOf({ seed }: SwarmResult, { mutant }: SimArguments, plan?: Partial<SwarmPlan>): string {
  const bug = mutant === undefined ? '' : ` --mutant ${mutant}`;
  return `tidemark sim --seed ${seed}${bug}${plan === undefined ? '' : ` --plan '${JSON.stringify(plan)}'`}`;
}

async function shrink(
  { runSwarm, shrinkPlan, describePlan }: Simulator,
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
    return (await runSwarm(failed.seed, { plan, mutant })).problems.length > 0;
  };
  const plan = await shrinkPlan(failed.plan, fails, () => !signal.aborted && performance.now() < untilMs);
  const text = `smallest of ${tries} plans: ${describePlan(plan)}\nreplay: ${replayOf(failed, options, plan)}\n`;
  await write(terminal.stderr, text);
}
