import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import type { CancelSignal } from '../lib/cancel.js';
import type { Consistency, Record, RequestId, Served, Timestamp, Version, WriteResult } from '../bucket/requests.js';
import type { NodeId } from '../placement/map.js';
import type { Owner } from '../txn/reservations.js';
import type { HedgingOptions } from './hedging.js';
import type { NearCacheOptions } from './near-cache.js';
import type { NodeHandle } from './operations.js';
import type { PipelineEnv } from './pipeline.js';
import type { Role } from './wire.js';

/** What a router is made with, what a caller may say about a request to it, and what it is answered. */
export interface RouterOptions {
  readonly env: PipelineEnv & Pick<Env, 'metrics'>;
  readonly limits: Limits;
  readonly role: Role;
  /** Where to ask first. All nodes of one cluster, or all sidecars: a sidecar claims to be the only node. */
  readonly seeds: readonly string[];
  /** If known; else the first endpoint that answers settles it. */
  readonly clusterId?: string | undefined;
  readonly zone?: string | undefined;
  /** The node in this process. */
  readonly self?: { readonly node: NodeId; readonly handle: NodeHandle } | undefined;
  /** The clock of the node in this process; without it, what the nodes say of theirs. */
  readonly now?: (() => Timestamp) | undefined;
  /**
   * Which linearizable reads of one key go to any replica, which asks its leader how far it must be: those of buckets that have
   * read replicas, or whose leader has far more to do than others (`hot`, the default), or all.
   */
  readonly linearizableAnywhere?: 'hot' | 'always' | undefined;
  /** Keys that are kept in this process for bounded reads; none if it is left out. */
  readonly nearCache?: NearCacheOptions | undefined;
  /** When a second replica is asked for what several can serve. */
  readonly hedging?: HedgingOptions | undefined;
  /** For requests without a deadline of their own. */
  readonly timeoutMs?: number | undefined;
}

export interface CallOptions {
  /** From now. The default of the router counts if there is neither this nor `deadlineMs`. */
  readonly timeoutMs?: number | undefined;
  /** Monotonic milliseconds; of two limits the earlier counts. */
  readonly deadlineMs?: number | undefined;
  readonly signal?: CancelSignal | undefined;
  /** Ends a call whose caller leaves its answers lying while others wait for the room. */
  readonly cut?: (() => void) | undefined;
}

export interface WriteOptions extends CallOptions {
  /** Of a caller that retries by itself; else the router's own session gives one. */
  readonly id?: RequestId | undefined;
  /** The token of a session: the commit timestamp is above it. */
  readonly atLeast?: Timestamp | undefined;
  /** The transaction of which this is the commit. */
  readonly owner?: Owner | undefined;
}

export interface ReadOptions extends CallOptions {
  readonly consistency?: Consistency | undefined;
  /** Of bounded reads: what is shown is as of this timestamp or later. Whoever reads must have got it from this cluster. */
  readonly atLeast?: Timestamp | undefined;
  /** Of linearizable reads of one key: their timestamp should be of now, for others to be read as of it. */
  readonly namesNow?: boolean | undefined;
}

export interface ScanOptions extends ReadOptions {
  readonly reverse?: boolean | undefined;
  /** Records in all; left out or 0: no limit. */
  readonly limit?: number | undefined;
  readonly keysOnly?: boolean | undefined;
}

export interface HistoryOptions extends CallOptions {
  /** Versions from `newest` (default: now) down to `oldest` (default: as far as history is kept), both inclusive. */
  readonly newest?: Timestamp | undefined;
  readonly oldest?: Timestamp | undefined;
  readonly limit?: number | undefined;
  /** `linearizable`, or as of a timestamp: then any replica that is complete up to there answers. */
  readonly consistency?: Extract<Consistency, { kind: 'linearizable' | 'asOf' }> | undefined;
}

export interface DiffOptions extends CallOptions {
  /** What it shows is the start: its own changes are not told. */
  readonly from: Timestamp;
  readonly to?: Timestamp | undefined;
}

export interface Pin {
  readonly name: string;
  readonly timestamp: Timestamp;
  /** 0: never. */
  readonly expires: Timestamp;
  /** It held back more than it may: what it held can no longer be read. */
  readonly lost: boolean;
  /** All buckets keep it; if not, an addition or a removal was interrupted. */
  readonly complete: boolean;
}

export interface PinsReply {
  readonly pins: readonly Pin[];
  /** The earliest timestamp that can be read in all buckets. */
  readonly horizon: Timestamp;
}

export interface WriteReply extends WriteResult {
  readonly served: Served;
}

export interface GetReply {
  readonly record: Record | undefined;
  readonly served: Served;
}

/** `index` is the position of the key in the request. */
export interface GetManyEntry extends GetReply {
  readonly index: number;
}

export interface HistoryPage {
  readonly versions: readonly Version[];
  readonly served: Served;
}
