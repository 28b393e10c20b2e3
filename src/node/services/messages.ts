import type { Bytes } from '../../lib/bytes.js';

/**
 * The messages of proto/tidemark/v1 as handlers meet them: camelCase fields, Buffers, numbers, enum values by name (a number if
 * the value is unknown), null for an embedded message that is not set, and for each `oneof` a field that names the member set.
 * The proto files are what counts; these are the parts of them that the handlers read and write.
 */
export interface Moment {
  readonly moment?: 'timestamp' | 'text';
  readonly timestamp?: number;
  readonly text?: string;
}

export type ConsistencyName =
  | 'CONSISTENCY_UNSPECIFIED'
  | 'CONSISTENCY_LINEARIZABLE'
  | 'CONSISTENCY_BOUNDED'
  | 'CONSISTENCY_LOCAL'
  | 'CONSISTENCY_AS_OF';

export interface ReadOptions {
  readonly consistency: ConsistencyName | number;
  readonly maxStalenessMs: number;
  readonly asOf: Moment | null;
  readonly atLeast: number;
}

export interface ReplyHeader {
  readonly node: number;
  readonly timestamp: number;
  readonly consistency: ConsistencyName;
  readonly hops: number;
}

export interface RequestId {
  readonly session: number;
  readonly born: number;
  readonly sequence: number;
  readonly lowest: number;
}

export interface RecordMessage {
  readonly key: Bytes;
  readonly value: Bytes;
  readonly version: number;
}

export interface PutRequest {
  readonly key: Bytes;
  readonly value: Bytes;
  readonly id: RequestId | null;
  readonly atLeast: number;
}

export interface DeleteRequest {
  readonly key: Bytes;
  readonly id: RequestId | null;
  readonly atLeast: number;
}

export interface VersionReply {
  readonly version: number;
  readonly header: ReplyHeader;
}

export interface Condition {
  readonly key: Bytes;
  readonly test?: 'exists' | 'version' | 'value' | 'unchanged';
  readonly exists?: boolean;
  readonly version?: number;
  readonly value?: Bytes;
  readonly unchanged?: { readonly start: Bytes; readonly end: Bytes; readonly prefix: Bytes; readonly since: number };
}

export interface Mutation {
  readonly mutation?: 'put' | 'delete';
  readonly put?: { readonly key: Bytes; readonly value: Bytes };
  readonly delete?: { readonly key: Bytes };
}

export interface WriteRequest {
  readonly conditions: readonly Condition[];
  readonly mutations: readonly Mutation[];
  readonly id: RequestId | null;
  readonly atLeast: number;
}

export interface WriteReply {
  readonly applied: boolean;
  readonly timestamp: number;
  readonly failed?: { readonly condition: number; readonly version: number };
  readonly header: ReplyHeader;
}

export interface GetRequest {
  readonly key: Bytes;
  readonly read: ReadOptions | null;
}

export interface GetReply {
  readonly found: boolean;
  readonly value?: Bytes;
  readonly version?: number;
  readonly header: ReplyHeader;
}

export interface GetManyRequest {
  readonly keys: readonly Bytes[];
  readonly read: ReadOptions | null;
}

export interface GetManyReply {
  readonly entries: readonly { readonly index: number; readonly found: boolean; readonly record?: RecordMessage }[];
  readonly header: ReplyHeader;
}

export interface ScanRequest {
  readonly start: Bytes;
  readonly end: Bytes;
  readonly prefix: Bytes;
  readonly reverse: boolean;
  readonly limit: number;
  readonly keysOnly: boolean;
  readonly read: ReadOptions | null;
}

export interface ScanReply {
  readonly records: readonly RecordMessage[];
  readonly header: ReplyHeader;
}

export interface HistoryRequest {
  readonly key: Bytes;
  readonly newest: Moment | null;
  readonly oldest: Moment | null;
  readonly limit: number;
  readonly asOf: Moment | null;
}

export interface HistoryReply {
  readonly versions: readonly { readonly version: number; readonly deleted: boolean; readonly value: Bytes }[];
  readonly header: ReplyHeader;
}

export interface DiffRequest {
  readonly from: Moment | null;
  readonly to: Moment | null;
  readonly start: Bytes;
  readonly end: Bytes;
  readonly prefix: Bytes;
}

export interface ChangeMessage {
  readonly key: Bytes;
  readonly before?: { readonly value: Bytes; readonly version: number } | undefined;
  readonly after?: { readonly value: Bytes; readonly version: number } | undefined;
}

export interface DiffReply {
  readonly changes: readonly ChangeMessage[];
  readonly header: ReplyHeader;
}

export interface AddPinRequest {
  readonly name: string;
  readonly moment: Moment | null;
  readonly expires: Moment | null;
}

export interface RemovePinRequest {
  readonly name: string;
}

export interface BucketsRequest {
  readonly ids: readonly number[];
}

export interface PlacementRequest {
  readonly knownEpoch: number;
}

export interface ChangePlacementRequest {
  readonly change?: 'move' | 'lead' | 'drain' | 'undrain' | 'remove' | 'replicas' | 'bucketReplicas' | 'rebalance';
  readonly move?: { readonly bucket: number; readonly from: number; readonly to: number };
  readonly lead?: { readonly bucket: number; readonly node: number };
  readonly drain?: number;
  readonly undrain?: number;
  readonly remove?: number;
  readonly replicas?: number;
  readonly bucketReplicas?: { readonly buckets: readonly number[]; readonly count?: number };
}

export interface HeatRequest {
  readonly buckets: number;
  readonly keys: number;
}

export interface TransferLeaderRequest {
  readonly bucket: number;
  readonly node: number;
}

export interface SubscribeRequest {
  readonly prefix: Bytes;
  readonly start: Bytes;
  readonly end: Bytes;
  readonly from?: 'cursor' | 'after' | 'beginning' | 'now';
  readonly cursor?: string;
  readonly after?: Moment;
  readonly before: boolean;
}

export interface CommittedChangeMessage {
  readonly kind: 'KIND_PUT' | 'KIND_DELETE';
  readonly key: Bytes;
  readonly value: Bytes;
  readonly before?: { readonly version: number; readonly value: Bytes };
  readonly timestamp: number;
  readonly transaction: Bytes;
}

export interface SubscribeReply {
  readonly entries?: { readonly timestamp: number; readonly entries: readonly RecordMessage[] };
  readonly changes?: { readonly changes: readonly CommittedChangeMessage[] };
  readonly mark?: { readonly timestamp: number };
  readonly cursor: string;
}
