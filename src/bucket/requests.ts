import type { Bytes } from '../lib/bytes.js';
import type { Timestamp } from '../mvcc/timestamp.js';

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
}

export interface WriteResult {
  /** False: a condition did not hold and nothing was written. */
  readonly applied: boolean;
  /** The commit timestamp (of the refusal, if it was refused). */
  readonly timestamp: Timestamp;
  /** The position in `conditions` of the first one that did not hold; -1 if applied. */
  readonly failedCondition: number;
  /** The present version of that condition's key, 0 if it does not exist; of a range, when some key of it was changed. */
  readonly failedVersion: Timestamp;
}

/**
 * `linearizable`: sees every write acknowledged before the read began. `bounded`: any replica, as of a moment at most
 * `maxStalenessMs` ago. `local`: whatever this replica has applied. `asOf`: the state at that timestamp, for ever the same.
 */
export type Consistency =
  | { readonly kind: 'linearizable' }
  | { readonly kind: 'bounded'; readonly maxStalenessMs: number }
  | { readonly kind: 'local' }
  | { readonly kind: 'asOf'; readonly timestamp: Timestamp };

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
