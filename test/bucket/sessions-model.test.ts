import { expect } from 'chai';
import type { RequestId, WriteResult } from '../../src/bucket/requests.js';
import { SessionLoader, SessionPieces } from '../../src/bucket/session-pieces.js';
import { RESULT_FIELDS, Sessions, type FrozenSessions, type SessionLimits } from '../../src/bucket/sessions.js';
import { SimRandom } from '../../src/sim/random.js';

interface ModelSession {
  readonly id: number;
  lowest: number;
  lastUsed: number;
  /** In the order of apply. */
  results: { readonly sequence: number; readonly result: WriteResult }[];
}

/** What a table of sessions must always be, written without a thought of what it costs. */
class Model {
  readonly #limits: SessionLimits;
  sessions: ModelSession[] = [];
  horizon = 0;

  constructor(limits: SessionLimits) {
    this.#limits = limits;
  }

  get bytes(): number {
    return this.sessions.reduce((sum, { results }) => sum + 224 + 32 * results.length, 0);
  }

  lookup(id: RequestId): unknown {
    const session = this.sessions.find((each) => each.id === id.session);
    if (session === undefined) return { kind: id.born <= this.horizon ? 'unknown' : 'new' };
    const known = session.results.findLast(({ sequence }) => sequence === id.sequence);
    if (known !== undefined) return { kind: 'done', result: known.result };
    return { kind: id.sequence < session.lowest ? 'unknown' : 'new' };
  }

  record(id: RequestId, result: WriteResult, now: number): void {
    const known = this.sessions.find((each) => each.id === id.session);
    if (known === undefined && id.born <= this.horizon) return;
    const session = known ?? { id: id.session, lowest: 0, lastUsed: 0, results: [] };
    session.results.push({ sequence: id.sequence, result });
    session.lastUsed = Math.max(session.lastUsed, now, id.born);
    if (id.lowest > session.lowest) raise(session, id.lowest);
    while (session.results.length > this.#limits.resultsMax) {
      raise(session, Math.min(...session.results.map(({ sequence }) => sequence)) + 1);
    }
    this.sessions = [...this.sessions.filter((each) => each !== session), session];
    const { retention, sessionsMax, bytesMax } = this.#limits;
    for (let [first] = this.sessions; first !== undefined; [first] = this.sessions) {
      const isIdle = first.lastUsed <= now - retention;
      if (!isIdle && this.sessions.length <= sessionsMax && this.bytes <= bytesMax) return;
      this.sessions.shift();
      this.horizon = Math.max(this.horizon, first.lastUsed);
    }
  }

  contents(): unknown {
    const sessions = this.sessions.map(({ id, lowest, lastUsed, results }) => {
      const flat = results.map(({ sequence, result }) => [sequence, result.timestamp, result.failedCondition, result.failedVersion]);
      return { id, lowest, lastUsed, results: flat };
    });
    return { horizon: this.horizon, sessions };
  }
}

function raise(session: ModelSession, lowest: number): void {
  session.lowest = Math.max(session.lowest, lowest);
  session.results = session.results.filter(({ sequence }) => sequence >= lowest);
}

function contentsOf({ horizon, sessions }: FrozenSessions): unknown {
  return {
    horizon,
    sessions: sessions.map(({ id, lowest, lastUsed, results, start }) => {
      const flat: number[][] = [];
      for (let at = start; at < results.length; at += RESULT_FIELDS) flat.push(results.slice(at, at + RESULT_FIELDS));
      return { id, lowest, lastUsed, results: flat };
    }),
  };
}

function restarted(sessions: Sessions, limits: SessionLimits): Sessions {
  const pieces = new SessionPieces(sessions.freeze());
  const loader = new SessionLoader(new Sessions(limits));
  for (let piece = pieces.next(300); piece !== undefined; piece = pieces.next(300)) loader.add(piece);
  return loader.sessions;
}

/** Clients with many commands outstanding: they come nearly in order, some late, some twice, and `lowest` follows. */
class Commands {
  readonly #random: SimRandom;
  /** By how much of its order a command may be late. */
  readonly #disorder: number;
  readonly #outstanding: number;
  readonly #next = new Map<number, number>();
  #now = 1000;

  constructor(random: SimRandom) {
    this.#random = random;
    this.#disorder = random.pick([1, 3, 10, 60]);
    this.#outstanding = random.pick([1, 5, 40]);
  }

  next(): { readonly id: RequestId; readonly result: WriteResult; readonly now: number } {
    const random = this.#random;
    this.#now += 1 + random.below(20);
    const session = 1 + random.below(3) + (random.chance(0.1) ? Math.floor(this.#now / 500) : 0);
    const next = (this.#next.get(session) ?? 0) + (random.chance(0.02) ? 30 : 1);
    this.#next.set(session, next);
    const sequence = Math.max(1, next - random.below(this.#disorder) - (random.chance(0.02) ? random.below(100) : 0));
    const behind = random.chance(0.03) ? -random.below(5) : this.#outstanding + random.below(this.#disorder);
    const id = { session, sequence, lowest: Math.max(1, next - behind), born: 1 + session * 300 };
    const failedCondition = random.chance(0.2) ? random.below(5) : -1;
    const failedVersion = failedCondition < 0 ? 0 : random.below(1000);
    // A refusal may be another bucket's, with a timestamp of its clock.
    const timestamp = failedCondition < 0 || random.chance(0.5) ? this.#now : this.#now + random.below(2000) - 1000;
    return { id, result: { applied: failedCondition < 0, timestamp, failedCondition, failedVersion }, now: this.#now };
  }
}

describe('the table of sessions, held against a simple model', () => {
  for (let seed = 0; seed < 60; seed += 1) {
    it(`has the same results, bytes and evictions, over restarts and freezes: seed ${seed}`, () => {
      const random = new SimRandom(`sessions/${seed}`);
      const resultsMax = random.pick([1, 4, 30, 1000]);
      const bytesMax = 224 + 32 * resultsMax + random.pick([0, 500, 1e6]);
      const limits = { retention: random.pick([300, 1e9]), resultsMax, sessionsMax: random.pick([1, 3, 50]), bytesMax };
      const model = new Model(limits);
      let sessions = new Sessions(limits);
      const commands = new Commands(random);
      let frozen = sessions.freeze();
      let asFrozen = contentsOf(frozen);
      for (let n = 0; n < 400; n += 1) {
        const { id, result, now } = commands.next();
        const asked = { ...id, sequence: Math.max(1, id.sequence - random.below(3)) };
        expect(sessions.lookup(asked)).to.deep.equal(model.lookup(asked));
        sessions.record(id, result, now);
        model.record(id, result, now);
        expect([sessions.count, sessions.bytes, sessions.horizon]).to.deep.equal([model.sessions.length, model.bytes, model.horizon]);
        if (random.chance(0.05)) {
          expect(contentsOf(frozen), 'the last freeze').to.deep.equal(asFrozen);
          frozen = sessions.freeze();
          asFrozen = contentsOf(frozen);
          expect(asFrozen).to.deep.equal(model.contents());
        }
        if (random.chance(0.02)) {
          sessions = restarted(sessions, limits);
          expect(sessions.bytes).to.equal(model.bytes);
        }
      }
      expect(contentsOf(sessions.freeze())).to.deep.equal(model.contents());
    });
  }
});
