import type { Clock, Random } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { randomIdentity } from '../env/time.js';
import { isTidemarkError } from '../lib/errors.js';
import type { RequestId, Timestamp } from '../bucket/requests.js';
import { checkTimestamp, earlier, TIMESTAMP_MAX } from '../mvcc/timestamp.js';
import { isBornAhead } from './dispatch.js';

/**
 * Request ids. A bucket remembers the results of a session's commands from the lowest one whose answer is still awaited, so
 * that a retry gets the first result. Therefore a session is short (limits.sessionLifetimeMs, far below the time for which
 * buckets remember sessions), and a command that stays unanswered while many others pass must not make buckets remember all of
 * them: then, too, a new session begins. Commands under way keep the id they were given.
 *
 * A bucket that sees many sessions forgets idle ones earlier, and then takes a session for forgotten that it never saw, if it is
 * no younger. Such a command was not done, and is sent again in a session that is younger than what the bucket says.
 *
 * The birth is only held against such a horizon. It is told a little early, so that a node whose clock is behind does not refuse
 * the session for coming from its future; a node that still does names its own time, and the next session is born then.
 */
const BORN_EARLY_MS_MAX = 60_000;
const BORN_EARLY_PART = 1 / 8;
/** New sessions for one command; each is younger than all that its bucket had forgotten a moment ago. */
const RENEWALS_MAX = 3;

export class Sessions {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #limits: Limits;
  readonly #now: () => Timestamp;
  #session: Session | undefined;
  #bornAfter: Timestamp = 0;
  /** For the next session only. */
  #bornBefore: Timestamp = TIMESTAMP_MAX;

  /** `now` tells a session's birth on the cluster's timeline. */
  constructor(clock: Clock, random: Random, limits: Limits, now: () => Timestamp) {
    this.#clock = clock;
    this.#random = random;
    this.#limits = limits;
    this.#now = now;
  }

  /** The id for a new command. Call `end` once when nobody awaits its answer any more. */
  begin(): Ticket {
    const nowMs = this.#clock.monotonicMs();
    if (this.#session === undefined || this.#session.isWornOut(nowMs, this.#limits)) {
      this.#session = new Session(this.#random, this.#birth(), nowMs);
    }
    return this.#session.begin();
  }

  /** Gives the command an id of the present session; of a new one, if its bucket or node takes none of that. */
  async run<T>(execute: (id: RequestId) => Promise<T>): Promise<T> {
    for (let renewals = 0; ; renewals += 1) {
      const ticket = this.begin();
      try {
        return await execute(ticket.id);
      } catch (error) {
        if (renewals === RENEWALS_MAX || !this.#renew(ticket.id.session, error)) throw error;
      } finally {
        ticket.end();
      }
    }
  }

  /** Whether the command was not done, and may be in a new session. */
  #renew(session: number, error: unknown): boolean {
    if (isBornAhead(error)) {
      this.#renewBefore(session, checkTimestamp(Number(error.details['now']), 'now'));
      return true;
    }
    const horizon = isTidemarkError(error) && error.reason === 'REQUEST_FORGOTTEN' ? error.details['horizon'] : undefined;
    if (horizon === undefined) return false;
    this.#renewAfter(session, checkTimestamp(Number(horizon), 'horizon'));
    return true;
  }

  /** The first id of a session that somebody else keeps, and ends as it likes. */
  alone(): RequestId {
    return new Session(this.#random, this.#birth(), 0).begin().id;
  }

  #birth(): Timestamp {
    const earlyMs = Math.min(BORN_EARLY_MS_MAX, this.#limits.sessionRetentionMs * BORN_EARLY_PART);
    const born = Math.max(this.#bornAfter + 1, Math.min(this.#bornBefore, earlier(this.#now(), earlyMs)));
    this.#bornBefore = TIMESTAMP_MAX;
    return born;
  }

  /** A bucket has forgotten sessions born up to `horizon`, and takes this one for one of them: the next is younger. */
  #renewAfter(session: number, horizon: Timestamp): void {
    this.#bornAfter = Math.max(this.#bornAfter, horizon);
    if (this.#session?.id === session) this.#session = undefined;
  }

  /** A node whose clock shows `now` refuses this one for coming from its future: the next is older. */
  #renewBefore(session: number, now: Timestamp): void {
    this.#bornBefore = now;
    if (this.#session?.id === session) this.#session = undefined;
  }
}

export interface Ticket {
  readonly id: RequestId;
  end(): void;
}

class Session {
  readonly id: number;
  readonly #born: Timestamp;
  readonly #bornMs: number;
  #next = 1;
  #lowest = 1;
  /** Ended commands above the lowest one that has not. */
  readonly #ended = new Set<number>();

  constructor(random: Random, born: Timestamp, bornMs: number) {
    this.id = randomIdentity(random);
    this.#born = born;
    this.#bornMs = bornMs;
  }

  isWornOut(nowMs: number, limits: Limits): boolean {
    return nowMs - this.#bornMs >= limits.sessionLifetimeMs || this.#next - this.#lowest >= limits.sessionResultsMax / 2;
  }

  begin(): Ticket {
    const sequence = this.#next;
    this.#next += 1;
    const id = { session: this.id, born: this.#born, sequence, lowest: this.#lowest };
    return { id, end: () => this.#end(sequence) };
  }

  #end(sequence: number): void {
    if (sequence !== this.#lowest) {
      this.#ended.add(sequence);
      return;
    }
    this.#lowest += 1;
    while (this.#ended.delete(this.#lowest)) this.#lowest += 1;
  }
}
