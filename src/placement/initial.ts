import { assert } from '../lib/assert.js';
import {
  replicaIdOf,
  SYSTEM_BUCKET,
  type BucketId,
  type BucketInfo,
  type NodeInfo,
  type Placement,
  type ReplicaInfo,
} from './map.js';
import { leaderOf } from './replicas.js';

/** The system bucket has at most this many replicas, so that its quorum stays small in a large cluster. */
export const SYSTEM_REPLICAS_MAX = 5;

/**
 * The placement of a new cluster: a pure function of the configuration, so that every node computes the same one without
 * asking anybody. Bucket b has its replicas on the nodes b, b+1, b+2, ... (in order of node id, wrapping around); the first
 * is its preferred leader. Each node so leads equally many buckets, and shares replicas with all others as `buckets` grows.
 *
 * Replica sets of neighbouring buckets rotate in a second way (the stride), so that the followers of one node's buckets are
 * spread over all other nodes, not only over the next ones.
 */
export function initialPlacement(
  clusterId: string,
  nodes: readonly NodeInfo[],
  buckets: number,
  replicas: number,
): Placement {
  assert(nodes.length >= replicas && replicas >= 1, `${replicas} replicas need as many nodes, not ${nodes.length}`);
  const sorted = [...nodes].sort((a, b) => a.id - b.id);
  const map = Array.from({ length: buckets }, (_, id): BucketInfo => {
    return { id, replicas: replicasFrom(sorted, id, replicas), leader: 0 };
  });
  return { clusterId, epoch: 1, buckets, nodes: sorted, map };
}

/** Where the system bucket of a new cluster stands. */
export function initialSystemBucket(nodes: readonly NodeInfo[]): BucketInfo {
  const sorted = [...nodes].sort((a, b) => a.id - b.id);
  return { id: SYSTEM_BUCKET, replicas: replicasFrom(sorted, 0, Math.min(sorted.length, SYSTEM_REPLICAS_MAX)), leader: 0 };
}

function replicasFrom(sorted: readonly NodeInfo[], bucket: BucketId, count: number): ReplicaInfo[] {
  const others = sorted.length - 1;
  const first = bucket % sorted.length;
  const turn = Math.floor(bucket / sorted.length);
  const chosen = [first];
  for (let step = 0; chosen.length < count; step += 1) {
    chosen.push((first + 1 + ((turn + step) % others)) % sorted.length);
  }
  return chosen.map((position): ReplicaInfo => {
    const node = sorted[position];
    assert(node !== undefined, 'a replica needs a node');
    return { id: replicaIdOf(node.id, 0), node: node.id, learner: false };
  });
}

/** The node that should lead a bucket when all its replicas are well. */
export function preferredLeader(bucket: BucketInfo): number {
  return leaderOf(bucket.replicas) ?? 0;
}
