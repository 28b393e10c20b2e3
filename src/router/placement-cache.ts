import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { checkEpoch } from '../placement/epoch.js';
import type { BucketId, NodeId, NodeInfo, Placement, ReplicaInfo } from '../placement/map.js';
import type { LeaderHint } from './operations.js';

/**
 * What a router believes about the cluster. The map is right or an older truth (a higher epoch always wins); leaders are
 * guesses, corrected by pushes, by redirects and by silence. Believing something wrong costs a hop, never a wrong answer.
 */
export class PlacementCache {
  #placement: Placement | undefined;
  #clusterId: string;
  #nodes = new Map<NodeId, NodeInfo>();
  readonly #leaders: NodeId[] = [];
  /** The term in which the bucket's leader was last heard to lead; hints from older terms are no news. */
  readonly #terms: number[] = [];
  readonly #watchers = new Set<() => void>();
  readonly #waiting = new Map<BucketId, Set<() => void>>();

  /** `clusterId` is empty as long as it is not known; the first placement settles it. */
  constructor(clusterId: string) {
    this.#clusterId = clusterId;
  }

  get clusterId(): string {
    return this.#clusterId;
  }

  get placement(): Placement | undefined {
    return this.#placement;
  }

  get epoch(): number {
    return this.#placement?.epoch ?? 0;
  }

  /** Throws FAILED_PRECONDITION / WRONG_CLUSTER if a node belongs to another cluster than those before. */
  checkCluster(clusterId: string, who: string): void {
    if (this.#clusterId === '' || clusterId === '' || clusterId === this.#clusterId) return;
    const message = `${who} belongs to cluster ${clusterId}, not to ${this.#clusterId}`;
    throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', message, { details: { clusterId } });
  }

  /** Takes a placement unless it is older than the present one; throws if it cannot be one of this cluster. */
  learn(placement: Placement, who: string): void {
    this.checkCluster(placement.clusterId, who);
    const known = this.#placement;
    if (known !== undefined) {
      if (placement.epoch < known.epoch) return;
      checkEpoch(placement.epoch, known.epoch, who);
      if (placement.buckets !== known.buckets) {
        const message = `${who} says that there are ${placement.buckets} buckets, not ${known.buckets}`;
        throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', message);
      }
    }
    this.#clusterId = placement.clusterId;
    this.#placement = placement;
    this.#nodes = new Map(placement.nodes.map((node) => [node.id, node]));
    for (const { id, leader, replicas } of placement.map) {
      // Who has no replica any more does not lead.
      if (!replicas.some(({ node }) => node === this.leaderOf(id))) this.#leaders[id] = 0;
      if (leader !== 0 && this.leaderOf(id) === 0) this.#setLeader(id, leader);
    }
    for (const watcher of this.#watchers) watcher();
  }

  node(id: NodeId): NodeInfo | undefined {
    return this.#nodes.get(id);
  }

  replicasOf(bucket: BucketId): readonly ReplicaInfo[] {
    return this.#placement?.map[bucket]?.replicas ?? [];
  }

  /** The node that is thought to lead the bucket; 0 if none is. */
  leaderOf(bucket: BucketId): NodeId {
    return this.#leaders[bucket] ?? 0;
  }

  /** A node's opinion. One without a leader, or from an older term, is no news. */
  hint({ bucket, leader, term }: LeaderHint): void {
    const known = this.#terms[bucket] ?? 0;
    if (leader === 0 || term < known || bucket >= (this.#placement?.buckets ?? 0)) return;
    this.#terms[bucket] = term;
    this.#setLeader(bucket, leader);
  }

  /**
   * Where a redirect points: believed whatever was known before. It wakes nobody: what one replica keeps saying is no news, and
   * two requests that are redirected in turn would wake each other for ever, with no time for anything else.
   */
  noteRedirect(bucket: BucketId, leader: NodeId): void {
    this.#leaders[bucket] = leader;
  }

  /** Who has just served as the leader. */
  noteLeader(bucket: BucketId, leader: NodeId): void {
    if (leader !== 0 && leader !== this.leaderOf(bucket)) this.#setLeader(bucket, leader);
  }

  /** The node did not answer, or says that it does not lead. */
  dropLeader(bucket: BucketId, node: NodeId): void {
    if (this.#leaders[bucket] === node && !mutant('dead-leader-kept')) this.#leaders[bucket] = 0;
  }

  /** Calls `changed` after every placement that was taken, until the returned function is called. */
  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  /** Calls `found` when somebody is next thought to lead the bucket, until the returned function is called. */
  onLeader(bucket: BucketId, found: () => void): () => void {
    let waiting = this.#waiting.get(bucket);
    if (waiting === undefined) this.#waiting.set(bucket, (waiting = new Set()));
    waiting.add(found);
    return () => waiting.delete(found);
  }

  #setLeader(bucket: BucketId, leader: NodeId): void {
    this.#leaders[bucket] = leader;
    const waiting = this.#waiting.get(bucket);
    if (waiting === undefined || waiting.size === 0) return;
    for (const found of [...waiting]) found();
  }
}
