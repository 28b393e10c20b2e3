import { Draft, type PlannerInput } from './draft.js';
import type { NodeId } from './map.js';
import { isAsFounded } from './record.js';
import { hasVoter, votersOf } from './replicas.js';

/**
 * What the record does not give yet, of what it should: what the planner goes on with, and what it cannot do while nodes cannot
 * be reached. It counts by what the planner looks at, so that nobody calls done what that would still change for these reasons.
 */
export interface Wanted {
  /** Buckets that should have more voters, or fewer. */
  readonly tooFewVoters: number;
  readonly tooManyVoters: number;
  /** Replicas on nodes that are to be emptied, and on nodes that are taken for lost. */
  readonly onDraining: number;
  readonly onLost: number;
  /** Buckets whose voters share hosts or zones, more than they must. */
  readonly crowded: number;
  /** Replicas that nodes would get for an even spread, if they could be reached. */
  readonly short: number;
  /** Replicas that have to be made, moved or taken until all of that is so, and all nodes have equally many; about. */
  readonly steps: number;
}

export function wantedOf(input: PlannerInput): Wanted {
  const { record } = input;
  const draft = new Draft(input);
  let tooFewVoters = 0;
  let tooManyVoters = 0;
  let onDraining = 0;
  let onLost = 0;
  let steps = draft.crowded.length;
  for (const bucket of draft.missized) {
    const lacking = draft.votersWanted(bucket) - votersOf(draft.replicasOf(bucket)).length;
    if (lacking > 0) tooFewVoters += 1;
    else tooManyVoters += 1;
    steps += Math.abs(lacking);
  }
  for (const bucket of draft.stray) {
    for (const { node } of draft.replicasOf(bucket)) {
      if (record.draining.includes(node)) onDraining += 1;
      else if (!draft.usable.has(node)) onLost += 1;
    }
  }
  steps += onDraining + onLost + unevenBy(draft);
  const crowded = draft.crowded.length;
  return { tooFewVoters, tooManyVoters, onDraining, onLost, crowded, short: shortBy(draft), steps };
}

/** How many replicas have to move until nodes have equally many: those that some have too many, or that others lack. */
function unevenBy(draft: Draft): number {
  if (isAsFounded(draft.input.record)) return 0;
  const share = shareOf(draft);
  let over = 0;
  let under = 0;
  for (const node of draft.usable) {
    over += Math.max(0, draft.load.of(node) - Math.ceil(share));
    under += Math.max(0, Math.floor(share) - draft.load.of(node));
  }
  return Math.max(over, under);
}

function shortBy(draft: Draft): number {
  const { record, unreachable } = draft.input;
  if (isAsFounded(record)) return 0;
  const share = Math.floor(shareOf(draft));
  let short = 0;
  for (const node of unreachable) {
    const lacking = draft.usable.has(node) ? share - draft.load.of(node) : 0;
    if (lacking > 0) short += Math.min(lacking, couldTake(draft, node));
  }
  return short;
}

/** Buckets of which a fuller node would give its voter to this one, as no host or zone forbids it. */
function couldTake(draft: Draft, to: NodeId): number {
  const { crowding, load, usable } = draft;
  let count = 0;
  for (const { replicas } of draft.input.record.map) {
    if (hasVoter(replicas, to)) continue;
    const nodes = votersOf(replicas).map(({ node }) => node);
    const gives = (from: NodeId): boolean => {
      if (!usable.has(from) || load.of(from) <= load.of(to) + 1) return false;
      const staying = nodes.filter((node) => node !== from);
      return crowding.of(to, staying) <= crowding.of(from, staying);
    };
    if (nodes.some(gives)) count += 1;
  }
  return count;
}

/** Of the voters of data buckets, for each node that may keep any. */
function shareOf(draft: Draft): number {
  let sum = 0;
  for (const node of draft.usable) sum += draft.load.of(node);
  return sum / Math.max(1, draft.usable.size);
}
