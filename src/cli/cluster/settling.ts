import { setTimeout as sleep } from 'node:timers/promises';
import { TidemarkError } from '../../lib/errors.js';
import { nodesNamed } from '../../placement/map.js';
import type { ConnectionArguments } from '../arguments.js';
import { beginLifetime } from '../lifetime.js';
import { showProgress, type Progress } from '../progress.js';
import type { Terminal } from '../terminal.js';
import { ask } from './ask.js';

export interface PlacedNode {
  readonly id: number;
  readonly replicas: number;
  readonly draining: boolean;
  readonly leads: number;
}

/** What the node that plans tells of the placement, and the wait until it is as it should be. */
export interface ProgressReply {
  readonly epoch: number;
  readonly replicas: number;
  readonly bucketReplicas: readonly { readonly buckets: readonly number[]; readonly count: number }[];
  readonly nodes: readonly PlacedNode[];
  readonly moving: readonly number[];
  readonly leaderless: readonly number[];
  readonly wanted: Readonly<Record<keyof typeof WANTED | 'steps', number>>;
  readonly unreachable: readonly number[];
}

export interface Waiting {
  readonly options: ConnectionArguments;
  readonly terminal: Terminal;
  /** The node that is to be empty; undefined: everything is to be in its place. */
  readonly emptied: number | undefined;
  /** What the cluster does when nobody waits any more. */
  readonly goesOn: string;
}

export const WAIT_HELP = `
It waits for as long as replicas move. --timeout is for each question to the cluster, and for how long it waits while
nothing moves and nodes cannot be reached, or nothing is on its way: then it says what is still wanted and why, and ends
with exit code 6. The cluster goes on by itself, also when the wait is interrupted.`;

const WANTED = {
  tooFewVoters: ['bucket has fewer voters than wanted', 'buckets have fewer voters than wanted'],
  tooManyVoters: ['bucket has more voters than wanted', 'buckets have more voters than wanted'],
  onDraining: ['replica is on a node that is drained', 'replicas are on nodes that are drained'],
  onLost: ['replica is on a node that is lost', 'replicas are on nodes that are lost'],
  crowded: ['bucket shares hosts or zones more than it must', 'buckets share hosts or zones more than they must'],
  short: ['replica would go to a node that cannot be reached', 'replicas would go to nodes that cannot be reached'],
} as const;

const LOOK_MS = 500;
/** The planner looks once a second: when nothing has moved for this long it is content, or can do nothing. */
export const CONTENT_MS = 3000;
/** Whoever waits wants to know why, when nothing has moved for so long: with the next line that is shown. */
const EXPLAIN_MS = 4000;

/**
 * Waits until what was asked for is so, and the planner wants nothing more, or until it is of no use to wait any longer: the
 * answer tells which. Throws INTERRUPTED when the user does not want to.
 */
export async function settled(start: ProgressReply, waiting: Waiting): Promise<ProgressReply> {
  const { options, emptied, goesOn } = waiting;
  const lifetime = beginLifetime();
  const bar = new SettlingBar(waiting);
  const patienceMs = Math.max(CONTENT_MS, options.timeout);
  let progress = start;
  let movedMs = performance.now();
  try {
    for (;;) {
      const stillMs = performance.now() - movedMs;
      const isDone = isInPlace(progress, emptied);
      if (isDone && stillMs >= CONTENT_MS) break;
      const isStuck = progress.moving.length === 0 || progress.unreachable.length > 0;
      if (isStuck && stillMs >= patienceMs) return progress;
      bar.show(leftOf(progress, emptied), isDone || stillMs < EXPLAIN_MS ? '' : `; nothing moves: ${reasonOf(progress)}`);
      await sleep(LOOK_MS, undefined, { signal: lifetime.signal }).catch(() => undefined);
      if (lifetime.signal.aborted) throw new TidemarkError('CANCELLED', 'INTERRUPTED', `interrupted: ${goesOn}`);
      const next = await ask<ProgressReply>(options, 'PlacementProgress', {});
      if (next.epoch !== progress.epoch || leftOf(next, emptied) !== leftOf(progress, emptied)) movedMs = performance.now();
      progress = next;
    }
    bar.show(0, '');
    return progress;
  } finally {
    bar.end();
    lifetime.end();
  }
}

/** Counts down what is left; more than was known before makes the whole larger. Where nothing is to do it shows nothing. */
class SettlingBar {
  readonly #waiting: Waiting;
  #bar: Progress | undefined;
  #total = 0;

  constructor(waiting: Waiting) {
    this.#waiting = waiting;
  }

  show(left: number, note: string): void {
    this.#total = Math.max(this.#total, left);
    const total = this.#total;
    if (total === 0) return;
    const { emptied, terminal } = this.#waiting;
    const title = emptied === undefined ? 'moving replicas' : `emptying node ${emptied}`;
    this.#bar ??= showProgress(terminal, { title, total, unit: 'replicas' });
    this.#bar.update(total - left, { total, note });
  }

  end(): void {
    this.#bar?.end();
  }
}

/** Whether everything is where it should be, or the node is empty, and nothing is on its way. */
export function isInPlace({ moving, wanted, nodes }: ProgressReply, emptied?: number): boolean {
  if (moving.length > 0) return false;
  if (emptied !== undefined) return replicasOn(nodes, emptied) === 0;
  return KINDS.every((kind) => wanted[kind] === 0);
}

function leftOf({ moving, wanted, nodes }: ProgressReply, emptied: number | undefined): number {
  return moving.length + (emptied === undefined ? wanted.steps : replicasOn(nodes, emptied));
}

function replicasOn(nodes: ProgressReply['nodes'], node: number): number {
  return nodes.find(({ id }) => id === node)?.replicas ?? 0;
}

const KINDS = Object.keys(WANTED) as (keyof typeof WANTED)[];

/** How far it has come, in a few words. */
export function stateOf({ moving, leaderless, wanted }: ProgressReply): string {
  const kinds = KINDS.filter((kind) => wanted[kind] > 0);
  const parts = kinds.map((kind) => `${wanted[kind]} ${WANTED[kind][wanted[kind] === 1 ? 0 : 1]}`);
  if (leaderless.length > 0) parts.unshift(withoutLeader(leaderless.length));
  if (moving.length > leaderless.length) parts.unshift(onTheWay(moving.length - leaderless.length));
  return parts.length === 0 ? 'everything is in its place' : parts.join(', ');
}

function onTheWay(count: number): string {
  return count === 1 ? '1 bucket is on its way' : `${count} buckets are on their way`;
}

function withoutLeader(count: number): string {
  return count === 1 ? '1 bucket has no leader' : `${count} buckets have no leader`;
}

export function reasonOf({ moving, leaderless, unreachable }: ProgressReply): string {
  if (unreachable.length > 0) return `${nodesNamed(unreachable)} cannot be reached`;
  if (leaderless.length > 0) return withoutLeader(leaderless.length);
  return moving.length > 0 ? onTheWay(moving.length) : 'the planner finds nothing that it could move';
}

/** The wait was of no use. */
export function notInPlace(progress: ProgressReply, { emptied, goesOn }: Waiting): TidemarkError {
  const held = emptied === undefined ? 0 : replicasOn(progress.nodes, emptied);
  const still = held === 0 ? stateOf(progress) : `node ${emptied} still has ${held} replicas`;
  const message = `not everything is in its place: ${still}; ${reasonOf(progress)}; ${goesOn}`;
  return new TidemarkError('UNAVAILABLE', 'NOT_IN_PLACE', message, { retriable: true });
}
