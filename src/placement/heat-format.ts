import type { Bytes } from '../lib/bytes.js';
import { REPORT_BUCKETS_MAX, REPORT_KEYS_MAX, type BucketHeat, type HeatReport, type KeyHeat } from './heat.js';

/** A report as nodes say it: `[reads, writes, bytes, [bucket, reads, writes, bytes, ...], [key, bucket, reads, ...]]`. */
export function reportToArray({ reads, writes, bytes, buckets, keys }: HeatReport): readonly unknown[] {
  const ofBuckets = buckets.flatMap((heat) => [heat.bucket, heat.reads, heat.writes, heat.bytes]);
  return [reads, writes, bytes, ofBuckets, keys.flatMap((heat) => [heat.key, heat.bucket, heat.reads])];
}

/** Throws RangeError for anything that `reportToArray` cannot have made. */
export function reportFromArray([reads, writes, bytes, ofBuckets, ofKeys]: readonly unknown[]): HeatReport {
  const buckets: BucketHeat[] = [];
  for (const [bucket, ofReads, ofWrites, ofBytes] of groups(ofBuckets, 4, REPORT_BUCKETS_MAX)) {
    buckets.push({ bucket: natural(bucket), reads: natural(ofReads), writes: natural(ofWrites), bytes: natural(ofBytes) });
  }
  const keys: KeyHeat[] = [];
  for (const [key, bucket, ofReads] of groups(ofKeys, 3, REPORT_KEYS_MAX)) {
    // A copy: it is kept, and its frame need not be.
    keys.push({ key: Buffer.from(byteString(key)), bucket: natural(bucket), reads: natural(ofReads) });
  }
  return { reads: natural(reads), writes: natural(writes), bytes: natural(bytes), buckets, keys };
}

/** An upper estimate of what a report takes on the wire. */
export function sizeOfReport({ buckets, keys }: HeatReport): number {
  return 64 + 40 * buckets.length + keys.reduce((sum, { key }) => sum + key.length + 24, 0);
}

function* groups(list: unknown, size: number, most: number): Generator<readonly unknown[]> {
  if (!Array.isArray(list) || list.length % size !== 0 || list.length > size * most) throw new RangeError('not a list of heats');
  for (let at = 0; at < list.length; at += size) yield list.slice(at, at + size) as unknown[];
}

function natural(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new RangeError('a heat is not a whole number');
}

function byteString(value: unknown): Bytes {
  if (Buffer.isBuffer(value)) return value;
  throw new RangeError('a hot key is not bytes');
}
