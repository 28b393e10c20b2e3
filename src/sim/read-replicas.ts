import type { BucketId, NodeId } from '../placement/map.js';
import { replicaIdOf } from '../placement/map.js';
import type { PlacementRecord } from '../placement/record.js';

/** The next record, in which a bucket of data has a read replica on the node, or has none there any more. */
export function withReadReplica(record: PlacementRecord, bucket: BucketId, node: NodeId, isThere = true): PlacementRecord {
  const epoch = record.epoch + 1;
  const map = record.map.map((place) => {
    if (place.id !== bucket) return place;
    const others = place.replicas.filter((replica) => replica.node !== node || !replica.learner);
    if (!isThere || others.some((replica) => replica.node === node)) return { ...place, replicas: others };
    return { ...place, replicas: [...others, { id: replicaIdOf(node, epoch), node, learner: true }] };
  });
  return { ...record, epoch, map };
}
