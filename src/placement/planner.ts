import { SYSTEM_REPLICAS_MAX } from './initial.js';
import { SYSTEM_BUCKET, replicaIdOf } from './map.js';
import type { BucketId, BucketInfo, NodeId, NodeInfo, ReplicaInfo } from './map.js';
import type { PlacementRecord } from './record.js';

/**
 * Where replicas should go next: a pure function from what is to what should be. It looks for, in this order,
 *
 *   1. replicas on nodes that are to be emptied, or that are lost: each goes to another node
 *   2. buckets with fewer or more voters than wanted
 *   3. nodes with more replicas than others: replicas go from the fullest to the emptiest, until they differ by at most one
 *   4. nodes that should lead more buckets than others: the first voter in a bucket's list is its preferred leader, and is
 *      exchanged for another, which moves no data
 *
 * It changes only buckets that are settled, at most `changesMax` at a time with those that are not: the rest follows when these
 * are done. Only a bucket on its way to a node that is to be emptied, or lost, is sent elsewhere: it would never arrive.
 * Replicas of a bucket keep to different zones where there are enough of them; no step makes that worse.
 *
 * It converges: 1 and 2 only shrink what is wrong, each move of 3 shrinks the sum of squares of the nodes' replicas, each
 * exchange of 4 that of the buckets that they should lead. It never takes a voter without putting another in its place, except
 * where a bucket has more than it should.
 */
export interface PlannerInput {
  readonly record: PlacementRecord;
  /** Buckets that are as the record wants them. */
  readonly settled: ReadonlySet<BucketId>;
  /** Nodes that will not come back, as far as anybody can tell. */
  readonly lost: ReadonlySet<NodeId>;
  /** Nodes that cannot be reached now: nothing is placed on them. */
  readonly unreachable: ReadonlySet<NodeId>;
  /** Buckets that may be under way at a time. */
  readonly changesMax: number;
}

/** The next record, one epoch later; undefined if nothing is to be done now. */
export function plan(input: PlannerInput): PlacementRecord | undefined {
  const draft = new Draft(input);
  draft.evacuate();
  draft.resize();
  // What a cluster was founded with is good enough until somebody changes it.
  if (input.record.epoch > 1) {
    draft.balance();
    draft.balanceLeaders();
  }
  return draft.result();
}

/** How many voters the system bucket should have. */
function systemVoters(nodes: number): number {
  return Math.min(nodes, SYSTEM_REPLICAS_MAX);
}

class Draft {
  readonly #input: PlannerInput;
  readonly #epoch: number;
  readonly #nodes: ReadonlyMap<NodeId, NodeInfo>;
  /** Nodes that may keep replicas, in order of their ids; and those that may get any. */
  readonly #usable: readonly NodeId[];
  readonly #targets: readonly NodeId[];
  readonly #places = new Map<BucketId, readonly ReplicaInfo[]>();
  readonly #changed = new Set<BucketId>();
  /** Data replicas that each node should have. */
  readonly #load = new Map<NodeId, number>();
  readonly #leads = new Map<NodeId, number>();
  #room: number;

  constructor(input: PlannerInput) {
    const { record, settled, lost, unreachable, changesMax } = input;
    this.#input = input;
    this.#epoch = record.epoch + 1;
    this.#nodes = new Map(record.nodes.map((node) => [node.id, node]));
    this.#usable = record.nodes.map(({ id }) => id).filter((id) => !record.draining.includes(id) && !lost.has(id));
    this.#targets = this.#usable.filter((id) => !unreachable.has(id));
    for (const { id, replicas } of [record.system, ...record.map]) this.#places.set(id, replicas);
    for (const { id } of record.nodes) {
      this.#load.set(id, 0);
      this.#leads.set(id, 0);
    }
    for (const { replicas } of record.map) this.#count(replicas, 1);
    const unsettled = [...this.#places.keys()].filter((bucket) => !settled.has(bucket)).length;
    this.#room = Math.max(0, changesMax - unsettled);
  }

  #count(replicas: readonly ReplicaInfo[], by: 1 | -1): void {
    for (const { node } of replicas) this.#load.set(node, this.#loadOf(node) + by);
    const leader = leaderOf(replicas);
    if (leader !== undefined) this.#leads.set(leader, this.#leadsOf(leader) + by);
  }

