import { expect } from 'chai';
import { Locks, isOlder, type Holder } from '../../src/txn/locks.js';

const b = (text: string): Buffer => Buffer.from(text);
const holder = (attempt: number, first = attempt): Holder => ({ id: { session: 1, sequence: attempt, attempt }, first });
const claim = (writes: string, reads = '', ranges: [string, string][] = []) => ({
  writes: [...writes].map(b),
  reads: [...reads].map(b),
  ranges: ranges.map(([start, end]) => ({ start: b(start), end: b(end) })),
});

describe('the locks of a bucket', () => {
  it('are exclusive for keys that are written, shared for keys and ranges that are read', () => {
    const locks = new Locks();
    const [one, two] = [holder(1), holder(2)];
    locks.take(one, claim('a', 'b', [['m', 'p']]));
    expect(locks.conflicts(claim('', 'b'))).to.deep.equal([]);
    expect(locks.conflicts(claim('', '', [['b', 'z']]))).to.deep.equal([]);
    for (const other of [claim('a'), claim('', 'a'), claim('b'), claim('n'), claim('', '', [['', 'b']])]) {
      expect(locks.conflicts(other)).to.deep.equal([one]);
    }
    expect(locks.conflicts(claim('p'))).to.deep.equal([]);
    locks.take(two, claim('', 'b'));
    expect(locks.conflicts(claim('b'))).to.deep.equal([one, two]);
    expect(locks.release(one.id).map(String)).to.deep.equal(['a']);
    expect(locks.conflicts(claim('a', 'n'))).to.deep.equal([]);
    expect(locks.conflicts(claim('b'))).to.deep.equal([two]);
    locks.release(two.id);
    expect(locks.isEmpty).to.equal(true);
  });

  it('know who is older, also of two that began at the same moment', () => {
    expect(isOlder(holder(1, 5), holder(2, 6))).to.equal(true);
    expect(isOlder(holder(1, 7), holder(2, 6))).to.equal(false);
    expect(isOlder(holder(1, 5), holder(2, 5))).to.equal(true);
    expect(isOlder(holder(2, 5), holder(1, 5))).to.equal(false);
  });
});
