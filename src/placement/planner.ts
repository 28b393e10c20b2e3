import { Draft, type PlannerInput } from './draft.js';
import { balanceHeat, coolDown, helpHot, isTooHot } from './heat-planner.js';
import { SYSTEM_BUCKET } from './map.js';
import type { NodeId, ReplicaInfo } from './map.js';
import { isAsFounded, type PlacementRecord } from './record.js';
import { hasVoter, leaderOf, votersOf, without, withVoter, type Replicas } from './replicas.js';

/**
 * Where replicas should go next: a pure function from what is to what should be. It looks for, in this order,
 *
 *   1. replicas on nodes that are to be emptied, or that are lost: voters go to other nodes, read replicas just go
 *   2. buckets with fewer or more voters than wanted
 *   3. buckets that have had too many read replicas for long enough, and buckets that are too hot for those that serve them
 *   4. nodes with more voters than others: replicas go from the fullest to the emptiest, until they differ by at most one
 *   5. nodes that should lead what is much hotter than what others lead, then nodes that should lead more buckets than others:
 *      the first voter in a bucket's list is its preferred leader, and is exchanged for another, which moves no data
 *
 * It changes only buckets that are settled, at most `changesMax` at a time with those that are not: the rest follows when these
 * are done. Only a bucket on its way to a node that is to be emptied, or lost, is sent elsewhere: it would never arrive.
 * Replicas of a bucket keep to different zones where there are enough of them; no step makes that worse.
 *
 * It converges while the heat stays as it is: 1 to 3 only shrink what is wrong, each move of 4 shrinks the sum of squares of the
 * nodes' voters. Of 5 the first shrinks the sum of squares of what nodes lead beyond the limit of what is even, the second that
 * of the buckets that they lead, and it takes no node over that limit. It never takes a voter without putting another in its
 * place, except where a bucket has more than it should; and heat never makes a voter, nor takes one.
 */
export function plan(input: PlannerInput): PlacementRecord | undefined {
  const draft = new Draft(input);
  evacuate(draft);
  resize(draft);
  // What a cluster was founded with is good enough until somebody changes it, and heat changes no more than it must.
  const isAsFoundedStill = isAsFounded(input.record) && draft.isUnchanged;
  coolDown(draft);
  helpHot(draft);
  if (!isAsFoundedStill) balance(draft);
  balanceHeat(draft);
  if (!isAsFoundedStill) balanceLeaders(draft);
  const next = draft.result();
  return next === undefined || !isAsFoundedStill ? next : { ...next, asFounded: next.epoch };
}

// --- 1 and 2

function evacuate(draft: Draft): void {
  for (const bucket of draft.stray) {
    if (!draft.hasRoom && draft.isSettled(bucket)) continue;
    const replicas = draft.replicasOf(bucket);
    const readers = replicas.filter(({ node, learner }) => learner && !draft.usable.has(node));
    const leaving = replicas.find(({ node, learner }) => !learner && !draft.usable.has(node));
    const to = leaving && targetFor(draft, replicas, leaving);
    const left = without(replicas, ...readers);
    if (to !== undefined) draft.set(bucket, withVoter(left, draft.newReplica(to, false), leaving));
    // Every other node has one already: a system bucket that is on all of them goes on with fewer.
    else if (leaving !== undefined && bucket === SYSTEM_BUCKET && replicas.length > 1) draft.set(bucket, without(left, leaving));
    else if (readers.length > 0) draft.set(bucket, left);
  }
}

function resize(draft: Draft): void {
  for (const bucket of draft.missized) {
    if (!draft.isOpen(bucket)) continue;
    const replicas = draft.replicasOf(bucket);
    const voters = votersOf(replicas);
    const wanted = draft.votersWanted(bucket);
    if (voters.length < wanted) {
      const to = targetFor(draft, replicas);
      if (to !== undefined) draft.set(bucket, withVoter(replicas, draft.newReplica(to, false)));
    } else {
      const [fullest] = voters.slice(1).sort((a, b) => draft.load.of(b.node) - draft.load.of(a.node));
      if (fullest !== undefined) draft.set(bucket, without(replicas, fullest));
    }
  }
}

