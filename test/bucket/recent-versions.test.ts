import { expect } from 'chai';
import fc from 'fast-check';
import { RecentVersions } from '../../src/bucket/recent-versions.js';
import { compareVersions, type VersionId } from '../../src/mvcc/records.js';

/** The same with plain lists. */
class Model {
  ids: VersionId[] = [];
  from = 0;

  forgetOldest(): void {
    const oldest = this.ids.shift();
    if (oldest !== undefined) this.from = Math.max(this.from, oldest.timestamp);
  }
}

const MAX = 12;
const BUCKETS = 3;

const step = fc.record({
  bucket: fc.nat(BUCKETS - 1),
  id: fc.record({ timestamp: fc.integer({ min: 1, max: 40 }), index: fc.integer({ min: 1, max: 5 }), position: fc.nat(2) }),
  rare: fc.nat(20),
});

describe('the names of the latest records', () => {
  it('are those that came last, in order, whatever order they came in', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.nat(40), fc.nat(40), (steps, low, high) => {
        const recent = new RecentVersions(MAX);
        const buckets = Array.from({ length: BUCKETS }, () => ({ names: recent.bucket(0), model: new Model() }));
        const arrivals: Model[] = [];
        for (const { bucket, id, rare } of steps) {
          const { names, model } = buckets[bucket] ?? expect.fail();
          if (rare === 0) {
            names.reset(id.timestamp);
            model.ids = [];
            model.from = id.timestamp;
            continue;
          }
          names.add(id);
          model.ids.push(id);
          model.ids.sort(compareVersions);
          arrivals.push(model);
          if (arrivals.length > MAX) arrivals.shift()?.forgetOldest();
        }
        for (const { names, model } of buckets) {
          expect(names.from).to.equal(model.from);
          expect([...names.between(0, Infinity)]).to.deep.equal(model.ids);
          const within = model.ids.filter(({ timestamp }) => timestamp >= low && timestamp <= high);
          expect([...names.between(low, high)]).to.deep.equal(within);
        }
      }),
    );
  });

  it('take no more room than there are, and next to none where all are forgotten', () => {
    const recent = new RecentVersions(1000);
    const buckets = Array.from({ length: 10 }, () => recent.bucket(0));
    // As of an import that is sorted by partition: one bucket after the other.
    for (const [at, bucket] of buckets.entries()) {
      for (let index = 1; index <= 2000; index += 1) {
        bucket.add({ timestamp: 1 + at, index, position: 0 });
        const room = buckets.map(({ capacity }) => capacity).reduce((a, b) => a + b);
        if (room > 5000) expect.fail(`room for ${room} names`);
      }
    }
    for (const bucket of buckets.slice(0, -1)) {
      expect([...bucket.between(0, Infinity)]).to.deep.equal([]);
      expect(bucket.capacity).to.be.below(10);
    }
    expect([...(buckets.at(-1)?.between(0, Infinity) ?? [])].map(({ index }) => index)).to.have.members(
      Array.from({ length: 1000 }, (_, at) => 1001 + at),
    );
    const [first] = buckets;
    first?.add({ timestamp: 20, index: 9, position: 0 });
    expect([...(first?.between(0, Infinity) ?? [])]).to.have.length(1);
  });
});
