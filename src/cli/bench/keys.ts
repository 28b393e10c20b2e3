import type { Bytes } from '../../lib/bytes.js';

/** A small seeded generator (mulberry32): two runs with one seed ask for the same keys. Numbers are in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = Math.floor(seed) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

export type Distribution = 'uniform' | 'zipf';

/** The exponent that YCSB made customary. */
const ZIPF_EXPONENT = 0.99;

/** Draws key numbers in [0, count). Under `zipf` low numbers are hot; since buckets hash keys, hot keys are spread anyway. */
export function keyPicker(distribution: Distribution, count: number, random: () => number): () => number {
  if (distribution === 'uniform') return () => Math.floor(random() * count);
  const cumulative = new Float64Array(count);
  let sum = 0;
  for (let rank = 0; rank < count; rank += 1) {
    sum += (rank + 1) ** -ZIPF_EXPONENT;
    cumulative[rank] = sum;
  }
  return () => {
    const target = random() * sum;
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((cumulative[middle] ?? 0) > target) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}

export const BENCH_PREFIX = 'bench/';

export function benchKey(number: number): Bytes {
  return Buffer.from(`${BENCH_PREFIX}${String(number).padStart(9, '0')}`);
}

/** Keys of one transaction: of one bucket, or, nearly always, of two. */
export function txnKeys(numbers: readonly [number, number], spread: boolean): Bytes[] {
  const [one, two] = numbers;
  const names = spread ? [`{${one}}a`, `{${two}}b`] : [`{${one}}a`, `{${one}}b`];
  return names.map((name) => Buffer.from(BENCH_PREFIX + name));
}

/** One of the few keys of as-of reads. */
export function hotKey(number: number): Bytes {
  return Buffer.from(`${BENCH_PREFIX}hot/${number % HOT_KEYS}`);
}

export const HOT_KEYS = 8;

/** Incompressible, so that no layer below gets a present. */
export function benchValue(bytes: number, random: () => number): Bytes {
  const value = Buffer.allocUnsafe(bytes);
  for (let at = 0; at < bytes; at += 1) value[at] = Math.floor(random() * 256);
  return value;
}
