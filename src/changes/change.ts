import type { Bytes } from '../lib/bytes.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { VersionId } from '../mvcc/records.js';
import type { BucketId } from '../placement/map.js';

/**
 * Where a record stands on the timeline of the whole cluster: by timestamp, then bucket, then its place in the log of that
 * bucket (index of the entry, position in it). Every record has exactly one, the same on every replica, so "everything up to
 * this position" means the same wherever it is read, and a stream may stop behind any record and go on elsewhere.
 *
 * Two commits in different buckets may share a timestamp; so do all records of a transaction.
 */
export interface Position {
  readonly timestamp: Timestamp;
  readonly bucket: BucketId;
  readonly index: number;
  readonly position: number;
}

/** Above every bucket with user keys; it is the number of the system bucket, which is in no stream. */
export const BUCKET_END: BucketId = 0xffff_ffff;

/** Behind every record of the timestamp. */
export function endOf(timestamp: Timestamp): Position {
  return { timestamp, bucket: BUCKET_END, index: 0, position: 0 };
}

export const BEGINNING: Position = endOf(0);

export function comparePositions(a: Position, b: Position): number {
  return a.timestamp - b.timestamp || a.bucket - b.bucket || a.index - b.index || a.position - b.position;
}

export function positionOf(bucket: BucketId, { timestamp, index, position }: VersionId): Position {
  return { timestamp, bucket, index, position };
}

/** The highest timestamp of which nothing is missing when everything up to `position` is there. */
export function wholeTimestamp({ timestamp, bucket }: Position): Timestamp {
  return bucket === BUCKET_END ? timestamp : Math.max(0, timestamp - 1);
}

/** One committed change of one key. */
export interface Change {
  readonly at: Position;
  readonly key: Bytes;
  readonly deleted: boolean;
  /** Empty if deleted. */
  readonly value: Bytes;
  /** What the key held before, if that was asked for and there was something. */
  readonly before: Before | undefined;
  /** The same in all changes of one commit, and in no other. */
  readonly transaction: Bytes;
}

export interface Before {
  readonly version: Timestamp;
  readonly value: Bytes;
}

/** What it takes in memory, about. */
export function bytesOfChange({ key, value, before }: Change): number {
  return CHANGE_BYTES + key.length + value.length + (before?.value.length ?? 0);
}

const CHANGE_BYTES = 64;

/**
 * A part of a feed: all changes of some buckets behind a position, in order, up to `upTo` and with nothing missing. If it is
 * cut short, `upTo` is the last record that was looked at, and the next page goes on there.
 */
export interface FeedPage {
  readonly changes: readonly Change[];
  readonly upTo: Position;
  /** The least resolved timestamp of the buckets: `upTo` is its end, or earlier if there is more to be read at once. */
  readonly mark: Timestamp;
}
