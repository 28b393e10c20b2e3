import type { NodeId, ReplicaInfo } from './map.js';

/** What a bucket is placed on: voters, of which the first is the preferred leader, and read replicas, which are learners. */
export type Replicas = readonly ReplicaInfo[];

export function votersOf(replicas: Replicas): ReplicaInfo[] {
  return replicas.filter(({ learner }) => !learner);
}

/** More than half of these voters are there: they can decide. */
export function canDecide<Voter>(voters: readonly Voter[], isThere: (voter: Voter) => boolean): boolean {
  return voters.filter(isThere).length * 2 > voters.length;
}

export function readersOf(replicas: Replicas): ReplicaInfo[] {
  return replicas.filter(({ learner }) => learner);
}

/** The node that should lead when all are well. */
export function leaderOf(replicas: Replicas): NodeId | undefined {
  return replicas.find(({ learner }) => !learner)?.node;
}

/** With the voter on that node as the preferred leader. */
export function withLeader(replicas: Replicas, node: NodeId): ReplicaInfo[] {
  const first = replicas.filter((replica) => replica.node === node && !replica.learner);
  return [...first, ...without(replicas, ...first)];
}

export function hasVoter(replicas: Replicas, node: NodeId): boolean {
  return replicas.some((replica) => replica.node === node && !replica.learner);
}

/** Another voter, in the place of `leaving` if that is given. A read replica on its node has the data already: it becomes it. */
export function withVoter(replicas: Replicas, voter: ReplicaInfo, leaving?: ReplicaInfo): ReplicaInfo[] {
  const reader = replicas.find(({ node, learner }) => node === voter.node && learner);
  const added = reader === undefined ? voter : { ...reader, learner: false };
  const others = replicas.filter((replica) => replica !== reader);
  if (leaving === undefined) return [...others, added];
  return others.map((replica) => (replica === leaving ? added : replica));
}

export function without(replicas: Replicas, ...gone: readonly ReplicaInfo[]): ReplicaInfo[] {
  return replicas.filter((replica) => !gone.includes(replica));
}
