import type { Bytes } from '../lib/bytes.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import type { Claim } from '../txn/locks.js';
import type { Owner } from '../txn/reservations.js';
import type { TransactionId } from '../txn/transaction.js';

/** What can be asked of a bucket and what it answers; shared by router, node and client. */
export type { Timestamp };

export type Mutation =
  | { readonly kind: 'put'; readonly key: Bytes; readonly value: Bytes }
  | { readonly kind: 'delete'; readonly key: Bytes };

/** A key's version is the timestamp of its latest record; 0 for a key that does not exist. */
export type KeyCondition =
  | { readonly kind: 'exists'; readonly key: Bytes }
  | { readonly kind: 'absent'; readonly key: Bytes }
  | { readonly kind: 'version'; readonly key: Bytes; readonly version: Timestamp }
  | { readonly kind: 'value'; readonly key: Bytes; readonly value: Bytes };

/**
 * No key of the range was put or deleted after `since`, nor one that was not there before: whoever read the range as of
 * `since` would read the same now.
 */
export interface RangeCondition {
  readonly kind: 'unchanged';
  readonly range: KeyRange;
  readonly since: Timestamp;
}

export type Condition = KeyCondition | RangeCondition;

/**
 * Names one command for ever, so that a retry never applies twice. `session` is random, below 2^53; `born` is when the
 * session began (timestamp, at least 1); `sequence` counts from 1; `lowest` is the lowest sequence whose answer the client still
 * awaits. checkRequestId refuses anything else.
 */
export interface RequestId {
  readonly session: number;
  readonly born: Timestamp;
  readonly sequence: number;
  readonly lowest: number;
}

export interface WriteRequest {
  readonly id: RequestId;
  readonly conditions: readonly Condition[];
  readonly mutations: readonly Mutation[];
  /** The transaction of a client that this commits, if it is not the first attempt of it. */
  readonly owner?: Owner | undefined;
}

/** A transaction of a client wants to lose no more (txn/reservations.ts). */
export interface ReserveRequest {
  readonly owner: Owner;
  /** Keys and ranges of this bucket. */
  readonly claim: Claim;
  /** For how long from when nothing is in its way; 0: it lets go of what it had reserved. */
  readonly forMs: number;
}

export interface WriteResult {
  /** False: a condition did not hold and nothing was written. */
  readonly applied: boolean;
  /** The commit timestamp (of the refusal, if it was refused). */
  readonly timestamp: Timestamp;
  /** The position in `conditions` of one that did not hold, the first of its bucket; -1 if applied. */
  readonly failedCondition: number;
  /** The present version of that condition's key, 0 if it does not exist; of a range, when some key of it was changed. */
  readonly failedVersion: Timestamp;
}

/** A condition of a part of a request, with its position among all conditions of the request. */
export interface PlacedCondition {
  readonly position: number;
  readonly condition: Condition;
}

/** The part of a transaction that lies in one bucket. */
export interface TransactionPart {
  readonly id: TransactionId;
  /** When this attempt began and when the first one did. */
  readonly start: Timestamp;
  readonly first: Timestamp;
  /** The number of its owner's reservation; 0 if there is none. */
  readonly reservation: number;
  readonly conditions: readonly PlacedCondition[];
  readonly mutations: readonly Mutation[];
}

/** To a participant. */
export interface PrepareRequest extends TransactionPart {
  readonly home: BucketId;
}

export type PrepareResult =
  | { readonly kind: 'prepared'; readonly timestamp: Timestamp }
  | { readonly kind: 'refused'; readonly result: WriteResult }
  /** An older transaction holds a lock that this one needs. */
  | { readonly kind: 'locked' }
  /** This attempt is over here, or too old by this bucket's clock. One that begins above `upTo` is not. */
  | { readonly kind: 'ended'; readonly upTo: Timestamp };

/** To a participant: the attempt is committed at `commit`, or aborted if that is 0. */
export interface ResolveRequest {
  readonly id: TransactionId;
  readonly start: Timestamp;
  readonly commit: Timestamp;
}

/** To home: the part that lies there, once all participants are prepared at or below `after`. */
export interface DecideRequest extends TransactionPart {
  readonly request: RequestId;
  readonly participants: readonly BucketId[];
  readonly after: Timestamp;
}

export type DecideResult =
  /** `committed`: this attempt was. Otherwise the request has this result, but nothing of this attempt may stay. */
  | { readonly kind: 'done'; readonly committed: boolean; readonly result: WriteResult }
  | { readonly kind: 'locked' };

/**
 * `linearizable`: sees every write acknowledged before the read began. `bounded`: any replica, as of a moment at most
 * `maxStalenessMs` ago. `local`: whatever this replica has applied. `asOf`: the state at that timestamp, for ever the same.
 */
export type Consistency =
  | { readonly kind: 'linearizable' }
  | { readonly kind: 'bounded'; readonly maxStalenessMs: number }
  | { readonly kind: 'local' }
  | { readonly kind: 'asOf'; readonly timestamp: Timestamp };

/** A bound that binds nothing: how fresh a bounded read is, its session alone says. */
export const ANY_STALENESS_MS = Number.MAX_SAFE_INTEGER;

export interface Record {
  readonly key: Bytes;
  readonly value: Bytes;
  readonly version: Timestamp;
}

/** One version of a key; `deleted` versions have an empty value. */
export interface Version {
  readonly version: Timestamp;
  readonly deleted: boolean;
  readonly value: Bytes;
}

/** What two moments show of a key; undefined: that it did not exist. */
export interface Change {
  readonly key: Bytes;
  readonly before: { readonly value: Bytes; readonly version: Timestamp } | undefined;
  readonly after: { readonly value: Bytes; readonly version: Timestamp } | undefined;
}

/** Bounds of a scan: start inclusive, end exclusive; an empty end means no upper bound. */
export interface KeyRange {
  readonly start: Bytes;
  readonly end: Bytes;
}

/** Who served a request and what that proves. */
export interface Served {
  readonly node: number;
  /** The reply is the truth as of this timestamp: no write at or below it is missing from it or will ever be added. */
  readonly timestamp: Timestamp;
  readonly consistency: Consistency['kind'];
  /** Processes between the asker and the replica that served, that one included. */
  readonly hops: number;
}
