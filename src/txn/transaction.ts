import type { Bytes } from '../lib/bytes.js';
import type { VersionId } from '../mvcc/records.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';

/**
 * Transactions over several buckets: what their parts are called.
 *
 * A Write over several buckets has a *home*, the bucket of its first mutation (else of its first condition), and *participants*,
 * all other buckets that it touches. The leader of home coordinates it, in memory, in *attempts*, each with a random number of
 * its own:
 *
 *   prepare   every participant checks its conditions, takes locks, and logs intents: the values that it will write
 *   decide    home checks its own conditions and logs its own writes, the result of the request, and the transaction's record,
 *             all in one entry, whose timestamp is the commit timestamp: above every prepare timestamp. Reply.
 *   resolve   every participant turns its intents into versions at the commit timestamp, and lets its locks go
 *   forget    when all have, home drops the record
 *
 * An attempt that is not decided is aborted by doing nothing at home: only the leader in whose term it began can log its
 * decision, so once a leader of home that is known to be the leader neither runs the attempt nor has its record, it never will
 * be committed (*presumed abort*). Nothing has to expire, and nobody can abort an attempt that is alive.
 */
export interface TransactionId {
  readonly session: number;
  readonly sequence: number;
  /** Random: no two attempts of any request share it. */
  readonly attempt: number;
}

/** One key of a Map for each attempt. */
export type TransactionKey = string;

export function transactionKey({ session, sequence, attempt }: TransactionId): TransactionKey {
  return `${session}:${sequence}:${attempt}`;
}

/** A write that waits for the decision; also, a write as an entry of the log carries it. */
export interface Intent {
  readonly key: Bytes;
  readonly deleted: boolean;
  readonly value: Bytes;
  /** The key is locked until the decision, so its latest version cannot change meanwhile. */
  readonly previous: VersionId;
}

export interface LockRange {
  readonly start: Bytes;
  /** Exclusive; empty: no upper bound. */
  readonly end: Bytes;
}

/** What a participant has promised: whatever is decided, it can do it. */
export interface Prepared {
  readonly id: TransactionId;
  readonly home: BucketId;
  /** When this attempt began, by the clock of home's node. */
  readonly start: Timestamp;
  /** When the first attempt began: the lower, the older, and the older one wins. */
  readonly first: Timestamp;
  /** The prepare timestamp: the commit timestamp will be above it. */
  readonly timestamp: Timestamp;
  readonly intents: readonly Intent[];
  /** Keys and ranges that its conditions have read: locked against writes until the decision. */
  readonly reads: readonly Bytes[];
  readonly ranges: readonly LockRange[];
}

/** A committed transaction at home, until every participant has resolved it. */
export interface CommittedRecord {
  readonly id: TransactionId;
  readonly start: Timestamp;
  /** The commit timestamp. */
  readonly timestamp: Timestamp;
  readonly participants: readonly BucketId[];
}

/** How an attempt stands, as home tells it. */
export type Outcome =
  | { readonly kind: 'committed'; readonly timestamp: Timestamp }
  /** Not decided; if it is ever committed, then above every timestamp that the question named. */
  | { readonly kind: 'pending' }
  /** It never will be committed, or all its participants have resolved it. */
  | { readonly kind: 'over' };
