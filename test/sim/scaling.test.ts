import { expect } from 'chai';
import type { Consistency } from '../../src/bucket/requests.js';
import { measure } from './scaling.js';

const SORTS: readonly Consistency[] = [{ kind: 'bounded', maxStalenessMs: 1000 }, { kind: 'linearizable' }];

/** `TIDEMARK_SCALING=1` prints all of them, for docs/benchmarks.md. */
const ALL = process.env['TIDEMARK_SCALING'] !== undefined;

describe('reads of one hot key', () => {
  for (const consistency of SORTS) {
    it(`scale with the replicas that serve it, and cost writes nothing: ${consistency.kind}`, async function () {
      this.timeout(240_000);
      const [one, five] = [await measure(1, consistency), await measure(5, consistency)];
      if (ALL) {
        console.log(consistency.kind, 1, one, 5, five);
        for (const replicas of [2, 3, 4]) console.log(consistency.kind, replicas, await measure(replicas, consistency));
      }
      expect(one.readsPerSecond, 'one node is busy all the time').to.be.within(450, 500);
      expect(five.readsPerSecond / one.readsPerSecond).to.be.at.least(4);
      expect(five.served.size).to.equal(5);
      expect(five.writeMs / one.writeMs, 'write latency').to.be.at.most(1.1);
      expect(five.writeP99Ms / one.writeP99Ms, 'write latency of the slowest').to.be.at.most(1.1);
    });
  }
});
