import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../../lib/errors.js';
import { VERSION } from '../../lib/version.js';
import { readable } from '../readable.js';
import { checkOptions } from './check-options.js';
import { seedsOf, type ClusterOptions, type Seed } from './options.js';
import { Run, type Body, type Simulation, type Verdict } from './run.js';

/**
 * Runs a test against a simulated cluster: the production code of Tidemark and the code under test, in one process, in a world
 * whose time, network, disks, clocks and faults follow from a seed (docs/testing.md).
 *
 *     it('never books a payment twice', async () => {
 *       await simulate({ seed: 7, faults: 'swarm' }, async (world) => {
 *         const accounts = new Accounts(await world.connect());
 *         await accounts.deposit('ada', 10);
 *         await world.heal();
 *         expect(await accounts.balance('ada')).to.equal(10);
 *       });
 *     });
 *
 * Rejects with a SimulationError, which names the seed, if the test does or if Tidemark breaks one of its own promises.
 * `TIDEMARK_SIM_SEED=7` in the environment runs that seed and no other.
 */
export interface SimulateOptions extends ClusterOptions {
  /** Default 1. */
  readonly seed?: Seed;
  /** Run each seed twice, and fail if the two differ; default false. */
  readonly twice?: boolean;
}

export interface SimulateManyOptions extends Omit<SimulateOptions, 'seed'> {
  /** `1..50`, or seeds by themselves. `TIDEMARK_SIM_SEEDS=1..2000` in the environment runs these instead. */
  readonly seeds: string | readonly Seed[];
}

export async function simulate(options: SimulateOptions, test: Body): Promise<Simulation> {
  check(options, test);
  const replay = process.env['TIDEMARK_SIM_SEED'];
  return runSeed(replay ?? options.seed ?? 1, options, test, callerOf(simulate));
}

/** The same for many seeds, one after the other, until one fails. */
export async function simulateMany(options: SimulateManyOptions, test: Body): Promise<readonly Simulation[]> {
  check(options, test);
  const { TIDEMARK_SIM_SEED: replay, TIDEMARK_SIM_SEEDS: instead } = process.env;
  const [seeds, name] = instead === undefined ? [options.seeds, 'seeds'] : [instead, 'TIDEMARK_SIM_SEEDS'];
  const caller = callerOf(simulateMany);
  const runs: Simulation[] = [];
  for (const seed of replay === undefined ? seedsOf(seeds, name) : [replay]) {
    runs.push(await runSeed(seed, options, test, caller));
  }
  return runs;
}

function check(options: unknown, test: unknown): void {
  checkOptions(options);
  if (typeof test !== 'function') throw new TypeError('there is no test; expected simulate(options, async (world) => { ... })');
}

type Options = Omit<SimulateOptions, 'seed'>;

async function runSeed(seed: Seed, options: Options, test: Body, caller: string): Promise<Simulation> {
  const { failure, ...run } = await new Run(seed, options).play(test);
  if (failure !== undefined) throw new SimulationError(run, failure, caller);
  if (options.twice !== true) return run;
  const { failure: failureAgain, ...again } = await new Run(seed, options).play(test);
  if (again.trace === run.trace) return run;
  const differences = [firstDifference(run, again)];
  if (failureAgain !== undefined) differences.push(`the second failed: ${messageOf(failureAgain.error)}`);
  const message = `two runs of one seed differ: something in the test is not decided by the seed (${differences.join('; ')})`;
  throw new SimulationError(run, { by: 'the test', error: new Error(message) }, caller);
}

function firstDifference(one: Simulation, other: Simulation): string {
  const at = one.log.findIndex((line, index) => line !== other.log[index]);
  if (at < 0) return `their logs are the same, but they did ${one.events} and ${other.events} steps, or sent different bytes`;
  return `first in the log: '${one.log[at]}', '${other.log[at] ?? 'nothing'}'`;
}

const LINES_SHOWN = 30;

/** A run that failed, and how to see it again. `cause` is the error of the test. */
export class SimulationError extends Error {
  override readonly name = 'SimulationError';
  readonly seed: string;
  readonly trace: string;
  readonly simulatedMs: number;
  readonly log: readonly string[];
  /** Of an assertion of the test, for reporters that show a difference. */
  readonly actual?: unknown;
  readonly expected?: unknown;
  readonly showDiff?: boolean;

  constructor({ seed, trace, simulatedMs, log }: Simulation, { by, error }: NonNullable<Verdict['failure']>, caller: string) {
    // With the name of the error: where "expected" follows a first colon, mocha shows nothing else of the message.
    const what = by === 'Tidemark' ? `Tidemark broke a promise: ${messageOf(error)}` : String(error);
    const lines = [
      `seed ${seed}: ${what}`,
      `replay: TIDEMARK_SIM_SEED=${quoted(seed)} ${caller}`,
      `trace: ${trace}, of tidemark ${VERSION}`,
      'the last that happened:',
      ...log.slice(-LINES_SHOWN).map((line) => `  ${readable(line)}`),
    ];
    super(lines.join('\n'), { cause: error });
    this.seed = seed;
    this.trace = trace;
    this.simulatedMs = simulatedMs;
    this.log = log;
    if (typeof error !== 'object' || error === null || !('expected' in error)) return;
    const { actual, expected, showDiff } = error as { actual?: unknown; expected: unknown; showDiff?: boolean };
    this.actual = actual;
    this.expected = expected;
    this.showDiff = showDiff ?? false;
  }
}

function quoted(seed: string): string {
  return /^[\w.-]+$/.test(seed) ? seed : `'${seed.replaceAll("'", "'\\''")}'`;
}

/** The command that runs the file of the test again, as far as it can be told. */
function callerOf(below: (...args: never[]) => unknown): string {
  const holder: { stack?: string } = {};
  Error.captureStackTrace(holder, below);
  const frame = holder.stack?.split('\n').find((line) => line.trimStart().startsWith('at '));
  const place = /\(?((?:file:\/\/|\/|[A-Z]:\\)[^()]*?):\d+:\d+\)?$/.exec(frame ?? '')?.[1];
  if (place === undefined) return '<the same command>';
  const file = relative(process.cwd(), place.startsWith('file:') ? fileURLToPath(place) : place);
  return `npx mocha ${file}`;
}
