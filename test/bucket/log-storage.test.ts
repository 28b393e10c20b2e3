import { expect } from 'chai';
import { LogStorage, type BucketLog } from '../../src/bucket/log-storage.js';
import { recordKey, sequenceOfKey } from '../../src/bucket/log-format.js';
import type { Store } from '../../src/env/env.js';
import { isTidemarkError, type TidemarkError } from '../../src/lib/errors.js';
import type { Entry, EntryKind } from '../../src/raft/types.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';
import type { SimRandom } from '../../src/sim/random.js';
import { ModelLog } from './model-log.js';

const RECORDS = { gte: recordKey(0), lt: recordKey(2 ** 53 - 1) };
const MARK = Buffer.from('n/mark');

/** One simulated disk and the log storage on it. */
class World {
  readonly loop: SimLoop;
  readonly random: SimRandom;
  disk: SimDisk;
  store!: Store;
  logs!: LogStorage;

  constructor(seed: string) {
    this.loop = new SimLoop(seed);
    this.random = this.loop.random.fork('test');
    this.disk = this.#newDisk();
  }

  static async open(seed: string): Promise<World> {
    const world = new World(seed);
    await world.reopen();
    return world;
  }

  #newDisk(): SimDisk {
    return new SimDisk({ timers: this.loop.timers, random: this.loop.random.fork('disk'), place: 'n1' });
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    return this.loop.runUntilSettled(promise, 60_000);
  }

  /** Crashes the process that has the disk and starts another one. */
  async reopen(): Promise<void> {
    this.disk.crash();
    this.store = await this.settle(this.disk.openStore('log'));
    this.logs = await this.settle(LogStorage.open(this.store));
  }

  /** What a process would find that starts on a copy of the disk as it is. */
  async elsewhere(): Promise<World> {
    const other = new World('elsewhere');
    other.store = await other.settle(other.disk.openStore('log'));
    for (const [key, value] of this.disk.stores.get('log')?.range(Buffer.alloc(0), Buffer.alloc(0)) ?? []) {
      other.disk.stores.get('log')?.set(key, value);
    }
    other.logs = await other.settle(LogStorage.open(other.store));
    return other;
  }

  /** The numbers of the batch records on disk. */
  async records(): Promise<number[]> {
    const { entries } = await this.settle(this.store.page({ ...RECORDS, limit: 10_000 }));
    return entries.map(([key]) => sequenceOfKey(key));
  }

  async append(bucket: number, entries: readonly Entry[]): Promise<void> {
    await this.appendAll([[bucket, entries]]);
  }

  /** Entries of several buckets in one batch. */
  async appendAll(lists: readonly (readonly [bucket: number, entries: readonly Entry[]])[]): Promise<void> {
    const batch = this.logs.batch();
    for (const [bucket, entries] of lists) batch.append(this.logs.log(bucket), entries, undefined);
    await this.settle(batch.write());
  }

  async compact(bucket: number, index: number): Promise<void> {
    const batch = this.logs.batch();
    batch.compact(this.logs.log(bucket), index);
    await this.settle(batch.write());
  }

  async reset(bucket: number, index: number, term: number): Promise<void> {
    const batch = this.logs.batch();
    batch.reset(this.logs.log(bucket), index, term);
    await this.settle(batch.write());
  }

  /** Deletes what nobody needs any more. */
  async sweep(): Promise<void> {
    while (this.logs.hasUnused) await this.settle(this.logs.batch().write());
  }
}

/** Entries first .. last of a term. */
function run(first: number, last: number, term: number, dataOf = (index: number): string => `${index}@${term}`): Entry[] {
  return Array.from({ length: last - first + 1 }, (_, at) => {
    return { index: first + at, term, kind: 'data', data: Buffer.from(dataOf(first + at)) };
  });
}

function contents(log: BucketLog): string[] {
  const first = log.firstIndex();
  if (log.lastIndex() < first) return [];
  return log.entries(first, log.lastIndex() + 1, Infinity).map(({ data }) => data.toString());
}

