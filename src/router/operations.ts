import type { Bytes } from '../lib/bytes.js';
import type { CancelSignal } from '../lib/cancel.js';
import type {
  Change,
  Consistency,
  KeyRange,
  PrepareRequest,
  PrepareResult,
  Record as KeyRecord,
  ReserveRequest,
  ResolveRequest,
  Served,
  Timestamp,
  Version,
  WriteRequest,
  WriteResult,
} from '../bucket/requests.js';
import type { FeedPage, Position } from '../changes/change.js';
import type { MarkAnswer } from '../changes/mark-watch.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Outcome, TransactionId } from '../txn/transaction.js';

/**
 * What a router asks of a node, one level below the public API: keys are already resolved to buckets, requests already have
 * their ids, and every operation touches replicas of that one node only. wire-calls.ts encodes them, wire-pushes.ts what they
 * are answered.
 */
export type Operation =
  | { readonly kind: 'write'; readonly bucket: BucketId; readonly request: WriteRequest }
  | {
      readonly kind: 'get';
      readonly bucket: BucketId;
      readonly key: Bytes;
      readonly consistency: Consistency;
      /**
       * A linearizable read may be served by any replica, which asks its leader how far it must be (ReadIndex). Otherwise who
       * does not lead refuses it, so that a router with an old map learns who does.
       */
      readonly anyReplica: boolean;
    }
  | {
      readonly kind: 'history';
      readonly bucket: BucketId;
      readonly key: Bytes;
      /** Newest first, versions at or below `from` (TIMESTAMP_MAX: the latest), down to and including `to`. */
      readonly from: Timestamp;
      readonly to: Timestamp;
      readonly limit: number;
      readonly consistency: Extract<Consistency, { kind: 'linearizable' | 'asOf' }>;
    }
  | {
      /**
       * One page of the keys of `range` that belong to `buckets`, in key order, merged over them. If it says `more`, the next
       * page begins at `resume`, or else behind its last record; with `resume` it may be empty.
       */
      readonly kind: 'scan';
      readonly buckets: readonly BucketId[];
      readonly range: KeyRange;
      readonly reverse: boolean;
      readonly limit: number;
      readonly keysOnly: boolean;
      readonly consistency: Consistency;
    }
  | {
      /** The highest clock of these buckets' confirmed leaders: a T that covers all they have acknowledged. */
      readonly kind: 'readTimestamp';
      readonly buckets: readonly BucketId[];
    }
  | { readonly kind: 'reserve'; readonly bucket: BucketId; readonly request: ReserveRequest }
  // Transactions over several buckets, between nodes only (node/transactions.ts).
  | { readonly kind: 'prepare'; readonly bucket: BucketId; readonly request: PrepareRequest }
  | { readonly kind: 'resolve'; readonly bucket: BucketId; readonly request: ResolveRequest }
  | {
      /** What became of attempts whose home the bucket is: as of a timestamp, or as of now if that is 0. */
      readonly kind: 'outcomes';
      readonly bucket: BucketId;
      readonly ids: readonly TransactionId[];
      readonly asOf: Timestamp;
    }
  | {
      /**
       * What changed between two moments in the keys of `range` that belong to `buckets`, in key order: one page, which is
       * complete up to `resume`, where the next one begins; it may be empty and still not be the last one.
       */
      readonly kind: 'diff';
      readonly buckets: readonly BucketId[];
      readonly range: KeyRange;
      readonly from: Timestamp;
      readonly to: Timestamp;
      readonly limit: number;
    }
  | { readonly kind: 'pins'; readonly buckets: readonly BucketId[]; readonly action: PinAction }
  | {
      /**
       * The committed changes of keys of `range` in `buckets` behind a position, in order, as far as these replicas are complete
       * and at most `limit`. Any replicas can answer (changes/feed.ts).
       */
      readonly kind: 'changes';
      readonly buckets: readonly BucketId[];
      readonly range: KeyRange;
      readonly after: Position;
      /** With what the keys held before. */
      readonly before: boolean;
      readonly limit: number;
      readonly needs: StreamNeeds;
    }
  | {
      /** Waits, at most `waitMs`, until these replicas are complete up to a timestamp above this one. */
      readonly kind: 'awaitMark';
      readonly buckets: readonly BucketId[];
      readonly above: Timestamp;
      readonly waitMs: number;
      readonly needs: StreamNeeds;
    };

/** What a change stream still needs: all history above a timestamp. Who is asked holds it back (node/stream-holds.ts). */
export interface StreamNeeds {
  /** A random number of the stream. */
  readonly stream: number;
  readonly above: Timestamp;
}

/** `expires` 0: never. */
export type PinAction =
  | { readonly kind: 'list' }
  | { readonly kind: 'add'; readonly name: string; readonly timestamp: Timestamp; readonly expires: Timestamp }
  | { readonly kind: 'remove'; readonly name: string }
  /** The same where it holds that timestamp, and not one that somebody else has given it. */
  | { readonly kind: 'takeBack'; readonly name: string; readonly timestamp: Timestamp };

