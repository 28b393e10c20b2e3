import type { Draft } from './draft.js';
import type { BucketHeat } from './heat.js';
import { readReplicasKept, readReplicasWanted } from './hot.js';
import type { BucketId, NodeId, ReplicaInfo } from './map.js';
import { leaderOf, readersOf, votersOf, without, type Replicas } from './replicas.js';

/** What the planner does because of heat. None of it makes or takes a voter. */

/** What nodes lead is uneven where one leads so many times the mean, and more than what makes a replica hot beyond it. */
const UNEVEN = 1.5;
/** An exchange for less than this part of the difference between two nodes is not worth it. */
const TRIFLE = 1 / 16;

/**
 * Takes read replicas that are not needed any more, from the hottest nodes first; and at once those beyond what there may be, and
 * those on nodes that are away: they serve nobody, and others are to take their place.
 */
export function coolDown(draft: Draft): void {
  const { away, cool, heat, rules } = draft.input;
  for (const bucket of draft.helped) {
    if (!draft.isOpenForHeat(bucket)) continue;
    const replicas = draft.replicasOf(bucket);
    const readers = readersOf(replicas);
    const reads = heat.buckets.get(bucket)?.reads ?? 0;
    const isCool = cool.has(bucket);
    const kept = isCool ? readReplicasKept(reads, votersOf(replicas).length, rules) : rules.readReplicasMax;
    const gone = readers.filter(({ node }) => away.has(node));
    const serving = without(readers, ...gone);
    serving.sort((a, b) => draft.heat.of(b.node) - draft.heat.of(a.node) || b.id - a.id);
    gone.push(...serving.slice(0, Math.max(0, serving.length - kept)));
    if (gone.length > 0) draft.set(bucket, without(replicas, ...gone));
  }
}

/** Gives hot buckets the read replicas that they lack, the hottest first. */
export function helpHot(draft: Draft): void {
  const { heat, rules } = draft.input;
  const isHot = ({ bucket, reads }: BucketHeat): boolean => reads > rules.hotReadsPerSecond * draft.votersWanted(bucket);
  const hot = [...heat.buckets.values()].filter(isHot);
  hot.sort((a, b) => b.reads - a.reads || a.bucket - b.bucket);
  for (const { bucket, reads } of hot) {
    if (!draft.isOpenForHeat(bucket)) continue;
    let replicas = draft.replicasOf(bucket);
    const voters = votersOf(replicas).length;
    const lacking = readReplicasWanted(reads, voters, rules) - (replicas.length - voters);
    const hottest = Math.max(...replicas.map(({ node }) => draft.heat.of(node)));
    for (let added = 0; added < lacking; added += 1) {
      const node = coolestFor(draft, replicas, hottest);
      if (node === undefined) break;
      replicas = [...replicas, draft.newReplica(node, true)];
      draft.heat.add(node, reads / replicas.length);
    }
    if (replicas.length > draft.replicasOf(bucket).length) draft.set(bucket, replicas);
  }
}

/**
 * The coolest node without a replica of the bucket, on a host and in a zone where few serve it; undefined if none is cooler than
 * the hottest that served it so far: then it would help nobody.
 */
function coolestFor(draft: Draft, replicas: Replicas, hottest: number): NodeId | undefined {
  const serving = replicas.map(({ node }) => node);
  let best: NodeId | undefined;
  let bestCost = Infinity;
  for (const node of draft.targets) {
    const heat = draft.heat.of(node);
    if (serving.includes(node) || heat >= hottest) continue;
    // Among nodes that are equally cool the emptiest.
    const cost = draft.crowding.of(node, serving) * 1e9 + heat + draft.load.of(node) / 1e6;
    if (cost < bestCost) {
      best = node;
      bestCost = cost;
    }
  }
  return best;
}

/** Above this what a node leads is too much. It depends on the heat alone, not on who leads what. */
function evenHeat({ input, leadHeat, usable }: Draft): number {
  let sum = 0;
  for (const { id } of input.record.nodes) sum += leadHeat.of(id);
  const mean = sum / Math.max(1, usable.size);
  return Math.max(UNEVEN * mean, mean + input.rules.hotReadsPerSecond);
}

/** A node would lead too much with that bucket as well. */
export function isTooHot(draft: Draft, node: NodeId, bucket: BucketId): boolean {
  const weight = draft.weightOf(bucket);
  return weight > 0 && draft.leadHeat.of(node) + weight > evenHeat(draft);
}

/**
 * Exchanges one preferred leader, where a node leads too much: that which makes the two nodes most even, and leaves the heir no
 * hotter than the other, so that nothing ever goes back.
 */
export function balanceHeat(draft: Draft): void {
  const { input, leadHeat, targets } = draft;
  const limit = evenHeat(draft);
  if (!input.record.nodes.some(({ id }) => leadHeat.of(id) > limit)) return;
  let best: { readonly bucket: BucketId; readonly heir: ReplicaInfo } | undefined;
  let bestGain = 0;
  for (const bucket of input.heat.buckets.keys()) {
    const replicas = draft.replicasOf(bucket);
    const leader = leaderOf(replicas);
    if (leader === undefined || leadHeat.of(leader) <= limit || !draft.isOpenForHeat(bucket)) continue;
    const weight = draft.weightOf(bucket);
    for (const voter of replicas) {
      if (voter.learner || !targets.includes(voter.node)) continue;
      const gap = leadHeat.of(leader) - leadHeat.of(voter.node);
      const gain = weight * (gap - weight);
      if (2 * weight > gap || weight < gap * TRIFLE || gain <= bestGain) continue;
      best = { bucket, heir: voter };
      bestGain = gain;
    }
  }
  if (best === undefined) return;
  const replicas = draft.replicasOf(best.bucket);
  draft.set(best.bucket, [best.heir, ...without(replicas, best.heir)]);
}