/** The emptiest node without a voter of the bucket, in a zone of its own if there is one; at best one that has the data. */
function targetFor(draft: Draft, replicas: Replicas, leaving?: ReplicaInfo): NodeId | undefined {
  const staying = votersOf(replicas).filter((voter) => voter !== leaving).map(({ node }) => node);
  let best: NodeId | undefined;
  let bestCost = Infinity;
  for (const node of draft.targets) {
    if (staying.includes(node)) continue;
    const hasData = replicas.some((replica) => replica.node === node);
    const cost = draft.crowd(draft.zoneOf(node), staying) * 1e9 + draft.load.of(node) * 2 + (hasData ? 0 : 1);
    if (cost < bestCost) {
      best = node;
      bestCost = cost;
    }
  }
  return best;
}

// --- 4 and 5

function balance(draft: Draft): void {
  const zones = new Zones(draft);
  for (const [bucket, replicas] of draft.open()) {
    if (draft.load.spread(draft.usable) <= 1) return;
    let best: { readonly from: ReplicaInfo; readonly to: NodeId } | undefined;
    let gain = 1;
    for (const from of replicas) {
      if (from.learner || !draft.usable.has(from.node)) continue;
      const to = zones.emptiestFor(replicas, from, gain);
      if (to === undefined) continue;
      gain = draft.load.of(from.node) - draft.load.of(to);
      best = { from, to };
    }
    if (best !== undefined) draft.set(bucket, withVoter(replicas, draft.newReplica(best.to, false), best.from));
  }
}

/** Nodes that may get replicas, by zone, the emptiest of each first. For a bucket all nodes of a zone are as crowded. */
class Zones {
  readonly #draft: Draft;
  readonly #nodes = new Map<string, NodeId[]>();
  #version = -1;

  constructor(draft: Draft) {
    this.#draft = draft;
    for (const node of draft.targets) {
      const zone = draft.zoneOf(node);
      const nodes = this.#nodes.get(zone);
      if (nodes === undefined) this.#nodes.set(zone, [node]);
      else nodes.push(node);
    }
  }

  /** Where a voter may go so that the two nodes' loads differ by less, by more than `gain`, and no zone is more crowded. */
  emptiestFor(replicas: Replicas, from: ReplicaInfo, gain: number): NodeId | undefined {
    this.#sort();
    const draft = this.#draft;
    let least = draft.load.of(from.node) - gain;
    let best: NodeId | undefined;
    let staying: NodeId[] | undefined;
    for (const [zone, nodes] of this.#nodes) {
      if (draft.load.of(nodes[0] ?? 0) >= least) continue;
      staying ??= votersOf(replicas).filter((voter) => voter !== from).map(({ node }) => node);
      if (draft.crowd(zone, staying) > draft.crowd(draft.zoneOf(from.node), staying)) continue;
      const emptiest = nodes.find((node) => !hasVoter(replicas, node));
      if (emptiest === undefined || draft.load.of(emptiest) >= least) continue;
      least = draft.load.of(emptiest);
      best = emptiest;
    }
    return best;
  }

  #sort(): void {
    const { load } = this.#draft;
    if (this.#version === load.version) return;
    this.#version = load.version;
    for (const nodes of this.#nodes.values()) nodes.sort((a, b) => load.of(a) - load.of(b) || a - b);
  }
}

function balanceLeaders(draft: Draft): void {
  const { leads, usable } = draft;
  for (const [bucket, replicas] of draft.open()) {
    if (leads.spread(usable) <= 1) return;
    const leader = leaderOf(replicas);
    if (leader === undefined) continue;
    let heir: ReplicaInfo | undefined;
    let least = leads.of(leader) - 1;
    for (const voter of replicas) {
      if (voter.learner || !usable.has(voter.node) || leads.of(voter.node) >= least) continue;
      if (isTooHot(draft, voter.node, bucket)) continue;
      heir = voter;
      least = leads.of(voter.node);
    }
    if (heir !== undefined) draft.set(bucket, [heir, ...without(replicas, heir)]);
  }
}
