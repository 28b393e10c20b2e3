import type { Clock } from '../env/env.js';
import { isTidemarkError, type TidemarkError } from '../lib/errors.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Dispatcher } from './dispatch.js';

/**
 * Which replicas the change streams of a router read: the leader's of each bucket where it is known and well, for it resolves
 * sooner than its followers (changes/mark-watch.ts). Else any that is complete is as good as any other: the nearest, and few
 * nodes rather than many. One that fails is left alone for a while, longer each time; one that is asked for a bucket of which it
 * knows nothing new, though it should, only has to wait behind the others.
 *
 * It is memory about the present state of the cluster, shared by all streams of the router; forgetting it costs a time-out.
 */
export interface FeedGroup {
  readonly node: NodeId;
  readonly buckets: readonly BucketId[];
}

const FAILED_MS_MIN = 100;
const FAILED_MS_MAX = 3000;
const STUCK_MS = 2000;
/** In another zone, but well. */
const FAR = 2;

interface Trouble {
  readonly untilMs: number;
  readonly times: number;
  /** Not asked at all until then; else only if nobody else can be asked. */
  readonly failed: boolean;
}

export class FeedReplicas {
  readonly #dispatcher: Dispatcher;
  readonly #clock: Clock;
  /** Spreads routers over replicas that are equally near. */
  readonly #rotation: number;
  readonly #troubles = new Map<BucketId, Map<NodeId, Trouble>>();

  constructor(dispatcher: Dispatcher, clock: Clock, rotation: number) {
    this.#dispatcher = dispatcher;
    this.#clock = clock;
    this.#rotation = rotation;
  }

  /** Whom to ask for which of the buckets; those of which no replica can be asked now are in no group. */
  groups(buckets: readonly BucketId[]): FeedGroup[] {
    const nowMs = this.#clock.monotonicMs();
    const hosted = new Map<NodeId, { good: BucketId[]; stuck: BucketId[] }>();
    const taken = new Map<BucketId, NodeId>();
    for (const bucket of buckets) {
      const leader = this.#leader(bucket, nowMs);
      if (leader !== undefined) {
        taken.set(bucket, leader);
        continue;
      }
      for (const { node } of this.#dispatcher.cache.replicasOf(bucket)) {
        const trouble = this.#trouble(bucket, node, nowMs);
        if (trouble?.failed === true) continue;
        const lists = hosted.get(node) ?? { good: [], stuck: [] };
        hosted.set(node, lists);
        if (trouble === undefined) lists.good.push(bucket);
        else lists.stuck.push(bucket);
      }
    }
    const nodes = [...hosted].map(([node, lists]) => ({ node, ...lists, distance: this.#dispatcher.distance(node) }));
    const count = Math.max(1, nodes.length);
    const turn = (node: NodeId): number => (node + this.#rotation) % count;
    nodes.sort(
      (a, b) =>
        a.distance - b.distance || b.good.length - a.good.length || turn(a.node) - turn(b.node) || a.node - b.node,
    );
    const take = (node: NodeId, list: readonly BucketId[]): void => {
      for (const bucket of list) if (!taken.has(bucket)) taken.set(bucket, node);
    };
    for (const { node, good } of nodes) take(node, good);
    for (const { node, stuck } of nodes) take(node, stuck);
    const groups = new Map<NodeId, BucketId[]>();
    for (const bucket of buckets) {
      const node = taken.get(bucket);
      if (node === undefined) continue;
      const group = groups.get(node);
      if (group === undefined) groups.set(node, [bucket]);
      else group.push(bucket);
    }
    return [...groups].map(([node, members]) => ({ node, buckets: members }));
  }

  #leader(bucket: BucketId, nowMs: number): NodeId | undefined {
    const { cache } = this.#dispatcher;
    const leader = cache.leaderOf(bucket);
    const isThere = cache.replicasOf(bucket).some(({ node }) => node === leader) && this.#dispatcher.distance(leader) <= FAR;
    return isThere && this.#trouble(bucket, leader, nowMs) === undefined ? leader : undefined;
  }

  /** Learns from a failed attempt, for which of the buckets it counts. Throws what no other replica could do better. */
  failed({ node, buckets }: FeedGroup, error: unknown): void {
    if (!isTidemarkError(error) || !isPassing(error)) throw error;
    const named = error.details['leaders']?.split(',').map((pair) => Number(pair.split('=')[0]));
    const nowMs = this.#clock.monotonicMs();
    for (const bucket of named === undefined ? buckets : buckets.filter((each) => named.includes(each))) {
      const times = (this.#troubles.get(bucket)?.get(node)?.times ?? 0) + 1;
      const untilMs = nowMs + Math.min(FAILED_MS_MAX, FAILED_MS_MIN * 2 ** (times - 1));
      this.#note(bucket, node, { untilMs, times, failed: true });
    }
  }

  served({ node, buckets }: FeedGroup): void {
    if (this.#troubles.size === 0) return;
    const nowMs = this.#clock.monotonicMs();
    for (const bucket of buckets) {
      if (this.#trouble(bucket, node, nowMs) === undefined) this.#forget(bucket, node);
    }
  }

  /** The node has nothing new of these buckets. */
  stuck(buckets: readonly BucketId[], node: NodeId): void {
    const untilMs = this.#clock.monotonicMs() + STUCK_MS;
    for (const bucket of buckets) this.#note(bucket, node, { untilMs, times: 0, failed: false });
  }

  #trouble(bucket: BucketId, node: NodeId, nowMs: number): Trouble | undefined {
    const trouble = this.#troubles.get(bucket)?.get(node);
    return trouble !== undefined && trouble.untilMs > nowMs ? trouble : undefined;
  }

  #note(bucket: BucketId, node: NodeId, trouble: Trouble): void {
    let troubles = this.#troubles.get(bucket);
    if (troubles === undefined) this.#troubles.set(bucket, (troubles = new Map<NodeId, Trouble>()));
    troubles.set(node, trouble);
  }

  #forget(bucket: BucketId, node: NodeId): void {
    const troubles = this.#troubles.get(bucket);
    troubles?.delete(node);
    if (troubles?.size === 0) this.#troubles.delete(bucket);
  }
}

/** Another replica, or the same one later, may do it. */
function isPassing({ code }: TidemarkError): boolean {
  return code === 'UNAVAILABLE' || code === 'RESOURCE_EXHAUSTED' || code === 'DEADLINE_EXCEEDED';
}
