import { expect } from 'chai';
import type { Json, Operation } from '../../src/check/history.js';
import { LinearizabilityChecker } from '../../src/check/register.js';
import type { Result } from '../../src/check/result.js';
import { WindowChecker, type KeyVersion } from '../../src/check/window.js';
import { run } from '../../src/check/work.js';
import { SimRandom } from '../../src/sim/random.js';
import { operationsOf, Recorder, runLoad } from './support.js';

describe('the window check', () => {
  it('accepts reads of any version that was current while they ran', () => {
    const history = new Recorder();
    const read = history.call(1, 'read', 'x');
    history.call(0, 'write', 'x', 1)('ok');
    history.call(0, 'write', 'x', 2)('ok');
    history.call(0, 'cas', 'x', [2, 3])('ok');
    read('ok', 1);
    history.call(0, 'write', 'x', null)('ok');
    history.call(1, 'read', 'x')('ok', null);
    expect(check(history.operations, ['1', '2', '3', null]).findings).to.deep.equal([]);
  });

  const anomalies: [kind: string, versions: Json[], play: (history: Recorder) => void, title: RegExp][] = [
    [
      'stale',
      ['a', 'b'],
      (history) => {
        history.call(0, 'write', 'x', 'a')('ok');
        history.call(0, 'write', 'x', 'b')('ok');
        history.call(1, 'read', 'x')('ok', 'a');
      },
      /a read shows version 10 \("a"\) though version 20 \("b"\) was current/,
    ],
    [
      'stale',
      ['a', 'b'],
      (history) => {
        history.call(0, 'write', 'x', 'b')('info');
        history.call(2, 'write', 'x', 'a')('ok');
        history.call(1, 'read', 'x')('ok', 'b');
        history.call(1, 'read', 'x')('ok', 'a');
      },
      /a read shows version 10/,
    ],
    [
      'stale',
      ['a'],
      (history) => {
        history.call(0, 'write', 'x', 'a')('ok');
        history.call(1, 'read', 'x')('ok', null);
      },
      /a read shows the key without a version though version 10/,
    ],
    [
      'from-the-future',
      ['a'],
      (history) => {
        history.call(1, 'read', 'x')('ok', 'a');
        history.call(0, 'write', 'x', 'a')('ok');
      },
      /which was not written yet/,
    ],
    ['phantom', [], (history) => history.call(1, 'read', 'x')('ok', 'a'), /shows "a", which the key never had/],
    ['phantom', ['a'], (history) => history.call(1, 'read', 'x')('ok', 'b', { version: 10 }), /shows "b" as version 10/],
    ['missing', [], (history) => history.call(1, 'write', 'x', 'a')('ok'), /"a" was acknowledged, but the key never had it/],
    [
      'shared',
      ['a'],
      (history) => {
        history.call(1, 'write', 'x', 'a')('ok');
        history.call(1, 'write', 'x', 'a')('ok');
      },
      /two acknowledged writes stand for version 10/,
    ],
    ['refused-but-there', ['a'], (history) => history.call(1, 'write', 'x', 'a')('fail'), /"a" failed to be written/],
    [
      'bad-swap',
      ['a', 'c'],
      (history) => {
        history.call(1, 'write', 'x', 'a')('ok');
        history.call(1, 'cas', 'x', ['b', 'c'])('ok');
      },
      /version 20 \("c"\) was swapped for "b", but follows "a"/,
    ],
    [
      'order',
      ['b', 'a'],
      (history) => {
        history.call(1, 'write', 'x', 'a')('ok');
        history.call(1, 'write', 'x', 'b')('ok');
      },
      /version version 10|version 10 \("b"\) comes before version 20 \("a"\)/,
    ],
  ];
  for (const [kind, versions, play, title] of anomalies) {
    it(`finds what is ${kind}: ${title.source}`, () => {
      const history = new Recorder();
      play(history);
      const { verdict, findings } = check(history.operations, versions);
      expect(verdict).to.equal('invalid');
      expect(findings.map((finding) => finding.kind)).to.deep.equal([kind]);
      expect(findings[0]?.title).to.match(title);
    });
  }

  it('holds a value that several versions have to any of them', () => {
    const history = new Recorder();
    history.call(0, 'write', 'x', 'a')('ok');
    history.call(0, 'write', 'x', 'b')('ok');
    history.call(0, 'write', 'x', 'a')('ok');
    history.call(1, 'read', 'x')('ok', 'a');
    expect(check(history.operations, ['a', 'b', 'a']).verdict).to.equal('valid');
    history.call(0, 'write', 'x', 'c')('ok');
    history.call(1, 'read', 'x')('ok', 'a');
    expect(check(history.operations, ['a', 'b', 'a', 'c']).verdict).to.equal('invalid');
  });

  it('refuses a list with a version twice', () => {
    const checker = new WindowChecker();
    new Recorder();
    const history = new Recorder();
    history.call(0, 'read', 'x')('ok', null);
    for (const operation of history.operations) checker.add(operation);
    for (const value of [1, 2]) checker.addVersion({ key: 'x', version: 5, value });
    expect(() => run(checker.check())).to.throw(/version 5 of key "x" is there twice/);
  });

  it('agrees with the search for an order where every value is written once', () => {
    const count = { valid: 0, invalid: 0 };
    for (let seed = 0; seed < 2000; seed += 1) {
      const random = new SimRandom(`window ${seed}`);
      const versions: Json[] = [];
      let next = 0;
      const events = runLoad(random, {
        operations: 10,
        processes: 4,
        apply: (f, _key, value) => {
          if (f === 'read') return { type: 'ok', value: versions.at(-1) ?? null };
          versions.push(value);
          return { type: 'ok' };
        },
        draw: (luck) => (luck.chance(0.6) ? { f: 'read', key: 'x' } : { f: 'write', key: 'x', value: (next += 1) }),
        infos: 0.1,
      });
      const reads = events.filter(({ f, type }) => f === 'read' && type === 'ok');
      const victim = reads.length > 0 && random.chance(0.6) ? random.pick(reads) : undefined;
      const shown = random.chance(0.2) || versions.length === 0 ? null : random.pick(versions);
      const operations = operationsOf(events.map((event) => (event === victim ? { ...event, value: shown } : event)));
      const linearizability = new LinearizabilityChecker();
      for (const operation of operations) linearizability.add(operation);
      const { verdict } = run(linearizability.check());
      // The list says more than the answers: an order that explains all answers may still not be the one that was.
      const own = check(operations, versions).verdict;
      if (verdict === 'invalid') expect(own, `seed ${seed}`).to.equal('invalid');
      if (victim === undefined) expect(own, `seed ${seed}`).to.equal('valid');
      count[own === 'valid' ? 'valid' : 'invalid'] += 1;
    }
    expect(Math.min(count.valid, count.invalid)).to.be.greaterThan(300);
  });
});

function check(operations: readonly Operation[], versions: readonly Json[]): Result {
  const checker = new WindowChecker();
  for (const operation of operations) checker.add(operation);
  for (const [at, value] of versions.entries()) {
    const version: KeyVersion = { key: 'x', version: (at + 1) * 10, value };
    checker.addVersion(version);
  }
  return run(checker.check());
}
