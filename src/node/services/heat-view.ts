import { weightOf } from '../../placement/heat.js';
import type { HeatSummary } from '../../placement/heat-summary.js';
import type { BucketId, NodeId } from '../../placement/map.js';
import { placeOf, type PlacementRecord } from '../../placement/record.js';
import { readersOf, votersOf } from '../../placement/replicas.js';
import type { ClusterHeat } from './api.js';

const COLD = { reads: 0, writes: 0, bytes: 0 };

/** What was reported, with where it is: all nodes, and the hottest of buckets and keys. */
export function heatView(
  { nodes, buckets, keys }: HeatSummary,
  record: PlacementRecord,
  leaderOf: (bucket: BucketId) => NodeId,
  most: { readonly buckets: number; readonly keys: number },
): Pick<ClusterHeat, 'nodes' | 'buckets' | 'keys'> {
  const readReplicas = new Map<NodeId, number>();
  for (const { replicas } of record.map) {
    for (const { node } of readersOf(replicas)) readReplicas.set(node, (readReplicas.get(node) ?? 0) + 1);
  }
  const hottest = [...buckets.values()].sort((a, b) => weightOf(b) - weightOf(a) || a.bucket - b.bucket).slice(0, most.buckets);
  return {
    nodes: record.nodes.map(({ id }) => ({ id, ...(nodes.get(id) ?? COLD), readReplicas: readReplicas.get(id) ?? 0 })),
    buckets: hottest.map(({ bucket: id, ...rates }) => {
      const replicas = placeOf(record, id)?.replicas ?? [];
      const voters = votersOf(replicas).map(({ node }) => node);
      return { id, ...rates, leader: leaderOf(id), voters, readReplicas: readersOf(replicas).map(({ node }) => node) };
    }),
    keys: keys.slice(0, most.keys).map((heat) => {
      // Of a key little is known at first, of its bucket all.
      const all = Math.max(heat.reads, buckets.get(heat.bucket)?.reads ?? 0);
      return { ...heat, share: all === 0 ? 0 : heat.reads / all };
    }),
  };
}
