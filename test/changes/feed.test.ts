import { expect } from 'chai';
import fc from 'fast-check';
import type { BucketState } from '../../src/bucket/state.js';
import { StateStore } from '../../src/bucket/state-store.js';
import type { RecentOfBucket } from '../../src/bucket/recent-versions.js';
import { Catalogue } from '../../src/changes/catalogue.js';
import { BEGINNING, comparePositions, endOf, positionOf, type FeedPage, type Position } from '../../src/changes/change.js';
import { readFeed, type FeedReplica } from '../../src/changes/feed.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { encodeRecord, NO_VERSION, PERIOD, versionKey, type VersionId } from '../../src/mvcc/records.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';
import { failure } from '../sim/support.js';

const ALL = { start: EMPTY, end: EMPTY };
const RECENT_MAX = 8;

/** A bucket of which records are applied by hand, in a real state store. */
class FakeReplica implements FeedReplica {
  readonly bucket: number;
  readonly applied: VersionId[] = [];
  installing = false;
  mark = 0;
  slot: number;
  horizon = 0;
  readonly recent: RecentOfBucket;
  readonly #store: StateStore;

  constructor(bucket: number, store: StateStore) {
    this.bucket = bucket;
    this.slot = 10 + bucket;
    this.#store = store;
    this.recent = store.recent.bucket(0);
  }

  get state(): BucketState {
    return this as unknown as BucketState;
  }

  get store(): StateStore {
    return this.#store;
  }

  resolved(): number {
    return this.mark;
  }

  closeNow(): void {
    // It leads nothing.
  }

  notLeader(): TidemarkError {
    return new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'ask elsewhere', { retriable: true });
  }

  apply(timestamp: number, position = 0, previous: VersionId = NO_VERSION, value = 'v'): VersionId {
    const id = { timestamp, index: this.applied.length + 1, position };
    const record = { key: Buffer.from(`k${this.bucket}`), deleted: false, value: Buffer.from(value), previous };
    this.#store.put(versionKey(this.slot, id), encodeRecord(record));
    this.recent.add(id);
    this.applied.push(id);
    return id;
  }
}

class World {
  readonly loop: SimLoop;
  readonly store: StateStore;
  readonly replicas: readonly FakeReplica[];
  readonly catalogue: Catalogue;
  pages = 0;

  private constructor(loop: SimLoop, store: StateStore, namesMax: number, pagesEnough?: number) {
    this.loop = loop;
    this.store = store;
    this.replicas = [0, 1, 2].map((bucket) => new FakeReplica(bucket, store));
    const page: StateStore['page'] = (options) => {
      this.pages += 1;
      return store.page(options);
    };
    this.catalogue = new Catalogue({ page }, namesMax, pagesEnough);
  }

  static async make(seed: number, namesMax = 1000, pagesEnough?: number): Promise<World> {
    const loop = new SimLoop(seed);
    const disk = new SimDisk({ timers: loop.timers, random: loop.random, place: 'n1' });
    const store = await loop.runUntilSettled(disk.openStore('state'), 1000);
    const options = { clock: loop.clock(), timers: loop.timers, gatherMs: 1, overlayBytesMax: 1e9, recentVersionsMax: RECENT_MAX };
    const onFatal = (error: unknown): void => {
      throw error;
    };
    return new World(loop, new StateStore({ store, ...options, onFatal }), namesMax, pagesEnough);
  }

  read(after: Position, limit = 1000, replicas: readonly FakeReplica[] = this.replicas): Promise<FeedPage> {
    return this.loop.runUntilSettled(this.reading(after, limit, replicas), 1e6);
  }

  reading(after: Position, limit: number, replicas: readonly FakeReplica[]): Promise<FeedPage> {
    const limits = { pageEntriesMax: 1000, pageBytesMax: 1e6 };
    const ports = { limits, timers: this.loop.timers, catalogue: this.catalogue };
    return readFeed(replicas, { range: ALL, after, before: true, limit }, ports);
  }

  /** All pages from a position to the mark. */
  async readAll(after: Position, limit: number): Promise<Position[]> {
    const found: Position[] = [];
    for (let from = after; ; ) {
      const { changes, upTo, mark } = await this.read(from, limit);
      found.push(...changes.map(({ at }) => at));
      if (comparePositions(upTo, endOf(mark)) >= 0) return found;
      expect(comparePositions(upTo, from), 'a page goes on').to.be.greaterThan(0);
      from = upTo;
    }
  }
}

