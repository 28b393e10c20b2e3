import type { Env } from '../env/env.js';
import type { TidemarkError } from '../lib/errors.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Connections } from './connections.js';
import type { NodeLoads, ReadSort } from './node-loads.js';
import type { PlacementCache } from './placement-cache.js';

/**
 * Which replica of a bucket to ask where several can serve a read: leader, follower or read replica.
 *
 *   near ones first     this process, the same zone, elsewhere; one that is farther only if far fewer stand in line there
 *   the less busy one   of two that are drawn at random (the power of two choices: nobody is the favourite of all routers at
 *                       once, which is what happens where each takes the best by what it knew a moment ago)
 *   not those that      have just refused such a read. What is not fresh enough for a bound of 10 ms may be for 10 s, so what is
 *                       remembered is for which bound
 *
 * The leader of a bucket with read replicas counts two and a half times: it has all the writes, and the questions of the others.
 * Of linearizable reads it is always one of the two.
 *
 * It is memory about the present; forgetting it costs a hop.
 */
export interface ReadNeed {
  readonly bucket: BucketId;
  readonly sort: ReadSort;
  /** How old the answer may be: a replica that could not serve this could not serve less either. */
  readonly staleMs: number;
}

const FARTHER_COSTS = 4;
const HOT_LEADER_COSTS = 2.5;
/** A follower that hears its leader is no further behind it. */
export const FOLLOWERS_LAG_MS = 1000;
const REFUSED_MS = 500;
const REFUSED_MS_MAX = 8000;
/** A leader with so many requests of this router, and so many times as many as another replica's node, has too many. */
const CROWD_MIN = 64;
const CROWD_TIMES = 4;
const UNHEALTHY = 3;

interface Refusal {
  readonly staleMs: number;
  readonly untilMs: number;
  /** How long it is remembered: twice as long if it comes again and again. */
  readonly forMs: number;
}

export interface ReplicaChoiceOptions {
  readonly env: Pick<Env, 'clock' | 'random'>;
  readonly cache: PlacementCache;
  readonly connections: Connections;
  readonly loads: NodeLoads;
  readonly zone: string;
}

export class ReplicaChoice {
  readonly #options: ReplicaChoiceOptions;
  readonly #refusals = new Map<BucketId, Map<NodeId, Refusal>>();
  /** Of reads that followers can hardly serve, whichever bucket. */
  readonly #tight = new Map<NodeId, Refusal>();

  constructor(options: ReplicaChoiceOptions) {
    this.#options = options;
  }

  /** Lower is nearer: this process, the same zone, elsewhere; then those that are likely not to answer. */
  distance(node: NodeId): number {
    const { cache, connections, zone } = this.#options;
    if (node === connections.selfNode) return 0;
    if (!connections.isHealthy(node)) return UNHEALTHY;
    return zone !== '' && cache.node(node)?.zone === zone ? 1 : 2;
  }

