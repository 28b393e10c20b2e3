import { assert } from '../lib/assert.js';
import { TidemarkError } from '../lib/errors.js';
import type { Limits } from '../env/limits.js';
import { mutant } from '../lib/mutants.js';
import { formatTimestamp, later } from '../mvcc/timestamp.js';
import type { RequestId, Timestamp, WriteResult } from './requests.js';

/**
 * The results of recent commands by request id, so that a retry gets the first result and nothing applies twice.
 *
 * The table is part of the bucket's replicated state: it changes only in apply, equally on every replica. It lives in memory
 * and is written to disk now and then (a checkpoint); the log is kept from the last checkpoint on, and replaying it over the
 * checkpoint restores the table.
 *
 * It is bounded, in sessions and in bytes. A session that was idle for the retention time is forgotten; if there are too many,
 * the one that was idle for longest is, at the entry that brings one too many. `horizon` remembers that: it is at or above
 * the birth of every session that was ever forgotten, so one born at or below it that is not in the table may have executed
 * anything, and its answer is `unknown`, never execution. A live client that meets this has done nothing yet under the id,
 * knows it, and begins a new session (router/session.ts).
 *
 * Example, room for two: A (born 1, used at 5), B (born 2, used at 9), then C at 12. A is forgotten, the horizon is 5. A retry
 * of A is unknown, and so is a session born at 4 that was never here; one born at 6 is new.
 */
export interface SessionLimits {
  /** How long an idle session is remembered, in timestamp units. */
  readonly retention: number;
  /** Results of one session. */
  readonly resultsMax: number;
  readonly sessionsMax: number;
  /** Of all sessions, by SESSION_BYTES and RESULT_BYTES. */
  readonly bytesMax: number;
}

export function sessionLimitsOf(limits: Limits): SessionLimits {
  return {
    retention: later(0, limits.sessionRetentionMs),
    resultsMax: limits.sessionResultsMax,
    sessionsMax: limits.sessionsPerBucketMax,
    bytesMax: limits.sessionBytesPerBucketMax,
  };
}

/** What a session and a result take in memory, about; what counts is that all replicas reckon alike. */
const SESSION_BYTES = 224;
const RESULT_BYTES = 32;

export function bytesOfFullSession(resultsMax: number): number {
  return SESSION_BYTES + resultsMax * RESULT_BYTES;
}

/** A result takes this many numbers in `Session.results`: sequence, commit timestamp, failed condition, failed version. */
export const RESULT_FIELDS = 4;

export interface Session {
  readonly id: number;
  /** The highest `lowest` that the client has sent. */
  readonly lowest: number;
  /** Timestamp of the entry of its last command, or the session's birth if the client's clock was ahead of that. */
  readonly lastUsed: Timestamp;
  /** Flat, in the order of apply: most sessions have one result or two. */
  readonly results: readonly number[];
  /** Where in `results` they begin: what is in front of it is forgotten. */
  readonly start: number;
}

/** As the table holds it. One that a frozen table may share is copied before it changes. */
interface OwnSession extends Session {
  lowest: number;
  lastUsed: Timestamp;
  results: number[];
  start: number;
  /**
   * The sequences of the results in ascending order, behind as many of forgotten ones as there are forgotten results; undefined
   * while the results are in that order themselves, as they are in most sessions.
   */
  sequences: number[] | undefined;
  /** The freezes before it was made: one with fewer than there are now may be shared. */
  readonly freezes: number;
}

/** The whole table as of one entry; it stays as it is. Sessions are in the order in which they were last used. */
export interface FrozenSessions {
  readonly horizon: Timestamp;
  readonly sessions: readonly Session[];
}

export type Lookup =
  | { readonly kind: 'new' }
  | { readonly kind: 'done'; readonly result: WriteResult }
  | { readonly kind: 'unknown' };

const NEW: Lookup = { kind: 'new' };
const UNKNOWN: Lookup = { kind: 'unknown' };

export class Sessions {
  readonly #limits: SessionLimits;
  /** In the order in which they were last used. */
  readonly #sessions = new Map<number, OwnSession>();
  #bytes = 0;
  #horizon: Timestamp = 0;
  #freezes = 0;

  constructor(limits: SessionLimits) {
    const { resultsMax, sessionsMax, bytesMax } = limits;
    const fits = sessionsMax >= 1 && bytesMax >= bytesOfFullSession(resultsMax);
    assert(fits, 'the limits of sessions leave no room for one with all its results');
    this.#limits = limits;
  }

