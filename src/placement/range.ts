import type { Bytes } from '../lib/bytes.js';
import { prefixEnd } from '../lib/ordered.js';
import { bucketOf, partitionKeyOf, type BucketId } from './map.js';

/**
 * The buckets that can hold keys in [start, end), in order. Keys are spread by a hash, so that is all of them, unless every
 * key of the range has the same partition key: the range holds a single key, or lies under one complete `{partition}`.
 */
export function bucketsOfRange(start: Bytes, end: Bytes, buckets: number): BucketId[] {
  if (liesInOnePartition(start, end)) return [bucketOf(start, buckets)];
  return Array.from({ length: buckets }, (_, bucket) => bucket);
}

/** Every key of the range has the same partition key. */
export function liesInOnePartition(start: Bytes, end: Bytes): boolean {
  return isOneKey(start, end) || isOnePartition(start, end);
}

function isOneKey(start: Bytes, end: Bytes): boolean {
  return start.length > 0 && end.length === start.length + 1 && end[start.length] === 0 && end.subarray(0, -1).equals(start);
}

/** True if `start` holds a whole partition key and every key below `end` begins with the same bytes up to its `}`. */
function isOnePartition(start: Bytes, end: Bytes): boolean {
  const partition = partitionKeyOf(start);
  if (partition.length === start.length || end.length === 0) return false;
  const prefix = start.subarray(0, partition.byteOffset - start.byteOffset + partition.length + 1);
  const limit = prefixEnd(prefix);
  return limit.length === 0 || end.compare(limit) <= 0;
}
