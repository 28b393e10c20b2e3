import { setTimeout as sleep } from 'node:timers/promises';
import { TidemarkError } from '../../lib/errors.js';
import { movingNamed, nodesNamed } from '../../placement/map.js';
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
nothing is on its way: then it says what is still wanted and why, and ends with exit code 6. It does so as well when nodes
cannot be reached, and for five minutes nothing that is on its way arrives. The cluster goes on by itself, also when the
wait is interrupted.`;

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
 * Of what is on its way nothing is seen until a whole bucket is there. While nodes cannot be reached that may be never; but the
 * planner sends nothing to them, and so it is for much longer than it takes to call a move off, and than most buckets need.
 */
const ARRIVE_MS = 300_000;

/** For how long nothing has moved, as far as the planner tells. */
export class Stillness {
  #last: ProgressReply | undefined;
  #movedMs = performance.now();

  look(now: ProgressReply): void {
    if (this.#last === undefined || hasMoved(this.#last, now)) this.#movedMs = performance.now();
    this.#last = now;
  }

  get ms(): number {
    return performance.now() - this.#movedMs;
  }
}

function hasMoved(before: ProgressReply, now: ProgressReply): boolean {
  return before.epoch !== now.epoch || before.moving.length !== now.moving.length || before.wanted.steps !== now.wanted.steps;
}

/** It is of no use to wait any longer, when nothing has moved for so long: at least `patienceMs`. */
export function isStuck(progress: ProgressReply, stillMs: number, patienceMs: number): boolean {
  if (underWay(progress) === 0) return stillMs >= patienceMs;
  return progress.unreachable.length > 0 && stillMs >= Math.max(patienceMs, ARRIVE_MS);
}

/** Buckets that somebody leads, and brings where they should be. */
function underWay({ moving, leaderless }: ProgressReply): number {
  return moving.length - leaderless.length;
}

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
  const stillness = new Stillness();
  try {
    for (;;) {
      stillness.look(progress);
      const isDone = isInPlace(progress, emptied);
      if (isDone && stillness.ms >= CONTENT_MS) break;
      if (isStuck(progress, stillness.ms, patienceMs)) return progress;
      bar.show(leftOf(progress, emptied), isDone || stillness.ms < EXPLAIN_MS ? '' : `; ${whyStill(progress)}`);
      await sleep(LOOK_MS, undefined, { signal: lifetime.signal }).catch(() => undefined);
      if (lifetime.signal.aborted) throw new TidemarkError('CANCELLED', 'INTERRUPTED', `interrupted: ${goesOn}`);
      progress = await ask<ProgressReply>(options, 'PlacementProgress', {});
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
export function stateOf(progress: ProgressReply): string {
  const { moving, leaderless, wanted } = progress;
  const kinds = KINDS.filter((kind) => wanted[kind] > 0);
  const parts = kinds.map((kind) => `${wanted[kind]} ${WANTED[kind][wanted[kind] === 1 ? 0 : 1]}`);
  if (moving.length > 0) parts.unshift(movingNamed(underWay(progress), leaderless.length));
  return parts.length === 0 ? 'everything is in its place' : parts.join(', ');
}

/** Why nothing new is seen. */
function whyStill(progress: ProgressReply): string {
  if (underWay(progress) === 0) return `nothing moves: ${reasonOf(progress)}`;
  const { unreachable } = progress;
  const away = unreachable.length > 0 ? `, and ${nodesNamed(unreachable)} cannot be reached` : '';
  return `${movingNamed(underWay(progress), 0)}${away}`;
}

/** Why nothing moves. */
export function reasonOf({ leaderless, unreachable }: ProgressReply): string {
  if (unreachable.length > 0) return `${nodesNamed(unreachable)} cannot be reached`;
  if (leaderless.length > 0) return movingNamed(0, leaderless.length);
  return 'the planner finds nothing that it could move';
}

/** The wait was of no use. */
export function notInPlace(progress: ProgressReply, { emptied, goesOn }: Waiting): TidemarkError {
  const held = emptied === undefined ? 0 : replicasOn(progress.nodes, emptied);
  const still = held === 0 ? stateOf(progress) : `node ${emptied} still has ${held} replicas`;
  const message = `not everything is in its place: ${still}; ${reasonOf(progress)}; ${goesOn}`;
  return new TidemarkError('UNAVAILABLE', 'NOT_IN_PLACE', message, { retriable: true });
}
