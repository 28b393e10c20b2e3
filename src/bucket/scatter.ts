import type { BucketId } from '../placement/map.js';

/** Buckets whose numbers follow a pattern, as those of one leader do, get numbers that follow none. */
export function scatter(bucket: BucketId): number {
  return Math.imul(bucket + 1, 0x9e37_79b1) >>> 16;
}
