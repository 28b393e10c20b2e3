import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';

/**
 * Placement: which replicas of which virtual bucket stand on which node. Pure data and functions. The map is versioned by
 * `epoch`, which grows with every change; who leads a bucket is only a hint and changes without a new epoch.
 */
export type NodeId = number;
export type BucketId = number;

/** The system bucket holds membership and placement; it has a number outside the range of data buckets. */
export const SYSTEM_BUCKET: BucketId = 0xffff_ffff;
/** Keys that begin with this byte belong to Tidemark. */
export const RESERVED_PREFIX = 0x21; // '!'
export const BUCKETS_MAX = 65_536;

const OPEN = 0x7b; // '{'
const CLOSE = 0x7d; // '}'

/** What decides the bucket: the bytes between the first `{` and the next `}` if there are any, else the whole key. */
export function partitionKeyOf(key: Bytes): Bytes {
  const open = key.indexOf(OPEN);
  if (open < 0) return key;
  const close = key.indexOf(CLOSE, open + 1);
  return close > open + 1 ? key.subarray(open + 1, close) : key;
}

export function bucketOf(key: Bytes, buckets: number): BucketId {
  return crc32(partitionKeyOf(key)) % buckets;
}

/** The most node ids that a replica id has room for. */
const NODES_MAX = 65_536;
export const NODE_ID_MAX = NODES_MAX - 1;
/** A sidecar passes for a node that has every bucket; its number is that of no node. */
export const SIDECAR_NODE: NodeId = 0xffff_fffe;

/** `node 4 at 10.0.0.4:7100`, or `the sidecar at 127.0.0.1:7100`. */
export function serverNamed(node: NodeId, address: string): string {
  return `${node === SIDECAR_NODE ? 'the sidecar' : `node ${node}`} at ${address}`;
}

/** `node 4`, or `nodes 4, 5`. */
export function nodesNamed(nodes: readonly NodeId[]): string {
  return `node${nodes.length === 1 ? '' : 's'} ${nodes.join(', ')}`;
}

/** `2 buckets are on their way, 1 bucket has no leader`: of those that are not where they should be. */
export function movingNamed(underWay: number, leaderless: number): string {
  const parts: string[] = [];
  if (underWay > 0) parts.push(underWay === 1 ? '1 bucket is on its way' : `${underWay} buckets are on their way`);
  if (leaderless > 0) parts.push(leaderless === 1 ? '1 bucket has no leader' : `${leaderless} buckets have no leader`);
  return parts.join(', ');
}

/** Voters of one bucket. */
export const REPLICAS_MAX = 7;

/**
 * A raft replica id names the node and the life of the replica on it, so that a group's own configuration tells where its
 * members are, without the system bucket. A node that lost its disk comes back as a new node id or with a new life.
 */
export function replicaIdOf(node: NodeId, life: number): number {
  return life * NODES_MAX + node;
}

export function nodeOfReplica(replicaId: number): NodeId {
  return replicaId % NODES_MAX;
}

export interface NodeInfo {
  readonly id: NodeId;
  /** `host:port` of its gRPC listener. */
  readonly address: string;
  /** Names for what fails together, and for the machine that it runs on; empty: alone. */
  readonly zone: string;
  readonly host: string;
  /** Of its data directory, if it joined after the cluster was founded. */
  readonly uuid?: string;
}

export interface ReplicaInfo {
  /** The raft replica id: unique within the bucket for ever. */
  readonly id: number;
  readonly node: NodeId;
  /** A read replica: it has the data, and serves reads, but no vote. */
  readonly learner: boolean;
}

export interface BucketInfo {
  readonly id: BucketId;
  readonly replicas: readonly ReplicaInfo[];
  /** The node that leads, as far as the sender knows; 0 if it knows none. */
  readonly leader: NodeId;
}

export interface Placement {
  readonly clusterId: string;
  readonly epoch: number;
  /** How many data buckets there are; fixed for the life of the cluster. */
  readonly buckets: number;
  readonly nodes: readonly NodeInfo[];
  /** Data buckets in order of their id. */
  readonly map: readonly BucketInfo[];
}
