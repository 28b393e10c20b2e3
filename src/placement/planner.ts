import { Draft, type PlannerInput } from './draft.js';
import { balanceHeat, coolDown, helpHot, isTooHot } from './heat-planner.js';
import { SYSTEM_BUCKET } from './map.js';
import type { BucketId, NodeId, ReplicaInfo } from './map.js';
import { isAsFounded, type PlacementRecord } from './record.js';
import { hasVoter, leaderOf, votersOf, withLeader, without, withVoter, type Replicas } from './replicas.js';

/**
 * Where replicas should go next: a pure function from what is to what should be. It looks for, in this order,
 *
 *   1. replicas on nodes that are to be emptied, or that are lost: voters go to other nodes, read replicas just go; and voters
 *      on their way to a node that has been out of reach for some time: those whose place they were to take are still there
 *   2. buckets with fewer or more voters than wanted
 *   3. buckets whose voters share hosts or zones, more than they must: these go apart, by as few moves as that takes
 *   4. buckets that have had too many read replicas for long enough, or some where nobody is, and buckets that are too hot for
 *      those that serve them
 *   5. nodes with more voters than others: replicas go from the fullest to the emptiest, until they differ by at most one
 *   6. nodes that should lead what is much hotter than what others lead, then nodes that should lead more buckets than others:
 *      the first voter in a bucket's list is its preferred leader, and is exchanged for another, which moves no data
 *
 * It changes only buckets that are settled, at most `changesMax` at a time with those that are on their way: the rest follows
 * when these are done. Only a bucket that has a replica on a node that is to be emptied, or lost, or is on its way to one that is
 * away, is changed though it is not settled: it would not arrive, and others wait for its room. What has no leader is not on its
 * way: it takes no room from others, and waits for its voters as it is.
 * Voters of a bucket keep to different zones where there are enough of them, and in any case to different hosts; no step makes
 * that worse.
 *
 * It converges while the heat stays as it is: 1 to 4 only shrink what is wrong, each move of 5 shrinks the sum of squares of the
 * nodes' voters. Of 6 the first shrinks the sum of squares of what nodes lead beyond the limit of what is even, the second that
 * of the buckets that they lead, and it takes no node over that limit. It never takes a voter without putting another in its
 * place, except where a bucket has more than it should, and then one that is not there rather than one that is: those that are
 * left can decide. And heat never makes a voter, nor takes one.
 */
export function plan(input: PlannerInput): PlacementRecord | undefined {
  const draft = new Draft(input);
  evacuate(draft);
  resize(draft);
  disperse(draft);
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

// --- 1 to 3

function evacuate(draft: Draft): void {
  for (const bucket of draft.stray) {
    if (!draft.isMovable(bucket)) continue;
    const replicas = draft.replicasOf(bucket);
    const readers = replicas.filter(({ node, learner }) => learner && !draft.usable.has(node));
    const voters = votersOf(replicas).filter(({ node }) => !draft.usable.has(node));
    // Of what has to go, what is not there any more goes first: the others serve until their turn comes.
    const leaving = voters.find(({ node }) => !draft.isThere(node)) ?? voters[0];
    const to = leaving && targetFor(draft, replicas, leaving);
    const left = without(replicas, ...readers);
    const stranded = replicas.find((replica) => draft.isStranded(bucket, replica));
    if (to !== undefined) draft.set(bucket, withVoter(left, draft.newReplica(to, false), leaving));
    else if (stranded !== undefined) redirect(draft, bucket, stranded);
    else if (leaving !== undefined && bucket === SYSTEM_BUCKET && mayShrink(draft, without(left, leaving))) {
      draft.set(bucket, without(left, leaving));
    } else if (readers.length > 0) draft.set(bucket, left);
  }
}

/**
 * A system bucket that is on all nodes goes on with fewer when one of them is to be emptied. Where another node has none, and
 * only cannot be reached for a moment, that is waited for: of two voters the loss of one would be the end.
 */
function mayShrink(draft: Draft, left: Replicas): boolean {
  const mayWait = [...draft.usable].some((node) => !hasVoter(left, node) && !draft.input.away.has(node));
  return !mayWait && draft.canDecide(votersOf(left));
}

/**
 * What cannot arrive goes back where it came from, for there nothing is to be copied; elsewhere, if that node is to be emptied,
 * but back all the same if there is nobody else: what is settled takes no room from others.
 */
function redirect(draft: Draft, bucket: BucketId, stranded: ReplicaInfo): void {
  const replicas = draft.replicasOf(bucket);
  const before = votersOf(draft.input.last.get(bucket) ?? []);
  const back = before.find(({ node }) => !hasVoter(replicas, node))?.node;
  const isFree = back !== undefined && draft.targets.includes(back);
  const to = isFree ? back : (targetFor(draft, replicas, stranded) ?? back);
  if (to !== undefined) draft.set(bucket, withVoter(replicas, draft.newReplica(to, false), stranded));
  // It was to be one more than there were.
  else if (before.length > 0) draft.set(bucket, without(replicas, stranded));
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
      const cost = (voter: ReplicaInfo): number => {
        return draft.crowding.of(voter.node, stayingOf(replicas, voter)) * 1e9 + draft.load.of(voter.node);
      };
      const [costliest] = voters.slice(1).sort((a, b) => cost(b) - cost(a));
      const gone = voters.find(({ node }) => !draft.isThere(node)) ?? voters.find(({ node }) => !draft.usable.has(node));
      const worst = gone ?? costliest;
      const isSafe = draft.canDecide(voters.filter((voter) => voter !== worst));
      if (worst !== undefined && isSafe) draft.set(bucket, without(replicas, worst));
    }
  }
}

