import { expect } from 'chai';
import { runChaos, type ChaosResult } from './chaos.js';

/** `RAFT_SEEDS=1000-1999` runs other seeds than usual; a failure names its seed. */
const [FIRST = 1, LAST = 300] = (process.env['RAFT_SEEDS'] ?? '1-300').split('-').map(Number);
const GROUP = 25;
const DURATION_MS = 20_000;

describe('raft under random faults', () => {
  const total = { elections: 0, acknowledged: 0, reads: 0, leaseReads: 0, promises: 0, snapshots: 0, configs: 0 };

  for (let from = FIRST; from <= LAST; from += GROUP) {
    const to = Math.min(from + GROUP - 1, LAST);
    it(`keeps its invariants with seeds ${from} to ${to}`, () => {
      for (let seed = from; seed <= to; seed += 1) {
        const { count, snapshots, configs } = run(seed);
        total.elections += count.elections;
        total.acknowledged += count.acknowledged;
        total.reads += count.reads;
        total.leaseReads += count.leaseReads;
        total.promises += count.promises;
        total.snapshots += snapshots;
        total.configs += configs;
      }
    });
  }

  it('reached what it was to test', () => {
    const runs = LAST - FIRST + 1;
    for (const [what, count] of Object.entries(total)) expect(count, what).to.be.greaterThan(runs);
  });

  it('gives the same history for the same seed', () => {
    expect(run(FIRST)).to.deep.equal(run(FIRST));
  });
});

function run(seed: number): ChaosResult {
  try {
    return runChaos(seed, DURATION_MS);
  } catch (cause) {
    throw new Error(`seed ${seed}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
