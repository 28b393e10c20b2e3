import type { NodeId } from './map.js';

/**
 * What the nodes of a cluster agree on when it is founded. Its first placement is a pure function of this: two nodes that
 * differ in it would form groups of different members for one bucket, and each group would acknowledge writes of its own. So
 * every node keeps it in its identity, says it to every peer, and refuses whoever says another.
 *
 * It is of the founding, and never changes: not with members that join or leave later, nor with another number of replicas in
 * a later placement (epochs above 1). A node that joins later does not take it from its configuration: the cluster tells it,
 * and from then on it is kept and said like everybody else's.
 */
export interface Founding {
  /** The ids of all nodes, in ascending order. */
  readonly members: readonly NodeId[];
  /** Virtual buckets. */
  readonly buckets: number;
  /** How many nodes hold each bucket. */
  readonly replicas: number;
}

export function describeFounding({ members, buckets, replicas }: Founding): string {
  return `${replicas} replicas of ${buckets} buckets on nodes ${members.join(', ')}`;
}

/** What differs, in words of the configuration; empty if the two are the same. */
export function foundingDifferences(a: Founding, b: Founding): string[] {
  const differences: string[] = [];
  if (a.members.join() !== b.members.join()) differences.push('cluster.nodes');
  if (a.buckets !== b.buckets) differences.push('cluster.buckets');
  if (a.replicas !== b.replicas) differences.push('cluster.replicas');
  return differences;
}