describe('the feed of a node', () => {
  it('tells records up to the least resolved timestamp of its buckets, with what was there before', async () => {
    const world = await World.make(1);
    const [one, two, three] = world.replicas;
    if (one === undefined || two === undefined || three === undefined) throw new Error('three replicas');
    const first = one.apply(100, 0, NO_VERSION, 'old');
    two.apply(110);
    one.apply(120, 0, first, 'new');
    three.apply(130);
    [one.mark, two.mark, three.mark] = [200, 125, 300];
    const page = await world.read(endOf(100));
    expect(page.mark).to.equal(125);
    expect(page.upTo).to.deep.equal(endOf(125));
    const shown = page.changes.map(({ at, value, before }) => {
      return [at.bucket, at.timestamp, value.toString(), before?.value.toString()].join(' ');
    });
    expect(shown).to.deep.equal([
      '1 110 v ',
      '0 120 new old',
    ]);
    expect(await world.read(endOf(125)), 'nothing is known behind the mark').to.deep.equal({
      changes: [],
      upTo: endOf(125),
      mark: 125,
    });
  });

  it('takes in what comes later below what is there already, above the mark', async () => {
    const world = await World.make(2);
    const [one] = world.replicas;
    if (one === undefined) throw new Error('a replica');
    one.apply(100);
    one.apply(180);
    one.mark = 120;
    const before = await world.read(BEGINNING, 10, [one]);
    expect(before.changes.map(({ at }) => at.timestamp)).to.deep.equal([100]);
    one.apply(150);
    one.mark = 200;
    const { changes } = await world.read(before.upTo, 10, [one]);
    expect(changes.map(({ at }) => at.timestamp)).to.deep.equal([150, 180]);
  });

  for (const namesMax of [3, 1000]) {
    it(`is the same from memory and from the store, page by page, with windows of ${namesMax} names`, async () => {
      const record = fc.record({
        bucket: fc.integer({ min: 0, max: 2 }),
        period: fc.constantFrom(0, 1, 1, 2, 40),
        offset: fc.integer({ min: 1, max: 6 }),
        position: fc.integer({ min: 0, max: 2 }),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(record, { maxLength: 60 }), fc.integer({ min: 1, max: 5 }), async (records, limit) => {
          const world = await World.make(3, namesMax);
          for (const { bucket, period, offset, position } of records) {
            world.replicas[bucket]?.apply(period * PERIOD + offset, position);
          }
          const all = world.replicas.flatMap(({ bucket, applied }) => applied.map((id) => positionOf(bucket, id)));
          all.sort(comparePositions);
          for (const replica of world.replicas) replica.mark = 50 * PERIOD;
          expect(await world.readAll(BEGINNING, limit)).to.deep.equal(all);
          for (const after of [endOf(PERIOD), endOf(PERIOD + 3), ...all.slice(0, 3), ...all.slice(-3)]) {
            const rest = all.filter((at) => comparePositions(at, after) > 0);
            expect(await world.readAll(after, limit)).to.deep.equal(rest);
          }
        }),
        { numRuns: 60 },
      );
    }).timeout(60_000);
  }

  it('reads on and on for a bucket that is seldom written to, in bounded passes, which those who ask for the same share', async () => {
    const world = await World.make(7, 1000, 2);
    const [busy, rare] = world.replicas;
    if (busy === undefined || rare === undefined) throw new Error('two replicas');
    for (let period = 0; period < 40; period += 1) {
      for (let offset = 1; offset <= 250; offset += 1) busy.apply(period * PERIOD + offset);
      if (period === 1 || period === 38) rare.apply(period * PERIOD + 300);
    }
    for (const replica of [busy, rare]) replica.mark = 50 * PERIOD;
    const first = await world.read(BEGINNING, 10, [rare]);
    expect(first.changes.map(({ at }) => at.timestamp)).to.deep.equal([PERIOD + 300]);
    expect(first.upTo, 'the end of a period').to.deep.equal(endOf(Math.ceil(first.upTo.timestamp / PERIOD) * PERIOD - 1));
    expect(world.pages).to.be.at.most(3);
    let reads = 0;
    const told: Position[] = [];
    for (let from = first.upTo; comparePositions(from, endOf(rare.mark)) < 0; reads += 1) {
      world.pages = 0;
      const readings = [1, 2, 3].map(() => world.reading(from, 10, [rare]));
      const pages = await world.loop.runUntilSettled(Promise.all(readings), 1e6);
      expect(world.pages, 'of all three').to.be.at.most(3);
      for (const page of pages) expect(page).to.deep.equal(pages[0]);
      const [page = expect.fail('there is a page')] = pages;
      told.push(...page.changes.map(({ at }) => at));
      from = page.upTo;
    }
    expect(reads).to.be.above(2);
    expect(told.map(({ timestamp }) => timestamp)).to.deep.equal([38 * PERIOD + 300]);
  });

  it('refuses to go on from before the horizon, and names the earliest moment', async () => {
    const world = await World.make(4);
    const [one] = world.replicas;
    if (one === undefined) throw new Error('a replica');
    one.apply(100);
    one.mark = 200;
    one.horizon = 150;
    const error = await failure(world.read(endOf(120), 10, [one]));
    expect(error).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    expect(error.details).to.deep.equal({ earliestReadable: '150' });
    expect((await world.read(endOf(150), 10, [one])).changes).to.deep.equal([]);
  });

  it('is void where the horizon rises while it is read', async () => {
    const world = await World.make(5);
    const [one] = world.replicas;
    if (one === undefined) throw new Error('a replica');
    for (let timestamp = 1; timestamp <= 2 * RECENT_MAX; timestamp += 1) one.apply(timestamp);
    one.mark = 50;
    const reading = failure(world.read(BEGINNING, 10, [one]));
    one.horizon = 20;
    expect(await reading).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
  });

  it('is void where another state takes the place of the one that is read', async () => {
    const world = await World.make(6);
    const [one] = world.replicas;
    if (one === undefined) throw new Error('a replica');
    for (let timestamp = 1; timestamp <= 2 * RECENT_MAX; timestamp += 1) one.apply(timestamp);
    one.mark = 50;
    const reading = failure(world.read(BEGINNING, 10, [one]));
    one.slot = 99;
    expect(await reading).to.include({ reason: 'NOT_LEADER' });
  });
});
