import { expect } from 'chai';
import fc from 'fast-check';
import { StateStore } from '../../src/bucket/state-store.js';
import type { PageReader } from '../../src/bucket/pages.js';
import { VersionScan, type VersionScanOptions } from '../../src/bucket/version-scan.js';
import type { PageOptions } from '../../src/env/env.js';
import { compareVersions, PERIOD, versionKey, versionOfKey, slotOfVersionKey, type Slot, type VersionId } from '../../src/mvcc/records.js';
import { TIMESTAMP_MAX } from '../../src/mvcc/timestamp.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';

interface Version {
  readonly slot: Slot;
  readonly id: VersionId;
  readonly bytes: number;
}

class World {
  readonly #loop: SimLoop;
  readonly state: StateStore;
  /** Asked of the state store so far. */
  readonly pages: PageOptions[] = [];
  readonly reader: PageReader = {
    page: (options) => {
      this.pages.push(options);
      return this.state.page(options);
    },
  };

  private constructor(loop: SimLoop, state: StateStore) {
    this.#loop = loop;
    this.state = state;
  }

  static async make(seed: number): Promise<World> {
    const loop = new SimLoop(seed);
    const disk = new SimDisk({ timers: loop.timers, random: loop.random, place: 'n1' });
    const store = await loop.runUntilSettled(disk.openStore('state'), 1000);
    const onFatal = (error: unknown): void => {
      throw error;
    };
    return new World(loop, new StateStore({ store, clock: loop.clock(), timers: loop.timers, gatherMs: 1, overlayBytesMax: 1e9, onFatal }));
  }

  write(versions: readonly Version[]): void {
    for (const { slot, id, bytes } of versions) this.state.put(versionKey(slot, id), Buffer.alloc(bytes));
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    return this.#loop.runUntilSettled(promise, 1_000_000);
  }

  /** Scans to the end; `between` is called before every page. */
  async scan(
    slot: Slot,
    options: VersionScanOptions,
    { limits, bytesMax = 1e6 }: { readonly limits: readonly number[]; readonly bytesMax?: number },
    between?: (page: number) => void,
  ): Promise<VersionId[]> {
    const scan = new VersionScan(this.reader, slot, options);
    const found: VersionId[] = [];
    for (let page = 0, more = true; more; page += 1) {
      between?.(page);
      const limit = limits[page % limits.length] ?? 1;
      const next = await this.settle(scan.next({ limit, bytesMax }));
      expect(next.entries.length).to.be.at.most(limit);
      for (const [key] of next.entries) {
        expect(slotOfVersionKey(key)).to.equal(slot);
        found.push(versionOfKey(key));
      }
      more = next.more;
    }
    expect(await scan.next({ limit: 1, bytesMax: 1 })).to.deep.equal({ entries: [], more: false });
    return found;
  }
}

const SLOTS = [0, 1, 2, 255, 0xffff_ffff];
const PERIODS = [0, 1, 2, 3, 9, 70_000, 2 ** 28 - 1];
const timestamps = fc
  .tuple(fc.constantFrom(...PERIODS), fc.oneof(fc.nat(5), fc.constantFrom(PERIOD / 2, PERIOD - 2, PERIOD - 1)))
  .map(([period, offset]) => period * PERIOD + offset);
const versions = (maxLength: number): fc.Arbitrary<Version[]> =>
  fc.array(
    fc.record({
      slot: fc.constantFrom(...SLOTS),
      id: fc.record({ timestamp: timestamps, index: fc.constantFrom(1, 2, 2 ** 40), position: fc.constantFrom(0, 65_535) }),
      bytes: fc.constantFrom(0, 10, 500, 5000),
    }),
    { maxLength },
  );
const scans = fc.record({
  slot: fc.constantFrom(...SLOTS),
  range: fc.oneof(
    fc.constant<readonly [number, number]>([0, TIMESTAMP_MAX]),
    fc.tuple(timestamps, timestamps).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const),
    // The wrong way round there is nothing.
    fc.tuple(timestamps, timestamps),
  ),
  reverse: fc.boolean(),
  limits: fc.array(fc.constantFrom(1, 2, 3, 7, 40, 1000), { minLength: 1, maxLength: 5 }),
  bytesMax: fc.constantFrom(1, 600, 1e6),
});

