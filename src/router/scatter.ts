import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Call } from './call.js';
import { type Dispatcher } from './dispatch.js';
import { leavesDoubt, type Answer, type Operation } from './operations.js';
import { Trail } from './trail.js';

/**
 * Operations on many buckets: one request per node for all the buckets it is asked for, again for those that it could not
 * serve, until each bucket has been served by exactly one node.
 *
 * Buckets whose leader is unknown are asked for in requests of their own, since a node refuses a request as a whole.
 */
type ManyOperation = Extract<Operation, { readonly buckets: readonly BucketId[] }>;

export interface Part<O extends ManyOperation> {
  readonly node: NodeId;
  readonly buckets: readonly BucketId[];
  readonly answer: Answer<O['kind']>;
}

export type Where = 'leader' | 'anywhere';

interface Group {
  readonly node: NodeId;
  readonly buckets: BucketId[];
}

/** Redirects that are followed at once before it is time to pause. */
const WAVES_PER_ROUND = 3;

export async function scatter<O extends ManyOperation>(
  dispatcher: Dispatcher,
  buckets: readonly BucketId[],
  where: Where,
  make: (buckets: readonly BucketId[]) => O,
  call: Call,
): Promise<Part<O>[]> {
  const parts: Part<O>[] = [];
  const trail = new Trail(where === 'leader');
  try {
    await gather(dispatcher, buckets, where, make, call, trail, parts);
    return parts;
  } catch (error) {
    if (!isTidemarkError(error) || !leavesDoubt(make([]))) throw error;
    // Some of the buckets have done it.
    if (parts.length > 0) trail.mayHaveApplied = true;
    throw trail.settle(error);
  }
}

async function gather<O extends ManyOperation>(
  dispatcher: Dispatcher,
  buckets: readonly BucketId[],
  where: Where,
  make: (buckets: readonly BucketId[]) => O,
  call: Call,
  trail: Trail,
  parts: Part<O>[],
): Promise<void> {
  let left: readonly BucketId[] = buckets;
  for (let wave = 1; ; wave += 1) {
    const anywhere = where === 'anywhere' && !trail.needsLeader;
    const groups = anywhere ? nearestGroups(dispatcher, left, trail) : leaderGroups(dispatcher, left, trail);
    const served = new Set<BucketId>();
    const attempts = await Promise.allSettled(
      groups.map(async (group) => {
        try {
          const answer = await dispatcher.attempt(group.node, make(group.buckets), call, trail);
          parts.push({ node: group.node, buckets: group.buckets, answer });
          for (const bucket of group.buckets) served.add(bucket);
        } catch (error) {
          dispatcher.note(group.node, error, trail, group.buckets);
          if (anywhere) trail.preferLeader();
        }
      }),
    );
    // When all have ended: who undoes what was asked for must not be overtaken by it.
    const failures = attempts.flatMap((attempt) => (attempt.status === 'rejected' ? [attempt.reason as unknown] : []));
    if (failures.length > 0) throw failures.reduce(latestOf);
    left = left.filter((bucket) => !served.has(bucket));
    if (left.length === 0) {
      dispatcher.answered(wave - 1 + Math.max(...parts.map(({ node }) => dispatcher.hopsTo(node))));
      return;
    }
    dispatcher.checkTime(trail, call, () => describe(left));
    if (groups.length > 0 && wave % WAVES_PER_ROUND !== 0) continue;
    await dispatcher.pause(trail, call, left[0]);
    dispatcher.checkTime(trail, call, () => describe(left));
  }
}

/** Who was refused a moment by several nodes must ask for the latest of those that they name. */
function latestOf(first: unknown, other: unknown): unknown {
  const named = earliestReadable(first);
  return named > 0 && earliestReadable(other) > named ? other : first;
}

function earliestReadable(error: unknown): number {
  return isTidemarkError(error) ? Number(error.details['earliestReadable'] ?? 0) : 0;
}

function leaderGroups(dispatcher: Dispatcher, buckets: readonly BucketId[], trail: Trail): Group[] {
  const led = new Map<NodeId, BucketId[]>();
  const guessed = new Map<NodeId, BucketId[]>();
  for (const bucket of buckets) {
    const node = dispatcher.leader(bucket, trail);
    if (node === undefined) continue;
    const groups = node === dispatcher.cache.leaderOf(bucket) ? led : guessed;
    const group = groups.get(node);
    if (group === undefined) groups.set(node, [bucket]);
    else group.push(bucket);
  }
  return [...led, ...guessed].map(([node, members]) => ({ node, buckets: members }));
}

/** Few nodes, near ones first, that together have a replica of each bucket. */
function nearestGroups(dispatcher: Dispatcher, buckets: readonly BucketId[], trail: Trail): Group[] {
  const hosted = new Map<NodeId, BucketId[]>();
  for (const bucket of buckets) {
    for (const { node } of dispatcher.cache.replicasOf(bucket)) {
      if (trail.asked.has(node)) continue;
      const list = hosted.get(node);
      if (list === undefined) hosted.set(node, [bucket]);
      else list.push(bucket);
    }
  }
  const nodes = [...hosted].map(([node, list]) => ({ node, list, distance: dispatcher.distance(node) }));
  nodes.sort((a, b) => a.distance - b.distance || b.list.length - a.list.length);
  const taken = new Set<BucketId>();
  const groups: Group[] = [];
  for (const { node, list } of nodes) {
    const mine = list.filter((bucket) => !taken.has(bucket));
    if (mine.length === 0) continue;
    for (const bucket of mine) taken.add(bucket);
    groups.push({ node, buckets: mine });
  }
  return groups;
}

function describe(buckets: readonly BucketId[]): string {
  const shown = buckets.slice(0, 8).join(', ');
  const rest = buckets.length > 8 ? ` and ${buckets.length - 8} more` : '';
  return `${buckets.length === 1 ? 'bucket' : 'buckets'} ${shown}${rest}`;
}

export function malformedAnswer(what: string): TidemarkError {
  return new TidemarkError('INTERNAL', 'MALFORMED_ANSWER', `a node's answer makes no sense: ${what}`);
}
