import { expect } from 'chai';
import type { Bytes } from '../../src/lib/bytes.js';
import { isTidemarkError } from '../../src/lib/errors.js';
import type { RequestId, WriteResult } from '../../src/bucket/requests.js';
import { SessionLoader, SessionPieces } from '../../src/bucket/session-pieces.js';
import { Sessions, type SessionLimits } from '../../src/bucket/sessions.js';

const LIMITS: SessionLimits = { retention: 1600, resultsMax: 100, sessionsMax: 1000, bytesMax: 1_000_000 };
const LARGE = { retention: 1e9, sessionsMax: 8192, bytesMax: 3 * 1024 * 1024 };
const id = (session: number, sequence: number, lowest = 1, born = 1): RequestId => ({ session, born, sequence, lowest });
const done = (timestamp: number): WriteResult => ({ applied: true, timestamp, failedCondition: -1, failedVersion: 0 });

function make(limits: Partial<SessionLimits> = {}): Sessions {
  return new Sessions({ ...LIMITS, ...limits });
}

function piecesOf(sessions: Sessions): Bytes[] {
  const pieces = new SessionPieces(sessions.freeze());
  const all: Bytes[] = [];
  for (let piece = pieces.next(); piece !== undefined; piece = pieces.next()) all.push(piece);
  return all;
}

function load(pieces: readonly Bytes[], limits: Partial<SessionLimits> = {}): Sessions {
  const loader = new SessionLoader(make(limits));
  for (const piece of pieces) loader.add(piece);
  expect(loader.complete).to.equal(true);
  return loader.sessions;
}

const asBytes = (sessions: Sessions): string => Buffer.concat(piecesOf(sessions)).toString('hex');

