import type { Clock } from '../env/time.js';
import { TidemarkError } from '../lib/errors.js';
import type { ClusterHeat, ClusterStatus, ClusterView, NodeStatus, PlacementProgress } from '../node/services/api.js';
import type { BucketId, NodeId, Placement } from '../placement/map.js';
import type { Router } from '../router/router.js';

/** The cluster as a sidecar sees it, for `tidemark.v1.Cluster`: the real nodes, and whether they can be reached from here. */
export class SidecarView implements ClusterView {
  readonly #router: Router;
  readonly #clock: Clock;
  readonly #startedMs: number;

  constructor(router: Router, clock: Clock) {
    this.#router = router;
    this.#clock = clock;
    this.#startedMs = clock.monotonicMs();
  }

  status(): ClusterStatus {
    const { clusterId, epoch, buckets, nodes, map } = this.placement();
    const statusOf = ({ id, address, zone, host }: Placement['nodes'][number]): NodeStatus => ({
      id,
      address,
      zone,
      host,
      reachable: this.#router.isConnected(id),
      replicas: map.filter(({ replicas }) => replicas.some(({ node }) => node === id)).length,
      leaders: map.filter(({ leader }) => leader === id).length,
    });
    const uptimeMs = Math.round(this.#clock.monotonicMs() - this.#startedMs);
    // A sidecar is no node: 0 says so.
    return { clusterId, epoch, node: 0, buckets, timestamp: this.#router.now(), uptimeMs, nodes: nodes.map(statusOf) };
  }

  placement(): Placement {
    const { placement } = this.#router;
    if (placement === undefined) {
      const message = 'this sidecar has not reached its cluster yet';
      throw new TidemarkError('UNAVAILABLE', 'NOT_READY', message, { retriable: true });
    }
    return { ...placement, map: placement.map.map((bucket) => ({ ...bucket, leader: this.#router.leaderOf(bucket.id) })) };
  }

  watch(changed: () => void): () => void {
    return this.#router.watch(changed);
  }

  replica(): undefined {
    return undefined;
  }

  async changePlacement(): Promise<PlacementProgress> {
    return this.placementProgress();
  }

  placementProgress(): PlacementProgress {
    return this.#askNode('a sidecar moves no replicas');
  }

  #askNode(why: string): never {
    const nodes = this.#router.placement?.nodes.map(({ address }) => address).join(', ') ?? 'a node';
    throw new TidemarkError('UNIMPLEMENTED', 'ASK_A_NODE', `${why}; ask ${nodes}`);
  }

  heat(): ClusterHeat {
    return this.#askNode('a sidecar is told of no heat');
  }

  async transferLeader(bucket: BucketId): Promise<NodeId> {
    const leader = this.#router.leaderOf(bucket);
    const address = this.#router.placement?.nodes.find(({ id }) => id === leader)?.address;
    const where = address === undefined ? 'a node' : `node ${leader} at ${address}`;
    const message = `a sidecar moves no leaders; ask ${where}`;
    throw new TidemarkError('UNIMPLEMENTED', 'ASK_A_NODE', message, { details: { leader: String(leader) } });
  }
}
