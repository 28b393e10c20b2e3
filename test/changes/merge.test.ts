import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import fc from 'fast-check';
import { EMPTY } from '../../src/lib/bytes.js';
import { BEGINNING, bytesOfChange, comparePositions, endOf, type Change, type Position } from '../../src/changes/change.js';
import { Merge } from '../../src/changes/merge.js';

function at(timestamp: number, bucket: number, position = 0): Position {
  return { timestamp, bucket, index: timestamp, position };
}

function change(position: Position): Change {
  return { at: position, key: Buffer.from('k'), deleted: false, value: EMPTY, before: undefined, transaction: EMPTY };
}

function timestamps(changes: readonly Change[]): number[] {
  return changes.map(({ at: { timestamp } }) => timestamp);
}

describe('the merge of feeds', () => {
  it('gives out what all buckets have passed, in order, and marks it', () => {
    const merge = new Merge([1, 2], endOf(10));
    merge.add([1], [change(at(12, 1)), change(at(15, 1))], endOf(20));
    expect(merge.take(10, 1e6)).to.deep.equal([]);
    expect(merge.mark).to.equal(10);
    merge.add([2], [change(at(13, 2))], endOf(14));
    expect(timestamps(merge.take(10, 1e6))).to.deep.equal([12, 13]);
    expect(merge.mark).to.equal(14);
    merge.add([2], [], endOf(30));
    expect(timestamps(merge.take(10, 1e6))).to.deep.equal([15]);
    expect(merge.mark).to.equal(20);
    expect(merge.bytes).to.equal(0);
  });

  it('keeps what was told twice to one', () => {
    const merge = new Merge([1, 2], BEGINNING);
    merge.add([1], [change(at(5, 1)), change(at(6, 1))], endOf(6));
    merge.add([1, 2], [change(at(5, 1)), change(at(5, 2)), change(at(6, 1)), change(at(7, 1))], endOf(7));
    expect(merge.take(10, 1e6).map(({ at: { timestamp, bucket } }) => `${timestamp}/${bucket}`)).to.deep.equal([
      '5/1',
      '5/2',
      '6/1',
      '7/1',
    ]);
    merge.add([1, 2], [change(at(7, 1)), change(at(8, 2))], endOf(8));
    expect(timestamps(merge.take(10, 1e6))).to.deep.equal([8]);
  });

  it('marks no timestamp of which something is left, within a commit neither', () => {
    const merge = new Merge([1, 2], BEGINNING);
    merge.add([1, 2], [change(at(5, 1, 0)), change(at(5, 1, 1)), change(at(5, 2, 0))], endOf(9));
    expect(merge.take(1, 1e6)).to.have.length(1);
    expect(merge.mark).to.equal(4);
    expect(merge.position).to.deep.equal(at(5, 1, 0));
    expect(merge.take(1, 1e6)).to.have.length(1);
    expect(merge.mark).to.equal(4);
    expect(merge.take(1, 1e6)).to.have.length(1);
    expect(merge.mark).to.equal(9);
  });

  it('is known up to the last record of a page that was cut, and no further', () => {
    const merge = new Merge([1, 2], BEGINNING);
    merge.add([1, 2], [change(at(5, 1)), change(at(5, 2))], at(5, 2));
    expect(merge.take(10, 1e6)).to.have.length(2);
    expect(merge.mark).to.equal(4);
    expect(merge.position).to.deep.equal(at(5, 2));
  });

  it('keeps nothing of what was taken, where one feed is always ahead of the other', () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const heapUsed = (): number => {
      collect();
      return process.memoryUsage().heapUsed;
    };
    const merge = new Merge([1, 2], BEGINNING);
    const pass = (from: number, to: number): void => {
      for (let time = from; time < to; time += 1) {
        merge.add([1], [change(at(time + 10, 1))], endOf(time + 10));
        merge.add([2], [], endOf(time));
        const expected = time > 10 ? [time] : [];
        if (timestamps(merge.take(10, 1e6)).join() !== expected.join()) expect.fail(`${time} is not given out`);
      }
    };
    pass(1, 20_000);
    const before = heapUsed();
    pass(20_000, 320_000);
    expect(heapUsed() - before, 'bytes').to.be.below(1_500_000);
    expect(merge.bytes).to.equal(10 * bytesOfChange(change(at(1, 1))));
  });

  it('is the sorted list of all records, whoever tells which part of it, how often, and in which pages', () => {
    const record = fc.record({ timestamp: fc.integer({ min: 1, max: 30 }), bucket: fc.integer({ min: 0, max: 3 }) });
    const page = fc.record({
      buckets: fc.subarray([0, 1, 2, 3], { minLength: 1 }),
      back: fc.integer({ min: 0, max: 5 }),
      length: fc.integer({ min: 1, max: 8 }),
      taken: fc.integer({ min: 1, max: 4 }),
    });
    fc.assert(
      fc.property(fc.array(record, { maxLength: 40 }), fc.array(page, { maxLength: 60 }), (records, pages) => {
        const all = records.map(({ timestamp, bucket }, place) => at(timestamp, bucket, place)).sort(comparePositions);
        const merge = new Merge([0, 1, 2, 3], BEGINNING);
        const taken: Position[] = [];
        const check = (): void => {
          for (const one of all) {
            const isTaken = taken.some((other) => comparePositions(one, other) === 0);
            expect(isTaken, 'taken if and only if it is passed').to.equal(comparePositions(one, merge.position) <= 0);
          }
        };
        for (const { buckets, back, length, taken: count } of pages) {
          const known = buckets.map((bucket) => merge.known(bucket)).sort(comparePositions)[0] ?? BEGINNING;
          const after = back === 0 ? known : endOf(Math.max(0, known.timestamp - back));
          const rest = all.filter((one) => buckets.includes(one.bucket) && comparePositions(one, after) > 0);
          const last = rest.length > length ? rest[length - 1] : undefined;
          merge.add(buckets, rest.slice(0, length).map(change), last ?? endOf(31));
          taken.push(...merge.take(count, 1e9).map((one) => one.at));
          check();
        }
        merge.add([0, 1, 2, 3], all.map(change), endOf(31));
        taken.push(...merge.take(1000, 1e9).map((one) => one.at));
        expect(taken).to.deep.equal(all);
        expect(merge.mark).to.equal(31);
        expect(merge.bytes).to.equal(0);
      }),
    );
  });
});