describe('sessions', () => {
  it('answers a retry with the first result, a refusal included', () => {
    const sessions = make();
    const refused: WriteResult = { applied: false, timestamp: 6, failedCondition: 2, failedVersion: 4 };
    sessions.record(id(1, 1), done(5), 5);
    sessions.record(id(1, 2), refused, 6);
    expect(sessions.lookup(id(1, 1))).to.deep.equal({ kind: 'done', result: done(5) });
    expect(sessions.lookup(id(1, 2))).to.deep.equal({ kind: 'done', result: refused });
    expect(sessions.lookup(id(1, 3))).to.deep.equal({ kind: 'new' });
    expect(sessions.lookup(id(2, 1))).to.deep.equal({ kind: 'new' });
  });

  it('does not execute what the client no longer asks about', () => {
    const sessions = make();
    sessions.record(id(1, 1), done(5), 5);
    sessions.record(id(1, 9, 4), done(6), 6);
    expect(sessions.lookup(id(1, 1)).kind).to.equal('unknown');
    expect(sessions.lookup(id(1, 3)).kind).to.equal('unknown');
    expect(sessions.lookup(id(1, 4)).kind).to.equal('new');
  });

  it('does not execute a command of a session that it may have forgotten', () => {
    const sessions = make();
    sessions.record(id(1, 1, 1, 1), done(100), 100);
    sessions.record(id(2, 1, 1, 5000), done(5000), 5000);
    expect(sessions.lookup(id(1, 1, 1, 1)).kind).to.equal('unknown');
    expect(sessions.lookup(id(3, 1, 1, 100)).kind).to.equal('unknown');
    expect(sessions.lookup(id(3, 1, 1, 101)).kind).to.equal('new');
    expect(sessions.lookup(id(2, 1, 1, 5000)).kind).to.equal('done');
  });

  it('keeps a bounded number of results and forgets the oldest first', () => {
    const sessions = make({ resultsMax: 3 });
    for (const sequence of [5, 1, 4, 2, 3]) sessions.record(id(1, sequence), done(10 + sequence), 10 + sequence);
    expect([1, 2, 3, 4, 5].map((sequence) => sessions.lookup(id(1, sequence)).kind)).to.deep.equal([
      'unknown', 'unknown', 'done', 'done', 'done',
    ]);
  });

  it('keeps a bounded number of sessions and forgets the one that was idle for longest', () => {
    const sessions = make({ sessionsMax: 2 });
    sessions.record(id(1, 1, 1, 1), done(5), 5);
    sessions.record(id(2, 1, 1, 2), done(9), 9);
    sessions.record(id(1, 2, 1, 1), done(11), 11);
    sessions.record(id(3, 1, 1, 10), done(12), 12);
    expect(sessions.count).to.equal(2);
    expect(sessions.horizon).to.equal(9);
    expect([1, 2, 3].map((session) => sessions.lookup(id(session, 1, 1, session)).kind)).to.deep.equal(['done', 'unknown', 'done']);
    // Who was never here but is no younger may have been forgotten too.
    expect(sessions.lookup(id(4, 1, 1, 9)).kind).to.equal('unknown');
    expect(sessions.lookup(id(4, 1, 1, 10)).kind).to.equal('new');
  });

  it('keeps a bounded number of bytes, however they are spread, and always the session in use', () => {
    const sessions = make({ bytesMax: 224 + 100 * 32 });
    for (let n = 1; n <= 100; n += 1) sessions.record(id(1, n), done(n), n);
    expect(sessions.bytes).to.equal(224 + 100 * 32);
    sessions.record(id(2, 1, 1, 101), done(101), 101);
    expect(sessions.lookup(id(1, 100)).kind).to.equal('unknown');
    expect(sessions.lookup(id(2, 1, 1, 101)).kind).to.equal('done');
    expect([sessions.count, sessions.bytes]).to.deep.equal([1, 256]);
  });

  it('goes by the timestamps of its own entries, whatever the clock of a bucket that has refused says', () => {
    const sessions = make({ sessionsMax: 3 });
    const refused: WriteResult = { applied: false, timestamp: 1_000_000, failedCondition: 0, failedVersion: 0 };
    sessions.record(id(1, 1, 1, 1), done(100), 100);
    sessions.record(id(2, 1, 1, 2), refused, 110);
    expect(sessions.lookup(id(2, 1, 1, 2)), 'as it was answered').to.deep.equal({ kind: 'done', result: refused });
    expect([sessions.count, sessions.horizon], 'nobody was idle for long').to.deep.equal([2, 0]);
    sessions.record(id(3, 1, 1, 3), done(120), 120);
    sessions.record(id(4, 1, 1, 121), done(121), 121);
    sessions.record(id(5, 1, 1, 122), done(122), 122);
    // Both had to go: the horizon is where the refused one was last used here, and whoever began later is new.
    expect([sessions.count, sessions.horizon]).to.deep.equal([3, 110]);
    expect(sessions.lookup(id(6, 1, 1, 123)).kind).to.equal('new');
    sessions.record(id(6, 1, 1, 2000), done(2000), 2000);
    expect([sessions.count, sessions.horizon], 'idle for long').to.deep.equal([1, 122]);
  });

  it('does not take up a session again that was forgotten while a command of it was in flight', () => {
    const sessions = make({ sessionsMax: 1 });
    sessions.record(id(1, 1, 1, 1), done(5), 5);
    sessions.record(id(2, 1, 1, 6), done(6), 6);
    // Its second command was proposed before. With only that one known, the first would seem new and be executed again.
    sessions.record(id(1, 2, 1, 1), done(7), 7);
    expect(sessions.lookup(id(1, 1, 1, 1)).kind).to.equal('unknown');
    expect(sessions.lookup(id(1, 2, 1, 1)).kind).to.equal('unknown');
  });

  it('never takes an executed command for a new one, whatever is forgotten', () => {
    const limits = { sessionsMax: 5, resultsMax: 3, bytesMax: 1400 };
    const sessions = make(limits);
    const executed: RequestId[] = [];
    let seed = 1;
    const random = (below: number): number => {
      seed = (seed * 48_271) % 0x7fff_ffff;
      return seed % below;
    };
    for (let now = 10; now < 20_000; now += 1 + random(40)) {
      const session = 1 + random(12) + Math.floor(now / 700);
      const request = id(session, 1 + random(20), 1, 1 + ((session * 7919) % 900) + session * 600);
      const known = executed.some((each) => each.session === session && each.sequence === request.sequence);
      const { kind } = sessions.lookup(request);
      if (known) expect(kind).to.not.equal('new');
      if (kind !== 'new') continue;
      sessions.record(request, done(now), now);
      executed.push(request);
      expect(sessions.count).to.be.at.most(limits.sessionsMax);
      expect(sessions.bytes).to.be.at.most(limits.bytesMax);
    }
    expect(executed.length).to.be.greaterThan(200);
  });

  it('is the same after a checkpoint and a replay as without', () => {
    const limits = { resultsMax: 3, sessionsMax: 5 };
    const whole = make(limits);
    const commands = Array.from({ length: 60 }, (_, n) => ({ id: id(n % 7, n, Math.max(1, n - 9), n), at: 100 * (n + 1) }));
    for (const command of commands.slice(0, 30)) whole.record(command.id, done(command.at), command.at);
    const restored = load(piecesOf(whole), limits);
    for (const sessions of [whole, restored]) {
      for (const command of commands.slice(30)) sessions.record(command.id, done(command.at), command.at);
    }
    expect(asBytes(restored)).to.equal(asBytes(whole));
    expect(restored.bytes).to.equal(whole.bytes);
  });

  it('is written in pieces as it was at the freeze, though it goes on meanwhile', () => {
    const sessions = make(LARGE);
    const fill = (from: number, to: number): void => {
      for (let n = from; n < to; n += 1) sessions.record(id(1 + (n % 8000), n, 1 + Math.floor(n / 3), n + 1), done(n + 1), n + 1);
    };
    fill(0, 9000);
    const before = asBytes(sessions);
    const pieces = new SessionPieces(sessions.freeze());
    const other = new SessionPieces(sessions.freeze());
    const parts: Bytes[] = [];
    for (let piece = pieces.next(); piece !== undefined; piece = pieces.next()) {
      expect(piece.length).to.be.at.most(64 * 1024 + 100);
      parts.push(piece);
      fill(9000 + parts.length * 2000, 11_000 + parts.length * 2000);
    }
    expect(parts.length).to.be.greaterThan(4);
    expect(Buffer.concat(parts).toString('hex')).to.equal(before);
    expect(other.next()?.equals(parts[0] ?? Buffer.alloc(0))).to.equal(true);
    expect(asBytes(sessions)).to.not.equal(before);
  });

  it('notices a piece that is broken, missing, doubled or cut short', () => {
    const sessions = make(LARGE);
    for (let n = 1; n <= 8000; n += 1) sessions.record(id(n, 1, 1, n), done(n), n);
    const pieces = piecesOf(sessions);
    const [first = Buffer.alloc(0), second = Buffer.alloc(0), ...rest] = pieces;
    const flipped = Buffer.from(second);
    flipped[100] = 255 - (flipped[100] ?? 0);
    const wrong = [[second], [first, first], [first, ...rest], [first, flipped], [first.subarray(0, 60)], [...pieces, first]];
    for (const list of wrong) {
      const loader = new SessionLoader(make(LARGE));
      expect(() => list.forEach((piece) => loader.add(piece))).to.throw().that.satisfies(isTidemarkError).and.includes({ code: 'DATA_LOSS' });
    }
    const short = new SessionLoader(make());
    short.add(first);
    expect(short.complete).to.equal(false);
  });
});
