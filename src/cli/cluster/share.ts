import { setTimeout as sleep } from 'node:timers/promises';
import { isTidemarkError, messageOf } from '../../lib/errors.js';
import type { NodeId } from '../../placement/map.js';
import type { ConnectionArguments } from '../arguments.js';
import { showProgress, type Progress } from '../progress.js';
import { jsonLine, write, type Terminal } from '../terminal.js';
import { ask } from './ask.js';
import { CONTENT_MS, isStuck, reasonOf, stateOf, Stillness, type ProgressReply } from './settling.js';

/** What a node that has joined, and runs in this process, tells of the buckets that it gets. */
export interface ShareOptions {
  readonly node: NodeId;
  /** The node itself, and members that know more; a question that nobody answers in time is asked again. */
  readonly connection: ConnectionArguments;
  readonly terminal: Terminal;
  /** Aborted when the node is told to stop. */
  readonly signal: AbortSignal;
}

interface Share {
  /** Replicas that the node has, as far as is known: those on their way to it are not counted. */
  readonly replicas: number;
  /** What an even spread gives each node, about: a node may have none of the system bucket, which is counted with the others. */
  readonly share: number;
  readonly moving: number;
}

const LOOK_MS = 1000;
/** When nothing is on its way for so long, it tells why, and looks no longer. */
const STUCK_MS = 10_000;

/**
 * Shows how the share of a node grows until all of it is there, or nothing moves any more. The node serves meanwhile, whatever
 * becomes of this, so what cannot be asked is no error.
 */
export async function showShare(options: ShareOptions): Promise<void> {
  const { node, connection, signal } = options;
  const shown = new Shown(options);
  let last: ProgressReply | undefined;
  const stillness = new Stillness();
  let note = '';
  while (!signal.aborted) {
    try {
      last = await ask<ProgressReply>(connection, 'PlacementProgress', {});
      stillness.look(last);
      note = '';
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      note = `; nobody tells how far it is: ${messageOf(error)}`;
    }
    const now = last === undefined ? undefined : shareOf(last, node);
    if (now === undefined && last !== undefined) return shown.end(`node ${node} gets no buckets: ${NONE}`);
    if (last !== undefined && now !== undefined && note === '' && !signal.aborted) {
      await shown.update(now);
      if (isThere(now, last) && stillness.ms >= CONTENT_MS) return shown.complete({ ...now, share: now.replicas });
      if (isStuck(last, stillness.ms, STUCK_MS)) {
        return shown.end(`${partOf(node, now)}, and nothing moves: ${whyStill(last)}; ${LATER}`);
      }
    }
    shown.note(note);
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
  const now = last === undefined ? undefined : shareOf(last, node);
  const had = now === undefined ? `node ${node} stops before it has its share` : `${partOf(node, now)} and stops`;
  const ways = `the same command starts it again and the cluster goes on, 'tidemark cluster remove ${node}' ends it`;
  shown.end(`${had}; it stays a member: ${ways}`);
}

const NONE = 'it is to be emptied, or no member any more';
const LATER = "the cluster goes on by itself when it can, 'tidemark cluster status' shows it";

function partOf(node: NodeId, { replicas, share }: Share): string {
  return `node ${node} has ${replicas} replicas of the ${share} that are its share`;
}

function whyStill(progress: ProgressReply): string {
  const isAble = progress.moving.length === 0 && progress.unreachable.length === 0;
  return isAble ? `${stateOf(progress)}; zones or hosts may keep buckets where they are` : reasonOf(progress);
}

/** Nothing is on its way, and it has as many as others, or as many as the planner wants it to have. */
function isThere({ replicas, share, moving }: Share, { wanted }: ProgressReply): boolean {
  return moving === 0 && (wanted.steps === 0 || (replicas > 0 && replicas >= share));
}

/** Undefined if it is to have none. */
function shareOf({ nodes, moving }: ProgressReply, node: NodeId): Share | undefined {
  const taking = nodes.filter(({ draining }) => !draining);
  const own = taking.find(({ id }) => id === node);
  if (own === undefined) return undefined;
  const sum = nodes.reduce((all, { replicas }) => all + replicas, 0);
  const share = Math.floor(sum / taking.length);
  // Which of the buckets that move are on their way to it is not told: at most all of them.
  return { replicas: Math.max(0, own.replicas - moving.length), share, moving: moving.length };
}

function areSame(before: Share | undefined, now: Share): boolean {
  return before?.replicas === now.replicas && before.share === now.share && before.moving === now.moving;
}

/** Lines on standard error, or one JSON line for each change on standard output. */
class Shown {
  readonly #options: ShareOptions;
  #progress: Progress | undefined;
  #last: Share | undefined;
  #note = '';

  constructor(options: ShareOptions) {
    this.#options = options;
  }

  async update(now: Share): Promise<void> {
    const { node, connection, terminal } = this.#options;
    if (areSame(this.#last, now)) return;
    this.#last = now;
    if (connection.json) return write(terminal.stdout, jsonLine({ node, ...now, complete: false }));
    if (now.replicas >= now.share && now.moving === 0 && this.#progress === undefined) return;
    // Lines, also on a terminal: a bar would be torn by what the node logs.
    const title = `node ${node} gets its share`;
    this.#progress ??= showProgress(terminal, { title, total: now.share, unit: 'replicas', lines: true });
    this.#show();
  }

  /** What is to be shown behind the numbers until the next one. */
  note(note: string): void {
    this.#note = note;
    this.#show();
  }

  #show(): void {
    if (this.#last === undefined) return;
    const { replicas, share } = this.#last;
    this.#progress?.update(Math.min(replicas, share), { total: share, note: this.#note });
  }

  async complete(now: Share): Promise<void> {
    const { node, connection, terminal } = this.#options;
    this.#last = now;
    this.#show();
    this.#progress?.end();
    const text = `node ${node} has its share of the buckets: ${now.replicas} replicas\n`;
    await write(terminal.stdout, connection.json ? jsonLine({ node, ...now, complete: true }) : text);
  }

  end(why: string): void {
    this.#progress?.end();
    this.#options.terminal.stderr.write(`tidemark: ${why}\n`);
  }
}