async function failure(promise: Promise<unknown>): Promise<TidemarkError> {
  try {
    await promise;
  } catch (error) {
    if (isTidemarkError(error)) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

describe('the log storage', () => {
  it('writes one record for a batch of small commands, whatever their number and buckets', async () => {
    const world = await World.open('one');
    await world.appendAll(Array.from({ length: 40 }, (_, bucket) => [bucket, run(1, 3, 1)]));
    expect(await world.records()).to.deep.equal([1]);
    await world.append(7, run(4, 5, 1));
    expect(await world.records()).to.deep.equal([1, 2]);
    await world.reopen();
    expect(contents(world.logs.log(7))).to.deep.equal(['1@1', '2@1', '3@1', '4@1', '5@1']);
  });

  it('cuts a large batch into records that can be read one by one', async () => {
    const world = await World.open('cut');
    const big = (index: number): string => String(index).padEnd(20_000, 'x');
    await world.appendAll([[1, run(1, 4, 1, big)], [2, run(1, 2, 1, (index) => String(index).padEnd(100_000, 'y'))]]);
    expect(await world.records()).to.deep.equal([1, 2, 3, 4, 5, 6]);
    for (const logs of [world.logs, (await world.elsewhere()).logs]) {
      expect(contents(logs.log(1))).to.deep.equal([1, 2, 3, 4].map(big));
      expect(logs.log(1).entries(2, 5, 40_000).map(({ index }) => index)).to.deep.equal([2]);
      expect(logs.log(1).entries(2, 5, 41_000).map(({ index }) => index)).to.deep.equal([2, 3]);
      expect(logs.log(2).entries(1, 3, 1).map(({ index }) => index)).to.deep.equal([1]);
    }
  });

  it('deletes a record when no bucket needs it any more, whatever became of older ones', async () => {
    const world = await World.open('delete');
    await world.appendAll([[1, run(1, 2, 1)], [2, run(1, 2, 1)]]);
    for (let index = 3; index < 20; index += 1) await world.append(1, run(index, index, 1));
    await world.compact(1, 15);
    await world.sweep();
    expect(await world.records()).to.deep.equal([1, 15, 16, 17, 18]);
    const { bytes } = world.logs;
    await world.compact(2, 2);
    await world.sweep();
    expect(await world.records()).to.deep.equal([15, 16, 17, 18]);
    expect(world.logs.bytes).to.be.within(1, bytes - 1);
    await world.reopen();
    expect(contents(world.logs.log(1))).to.deep.equal(['16@1', '17@1', '18@1', '19@1']);
    await world.compact(1, 19);
    await world.sweep();
    expect(await world.records()).to.deep.equal([]);
    expect(world.logs.bytes).to.equal(0);
  });

  it('finds and deletes after a crash what was not deleted before it', async () => {
    const world = await World.open('sweep');
    await world.append(1, run(1, 3, 1));
    await world.compact(1, 3);
    expect(await world.records()).to.deep.equal([1]);
    await world.reopen();
    await world.sweep();
    expect(await world.records()).to.deep.equal([]);
    // The numbers of records that count go on.
    await world.append(1, run(4, 4, 1));
    await world.reopen();
    expect(contents(world.logs.log(1))).to.deep.equal(['4@1']);
  });

  it('keeps a tail that was replaced by a shorter one away, though the record that replaced it is deleted first', async () => {
    const world = await World.open('shorter');
    // Bucket 2 keeps the record of the long tail.
    await world.appendAll([[1, run(10 - 9, 20, 1)], [2, run(1, 1, 1)]]);
    await world.append(1, run(10, 10, 2));
    expect(world.logs.log(1).lastIndex()).to.equal(10);
    expect((await world.elsewhere()).logs.log(1).lastIndex()).to.equal(10);
    await world.compact(1, 10);
    await world.sweep();
    expect(await world.records()).to.deep.equal([1]);
    await world.reopen();
    const log = world.logs.log(1);
    expect([log.firstIndex(), log.lastIndex(), log.term(10)]).to.deep.equal([11, 10, 2]);
    await world.append(1, run(11, 12, 3));
    await world.reopen();
    expect(contents(world.logs.log(1))).to.deep.equal(['11@3', '12@3']);
  });

  it('keeps a suffix that a snapshot did not match away', async () => {
    const world = await World.open('suffix');
    await world.appendAll([[1, run(1, 20, 1)], [2, run(1, 1, 1)]]);
    await world.reset(1, 12, 5);
    for (const logs of [world.logs, (await world.elsewhere()).logs]) {
      const log = logs.log(1);
      expect([log.firstIndex(), log.lastIndex(), log.term(12)]).to.deep.equal([13, 12, 5]);
    }
    await world.append(1, run(13, 14, 6));
    await world.reopen();
    expect(contents(world.logs.log(1))).to.deep.equal(['13@6', '14@6']);
  });

  it('keeps a suffix that a snapshot matches, and one beyond the log', async () => {
    const world = await World.open('matches');
    await world.append(1, [...run(1, 4, 1), ...run(5, 6, 2)]);
    await world.reset(1, 4, 1);
    expect(contents(world.logs.log(1))).to.deep.equal(['5@2', '6@2']);
    await world.reset(1, 100, 7);
    await world.reopen();
    const log = world.logs.log(1);
    expect([log.firstIndex(), log.lastIndex(), log.term(100)]).to.deep.equal([101, 100, 7]);
  });

  it('takes what follows and what replaces it in the same batch', async () => {
    const world = await World.open('same');
    const batch = world.logs.batch();
    const log = world.logs.log(1);
    batch.append(log, run(1, 5, 1), undefined);
    batch.append(log, run(6, 7, 1), undefined);
    batch.append(log, run(4, 5, 2), { term: 2, vote: 3, commit: 1 });
    await world.settle(batch.write());
    await world.reopen();
    expect(contents(world.logs.log(1))).to.deep.equal(['1@1', '2@1', '3@1', '4@2', '5@2']);
    expect(world.logs.hardState(1)).to.deep.equal({ term: 2, vote: 3, commit: 1 });
    expect(world.logs.hardState(2)).to.deep.equal({ term: 0, vote: 0, commit: 0 });
  });

  it('does not open with a record that fails its checksum', async () => {
    const world = await World.open('rot');
    for (let index = 1; index < 4; index += 1) await world.append(1, run(index, index, 1));
    world.disk.rot('log', recordKey(2));
    expect(await failure(world.elsewhere())).to.include({
      code: 'DATA_LOSS',
      reason: 'LOG_CORRUPT',
      message: 'batch record 2 fails its checksum on disk',
    });
    expect(() => world.logs.log(1).entries(1, 4, Infinity)).to.throw('batch record 2 fails its checksum on disk');
  });

  it('does not open with a log that lacks a record in its midst', async () => {
    const world = await World.open('missing');
    for (let index = 1; index < 4; index += 1) await world.append(1, run(index, index, 1));
    world.disk.stores.get('log')?.delete(recordKey(2));
    expect(await failure(world.elsewhere())).to.include({
      code: 'DATA_LOSS',
      reason: 'LOG_CORRUPT',
      message: 'log entries 2 to 2 of bucket 1 are missing',
    });
    expect(() => world.logs.log(1).entries(1, 4, Infinity)).to.throw('batch record 2 of the log is missing');
  });

  it('is a log again, with all that was reported, when only the beginning of a batch of many records is found (seed 100630)', async () => {
    const big = (index: number): string => String(index).padEnd(20_000, 'x');
    const found = new Set<number>();
    for (let seed = 1; seed <= 60; seed += 1) {
      const world = await World.open(`torn-${seed}`);
      world.disk.faults = { tornChance: 1, surviveChance: 1 };
      await world.append(1, run(1, 6, 1));
      const batch = world.logs.batch();
      batch.append(world.logs.log(1), run(4, 8, 2, big), { term: 2, vote: 1, commit: 3 });
      void batch.write();
      await world.loop.runFor(0.1);
      await world.reopen();
      const log = world.logs.log(1);
      const newer = log.term(4) === 2 ? log.lastIndex() - 3 : 0;
      const older = ['1@1', '2@1', '3@1', '4@1', '5@1', '6@1'];
      expect(contents(log)).to.deep.equal(newer === 0 ? older : [...older.slice(0, 3), ...run(4, 3 + newer, 2, big).map(({ data }) => String(data))]);
      found.add(newer);
      await world.append(1, run(log.lastIndex() + 1, 12, 3));
      await world.reopen();
      expect(world.logs.log(1).lastIndex()).to.equal(12);
    }
    expect([...found].sort()).to.deep.equal([0, 1, 2, 3, 4]);
  });

  it('knows what has to go for the rest to fit into a budget', async () => {
    const world = await World.open('budget');
    const data = (): string => 'x'.repeat(1000);
    for (let index = 1; index <= 10; index += 1) {
      const cold: (readonly [number, Entry[]])[] = index % 5 === 1 ? [[2, run((index + 4) / 5, (index + 4) / 5, 1)]] : [];
      await world.appendAll([[1, run(index, index, 1, data)], ...cold]);
    }
    const { logs } = world;
    const [hot, cold] = [logs.log(1), logs.log(2)];
    expect(logs.oldestWithin(logs.bytes)).to.equal(1);
    expect([hot, cold].map((log) => log.lastIndexBefore(1))).to.deep.equal([0, 0]);
    // The hot bucket's compaction alone does not free the records that the cold one needs.
    await world.compact(1, 8);
    expect(logs.bytes).to.be.within(4000, 4300);
    const oldest = logs.oldestWithin(3300);
    expect(oldest).to.equal(6);
    expect([hot, cold].map((log) => log.lastIndexBefore(oldest))).to.deep.equal([8, 1]);
    await world.compact(2, 1);
    expect(logs.bytes).to.be.at.most(3300);
    expect(logs.oldestWithin(0)).to.equal(11);
    expect([hot, cold].map((log) => log.lastIndexBefore(11))).to.deep.equal([10, 2]);
  });
});

const BUCKETS = 4;
const STEPS = 120;

/** The storage beside a log of entries, through random batches, with a crash in the midst of some. */
class Trial {
  readonly #world: World;
  readonly #random: SimRandom;
  #models = Array.from({ length: BUCKETS }, () => new ModelLog());
  /** Up to where the entries of a bucket are committed, and so never replaced. */
  readonly #commits = Array.from({ length: BUCKETS }, () => 0);
  #batches = 0;
  readonly #hot: boolean;

  constructor(world: World) {
    this.#world = world;
    this.#random = world.random;
    this.#hot = world.random.chance(0.5);
  }

  async run(): Promise<void> {
    for (let step = 0; step < STEPS; step += 1) {
      const before = this.#models;
      this.#models = before.map((model) => model.copy());
      const batch = this.#world.logs.batch();
      this.#fill(batch);
      this.#batches += 1;
      batch.put(MARK, Buffer.from(String(this.#batches)));
      const written = batch.write();
      if (this.#random.chance(0.1)) {
        await this.#world.loop.runFor(this.#random.between(0, 2));
        await this.#world.reopen();
        const survived = this.#world.store.get(MARK)?.toString() === String(this.#batches);
        if (!survived) this.#models = before;
        this.#batches -= survived ? 0 : 1;
        this.#commits.forEach((commit, bucket) => {
          this.#commits[bucket] = Math.min(commit, this.#models[bucket]?.last ?? 0);
        });
      } else {
        await this.#world.settle(written);
      }
      this.#compare(this.#world.logs);
      if (this.#random.chance(0.5)) this.#compare((await this.#world.elsewhere()).logs);
    }
    await this.#empty();
  }

  #fill(batch: ReturnType<LogStorage['batch']>): void {
    const random = this.#random;
    this.#models.forEach((model, bucket) => {
      const log = this.#world.logs.log(bucket);
      const isCold = this.#hot && bucket > 0;
      if (random.chance(0.04)) {
        const index = random.between(this.#commits[bucket] ?? 0, model.last + 4) | 0;
        const term = random.chance(0.5) && index <= model.last ? model.term(index) : model.topTerm + 1;
        batch.reset(log, index, term);
        model.reset(index, term);
        this.#commits[bucket] = index;
        return;
      }
      for (let times = random.below(3); times > 0 && !(isCold && random.chance(0.9)); times -= 1) {
        const entries = this.#draw(model, this.#commits[bucket] ?? 0);
        batch.append(log, entries, undefined);
        model.append(entries);
      }
      const commit = this.#commits[bucket] ?? 0;
      // What is committed is durable on this node before the log is compacted up to it.
      const durable = Math.min(log.lastIndex(), model.last, model.firstReplaced - 1);
      if (random.chance(isCold ? 0.05 : 0.2) && durable > commit) this.#commits[bucket] = commit + random.below(durable - commit + 1);
      if (random.chance(isCold ? 0.02 : 0.1)) {
        const index = random.below((this.#commits[bucket] ?? 0) + 1);
        batch.compact(log, index);
        model.compact(index);
      }
      model.firstReplaced = Infinity;
    });
  }

  #draw(model: ModelLog, commit: number): Entry[] {
    const random = this.#random;
    const replaces = random.chance(0.2);
    const first = replaces ? random.between(Math.max(commit, model.start) + 1, model.last + 1.99) | 0 : model.last + 1;
    let term = model.term(first - 1);
    return Array.from({ length: 1 + random.below(5) }, (_, at) => {
      term += random.pick([0, 0, 0, 1, 2]);
      const bytes = random.chance(0.03) ? random.between(2000, 20_000) : random.below(40);
      const kind = random.pick<EntryKind>(['data', 'data', 'config', 'empty']);
      return { index: first + at, term, kind, data: Buffer.alloc(bytes, `${first + at}@${term}#${this.#batches}`) };
    });
  }

  #compare(logs: LogStorage): void {
    this.#models.forEach((model, bucket) => {
      const log = logs.log(bucket);
      const what = `bucket ${bucket} after batch ${this.#batches}`;
      expect([log.firstIndex(), log.lastIndex()], what).to.deep.equal([model.start + 1, model.last]);
      for (let index = model.start; index <= model.last; index += 1) expect(log.term(index), what).to.equal(model.term(index));
      for (let next = model.start + 1; next <= model.last; ) {
        const to = next + 1 + this.#random.below(model.last - next + 1);
        const entries = log.entries(next, to, this.#random.pick([1, 100, Infinity]));
        expect(entries.length, what).to.be.within(1, to - next);
        for (const { index, term, kind, data } of entries) {
          const wanted = model.entry(next);
          expect([index, term, kind, data.equals(wanted.data)], what).to.deep.equal([next, wanted.term, wanted.kind, true]);
          next += 1;
        }
      }
    });
  }

  /** When nothing is needed any more, nothing is left. */
  async #empty(): Promise<void> {
    for (const [bucket, model] of this.#models.entries()) {
      await this.#world.compact(bucket, model.last);
      model.compact(model.last);
    }
    await this.#world.sweep();
    this.#compare(this.#world.logs);
    this.#compare((await this.#world.elsewhere()).logs);
    expect(await this.#world.records()).to.deep.equal([]);
    expect(this.#world.logs.bytes).to.equal(0);
  }
}

describe('the log storage beside a log of single entries', function () {
  this.timeout(120_000);
  /** `TIDEMARK_SEEDS=1-2000` runs more. */
  const [first = 1, last = first] = (process.env['TIDEMARK_SEEDS'] ?? '1-15').split('-').map(Number);

  it(`is the same after every batch and every crash, with seeds ${first} to ${last}`, async function () {
    this.timeout((last - first + 1) * 5000);
    for (let seed = first; seed <= last; seed += 1) {
      try {
        await new Trial(await World.open(`trial-${seed}`)).run();
      } catch (error) {
        throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
      }
    }
  });
});
