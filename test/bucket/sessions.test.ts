import { expect } from 'chai';
import type { RequestId, WriteResult } from '../../src/bucket/requests.js';
import { Sessions } from '../../src/bucket/sessions.js';

const RETENTION = 1600;
const id = (session: number, sequence: number, lowest = 1, born = 1): RequestId => ({ session, born, sequence, lowest });
const done = (timestamp: number): WriteResult => ({ applied: true, timestamp, failedCondition: -1, failedVersion: 0 });

describe('sessions', () => {
  it('answers a retry with the first result, a refusal included', () => {
    const sessions = new Sessions(RETENTION, 100);
    const refused: WriteResult = { applied: false, timestamp: 6, failedCondition: 2, failedVersion: 4 };
    sessions.record(id(1, 1), done(5));
    sessions.record(id(1, 2), refused);
    expect(sessions.lookup(id(1, 1))).to.deep.equal({ kind: 'done', result: done(5) });
    expect(sessions.lookup(id(1, 2))).to.deep.equal({ kind: 'done', result: refused });
    expect(sessions.lookup(id(1, 3))).to.deep.equal({ kind: 'new' });
    expect(sessions.lookup(id(2, 1))).to.deep.equal({ kind: 'new' });
  });

  it('does not execute what the client no longer asks about', () => {
    const sessions = new Sessions(RETENTION, 100);
    sessions.record(id(1, 1), done(5));
    sessions.record(id(1, 9, 4), done(6));
    expect(sessions.lookup(id(1, 1)).kind).to.equal('unknown');
    expect(sessions.lookup(id(1, 3)).kind).to.equal('unknown');
    expect(sessions.lookup(id(1, 4)).kind).to.equal('new');
  });

  it('does not execute a command of a session that it may have forgotten', () => {
    const sessions = new Sessions(RETENTION, 100);
    sessions.record(id(1, 1, 1, 1), done(100));
    sessions.record(id(2, 1, 1, 5000), done(5000));
    expect(sessions.lookup(id(1, 1, 1, 1)).kind).to.equal('unknown');
    expect(sessions.lookup(id(3, 1, 1, 100)).kind).to.equal('unknown');
    expect(sessions.lookup(id(3, 1, 1, 101)).kind).to.equal('new');
    expect(sessions.lookup(id(2, 1, 1, 5000)).kind).to.equal('done');
  });

  it('keeps a bounded number of results and forgets the oldest first', () => {
    const sessions = new Sessions(RETENTION, 3);
    for (const sequence of [5, 1, 4, 2, 3]) sessions.record(id(1, sequence), done(10 + sequence));
    expect([1, 2, 3, 4, 5].map((sequence) => sessions.lookup(id(1, sequence)).kind)).to.deep.equal([
      'unknown', 'unknown', 'done', 'done', 'done',
    ]);
  });

  it('is the same after a checkpoint and a replay as without', () => {
    const whole = new Sessions(RETENTION, 3);
    const commands = Array.from({ length: 60 }, (_, n) => ({ id: id(n % 7, n, Math.max(1, n - 9), n), at: 100 * (n + 1) }));
    for (const command of commands.slice(0, 30)) whole.record(command.id, done(command.at));
    const restored = new Sessions(RETENTION, 3);
    restored.restore(whole.encode());
    for (const sessions of [whole, restored]) {
      for (const command of commands.slice(30)) sessions.record(command.id, done(command.at));
    }
    expect(restored.encode().equals(whole.encode())).to.equal(true);
  });
});
