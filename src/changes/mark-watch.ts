import type { Timer, Timers } from '../env/time.js';
import type { Clock } from '../env/env.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import { markOf, resolvedOf, type FeedReplica } from './feed.js';

/**
 * Those who have read a feed to its end and wait until there may be more: until the mark of their buckets has passed what they
 * have. One message answers for all buckets of a node, so idle buckets cost a comparison each, and nothing on the wire.
 *
 * Marks are looked at on one timer for all, LOOK_MS apart, and once for all who wait for the same buckets. Who waits too long is
 * told which buckets hold the mark back: another replica may know more of them.
 *
 * While somebody waits, buckets that are led here are closed every CLOSE_MS, not only with their heartbeats: else a change would
 * wait for the next heartbeats of all buckets at rest. That is a few comparisons each, since a quorum knows their floors already;
 * followers hear of it with the next heartbeat, so streams do well to ask leaders (router/feed-replicas.ts).
 */
export interface MarkAnswer {
  readonly mark: Timestamp;
  /** Buckets that have not passed what was asked for. */
  readonly behind: readonly BucketId[];
}

const LOOK_MS = 20;
const CLOSE_MS = 40;

interface Waiter {
  readonly replicas: readonly FeedReplica[];
  /** Who waits for the same buckets has the same. */
  readonly of: string;
  readonly above: Timestamp;
  readonly untilMs: number;
  readonly resolve: (answer: MarkAnswer) => void;
  readonly reject: (error: TidemarkError) => void;
}

/** The same for all who wait for the same buckets. */
interface Seen {
  readonly mark: Timestamp;
  readonly installing: FeedReplica | undefined;
}

function look(replicas: readonly FeedReplica[]): Seen {
  return { mark: markOf(replicas), installing: replicas.find((replica) => replica.installing) };
}

export class MarkWatch {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #max: number;
  #waiters: Waiter[] = [];
  #timer: Timer | undefined;
  #closedMs = -Infinity;

  constructor(clock: Clock, timers: Timers, max: number) {
    this.#clock = clock;
    this.#timers = timers;
    this.#max = max;
  }

  /** Resolves when the least mark of the replicas is above `above`, or at `untilMs`; rejects when one cannot tell any more. */
  wait(replicas: readonly FeedReplica[], above: Timestamp, untilMs: number): Promise<MarkAnswer> {
    const mark = markOf(replicas);
    if (mark > above) return Promise.resolve({ mark, behind: [] });
    if (this.#waiters.length >= this.#max) {
      const message = `${this.#waiters.length} requests wait for marks here; no more are taken`;
      return Promise.reject(new TidemarkError('RESOURCE_EXHAUSTED', 'TOO_MANY_WAITERS', message, { retriable: true }));
    }
    const of = replicas.map(({ bucket }) => bucket).join();
    return new Promise((resolve, reject) => {
      this.#waiters.push({ replicas, of, above, untilMs, resolve, reject });
      this.#arm();
    });
  }

  #arm(): void {
    if (this.#waiters.length === 0) return;
    this.#timer ??= this.#timers.after(LOOK_MS, () => {
      this.#timer = undefined;
      this.#look();
      this.#arm();
    });
  }

  #look(): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#closedMs >= CLOSE_MS && !mutant('watched-buckets-rest')) {
      this.#closedMs = nowMs;
      const groups = new Map(this.#waiters.map(({ of, replicas }) => [of, replicas]));
      for (const replica of new Set([...groups.values()].flat())) replica.closeNow();
    }
    const seen = new Map<string, Seen>();
    this.#waiters = this.#waiters.filter(({ replicas, of, above, untilMs, resolve, reject }) => {
      const known = seen.get(of);
      const { mark, installing } = known ?? look(replicas);
      if (known === undefined) seen.set(of, { mark, installing });
      if (installing !== undefined) {
        reject(installing.notLeader());
        return false;
      }
      if (mark <= above && nowMs < untilMs) return true;
      const behind = mark > above ? [] : replicas.filter((replica) => resolvedOf(replica) <= above);
      resolve({ mark, behind: behind.map(({ bucket }) => bucket) });
      return false;
    });
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    const error = new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', 'this node is stopping', { retriable: true });
    for (const { reject } of this.#waiters) reject(error);
    this.#waiters = [];
  }
}