  get count(): number {
    return this.#sessions.size;
  }

  /** What they take in memory, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A session born at or below it that is not in the table may have executed anything. */
  get horizon(): Timestamp {
    return this.#horizon;
  }

  lookup(id: RequestId): Lookup {
    const session = this.#sessions.get(id.session);
    if (session === undefined) return id.born <= this.#horizon ? UNKNOWN : NEW;
    const { results, start } = session;
    // From the newest on: most retries are of late commands.
    for (let at = results.length - RESULT_FIELDS; at >= start; at -= RESULT_FIELDS) {
      if (results[at] === id.sequence && !mutant('retry-runs-again')) return { kind: 'done', result: resultAt(results, at) };
    }
    return id.sequence < session.lowest ? UNKNOWN : NEW;
  }

  /**
   * Apply only. `now` is the timestamp of the entry: that of the result may be another bucket's, whose clock may be ahead, and
   * neither forgets sessions nor counts as their last use here.
   */
  record(id: RequestId, result: WriteResult, now: Timestamp): void {
    const session = this.#take(id);
    // Forgotten while this command was in flight. Back here with this result alone, its earlier commands would seem new.
    if (session === undefined) return;
    addResult(session, id, result);
    this.#bytes += RESULT_BYTES;
    // The horizon that it leaves behind must cover its birth: that is what later requests are held against.
    session.lastUsed = Math.max(session.lastUsed, now, id.born);
    if (id.lowest > session.lowest) this.#raiseLowest(session, id.lowest);
    while (countOf(session) > this.#limits.resultsMax) this.#raiseLowest(session, lowestSequence(session) + 1);
    this.#sessions.set(id.session, session);
    this.#forget(now);
  }

  /** Takes the session out of the order, or makes it; undefined if it was forgotten. */
  #take(id: RequestId): OwnSession | undefined {
    const session = this.#sessions.get(id.session);
    if (session === undefined) {
      if (id.born <= this.#horizon) return undefined;
      this.#bytes += SESSION_BYTES;
      const empty = { results: [], start: 0, sequences: undefined };
      return { id: id.session, lowest: 0, lastUsed: 0, ...empty, freezes: this.#freezes };
    }
    this.#sessions.delete(id.session);
    return session.freezes === this.#freezes ? session : this.#own(session);
  }

  #own({ id, lowest, lastUsed, results, start }: Session): OwnSession {
    const own = results.slice(start);
    return { id, lowest, lastUsed, results: own, start: 0, sequences: sortedSequences(own), freezes: this.#freezes };
  }

  #raiseLowest(session: OwnSession, lowest: number): void {
    session.lowest = Math.max(session.lowest, lowest);
    this.#bytes -= dropBelow(session, lowest) * RESULT_BYTES;
  }

  /**
   * Forgets idle sessions, and those idle for longest while there are too many; driven by the timestamps of entries and by
   * counts, so that every replica does it at the same entry. The session just used stays: it is the last in order.
   */
  #forget(now: Timestamp): void {
    const { retention, sessionsMax, bytesMax } = this.#limits;
    for (const [id, session] of this.#sessions) {
      const isIdle = session.lastUsed <= now - retention;
      if (!isIdle && this.#sessions.size <= sessionsMax && this.#bytes <= bytesMax) return;
      this.#sessions.delete(id);
      this.#bytes -= sizeOf(session);
      if (!mutant('session-horizon-lost')) this.#horizon = Math.max(this.#horizon, session.lastUsed);
    }
  }

