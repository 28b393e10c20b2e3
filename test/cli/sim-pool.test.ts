import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { runJobs, type Jobs } from '../../src/cli/sim/pool.js';
import type { SwarmResult } from '../../src/sim/swarm/swarm.js';

const PLAN = { durationMs: 300, nodes: 1, replicas: 1, buckets: 1, faults: [], workers: 1, clients: 1 } as const;
const jobs: Jobs = { count: 3, at: (seed) => ({ seed, plan: PLAN, mutant: undefined, twice: false, keepLog: false }) };

/** The processes that this one has started and that run seeds. */
function workers(): number[] {
  const children = readdirSync('/proc/self/task').flatMap((task) => {
    return readFileSync(`/proc/self/task/${task}/children`, 'utf8').split(' ').filter((pid) => pid !== '');
  });
  return children.map(Number).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('sim/worker.'));
}

/** Undefined when there is no more. */
async function nextOf(results: AsyncGenerator<SwarmResult>): Promise<SwarmResult | undefined> {
  const { value, done } = (await results.next()) as IteratorResult<SwarmResult, undefined>;
  return done === true ? undefined : value;
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 10));
}

describe('the processes that run seeds', function () {
  this.timeout(60_000);

  it('end with the loop over their results, those too that somebody killed when they had nothing to do', async () => {
    const results = runJobs(jobs, 2);
    for (let seed = 0; seed < jobs.count; seed += 1) {
      expect((await nextOf(results))?.problems).to.deep.equal([]);
    }
    const killed = workers();
    expect(killed.length).to.equal(2);
    for (const pid of killed) process.kill(pid, 'SIGKILL');
    await until(() => !killed.some((pid) => existsSync(`/proc/${pid}`)));
    expect(await nextOf(results)).to.equal(undefined);
  });

  it('are told of as what ended a seed, if they do not live to tell of it themselves', async () => {
    const results = runJobs({ ...jobs, at: (seed) => ({ ...jobs.at(seed), plan: { ...PLAN, durationMs: 60_000 } }) }, 2);
    const first = nextOf(results);
    await until(() => workers().length === 2);
    for (const pid of workers()) process.kill(pid, 'SIGKILL');
    expect((await first)?.problems).to.deep.equal(['its process ended with SIGKILL; what it said is above']);
    await results.return(undefined);
    expect(workers()).to.deep.equal([]);
  });
});