/** Of each bucket that voter goes elsewhere by which it gets best: followers first, and from full nodes to empty ones. */
function disperse(draft: Draft): void {
  for (const bucket of draft.crowded) {
    if (!draft.isOpen(bucket)) continue;
    const replicas = draft.replicasOf(bucket);
    let best: { readonly from: ReplicaInfo; readonly to: NodeId } | undefined;
    let most = 0;
    for (const from of votersOf(replicas).reverse()) {
      const to = targetFor(draft, replicas, from);
      if (to === undefined) continue;
      const staying = stayingOf(replicas, from);
      const gain = draft.crowding.of(from.node, staying) - draft.crowding.of(to, staying);
      const worth = gain * 1e9 + draft.load.of(from.node) - draft.load.of(to);
      if (gain <= 0 || worth <= most) continue;
      best = { from, to };
      most = worth;
    }
    if (best !== undefined) draft.set(bucket, withVoter(replicas, draft.newReplica(best.to, false), best.from));
  }
}

/** The emptiest node without a voter of the bucket, of those that share least with them; at best one that has the data. */
function targetFor(draft: Draft, replicas: Replicas, leaving?: ReplicaInfo): NodeId | undefined {
  const staying = stayingOf(replicas, leaving);
  let best: NodeId | undefined;
  let bestCost = Infinity;
  for (const node of draft.targets) {
    if (staying.includes(node)) continue;
    const hasData = replicas.some((replica) => replica.node === node);
    const cost = draft.crowding.of(node, staying) * 1e9 + draft.load.of(node) * 2 + (hasData ? 0 : 1);
    if (cost < bestCost) {
      best = node;
      bestCost = cost;
    }
  }
  return best;
}

/** The nodes of the voters but one. */
function stayingOf(replicas: Replicas, leaving: ReplicaInfo | undefined): NodeId[] {
  return votersOf(replicas).filter((voter) => voter !== leaving).map(({ node }) => node);
}

// --- 5 and 6

/**
 * First what any way to even loads has to move: from nodes that have more than their share to those that have less. Only when no
 * bucket can go that way any more, as it is there already or would share more, whatever makes two nodes more even.
 */
function balance(draft: Draft): void {
  const { load, usable } = draft;
  let sum = 0;
  for (const node of usable) sum += load.of(node);
  const [few, many] = [Math.floor(sum / usable.size), Math.ceil(sum / usable.size)];
  // Who has more than the most that any should has to give; when there is none any more, who has less than the least has to get.
  const needed = (from: NodeId): number => {
    const share = load.range(usable).most > many ? many : few;
    return load.of(from) > share ? share : 0;
  };
  const places = new Places(draft);
  if (!moveVoters(draft, places, needed)) moveVoters(draft, places, () => Infinity);
}

/** Moves voters from fuller nodes to emptier ones that have less than `below` says of the fuller; false if none can. */
function moveVoters(draft: Draft, places: Places, below: (from: NodeId) => number): boolean {
  let hasMoved = false;
  for (const [bucket, replicas] of draft.open()) {
    if (draft.load.spread(draft.usable) <= 1) break;
    let best: { readonly from: ReplicaInfo; readonly to: NodeId } | undefined;
    let gain = 1;
    // Of two that are on equally full nodes the follower: the bucket need not be handed over.
    for (const from of [...replicas].reverse()) {
      if (from.learner || !draft.usable.has(from.node)) continue;
      const limit = Math.min(draft.load.of(from.node) - gain, below(from.node));
      const to = limit > 0 ? places.emptiestFor(replicas, from, limit) : undefined;
      if (to === undefined) continue;
      gain = draft.load.of(from.node) - draft.load.of(to);
      best = { from, to };
    }
    if (best === undefined) continue;
    draft.set(bucket, withVoter(replicas, draft.newReplica(best.to, false), best.from));
    hasMoved = true;
  }
  return hasMoved;
}

/** Nodes that may get replicas, by host and zone, the emptiest of each first. For a bucket all of a place are as crowded. */
class Places {
  readonly #draft: Draft;
  readonly #nodes = new Map<string, NodeId[]>();
  #version = -1;

  constructor(draft: Draft) {
    this.#draft = draft;
    for (const node of draft.targets) {
      const place = draft.crowding.placeOf(node);
      const nodes = this.#nodes.get(place);
      if (nodes === undefined) this.#nodes.set(place, [node]);
      else nodes.push(node);
    }
  }

  /** Where a voter may go that has less load than `below`, and the voters share no more. */
  emptiestFor(replicas: Replicas, from: ReplicaInfo, below: number): NodeId | undefined {
    this.#sort();
    const draft = this.#draft;
    let least = below;
    let best: NodeId | undefined;
    let staying: NodeId[] | undefined;
    for (const nodes of this.#nodes.values()) {
      const first = nodes[0] ?? 0;
      if (draft.load.of(first) >= least) continue;
      staying ??= stayingOf(replicas, from);
      if (draft.crowding.of(first, staying) > draft.crowding.of(from.node, staying)) continue;
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
    let heir: NodeId | undefined;
    let least = leads.of(leader) - 1;
    for (const voter of replicas) {
      if (voter.learner || !usable.has(voter.node) || leads.of(voter.node) >= least) continue;
      if (isTooHot(draft, voter.node, bucket)) continue;
      heir = voter.node;
      least = leads.of(voter.node);
    }
    if (heir !== undefined) draft.set(bucket, withLeader(replicas, heir));
  }
}
