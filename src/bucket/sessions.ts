import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import type { RequestId, Timestamp, WriteResult } from './requests.js';

/**
 * The results of recent commands by request id, so that a retry gets the first result and nothing applies twice.
 *
 * The table is part of the bucket's replicated state: it changes only in apply, equally on every replica. It is small (the
 * client says below which sequence it no longer asks), so it lives in memory and is written to disk as a whole now and then
 * (a checkpoint); the log is kept from the last checkpoint on, and replaying it over the checkpoint restores the table.
 *
 * A session that was idle for the retention time is forgotten, and `horizon` remembers that: a session born at or below the
 * horizon that is not in the table may have executed anything, so its answer is `unknown`, never execution.
 */
type Results = Map<number, WriteResult>;

interface Session {
  /** The highest `lowest` that the client has sent. */
  lowest: number;
  /** Commit timestamp of its last command, or the session's birth if the client's clock was ahead of that. */
  lastUsed: Timestamp;
  readonly results: Results;
}

export type Lookup =
  | { readonly kind: 'new' }
  | { readonly kind: 'done'; readonly result: WriteResult }
  | { readonly kind: 'unknown' };

const NEW: Lookup = { kind: 'new' };
const UNKNOWN: Lookup = { kind: 'unknown' };

export class Sessions {
  readonly #sessions = new Map<number, Session>();
  readonly #retention: number;
  readonly #resultsMax: number;
  #horizon: Timestamp = 0;
  #sweptAt: Timestamp = 0;

  /** `retention` in timestamp units; at most `resultsMax` results are kept for one session. */
  constructor(retention: number, resultsMax: number) {
    this.#retention = retention;
    this.#resultsMax = resultsMax;
  }

  lookup(id: RequestId): Lookup {
    const session = this.#sessions.get(id.session);
    if (session === undefined) return id.born <= this.#horizon ? UNKNOWN : NEW;
    const result = session.results.get(id.sequence);
    if (result !== undefined) return { kind: 'done', result };
    return id.sequence < session.lowest ? UNKNOWN : NEW;
  }

  /** Apply only. */
  record(id: RequestId, result: WriteResult): void {
    let session = this.#sessions.get(id.session);
    if (session === undefined) {
      session = { lowest: 0, lastUsed: 0, results: new Map() };
      this.#sessions.set(id.session, session);
    }
    session.results.set(id.sequence, result);
    // The horizon that it leaves behind must cover its birth: that is what later requests are held against.
    session.lastUsed = Math.max(session.lastUsed, result.timestamp, id.born);
    if (id.lowest > session.lowest) {
      session.lowest = id.lowest;
      for (const sequence of session.results.keys()) {
        if (sequence < id.lowest) session.results.delete(sequence);
      }
    }
    while (session.results.size > this.#resultsMax) this.#dropOldest(session);
    this.#sweep(result.timestamp);
  }

  #dropOldest(session: Session): void {
    const oldest = Math.min(...session.results.keys());
    session.results.delete(oldest);
    session.lowest = Math.max(session.lowest, oldest + 1);
  }

  /** Forgets idle sessions; driven by commit timestamps, so that every replica does it at the same entry. */
  #sweep(now: Timestamp): void {
    if (now - this.#sweptAt < this.#retention / 16) return;
    this.#sweptAt = now;
    for (const [id, session] of this.#sessions) {
      if (session.lastUsed > now - this.#retention) continue;
      this.#sessions.delete(id);
      this.#horizon = Math.max(this.#horizon, session.lastUsed);
    }
  }

  encode(): Bytes {
    const sessions = [...this.#sessions].map(([id, session]) => {
      const results = [...session.results].map(([sequence, result]) => {
        return [sequence, result.timestamp, result.failedCondition, result.failedVersion];
      });
      return [id, session.lowest, session.lastUsed, results];
    });
    return pack([1, this.#horizon, this.#sweptAt, sessions]);
  }

  restore(data: Bytes): void {
    type ResultTuple = [number, number, number, number];
    type SessionTuple = [number, number, number, ResultTuple[]];
    const [, horizon, sweptAt, sessions] = unpack(data) as [number, number, number, SessionTuple[]];
    this.#sessions.clear();
    this.#horizon = horizon;
    this.#sweptAt = sweptAt;
    for (const [id, lowest, lastUsed, tuples] of sessions) {
      const results: Results = new Map();
      for (const [sequence, timestamp, failedCondition, failedVersion] of tuples) {
        results.set(sequence, { applied: failedCondition < 0, timestamp, failedCondition, failedVersion });
      }
      this.#sessions.set(id, { lowest, lastUsed, results });
    }
  }
}
