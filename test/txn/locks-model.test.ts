import { expect } from 'chai';
import type { Bytes } from '../../src/lib/bytes.js';
import { SimRandom } from '../../src/sim/random.js';
import { Locks, type Claim, type Holder } from '../../src/txn/locks.js';
import type { LockRange } from '../../src/txn/transaction.js';

const holderOf = (n: number): Holder => ({ id: { session: n, sequence: 1, attempt: n }, first: n });

/** What must stand in whose way, pair by pair. */
class Model {
  held: { readonly holder: Holder; readonly claim: Claim }[] = [];

  conflicts({ writes, reads, ranges }: Claim): Holder[] {
    const found = new Set<Holder>();
    const add = (isMet: (claim: Claim) => boolean): void => {
      for (const { holder, claim } of this.held) if (isMet(claim)) found.add(holder);
    };
    for (const key of writes) {
      add((other) => has(other.writes, key));
      add((other) => has(other.reads, key));
      add((other) => other.ranges.some((range) => isIn(key, range)));
    }
    for (const key of reads) add((other) => has(other.writes, key));
    for (const range of ranges) add((other) => other.writes.some((key) => isIn(key, range)));
    return [...found];
  }
}

function has(keys: readonly Bytes[], key: Bytes): boolean {
  return keys.some((other) => other.equals(key));
}

function isIn(key: Bytes, { start, end }: LockRange): boolean {
  return key.compare(start) >= 0 && (end.length === 0 || key.compare(end) < 0);
}

/** Claims on few keys, so that they meet: in any order, some twice, with bytes above 127, and with ranges that are empty. */
function claimOf(random: SimRandom): Claim {
  const key = (): Bytes => Buffer.from([random.below(6) * 50, random.below(30)].slice(0, random.chance(0.05) ? 1 : 2));
  const some = <T>(max: number, one: () => T): T[] => Array.from({ length: random.below(max + 1) }, one);
  const range = (): LockRange => {
    const ends = [key(), key()];
    if (!random.chance(0.1)) ends.sort((a, b) => a.compare(b));
    const [start = key(), end = key()] = ends;
    return { start: random.chance(0.05) ? Buffer.alloc(0) : start, end: random.chance(0.05) ? Buffer.alloc(0) : end };
  };
  return {
    writes: some(random.pick([0, 1, 12]), key),
    reads: some(random.pick([0, 1, 8]), key),
    ranges: some(random.pick([0, 0, 1, 4]), range),
  };
}

/** A key that is compared as its bytes are, and counts it: what of it is compared is this, in place of a string. */
class CountedKey {
  static comparisons = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  [Symbol.toPrimitive](): string {
    CountedKey.comparisons += 1;
    return this.#text;
  }
}

let named = 0;

function counted(n: number): Bytes {
  const key = Buffer.from(String(n).padStart(8, '0'));
  const mapKey = new CountedKey(key.toString('latin1'));
  key.toString = () => {
    named += 1;
    return mapKey as unknown as string;
  };
  return key;
}

/** What is in nobody's way costs this many looks at keys, and at first the naming of so many. */
function costOf(locks: Locks, claim: Claim): { readonly comparisons: number; readonly named: number } {
  CountedKey.comparisons = 0;
  named = 0;
  expect(locks.conflicts(claim)).to.deep.equal([]);
  return { comparisons: CountedKey.comparisons, named };
}

describe('the locks of a bucket, held against a simple model', () => {
  for (let seed = 0; seed < 40; seed += 1) {
    it(`stand in the same ways, in the same order: seed ${seed}`, () => {
      const random = new SimRandom(`locks/${seed}`);
      const locks = new Locks();
      const model = new Model();
      const taken: Holder[] = [];
      for (let n = 1; n <= 400; n += 1) {
        const claim = claimOf(random);
        const conflicts = model.conflicts(claim);
        expect(locks.conflicts(claim)).to.deep.equal(conflicts);
        if (conflicts.length === 0) {
          const holder = holderOf(n);
          locks.take(holder, claim);
          model.held.push({ holder, claim });
          taken.push(holder);
        } else if (random.chance(0.3)) {
          const ended = random.pick(model.held);
          expect(locks.release(ended.holder.id)).to.deep.equal(ended.claim.writes);
          model.held = model.held.filter((each) => each !== ended);
        }
        expect(taken.filter(({ id }) => locks.has(id))).to.deep.equal(model.held.map(({ holder }) => holder));
        expect(locks.isEmpty).to.equal(model.held.length === 0);
      }
      expect(taken.length).to.be.greaterThan(20);
    });
  }
});

describe('what it costs to look for locks in the way', () => {
  const range = (n: number): LockRange => ({ start: counted(n), end: counted(n + 1) });
  const list = <T>(length: number, one: (n: number) => T): T[] => Array.from({ length }, (_, n) => one(n));

  it('of many writes among many locked ranges is a look-up for each range, not a look at each pair', () => {
    const locks = new Locks();
    for (let n = 0; n < 100; n += 1) {
      locks.take(holderOf(n), { writes: [], reads: [], ranges: list(16, (at) => range(2 * (16 * n + at) + 1)) });
    }
    const claim = { writes: list(1000, (n) => counted(2 * ((n * 7919) % 1000))), reads: [], ranges: [] };
    const cost = costOf(locks, claim);
    expect(cost.named, 'each end of a range once, and each write once').to.equal(2 * 1600 + 1000);
    // 1,600,000 pairs. Two operands a comparison; sorting takes up to 2 comparisons a step, a look-up 10 for each end.
    expect(cost.comparisons).to.be.lessThan(2 * (2 * 1000 * 10 + 1600 * 2 * 10));
    expect(costOf(locks, claim).named, 'the ranges are not named again').to.equal(1000);
  });

  it('of many ranges among many locked keys is a look-up for each holder, not a look at each key', () => {
    const locks = new Locks();
    for (let n = 0; n < 1000; n += 1) {
      locks.take(holderOf(n), { writes: list(10, (at) => counted(2 * (n + 1000 * at))), reads: [], ranges: [] });
    }
    const claim = { writes: [], reads: [], ranges: list(64, (n) => range(300 * n + 1)) };
    costOf(locks, claim);
    const { comparisons } = costOf(locks, claim);
    // 640,000 pairs of a key and a range. A look-up: two comparisons to see whether it is worth it, four, and one with the end.
    expect(comparisons).to.be.at.most(2 * 64 * 1000 * (2 + 4 + 1));
    const behind = { writes: [], reads: [], ranges: list(64, (n) => range(30_000 + 300 * n)) };
    expect(costOf(locks, behind).comparisons, 'a look at the last of each').to.equal(2 * 64 * 1000);
  });

  it('names nothing that is locked again, and sorts nothing, where there are no ranges', () => {
    const locks = new Locks();
    for (let n = 0; n < 100; n += 1) locks.take(holderOf(n), { writes: [counted(n)], reads: [counted(1000 + n)], ranges: [] });
    const claim = { writes: list(10, (n) => counted(2000 + n)), reads: [counted(3000)], ranges: [] };
    expect(costOf(locks, claim)).to.deep.equal({ comparisons: 0, named: 11 });
  });
});
