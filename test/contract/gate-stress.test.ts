import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { EMPTY, type Bytes } from '../../src/lib/bytes.js';
import type { Store } from '../../src/env/env.js';
import { openDisk } from '../../src/env/real/disk.js';
import { SimRandom } from '../../src/sim/random.js';

/**
 * Shows that the gate is needed, and that it is enough (google/leveldb#320).
 *
 * The bug needs two versions of a key which a compaction keeps because of a snapshot, and which it writes into two files of
 * level 1, since the first file was full just between them. When the first file, with the newer version, moves to level 2, a
 * point read finds the older one in level 1. So: long pages over the whole store, each begun just before a batch; batches
 * that overwrite a few neighbouring keys several times each, with more than a file of incompressible data; then other
 * neighbours, so that what the bug uncovers is not covered by a newer version at once.
 *
 * Without the gate it takes about ten batches per second and five seconds. The cost of a page on the event loop matters:
 * more pages at a time find less.
 */
const KEYS = 2400;
const VALUE_BYTES = 16 * 1024;
const NEIGHBOURS = 40;
const BATCHES_PER_NEIGHBOURHOOD = 3;
const OPERATIONS_PER_BATCH = 120;
const DELETE_CHANCE = 0.05;
const CHECK_EVERY_MS = 250;
const STORE = { writeBufferBytes: 64 * 1024, cacheBytes: 64 * 1024 * 1024 };

const UNGATED_MS_MAX = 120_000;
const GATED_MS_MIN = 10_000;

interface Outcome {
  readonly stale: string | undefined;
  readonly elapsedMs: number;
  readonly batches: number;
  readonly pages: number;
}

class Workload {
  readonly #store: Store;
  readonly #random: SimRandom;
  readonly #noise: Bytes = Buffer.alloc(1024 * 1024);
  readonly #keys = Array.from({ length: KEYS }, (_, i) => Buffer.from(`key${String(i).padStart(6, '0')}`));
  /** The version that each key must have; 0 where there must be nothing. */
  readonly #expected = new Array<number>(KEYS).fill(0);
  #version = 0;
  #firstNeighbour = 0;
  #batches = 0;
  #pages = 0;
  #page: Promise<void> | undefined;
  #stale: string | undefined;

  constructor(store: Store, seed: string) {
    this.#store = store;
    this.#random = new SimRandom(seed);
    for (let at = 0; at < this.#noise.length; at += 4) this.#noise.writeUInt32LE(this.#random.uint32(), at);
  }

  /** Until a stale value is found, or the time is over. */
  async run(durationMs: number): Promise<Outcome> {
    await this.#fill();
    const startMs = performance.now();
    let checkedMs = startMs;
    while (this.#stale === undefined && performance.now() - startMs < durationMs) {
      this.#page ??= this.#readPage();
      await this.#overwrite();
      if (performance.now() - checkedMs > CHECK_EVERY_MS) {
        this.#check();
        checkedMs = performance.now();
      }
    }
    await this.#page;
    this.#check();
    const elapsedMs = performance.now() - startMs;
    return { stale: this.#stale, elapsedMs, batches: this.#batches, pages: this.#pages };
  }

  async #fill(): Promise<void> {
    for (let from = 0; from < KEYS; from += OPERATIONS_PER_BATCH) {
      await this.#write(Array.from({ length: OPERATIONS_PER_BATCH }, (_, i) => from + i));
    }
  }

  async #overwrite(): Promise<void> {
    if (this.#batches % BATCHES_PER_NEIGHBOURHOOD === 0) this.#firstNeighbour = this.#random.below(KEYS - NEIGHBOURS);
    const neighbour = (): number => this.#firstNeighbour + this.#random.below(NEIGHBOURS);
    await this.#write(Array.from({ length: OPERATIONS_PER_BATCH }, neighbour), DELETE_CHANCE);
    this.#batches += 1;
  }

  async #write(targets: readonly number[], deleteChance = 0): Promise<void> {
    const batch = this.#store.batch();
    const versions = targets.map((at) => {
      const key = this.#keys[at] ?? EMPTY;
      if (this.#random.chance(deleteChance)) {
        batch.del(key);
        return 0;
      }
      this.#version += 1;
      batch.put(key, this.#value(this.#version));
      return this.#version;
    });
    await batch.write();
    targets.forEach((at, i) => (this.#expected[at] = versions[i] ?? 0));
  }

  #value(version: number): Bytes {
    const from = this.#random.below(this.#noise.length - VALUE_BYTES);
    const value = Buffer.from(this.#noise.subarray(from, from + VALUE_BYTES));
    value.writeUInt32LE(version, 0);
    return value;
  }

  async #readPage(): Promise<void> {
    const gte = this.#keys[this.#random.below(KEYS / 4)] ?? EMPTY;
    await this.#store.page({ gte, lt: EMPTY, limit: KEYS, bytesMax: KEYS * VALUE_BYTES });
    this.#pages += 1;
    this.#page = undefined;
  }

  /** Reads every key; no batch is under way. */
  #check(): void {
    this.#keys.forEach((key, at) => {
      const found = this.#store.get(key)?.readUInt32LE(0) ?? 0;
      const expected = this.#expected[at] ?? 0;
      if (found !== expected) this.#stale ??= `key ${at} has version ${found} instead of ${expected}`;
    });
  }
}

async function stress(gated: boolean, durationMs: number): Promise<Outcome> {
  const directory = mkdtempSync(join(tmpdir(), 'tidemark-gate-'));
  try {
    const disk = await openDisk(directory, { gated });
    const outcome = await new Workload(await disk.openStore('state', STORE), 'gate').run(durationMs);
    await disk.close();
    return outcome;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe('the gate between pages and batches', function () {
  this.timeout(2 * UNGATED_MS_MAX + 60_000);
  let neededMs = UNGATED_MS_MAX;

  it('is needed: without it LevelDB returns a stale value', async () => {
    const { stale, elapsedMs, batches, pages } = await stress(false, UNGATED_MS_MAX);
    expect(stale, `${batches} batches and ${pages} pages in ${elapsedMs.toFixed(0)} ms`).to.be.a('string');
    neededMs = elapsedMs;
  });

  it('is enough: with it the same load finds none in the same time', async () => {
    const { stale, batches, pages } = await stress(true, Math.max(GATED_MS_MIN, neededMs));
    expect(stale).to.equal(undefined);
    expect(batches, 'batches').to.be.at.least(10);
    expect(pages, 'pages').to.be.at.least(10);
  });
});
