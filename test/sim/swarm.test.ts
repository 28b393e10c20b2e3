import { expect } from 'chai';
import { explain, runSwarm } from '../../src/sim/swarm/swarm.js';

/** `TIDEMARK_SEEDS=1000-1999` runs other seeds than usual; a failure prints its seed and how to run it again. */
const [FIRST = 1, LAST = FIRST] = (process.env['TIDEMARK_SEEDS'] ?? '1-60').split('-').map(Number);
const GROUP = 10;

describe('a swarm of simulated clusters under random faults', () => {
  for (let from = FIRST; from <= LAST; from += GROUP) {
    const to = Math.min(from + GROUP - 1, LAST);
    it(`holds what it promises with seeds ${from} to ${to}`, async function () {
      this.timeout(GROUP * 20_000);
      for (let seed = from; seed <= to; seed += 1) {
        const result = await runSwarm(seed);
        if (result.problems.length > 0) expect.fail(explain(result));
      }
    });
  }

  it('gives the same run for the same seed', async function () {
    this.timeout(60_000);
    for (const seed of [FIRST, FIRST + 1]) {
      const [one, other] = [await runSwarm(seed), await runSwarm(seed)];
      expect(one.trace, `seed ${seed}`).to.equal(other.trace);
    }
  });
});