/** Every version that the scan has to find, by going through all of them. */
function expected(all: readonly Version[], { slot, range: [from, to], reverse }: typeof scans extends fc.Arbitrary<infer S> ? S : never): VersionId[] {
  const unique = new Map(all.map((version) => [versionKey(version.slot, version.id).toString('hex'), version]));
  const own = [...unique.values()].filter((version) => version.slot === slot).map(({ id }) => id);
  const inRange = own.filter(({ timestamp }) => timestamp >= from && timestamp <= to).sort(compareVersions);
  return reverse ? inRange.reverse() : inRange;
}

describe('a scan over the versions of a slot', function () {
  this.timeout(60_000);

  it('finds what going through all of them finds, on disk and in the overlay', () =>
    fc.assert(
      fc.asyncProperty(versions(120), versions(40), scans, fc.nat(), async (onDisk, applied, scan, seed) => {
        const world = await World.make(seed);
        world.write(onDisk);
        await world.settle(world.state.flush());
        world.write(applied);
        const { slot, range: [from, to], reverse } = scan;
        const found = await world.scan(slot, { from, to, reverse }, scan);
        expect(found).to.deep.equal(expected([...onDisk, ...applied], scan));
      }),
      { numRuns: 300 },
    ));

  it('misses nothing that was there, invents nothing and keeps the order while others write and sweep', () =>
    fc.assert(
      fc.asyncProperty(versions(80), fc.array(versions(6), { maxLength: 20 }), scans, fc.nat(), async (before, later, scan, seed) => {
        const world = await World.make(seed);
        world.write(before);
        const { slot, range: [from, to], reverse } = scan;
        const written = [...before];
        const found = await world.scan(slot, { from, to, reverse }, scan, (page) => {
          const more = later[page] ?? [];
          world.write(more);
          written.push(...more);
          // Other slots come and go.
          for (const version of before.slice(page * 5, page * 5 + 5)) {
            if (version.slot !== slot) world.state.del(versionKey(version.slot, version.id));
          }
        });
        const at = (id: VersionId): string => versionKey(slot, id).toString('hex');
        expect([...found].sort(compareVersions).map(at)).to.deep.equal([...new Set(found.map(at))].sort());
        expect(reverse ? [...found].reverse() : found).to.deep.equal([...found].sort(compareVersions));
        expect(found.map(at)).to.include.members(expected(before, scan).map(at));
        expect(expected(written, scan).map(at)).to.include.members(found.map(at));
      }),
      { numRuns: 300 },
    ));

  const version = (slot: Slot, timestamp: number): Version => ({ slot, id: { timestamp, index: 1, position: 0 }, bytes: 100 });

  for (const reverse of [false, true]) {
    const way = reverse ? 'backward' : 'forward';

    it(`reads nothing for periods in which nobody wrote, ${way}`, async () => {
      const world = await World.make(1);
      const own = [5, 100_000, 20_000_000].map((period) => version(7, period * PERIOD));
      world.write([...own, ...[6, 100_001, 20_000_001].map((period) => version(3, period * PERIOD))]);
      expect(await world.scan(7, { reverse }, { limits: [1000] })).to.have.length(3);
      expect(world.pages).to.have.length(1);
    });

    it(`needs two pages for each period that all slots fill, ${way}`, async () => {
      const world = await World.make(2);
      for (let period = 10; period < 20; period += 1) {
        for (let slot = 1; slot <= 8; slot += 1) {
          world.write(Array.from({ length: 50 }, (_, at) => version(slot, period * PERIOD + at)));
        }
      }
      expect(await world.scan(4, { reverse }, { limits: [1000] })).to.have.length(500);
      expect(world.pages.length).to.be.at.most(22);
      // Whatever the caller can take, a page that may meet other slots is small.
      for (const { gte, lt, limit } of world.pages) {
        const within = gte.subarray(1, 9).equals(lt.subarray(1, 9));
        if (!within) expect(limit).to.be.at.most(32);
      }
    });
  }

  it('stays in the range that it was asked for', async () => {
    const world = await World.make(3);
    world.write(Array.from({ length: 300 }, (_, at) => version(1 + (at % 3), at * (PERIOD / 8))));
    const from = 2 * PERIOD + 1;
    const to = 3 * PERIOD;
    for (const reverse of [false, true]) {
      world.pages.length = 0;
      const found = await world.scan(2, { from, to, reverse }, { limits: [100] });
      expect(found.map(({ timestamp }) => timestamp).sort((a, b) => a - b)).to.deep.equal([19, 22].map((at) => at * (PERIOD / 8)));
      expect(world.pages).to.have.length.within(1, 3);
    }
  });
});
