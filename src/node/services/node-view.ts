import { sleep, type Clock, type Timers } from '../../env/time.js';
import { TidemarkError } from '../../lib/errors.js';
import type { Replica } from '../../bucket/replica.js';
import type { Timestamp } from '../../bucket/requests.js';
import { nodeOfReplica, type BucketId, type NodeId, type NodeInfo, type Placement } from '../../placement/map.js';
import { replicaCounts, type PlacementChange, type PlacementRecord } from '../../placement/record.js';
import type { PlacementKeeper } from '../placement-keeper.js';
import type { ClusterHeat, ClusterStatus, ClusterView, NodeStatus, PlacedNode, PlacementProgress, ReplicaStatus } from './api.js';
import { heatView } from './heat-view.js';

/** The cluster as one node sees it. Everything here is answered from memory, also by a node that is cut off. */
export interface NodeViewParts {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly timers: Timers;
  /** Monotonic milliseconds at which the node started. */
  readonly startedMs: number;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly placement: () => Placement;
  readonly leaderOf: (bucket: BucketId) => NodeId;
  readonly keeper: () => PlacementKeeper;
  readonly watch: (changed: () => void) => () => void;
  readonly now: () => Timestamp;
  /** Whether another node has been heard from lately. */
  readonly reachable: (node: NodeId) => boolean;
}

const LOOK_MS = 10;
const TRANSFER_MS = 3000;

export class NodeView implements ClusterView {
  readonly #parts: NodeViewParts;

  constructor(parts: NodeViewParts) {
    this.#parts = parts;
  }

  status(): ClusterStatus {
    const { nodeId, clock, startedMs, now } = this.#parts;
    const { clusterId, epoch, buckets, nodes, map } = this.placement();
    const replicas = new Map<NodeId, number>();
    const leaders = new Map<NodeId, number>();
    for (const bucket of map) {
      for (const { node } of bucket.replicas) replicas.set(node, (replicas.get(node) ?? 0) + 1);
      leaders.set(bucket.leader, (leaders.get(bucket.leader) ?? 0) + 1);
    }
    const statusOf = (node: NodeInfo): NodeStatus => ({
      ...node,
      reachable: node.id === nodeId || this.#parts.reachable(node.id),
      replicas: replicas.get(node.id) ?? 0,
      leaders: leaders.get(node.id) ?? 0,
    });
    const uptimeMs = Math.round(clock.monotonicMs() - startedMs);
    return { clusterId, epoch, node: nodeId, buckets, timestamp: now(), uptimeMs, nodes: nodes.map(statusOf) };
  }

  placement(): Placement {
    const placement = this.#parts.placement();
    return { ...placement, map: placement.map.map((bucket) => ({ ...bucket, leader: this.#parts.leaderOf(bucket.id) })) };
  }

  watch(changed: () => void): () => void {
    return this.#parts.watch(changed);
  }

  replica(bucket: BucketId): ReplicaStatus | undefined {
    const replica = this.#parts.replicas.get(bucket);
    if (replica === undefined) return undefined;
    const { id, raft, state } = replica;
    const isLearner = raft.config.learners.includes(id);
    return {
      replica: id,
      role: raft.role === 'follower' && isLearner ? 'learner' : raft.role,
      term: raft.term,
      lastIndex: raft.lastIndex,
      commitIndex: raft.commitIndex,
      appliedIndex: state.applied.index,
      digest: state.meta.digest,
      timestamp: state.maxTimestamp,
    };
  }

  async changePlacement(change: PlacementChange, deadlineMs: number): Promise<PlacementProgress> {
    await this.#parts.keeper().change(change, deadlineMs);
    return this.placementProgress();
  }

  placementProgress(): PlacementProgress {
    const { record, progress, system } = this.#parts.keeper();
    if (progress === undefined) throw system.notLeading();
    const { epoch, replicas, ownReplicas, nodes, draining } = record;
    const { leads, ...rest } = progress;
    const counts = replicaCounts(record);
    const stateOf = ({ id }: NodeInfo): PlacedNode => {
      return { id, replicas: counts.get(id) ?? 0, draining: draining.includes(id), leads: leads(id) };
    };
    return { epoch, replicas, bucketReplicas: byCount(ownReplicas), nodes: nodes.map(stateOf), ...rest };
  }

  heat(bucketsMax: number, keysMax: number): ClusterHeat {
    const { nodeId, keeper, leaderOf } = this.#parts;
    const { record, heat, system, rules } = keeper();
    if (!record.system.replicas.some(({ node }) => node === nodeId)) throw system.notLeading();
    const most = { buckets: bucketsMax, keys: keysMax };
    const shown = heatView(heat.summary(), record, leaderOf, most);
    return { epoch: record.epoch, node: nodeId, hotReadsPerSecond: rules.hotReadsPerSecond, ...shown };
  }

  async transferLeader(bucket: BucketId, to: NodeId, deadlineMs: number): Promise<NodeId> {
    const { nodeId, clock, timers, replicas } = this.#parts;
    const replica = replicas.get(bucket);
    if (replica?.isLeader !== true) throw notLeader(nodeId, bucket, this.#parts.leaderOf(bucket));
    if (to === nodeId) return nodeId;
    const target = replica.raft.config.voters.find((id) => nodeOfReplica(id) === to);
    if (target === undefined) {
      const message = `node ${to} has no voting replica of bucket ${bucket}`;
      throw new TidemarkError('FAILED_PRECONDITION', 'NO_VOTING_REPLICA', message, { details: { field: 'node' } });
    }
    // One that is not there would not take over, and until that is certain the bucket takes no writes.
    if (!replica.raft.hears(target, clock.monotonicMs())) throw notThere(bucket, to);
    replica.transferLeadership(target);
    const untilMs = Math.min(deadlineMs, clock.monotonicMs() + TRANSFER_MS);
    while (replica.leaderNode === nodeId || replica.leaderNode === 0) {
      if (clock.monotonicMs() >= untilMs) throw notInTime(bucket, to);
      await sleep(timers, LOOK_MS);
    }
    return replica.leaderNode;
  }
}

function byCount(ownReplicas: PlacementRecord['ownReplicas']): PlacementProgress['bucketReplicas'] {
  const buckets = new Map<number, BucketId[]>();
  for (const [bucket, count] of Object.entries(ownReplicas)) {
    buckets.set(count, [...(buckets.get(count) ?? []), Number(bucket)]);
  }
  return [...buckets].map(([count, of]) => ({ count, buckets: of }));
}

function notLeader(node: NodeId, bucket: BucketId, leader: NodeId): TidemarkError {
  const elsewhere = leader === 0 || leader === node ? 'nobody is known to' : `node ${leader} does`;
  const message = `node ${node} does not lead bucket ${bucket}; ${elsewhere}`;
  return new TidemarkError('UNAVAILABLE', 'NOT_LEADER', message, { retriable: true, details: { leader: String(leader) } });
}

function notThere(bucket: BucketId, to: NodeId): TidemarkError {
  const message = `node ${to} has not been heard of by the leader of bucket ${bucket} for an election timeout`;
  return new TidemarkError('UNAVAILABLE', 'NODE_UNREACHABLE', message, { retriable: true });
}

function notInTime(bucket: BucketId, to: NodeId): TidemarkError {
  const message = `node ${to} did not take over bucket ${bucket} in time; it may still`;
  return new TidemarkError('UNAVAILABLE', 'TRANSFER_NOT_FINISHED', message, { outcome: 'unknown', retriable: true });
}
