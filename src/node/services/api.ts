import type { Timestamp } from '../../bucket/requests.js';
import type { KeyHeat, Rates } from '../../placement/heat.js';
import type { BucketId, NodeId, NodeInfo, Placement } from '../../placement/map.js';
import type { PlacementChange } from '../../placement/record.js';
import type { Wanted } from '../../placement/wanted.js';
import type { Router } from '../../router/router.js';

/**
 * What the public services need of the process that serves them; a node and a sidecar both have it. The services translate
 * messages and nothing more: every rule about keys, buckets, time and retries lives behind this.
 */
export type RequestRouter = Pick<
  Router,
  'put' | 'delete' | 'write' | 'get' | 'getMany' | 'scan' | 'history' | 'diff' | 'changes' | 'pins' | 'now' | 'answers'
>;

export interface ClusterStatus {
  readonly clusterId: string;
  readonly epoch: number;
  readonly node: NodeId;
  readonly buckets: number;
  readonly timestamp: Timestamp;
  readonly uptimeMs: number;
  readonly nodes: readonly NodeStatus[];
}

export interface NodeStatus extends NodeInfo {
  readonly reachable: boolean;
  readonly replicas: number;
  readonly leaders: number;
}

export interface ReplicaStatus {
  readonly replica: number;
  readonly role: string;
  readonly term: number;
  readonly lastIndex: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly digest: number;
  readonly timestamp: Timestamp;
}

export interface ClusterView {
  status(): ClusterStatus;
  /** With the leaders as far as they are known; throws UNAVAILABLE while no placement is known. */
  placement(): Placement;
  /** Calls `changed` after each new placement, until the returned function is called. */
  watch(changed: () => void): () => void;
  /** The replica of a bucket in this process. */
  replica(bucket: BucketId): ReplicaStatus | undefined;
  /** Both only on the node that leads the system bucket; others refuse with NOT_LEADER. */
  changePlacement(change: PlacementChange, deadlineMs: number): Promise<PlacementProgress>;
  placementProgress(): PlacementProgress;
  /** Only on a node that hosts the system bucket; others refuse with NOT_LEADER. */
  heat(bucketsMax: number, keysMax: number): ClusterHeat;
  /** Resolves to the node that leads afterwards. */
  transferLeader(bucket: BucketId, to: NodeId, deadlineMs: number): Promise<NodeId>;
}

export interface PlacedNode {
  readonly id: NodeId;
  readonly replicas: number;
  readonly draining: boolean;
  /** Data buckets that it has said it leads. */
  readonly leads: number;
}

export interface PlacementProgress {
  readonly epoch: number;
  readonly replicas: number;
  /** Of the buckets that have a number of their own. */
  readonly bucketReplicas: readonly { readonly buckets: readonly BucketId[]; readonly count: number }[];
  readonly nodes: readonly PlacedNode[];
  /** Buckets whose replicas are not known to be where they should be. */
  readonly moving: readonly BucketId[];
  /** Those among them that are not on their way, for nobody leads them. */
  readonly leaderless: readonly BucketId[];
  /** What the placement itself lacks, and the nodes that cannot be reached now: that may be why. */
  readonly wanted: Wanted;
  readonly unreachable: readonly NodeId[];
}

/** Hottest first. */
export interface ClusterHeat {
  readonly epoch: number;
  readonly node: NodeId;
  readonly hotReadsPerSecond: number;
  readonly nodes: readonly (Rates & { readonly id: NodeId; readonly readReplicas: number })[];
  readonly buckets: readonly (Rates & {
    readonly id: BucketId;
    readonly leader: NodeId;
    readonly voters: readonly NodeId[];
    readonly readReplicas: readonly NodeId[];
  })[];
  /** `share` is of all reads of the key's bucket. */
  readonly keys: readonly (KeyHeat & { readonly share: number })[];
}

export interface ServicePorts {
  readonly router: RequestRouter;
  readonly cluster: ClusterView;
  /** Bytes of keys and values after which a streamed reply is sent and another begun. */
  readonly pageBytesMax: number;
}

