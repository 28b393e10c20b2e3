import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { MUTANTS, plantMutant, type Mutant } from '../../src/lib/mutants.js';
import type { SwarmPlan } from '../../src/sim/swarm/plan.js';
import { explain, planOfSeed, runSwarm } from '../../src/sim/swarm/swarm.js';
import { runChaos } from '../raft/chaos.js';
import { runScript } from '../raft/golden.js';
import { PLANTED } from './mutants.js';
import type { Planted } from './planted.js';
import { WEATHERS } from './weathers.js';
// The tests that catch some of them.
import '../bucket/log-storage.test.js';
import '../changes/feed.test.js';
import '../changes/merge.test.js';
import '../mvcc/records.test.js';
import '../node/snapshots.test.js';
import '../node/turn.test.js';
import '../placement/heat-planner.test.js';
import '../raft/log.test.js';
import '../router/dead-leader.test.js';
import './changes.test.js';
import './client-transactions.test.js';
import './damage.test.js';
import './diff-and-pins.test.js';
import './heat.test.js';
import './ranges.test.js';
import './reads.test.js';
import './membership.test.js';
import './recovery.test.js';
import './replica-reads.test.js';
import './retention.test.js';
import './seams.test.js';
import './stalls.test.js';
import './starvation.test.js';
import './time-travel.test.js';
import './transaction-seams.test.js';
import './transactions.test.js';

/** Of these one must fail. Chance decides which: a change of the code makes other runs of the same seeds. */
const SEEDS_MAX = 25;
const CHAOS_MS = 20_000;

/** Every test by its name, noted before the first one runs: mocha forgets what a test did. */
const tests = new Map<string, () => Promise<unknown>>();

before(function () {
  const take = ({ tests: some, suites }: Mocha.Suite): void => {
    for (const { title, fn } of some) {
      const context = { timeout: () => undefined } as unknown as Mocha.Context;
      if (fn !== undefined) tests.set(title, async () => (fn as Mocha.AsyncFunc).call(context));
    }
    for (const suite of suites) take(suite);
  };
  if (this.test?.parent !== undefined) take(this.test.parent);
});

/** A planted bug that nothing catches shows a fault that never happens, or a check that is missing. */
describe('planted bugs', () => {
  for (const name of MUTANTS) {
    it(`${name}, ${PLANTED[name].what}: is caught`, async function () {
      this.timeout(120_000);
      await caught(name, PLANTED[name].by);
    });
  }

  it('stand in the documentation', () => {
    const page = readFileSync(fileURLToPath(new URL('../../docs/reliability.md', import.meta.url)), 'utf8');
    const rows = page.split('\n').filter((line) => /^\| `[a-z-]+` \|/.test(line));
    const expected = MUTANTS.map((name) => `| \`${name}\` | ${PLANTED[name].what} | ${PLANTED[name].like} | ${catcher(PLANTED[name])}`);
    expect(rows.map((row) => row.replace(/ \d+ \|$/, ''))).to.deep.equal(expected);
  });
});

function catcher({ by }: Planted): string {
  if ('swarm' in by) return by.swarm === 'any' ? 'swarm |' : `swarm, weather \`${by.swarm}\` |`;
  if ('raft' in by) return '`raft/chaos` |';
  return 'golden' in by ? `\`raft/golden\` ${by.golden} |` : `\`${by.test}\` “${by.name}” |`;
}

async function caught(mutant: Mutant, by: Planted['by']): Promise<void> {
  if ('swarm' in by) return bySwarm(mutant, WEATHERS[by.swarm]);
  if ('raft' in by) return byChaos(mutant);
  const fails = 'golden' in by ? tracesDiffer(mutant, by.golden) : await testFails(mutant, by.name);
  expect(fails, 'it fails with the bug').to.equal(true);
}

/** The first seed that notices the bug finds nothing without it. */
async function bySwarm(mutant: Mutant, weather: Partial<SwarmPlan>): Promise<void> {
  for (let seed = 1; seed <= SEEDS_MAX; seed += 1) {
    const plan = { ...planOfSeed(seed), ...weather };
    const { problems } = await runSwarm(seed, { plan, mutant });
    if (problems.length === 0) continue;
    const clean = await runSwarm(seed, { plan });
    if (clean.problems.length > 0) expect.fail(explain(clean, `tidemark sim --seed ${seed} --plan '${JSON.stringify(weather)}'`));
    return note(mutant, seed);
  }
  expect.fail(`none of ${SEEDS_MAX} seeds notices it`);
}

function byChaos(mutant: Mutant): void {
  for (let seed = 1; seed <= SEEDS_MAX; seed += 1) {
    if (!planted(mutant, () => throws(() => runChaos(seed, CHAOS_MS)))) continue;
    runChaos(seed, CHAOS_MS);
    return note(mutant, seed);
  }
  expect.fail(`none of ${SEEDS_MAX} seeds notices it`);
}

/** `TIDEMARK_MUTANTS=1` tells how many seeds it took. */
function note(mutant: Mutant, seed: number): void {
  if (process.env['TIDEMARK_MUTANTS'] !== undefined) console.log(`${mutant} ${seed}`);
}

function throws(work: () => void): boolean {
  try {
    work();
    return false;
  } catch {
    return true;
  }
}

function planted<T>(mutant: Mutant, work: () => T): T {
  plantMutant(mutant);
  try {
    return work();
  } finally {
    plantMutant(undefined);
  }
}

function tracesDiffer(mutant: Mutant, name: string): boolean {
  const script = readFileSync(fileURLToPath(new URL(`../raft/golden/${name}.txt`, import.meta.url)), 'utf8');
  return planted(mutant, () => throws(() => expect(runScript(script)).to.equal(script)));
}

/** With the bug the test fails; without it, it passes. */
async function testFails(mutant: Mutant, name: string): Promise<boolean> {
  const [test, ...more] = [...tests].filter(([title]) => title.includes(name)).map(([, run]) => run);
  if (test === undefined || more.length > 0) throw new Error(`not one test has “${name}” in its name`);
  await test();
  plantMutant(mutant);
  try {
    await test();
    return false;
  } catch {
    return true;
  } finally {
    plantMutant(undefined);
  }
}