  /** The same; but one whose stream is still being made comes last: a process that was stopped is dialed in vain for seconds. */
  #distanceNow(node: NodeId): number {
    return this.#options.connections.isConnected(node) ? this.distance(node) : UNHEALTHY;
  }

  /** One that was not asked yet; undefined if there is none. */
  pick(need: ReadNeed, asked: ReadonlySet<NodeId> | undefined): NodeId | undefined {
    const open = this.#open(need.bucket, asked);
    const willing = open.filter((node) => !this.#hasRefused(need, node));
    if (willing.length > 0) return this.#best(need, willing);
    // It may lead though the placement has no replica there any more: until the group has gone on without it.
    const leader = this.#options.cache.leaderOf(need.bucket);
    return leader !== 0 && asked?.has(leader) !== true ? leader : this.#best(need, open);
  }

  /** One that may well serve it beside the one that was asked; undefined if there is none. */
  pickBeside(need: ReadNeed, first: NodeId, asked: ReadonlySet<NodeId> | undefined): NodeId | undefined {
    const open = this.#open(need.bucket, asked).filter((node) => {
      return node !== first && this.#distanceNow(node) < UNHEALTHY && !this.#hasRefused(need, node);
    });
    return this.#best(need, open);
  }

  /**
   * Whether linearizable reads of the bucket should go to all its replicas: it has been given read replicas, or its leader has
   * far more to do than others. Elsewhere the leader answers at once, with a message less.
   */
  shouldSpread(bucket: BucketId): boolean {
    const { cache, loads } = this.#options;
    const replicas = cache.replicasOf(bucket);
    if (replicas.some(({ learner }) => learner)) return true;
    const crowd = loads.outstanding(cache.leaderOf(bucket));
    return crowd >= CROWD_MIN && replicas.some(({ node }) => loads.outstanding(node) * CROWD_TIMES <= crowd);
  }

  /** The node has refused such a read, or what it says amounts to that. */
  refused({ bucket, sort, staleMs }: ReadNeed, node: NodeId, { reason, details }: TidemarkError): void {
    if (reason !== 'STALE' && reason !== 'NOT_LEADER' && reason !== 'NOT_HOSTED') return;
    const nowMs = this.#options.env.clock.monotonicMs();
    // Who is behind says how far it is. By less than a second all followers of a node's are, from one heartbeat to the next.
    if (details['resolved'] !== undefined) {
      const refusals = staleMs < FOLLOWERS_LAG_MS ? this.#tight : this.#of(bucket);
      const known = refusals.get(node);
      const isAgain = known !== undefined && nowMs < known.untilMs + 2 * known.forMs;
      const forMs = isAgain ? Math.min(REFUSED_MS_MAX, 2 * known.forMs) : REFUSED_MS;
      const mostMs = isAgain ? Math.max(staleMs, known.staleMs) : staleMs;
      refusals.set(node, { staleMs: mostMs, untilMs: nowMs + forMs, forMs });
      return;
    }
    // Who hears no leader soon hears one again. Who has no replica, or no state yet, could not serve anything else either.
    const hasNoLeader = sort === 'confirmed' && reason === 'NOT_LEADER';
    const refusal = { staleMs: hasNoLeader ? staleMs : Infinity, untilMs: nowMs + REFUSED_MS, forMs: REFUSED_MS };
    this.#of(bucket).set(node, refusal);
  }

  #hasRefused({ bucket, sort, staleMs }: ReadNeed, node: NodeId): boolean {
    const nowMs = this.#options.env.clock.monotonicMs();
    const counts = (refusal: Refusal | undefined): boolean => {
      return refusal !== undefined && staleMs <= refusal.staleMs && nowMs < refusal.untilMs;
    };
    // What a leader knows of its own bucket is as fresh as can be.
    const mayBeBehind = sort === 'settled' && node !== this.#options.cache.leaderOf(bucket);
    return (mayBeBehind && counts(this.#tight.get(node))) || counts(this.#refusals.get(bucket)?.get(node));
  }

  #of(bucket: BucketId): Map<NodeId, Refusal> {
    let refusals = this.#refusals.get(bucket);
    if (refusals === undefined) this.#refusals.set(bucket, (refusals = new Map<NodeId, Refusal>()));
    return refusals;
  }

  #open(bucket: BucketId, asked: ReadonlySet<NodeId> | undefined): NodeId[] {
    const nodes: NodeId[] = [];
    for (const { node } of this.#options.cache.replicasOf(bucket)) if (asked?.has(node) !== true) nodes.push(node);
    return nodes;
  }

  #best(need: ReadNeed, nodes: readonly NodeId[]): NodeId | undefined {
    const distances = nodes.map((node) => this.#distanceNow(node));
    const nearest = Math.min(...distances);
    const near = this.#lessBusy(need, nodes.filter((_, at) => distances[at] === nearest));
    const isFarther = (distance: number): boolean => distance > nearest && distance < UNHEALTHY;
    if (near === undefined || !distances.some(isFarther)) return near;
    const far = this.#lessBusy(need, nodes.filter((_, at) => isFarther(distances[at] ?? 0)));
    if (far === undefined) return near;
    // What is farther is not thought to be faster: it is asked where many stand in line at the near ones, and few there.
    const latencyMs = this.#options.loads.latency(near, need.sort);
    return this.#cost(need, far, latencyMs) * FARTHER_COSTS < this.#cost(need, near) ? far : near;
  }

  #lessBusy(need: ReadNeed, nodes: readonly NodeId[]): NodeId | undefined {
    if (nodes.length < 2) return nodes[0];
    const { cache, env } = this.#options;
    const { random } = env;
    // A linearizable read elsewhere is a question to the leader all the same, so the leader is one of the two: it answers as long
    // as it is not much busier than the other.
    const leader = need.sort === 'confirmed' ? nodes.indexOf(cache.leaderOf(need.bucket)) : -1;
    const at = leader >= 0 ? leader : random.uint32() % nodes.length;
    const [one, two] = [nodes[at], nodes[(at + 1 + (random.uint32() % (nodes.length - 1))) % nodes.length]];
    if (one === undefined || two === undefined) return one;
    return this.#cost(need, two) < this.#cost(need, one) ? two : one;
  }

  #cost({ bucket, sort }: ReadNeed, node: NodeId, latencyMsMin = 0): number {
    const { cache, loads } = this.#options;
    const cost = loads.cost(node, sort, latencyMsMin);
    if (node !== cache.leaderOf(bucket)) return cost;
    return cache.replicasOf(bucket).some(({ learner }) => learner) ? cost * HOT_LEADER_COSTS : cost;
  }
}