  /** The table as it is now, for a checkpoint or a snapshot, which are written in pieces while this one goes on. */
  freeze(): FrozenSessions {
    this.#freezes += 1;
    return { horizon: this.#horizon, sessions: [...this.#sessions.values()] };
  }

  /** Adds sessions of a frozen table, in its order, to one that is being restored. */
  restore(horizon: Timestamp, sessions: readonly Session[]): void {
    this.#horizon = Math.max(this.#horizon, horizon);
    for (const session of sessions) {
      this.#sessions.set(session.id, this.#own(session));
      this.#bytes += sizeOf(session);
    }
  }
}

export interface SessionsOfBucket {
  readonly bucket: number;
  readonly sessions: Pick<Sessions, 'horizon'>;
}

/** What a request is told whose lookup is `unknown`. The detail `horizon`: sessions born behind it are not forgotten here. */
export function forgotten({ session, born, sequence }: RequestId, { bucket, sessions }: SessionsOfBucket): TidemarkError {
  const { horizon } = sessions;
  const since = born <= horizon ? `; it knows all sessions that began after ${formatTimestamp(horizon)}` : '';
  return new TidemarkError(
    'FAILED_PRECONDITION',
    'REQUEST_FORGOTTEN',
    `bucket ${bucket} does not know any more whether request ${sequence} of session ${session} was applied${since}. ` +
      'Look what stands there, then go on in a new session',
    { outcome: 'unknown', details: { horizon: String(horizon) } },
  );
}

/** How many results it has. */
export function countOf({ results, start }: Session): number {
  return (results.length - start) / RESULT_FIELDS;
}

function sizeOf(session: Session): number {
  return SESSION_BYTES + countOf(session) * RESULT_BYTES;
}

function addResult(session: OwnSession, id: RequestId, result: WriteResult): void {
  const { results, sequences } = session;
  // The first by a literal: an array that grows from nothing reserves room for many, and most sessions have one.
  if (results.length === 0) session.results = fieldsOf(id, result);
  else results.push(...fieldsOf(id, result));
  if (sequences !== undefined) {
    // They come nearly in order, so its place is near the end.
    let at = sequences.length;
    while (at > session.start / RESULT_FIELDS && (sequences[at - 1] ?? 0) > id.sequence) at -= 1;
    sequences.splice(at, 0, id.sequence);
  } else if ((results.at(-2 * RESULT_FIELDS) ?? 0) > id.sequence) {
    trim(session);
    session.sequences = sortedSequences(session.results);
  }
}

function fieldsOf({ sequence }: RequestId, { timestamp, failedCondition, failedVersion }: WriteResult): number[] {
  return [sequence, timestamp, failedCondition, failedVersion];
}

function resultAt(results: readonly number[], at: number): WriteResult {
  const [, timestamp = 0, failedCondition = 0, failedVersion = 0] = results.slice(at, at + RESULT_FIELDS);
  return { applied: failedCondition < 0, timestamp, failedCondition, failedVersion };
}

function lowestSequence({ results, start, sequences }: OwnSession): number {
  return (sequences === undefined ? results[start] : sequences[start / RESULT_FIELDS]) ?? Infinity;
}

/** Undefined if the results are in this order themselves. */
function sortedSequences(results: readonly number[]): number[] | undefined {
  const sequences = results.filter((_, at) => at % RESULT_FIELDS === 0);
  const isAscending = sequences.every((sequence, at) => at === 0 || (sequences[at - 1] ?? 0) <= sequence);
  return isAscending ? undefined : sequences.sort((a, b) => a - b);
}

/**
 * Drops the results below a sequence; answers with how many they were. Those are nearly always the first, or close to them: what
 * stays moves up from between them, and what is behind the last of them is not even looked at.
 */
function dropBelow(session: OwnSession, lowest: number): number {
  const { results, start } = session;
  const count = countBelow(session, lowest);
  if (count === 0) return 0;
  let end = start;
  for (let left = count; left > 0; end += RESULT_FIELDS) if ((results[end] ?? 0) < lowest) left -= 1;
  let to = end;
  for (let at = end - RESULT_FIELDS; at >= start; at -= RESULT_FIELDS) {
    if ((results[at] ?? 0) < lowest) continue;
    to -= RESULT_FIELDS;
    for (let field = 0; field < RESULT_FIELDS; field += 1) results[to + field] = results[at + field] ?? 0;
  }
  session.start = to;
  // Once half is dropped: what is copied then is no more than what was dropped since the last time.
  if (to >= results.length / 2) trim(session);
  return count;
}

function countBelow({ results, start, sequences }: OwnSession, lowest: number): number {
  let count = 0;
  if (sequences === undefined) while ((results[start + count * RESULT_FIELDS] ?? Infinity) < lowest) count += 1;
  else while ((sequences[start / RESULT_FIELDS + count] ?? Infinity) < lowest) count += 1;
  return count;
}

/** Gives back the room of what was dropped. */
function trim(session: OwnSession): void {
  const { results, start, sequences } = session;
  session.results = results.slice(start);
  session.start = 0;
  session.sequences = countOf(session) > 1 ? sequences?.slice(start / RESULT_FIELDS) : undefined;
}
