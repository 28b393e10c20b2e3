import { expect } from 'chai';
import { BucketState, placeOfSessionsKey, sessionsRange, type Meta } from '../../src/bucket/state.js';
import { StateStore } from '../../src/bucket/state-store.js';
import { TableLoader, tableLimitsOf, Tables } from '../../src/bucket/tables.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { Checkpoints } from '../../src/node/checkpoints.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';

const SLOT = 1;
const META: Meta = {
  slot: SLOT,
  replicaId: 1,
  applied: { index: 0, term: 1 },
  maxTimestamp: 0,
  horizon: 0,
  pins: [],
  digest: 0,
  config: { voters: [1], outgoing: [], learners: [], learnersNext: [] },
  sessionsIndex: 0,
};
const GATHER_MS = 100;

/** One bucket, its tables and the disk on which they are written. */
class World {
  readonly disk: SimDisk;
  readonly state: StateStore;
  readonly bucket: BucketState;
  readonly #loop: SimLoop;
  readonly #checkpoints: Checkpoints;

  private constructor(loop: SimLoop, disk: SimDisk, state: StateStore, onFatal: (error: unknown) => void) {
    this.#loop = loop;
    this.disk = disk;
    this.state = state;
    this.bucket = new BucketState(3, state, META, new TableLoader(new Tables(tableLimitsOf(DEFAULT_LIMITS))));
    this.#checkpoints = new Checkpoints(loop.timers, onFatal);
  }

  static async make(): Promise<World> {
    const loop = new SimLoop('checkpoints');
    const disk = new SimDisk({ timers: loop.timers, random: loop.random, place: 'n1' });
    const store = await loop.runUntilSettled(disk.openStore('state'), 1000);
    const onFatal = (error: unknown): void => {
      throw error;
    };
    const options = { store, clock: loop.clock(), timers: loop.timers, gatherMs: GATHER_MS, overlayBytesMax: 1e9, onFatal };
    return new World(loop, disk, new StateStore(options), onFatal);
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    return this.#loop.runUntilSettled(promise, 1_000_000);
  }

  wait(ms: number): Promise<void> {
    return this.settle(new Promise((resolve) => void this.#loop.timers.after(ms, resolve)));
  }

  /** Applies an entry and checkpoints the tables as of it. */
  checkpoint(): Promise<void> {
    const index = this.bucket.applied.index + 1;
    this.bucket.apply({ index, term: 1, kind: 'empty', data: Buffer.alloc(0) }, undefined);
    this.#checkpoints.request(this.bucket);
    return this.settle(this.#checkpoints.settled());
  }

  /** The indexes of all checkpoints of which there is a piece. */
  async found(): Promise<number[]> {
    const { entries } = await this.settle(this.state.page({ ...sessionsRange(SLOT), limit: 1000 }));
    return [...new Set(entries.map(([key]) => placeOfSessionsKey(key).index))];
  }
}

describe('a checkpoint of the tables', () => {
  it('leaves nothing of the one before it', async () => {
    const world = await World.make();
    for (let n = 1; n <= 5; n += 1) {
      await world.checkpoint();
      await world.settle(world.state.flush());
      expect(await world.found()).to.deep.equal([n]);
      expect(world.bucket.sessionsIndex).to.equal(n);
    }
  });

  it('leaves nothing of the one before it, though the disk was so slow that this was in no batch yet', async () => {
    const world = await World.make();
    await world.checkpoint();
    await world.settle(world.state.flush());
    const resume = world.disk.stall(60_000, 'state');
    await world.checkpoint();
    // A batch with that one is under way.
    await world.wait(2 * GATHER_MS);
    for (let n = 0; n < 3; n += 1) await world.checkpoint();
    expect(world.bucket.sessionsIndex, 'the one on disk counts').to.equal(1);
    resume();
    await world.settle(world.state.flush());
    await world.settle(world.state.flush());
    expect(await world.found()).to.deep.equal([5]);
    expect(world.bucket.sessionsIndex).to.equal(5);
  });
});