export interface PinSeen {
  readonly name: string;
  readonly timestamp: Timestamp;
  readonly expires: Timestamp;
  readonly lost: boolean;
  /** How many buckets keep it. */
  readonly buckets: number;
}

export type OperationKind = Operation['kind'];

export interface Result {
  readonly write: WriteResult;
  readonly get: { readonly record: KeyRecord | undefined };
  readonly history: { readonly versions: readonly Version[]; readonly more: boolean };
  /** `resume` is the first key that was not looked at; in reverse the last one that was. */
  readonly scan: { readonly records: readonly KeyRecord[]; readonly more: boolean; readonly resume?: Bytes | undefined };
  readonly readTimestamp: { readonly timestamp: Timestamp };
  /** The timestamp of the answer is that of Replica.reserve. */
  readonly reserve: Readonly<Record<string, never>>;
  readonly prepare: PrepareResult;
  readonly resolve: Readonly<Record<string, never>>;
  readonly outcomes: { readonly outcomes: readonly Outcome[] };
  readonly diff: { readonly changes: readonly Change[]; readonly resume: Bytes | undefined };
  /** The highest horizon of these buckets. */
  readonly pins: { readonly pins: readonly PinSeen[]; readonly horizon: Timestamp };
  readonly changes: FeedPage;
  readonly awaitMark: MarkAnswer;
}

/** Operations that only show something: they are held back while their answers would find no room. */
export type Query = Extract<
  Operation,
  { readonly kind: 'get' | 'history' | 'scan' | 'readTimestamp' | 'diff' | 'changes' | 'awaitMark' }
>;

export function isQuery(operation: Operation): operation is Query {
  return QUERIES.has(operation.kind);
}

const QUERIES: ReadonlySet<OperationKind> = new Set([
  'get',
  'history',
  'scan',
  'readTimestamp',
  'diff',
  'changes',
  'awaitMark',
] as const);

/** Operations that no client asks for. */
export function isInternal({ kind }: Operation): boolean {
  return kind === 'prepare' || kind === 'resolve' || kind === 'outcomes';
}

/** Whether it has perhaps had its effect where no answer comes; what is between nodes only may be asked again in any case. */
export function leavesDoubt(operation: Operation): boolean {
  return operation.kind === 'write' || (operation.kind === 'pins' && operation.action.kind !== 'list');
}

export interface OperationContext {
  /**
   * The epoch of the placement that the asker used; 0 if it used none. It changes nothing about what is executed, for a replica
   * knows by itself whether it may serve; it shows that the asker needs a newer map (pipeline-server.ts, placement/epoch.ts).
   */
  readonly epoch: number;
  /** Monotonic milliseconds of this process after which nobody waits for the answer. */
  readonly deadlineMs: number;
  /** Processes between the asker and the one that executes, neither counted: the executor answers `served.hops = hops + 1`. */
  readonly hops: number;
  /**
   * The highest timestamp that the asker's session has seen (in that bucket, for a bounded read); 0 or undefined if none. The
   * executor's clock takes note of it, and a bounded read is served as of it or later: read your writes, monotonic reads.
   */
  readonly seen?: Timestamp | undefined;
  /** Aborted when nobody waits any more. An executor may ignore it. */
  readonly signal?: CancelSignal | undefined;
}

/** Who leads a bucket, as a node knows it. Of two hints the one with the higher term is right; term 0 is none. */
export interface LeaderHint {
  readonly bucket: BucketId;
  readonly leader: NodeId;
  readonly term: number;
}

export interface Answer<K extends OperationKind = OperationKind> {
  readonly result: Result[K];
  readonly served: Served;
}

/**
 * A node as a router sees it: in the node's own process directly, elsewhere through a pipeline stream.
 *
 * Rejections are TidemarkErrors. NOT_LEADER and NOT_HOSTED (both UNAVAILABLE, outcome none) mean: ask elsewhere. Their detail
 * `leader` is the id of the leading node if it is known; for an operation on several buckets the detail `leaders` lists all
 * buckets that the node cannot serve and who leads them, 0 if unknown: `17=2,40=0`. With NOT_HOSTED comes the placement as that
 * node knows it, its epoch as the detail `epoch`, over a stream the whole of it behind the error. STALE (UNAVAILABLE, outcome
 * none): this replica cannot prove that it is fresh enough, the leader can. A replica that is not complete up to the moment that
 * was asked for says with either how far it is, as the detail `resolved`. INTENT_MET (likewise): a transaction is under way on
 * the key, and only the leader can tell what became of it. Any rejection with outcome unknown may be retried with the same
 * request id only.
 */
export interface NodeHandle {
  execute<O extends Operation>(operation: O, context: OperationContext): Promise<Answer<O['kind']>>;
}