  #loadOf(node: NodeId): number {
    return this.#load.get(node) ?? 0;
  }

  #leadsOf(node: NodeId): number {
    return this.#leads.get(node) ?? 0;
  }

  result(): PlacementRecord | undefined {
    if (this.#changed.size === 0) return undefined;
    const { record } = this.#input;
    const now = (place: BucketInfo): BucketInfo => {
      return this.#changed.has(place.id) ? { ...place, replicas: this.#places.get(place.id) ?? [] } : place;
    };
    return { ...record, epoch: this.#epoch, system: now(record.system), map: record.map.map(now) };
  }

  /** Buckets that may be changed, while there is room for another. */
  *#open(): Generator<readonly [BucketId, readonly ReplicaInfo[]]> {
    for (const [bucket, replicas] of this.#places) {
      if (this.#room === 0) return;
      if (this.#input.settled.has(bucket) && !this.#changed.has(bucket)) yield [bucket, replicas];
    }
  }

  #set(bucket: BucketId, replicas: readonly ReplicaInfo[]): void {
    const before = this.#places.get(bucket) ?? [];
    if (bucket !== SYSTEM_BUCKET) {
      this.#count(before, -1);
      this.#count(replicas, 1);
    }
    this.#places.set(bucket, replicas);
    this.#changed.add(bucket);
    if (this.#input.settled.has(bucket)) this.#room -= 1;
  }

  // --- 1 and 2

  evacuate(): void {
    for (const [bucket, replicas] of this.#places) {
      const leaving = replicas.find(({ node }) => !this.#usable.includes(node));
      if (leaving === undefined || (this.#room === 0 && this.#input.settled.has(bucket))) continue;
      const to = this.#bestFor(replicas, leaving.node);
      if (to !== undefined) this.#set(bucket, exchanged(replicas, leaving, this.#new(to, leaving.learner)));
      // Every other node has one already: a system bucket that is on all of them goes on with fewer.
      else if (bucket === SYSTEM_BUCKET && replicas.length > 1) this.#set(bucket, without(replicas, leaving));
    }
  }

  resize(): void {
    for (const [bucket, replicas] of this.#open()) {
      const voters = replicas.filter(({ learner }) => !learner);
      const wanted = bucket === SYSTEM_BUCKET ? systemVoters(this.#usable.length) : this.#input.record.replicas;
      if (voters.length < wanted) {
        const to = this.#bestFor(replicas, undefined);
        if (to !== undefined) this.#set(bucket, [...replicas, this.#new(to, false)]);
      } else if (voters.length > wanted) {
        const [fullest] = voters.slice(1).sort((a, b) => this.#loadOf(b.node) - this.#loadOf(a.node));
        if (fullest !== undefined) this.#set(bucket, without(replicas, fullest));
      }
    }
  }

  #new(node: NodeId, learner: boolean): ReplicaInfo {
    return { id: replicaIdOf(node, this.#epoch), node, learner };
  }

  /** The emptiest node without a replica of the bucket, in a zone of its own if there is one. */
  #bestFor(replicas: readonly ReplicaInfo[], leaving: NodeId | undefined): NodeId | undefined {
    const staying = replicas.map(({ node }) => node).filter((node) => node !== leaving);
    let best: NodeId | undefined;
    let bestCost = Infinity;
    for (const node of this.#targets) {
      if (staying.includes(node)) continue;
      const cost = this.#crowd(node, staying) * 1e9 + this.#loadOf(node);
      if (cost < bestCost) {
        best = node;
        bestCost = cost;
      }
    }
    return best;
  }

  /** How many of the nodes are in the same zone; those without a zone are in none. */
  #crowd(node: NodeId, others: readonly NodeId[]): number {
    const zone = this.#nodes.get(node)?.zone ?? '';
    return zone === '' ? 0 : others.filter((other) => this.#nodes.get(other)?.zone === zone).length;
  }

  // --- 3 and 4

  balance(): void {
    for (const [bucket, replicas] of this.#open()) {
      if (bucket === SYSTEM_BUCKET) continue;
      let best: { readonly from: ReplicaInfo; readonly to: NodeId } | undefined;
      let gain = 1;
      for (const from of replicas) {
        if (!this.#usable.includes(from.node)) continue;
        const staying = replicas.map(({ node }) => node).filter((node) => node !== from.node);
        for (const to of this.#targets) {
          if (to === from.node || staying.includes(to)) continue;
          if (this.#crowd(to, staying) > this.#crowd(from.node, staying)) continue;
          const difference = this.#loadOf(from.node) - this.#loadOf(to);
          if (difference <= gain) continue;
          gain = difference;
          best = { from, to };
        }
      }
      if (best !== undefined) this.#set(bucket, exchanged(replicas, best.from, this.#new(best.to, best.from.learner)));
    }
  }

  balanceLeaders(): void {
    for (const [bucket, replicas] of this.#open()) {
      if (bucket === SYSTEM_BUCKET) continue;
      const leader = leaderOf(replicas);
      if (leader === undefined) continue;
      const heirs = replicas.filter(({ node, learner }) => !learner && node !== leader && this.#usable.includes(node));
      const [heir] = heirs.sort((a, b) => this.#leadsOf(a.node) - this.#leadsOf(b.node));
      if (heir === undefined || this.#leadsOf(leader) - this.#leadsOf(heir.node) <= 1) continue;
      this.#set(bucket, [heir, ...without(replicas, heir)]);
    }
  }
}

function leaderOf(replicas: readonly ReplicaInfo[]): NodeId | undefined {
  return replicas.find(({ learner }) => !learner)?.node;
}

function exchanged(replicas: readonly ReplicaInfo[], old: ReplicaInfo, by: ReplicaInfo): ReplicaInfo[] {
  return replicas.map((replica) => (replica === old ? by : replica));
}

function without(replicas: readonly ReplicaInfo[], gone: ReplicaInfo): ReplicaInfo[] {
  return replicas.filter((replica) => replica !== gone);
}
