import { fromMapKey, toMapKey, type Bytes } from '../lib/bytes.js';
import { SpaceSaving } from '../lib/space-saving.js';
import type { BucketId } from './map.js';

/**
 * Heat: how much is asked of a bucket, or a node, now. Operations a second, decayed exponentially: what was a half-life ago
 * counts half as much as what is now.
 *
 * A node counts what it has served (HeatMeter): an operation adds to two numbers, and of one in SAMPLED the key goes into a
 * sketch of bounded memory. Once a second the counts become rates. What is warm it reports to the nodes that host the system
 * bucket; their sum over all nodes is the heat that the planner goes by (heat-summary.ts). A bucket of which nothing is said is
 * cold.
 *
 * A read is a get, or a page of the history, of a key; a write is a Write that the bucket is home to. Scans are in no bucket's
 * heat: they go to all of them, and another replica of one makes none faster.
 */
export const HALF_LIFE_MS = 5000;

/** A second. */
export interface Rates {
  readonly reads: number;
  readonly writes: number;
  /** Of the values that were read and written, and the keys that were written. */
  readonly bytes: number;
}

export interface BucketHeat extends Rates {
  readonly bucket: BucketId;
}

export interface KeyHeat {
  readonly key: Bytes;
  readonly bucket: BucketId;
  readonly reads: number;
}

/** What a node says: its own rates, its warmest buckets, and its hottest keys. Whole numbers. */
export interface HeatReport extends Rates {
  readonly buckets: readonly BucketHeat[];
  readonly keys: readonly KeyHeat[];
}

/** A report says no more than this, some 3 KiB and the keys. */
export const REPORT_BUCKETS_MAX = 128;
export const REPORT_KEYS_MAX = 16;
const REPORT_KEY_BYTES_MAX = 8 * 1024;
/** Less than this a second is not worth a word. */
const WARM = 1;
/** A bucket that is colder than this is forgotten. */
const COLD = 0.05;

const COUNTERS = 256;
/** Of so many reads one is looked at for its key: a power of two. */
const SAMPLED = 8;
const SAMPLE_SHIFT = 32 - Math.log2(SAMPLED);

/** A rate after some time, in which it was `present`. */
export function decayed(rate: number, present: number, elapsedMs: number): number {
  return present + (rate - present) * 2 ** (-elapsedMs / HALF_LIFE_MS);
}

class Cell {
  // Since the last tick.
  readsNow = 0;
  writesNow = 0;
  bytesNow = 0;
  reads = 0;
  writes = 0;
  bytes = 0;

  get isCold(): boolean {
    return this.reads + this.writes < COLD;
  }

  tick(elapsedMs: number): void {
    const perSecond = 1000 / elapsedMs;
    this.reads = decayed(this.reads, this.readsNow * perSecond, elapsedMs);
    this.writes = decayed(this.writes, this.writesNow * perSecond, elapsedMs);
    this.bytes = decayed(this.bytes, this.bytesNow * perSecond, elapsedMs);
    this.readsNow = 0;
    this.writesNow = 0;
    this.bytesNow = 0;
  }
}

/** Of one node. What it costs an operation is to be as near to nothing as can be. */
export class HeatMeter {
  readonly #cells = new Map<BucketId, Cell>();
  readonly #keys = new SpaceSaving(COUNTERS);
  readonly #bucketOf: (key: Bytes) => BucketId;
  /** Reads a second of a key that has a count of one. */
  #perCount = 0;
  /** Of a linear congruential generator: every eighth read would miss, or favour, what comes in turn. */
  #dice = 1;

  constructor(bucketOf: (key: Bytes) => BucketId) {
    this.#bucketOf = bucketOf;
  }

  read(bucket: BucketId, key: Bytes, bytes: number): void {
    const cell = this.#cell(bucket);
    cell.readsNow += 1;
    cell.bytesNow += bytes;
    this.#dice = (Math.imul(this.#dice, 1_664_525) + 1_013_904_223) | 0;
    if (this.#dice >>> SAMPLE_SHIFT === 0) this.#keys.add(toMapKey(key));
  }

  write(bucket: BucketId, bytes: number): void {
    const cell = this.#cell(bucket);
    cell.writesNow += 1;
    cell.bytesNow += bytes;
  }

  #cell(bucket: BucketId): Cell {
    let cell = this.#cells.get(bucket);
    if (cell === undefined) {
      cell = new Cell();
      this.#cells.set(bucket, cell);
    }
    return cell;
  }

  /** Makes rates of what was counted in the time since the last tick. */
  tick(elapsedMs: number): void {
    if (elapsedMs <= 0) return;
    for (const [bucket, cell] of this.#cells) {
      cell.tick(elapsedMs);
      if (cell.isCold) this.#cells.delete(bucket);
    }
    const factor = decayed(1, 0, elapsedMs);
    // A key that comes at a steady rate has this count times its rate after the decay.
    this.#perCount = (SAMPLED * (1 - factor) * 1000) / (factor * elapsedMs);
    if (this.#keys.size > 0) this.#keys.decay(factor);
  }

  /** Of all buckets together. */
  get rates(): Rates {
    const sum = { reads: 0, writes: 0, bytes: 0 };
    for (const { reads, writes, bytes } of this.#cells.values()) {
      sum.reads += reads;
      sum.writes += writes;
      sum.bytes += bytes;
    }
    return sum;
  }

  /** What is worth telling; undefined if nothing is. */
  report(): HeatReport | undefined {
    const buckets: BucketHeat[] = [];
    for (const [bucket, { reads, writes, bytes }] of this.#cells) {
      if (reads + writes >= WARM) buckets.push({ bucket, ...rounded({ reads, writes, bytes }) });
    }
    if (buckets.length === 0) return undefined;
    buckets.sort((a, b) => weightOf(b) - weightOf(a) || a.bucket - b.bucket);
    return { ...rounded(this.rates), buckets: buckets.slice(0, REPORT_BUCKETS_MAX), keys: this.#hottestKeys() };
  }

  #hottestKeys(): KeyHeat[] {
    const keys: KeyHeat[] = [];
    let bytes = 0;
    for (const { item, count, error } of this.#keys.top(REPORT_KEYS_MAX)) {
      const reads = Math.round((count - error) * this.#perCount);
      const key = fromMapKey(item);
      bytes += key.length;
      if (reads < WARM || bytes > REPORT_KEY_BYTES_MAX) break;
      keys.push({ key, bucket: this.#bucketOf(key), reads });
    }
    return keys;
  }
}

/** What a write costs its leader, in reads. */
const WRITE_WEIGHT = 4;

export function weightOf({ reads, writes }: Pick<Rates, 'reads' | 'writes'>): number {
  return reads + WRITE_WEIGHT * writes;
}

function rounded({ reads, writes, bytes }: Rates): Rates {
  return { reads: Math.round(reads), writes: Math.round(writes), bytes: Math.round(bytes) };
}
