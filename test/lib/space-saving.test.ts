import { expect } from 'chai';
import fc from 'fast-check';
import { SpaceSaving } from '../../src/lib/space-saving.js';

/** Some items come again and again. */
const stream = fc.array(fc.oneof(fc.constantFrom('a', 'b'), fc.nat({ max: 30 }).map(String)), { maxLength: 400 });
const counters = fc.integer({ min: 1, max: 12 });

describe('the most frequent items of a stream', () => {
  it('are counted never too low, and too high by no more than the error; none that is frequent is missed', () => {
    fc.assert(
      fc.property(stream, counters, (items, size) => {
        const sketch = new SpaceSaving(size);
        const truth = new Map<string, number>();
        for (const item of items) {
          sketch.add(item);
          truth.set(item, (truth.get(item) ?? 0) + 1);
        }
        const found = sketch.top(size);
        expect(sketch.size).to.equal(Math.min(size, truth.size));
        for (const { item, count, error } of found) {
          expect(truth.get(item) ?? 0).to.be.within(count - error, count);
          expect(error).to.be.at.most(items.length / size);
        }
        const names = new Set(found.map(({ item }) => item));
        for (const [item, count] of truth) if (count > items.length / size) expect(names.has(item), item).to.equal(true);
      }),
    );
  });

  it('weigh less the longer ago they came', () => {
    fc.assert(
      fc.property(fc.array(stream, { maxLength: 5 }), (parts) => {
        // As many counters as items: what is counted is exact, but for what was forgotten.
        const sketch = new SpaceSaving(40);
        const truth = new Map<string, number>();
        for (const items of parts) {
          for (const item of items) {
            sketch.add(item);
            truth.set(item, (truth.get(item) ?? 0) + 1);
          }
          sketch.decay(0.5);
          for (const [item, count] of truth) {
            if (count / 2 < 0.5) truth.delete(item);
            else truth.set(item, count / 2);
          }
        }
        expect(new Map(sketch.top(40).map(({ item, count }) => [item, count]))).to.deep.equal(truth);
      }),
    );
  });

  it('are none when nothing has come for long', () => {
    const sketch = new SpaceSaving(4);
    for (let n = 0; n < 1000; n += 1) sketch.add(String(n % 7));
    for (let n = 0; n < 20; n += 1) sketch.decay(0.5);
    expect(sketch.size).to.equal(0);
    sketch.add('a');
    expect(sketch.top(4)).to.deep.equal([{ item: 'a', count: 1, error: 0 }]);
  });
});
