import { expect } from 'chai';
import { CounterChecker } from '../../src/check/counter.js';
import type { Json, Operation } from '../../src/check/history.js';
import type { Result } from '../../src/check/result.js';
import { SetChecker } from '../../src/check/set.js';
import { run } from '../../src/check/work.js';
import { SimRandom } from '../../src/sim/random.js';
import { operationsOf, Recorder, runLoad } from './support.js';

describe('sets', () => {
  it('accept concurrent adds in either way, and elements of unknown outcome', () => {
    const history = new Recorder();
    history.call(0, 'add', undefined, 1)('ok');
    const add = history.call(0, 'add', undefined, 2);
    history.call(1, 'add', undefined, 3)('info');
    history.call(2, 'read', undefined)('ok', [1]);
    add('ok');
    history.call(2, 'read', undefined)('ok', [2, 1]);
    history.call(2, 'read', undefined)('ok', [3, 2, 1]);
    expect(kinds(checkSet(history.operations))).to.deep.equal([]);
    expect(checkSet(history.operations).verdict).to.equal('valid');
  });

  const anomalies: [kind: string, play: (history: Recorder) => void, title: RegExp][] = [
    [
      'lost',
      (history) => {
        history.call(0, 'add', 's', 'a')('ok');
        history.call(1, 'read', 's')('ok', []);
      },
      /"a" is lost, though it was acknowledged \(event 1\)/,
    ],
    [
      'lost',
      (history) => {
        history.call(0, 'add', 's', 'a')('info');
        history.call(1, 'read', 's')('ok', ['a']);
        history.call(1, 'read', 's')('ok', []);
      },
      /"a" is lost, though an earlier read had it/,
    ],
    [
      'stale',
      (history) => {
        history.call(0, 'add', 's', 'a')('ok');
        history.call(1, 'read', 's')('ok', []);
        history.call(1, 'read', 's')('ok', ['a']);
      },
      /"a" was missing for a while, though it was acknowledged/,
    ],
    ['unexpected', (history) => history.call(1, 'read', 's')('ok', ['b']), /"b" was read though nobody added it/],
    [
      'unexpected',
      (history) => {
        history.call(0, 'add', 's', 'b')('fail');
        history.call(1, 'read', 's')('ok', ['b']);
      },
      /"b" was read though its add failed/,
    ],
    [
      'unexpected',
      (history) => {
        history.call(1, 'read', 's')('ok', ['b']);
        history.call(0, 'add', 's', 'b')('ok');
        history.call(1, 'read', 's')('ok', ['b']);
      },
      /"b" was read though its add began later/,
    ],
    [
      'duplicated',
      (history) => {
        history.call(0, 'add', 's', { deep: 1 })('ok');
        history.call(1, 'read', 's')('ok', [{ deep: 1 }, { deep: 1 }]);
      },
      /\{"deep":1\} is in one read more than once/,
    ],
  ];
  for (const [kind, play, title] of anomalies) {
    it(`find what is ${kind}: ${title.source}`, () => {
      const history = new Recorder();
      play(history);
      const { verdict, findings } = checkSet(history.operations);
      expect(verdict).to.equal('invalid');
      expect(findings.map((finding) => finding.kind)).to.deep.equal([kind]);
      expect(findings[0]?.title).to.match(title);
    });
  }

  it('are unknown as long as nobody looked for what was acknowledged', () => {
    const history = new Recorder();
    history.call(1, 'read', 's')('ok', []);
    history.call(0, 'add', 's', 1)('ok');
    const { verdict, unknown } = checkSet(history.operations);
    expect(verdict).to.equal('unknown');
    expect(unknown).to.deep.equal(['1 acknowledged elements were never read: no read began later']);
  });

  it('refuse an element that is added twice, and operations of something else', () => {
    const history = new Recorder();
    history.call(0, 'add', 's', 1)('ok');
    history.call(0, 'add', 's', 1)('ok');
    expect(() => checkSet(history.operations)).to.throw(/event 2: .* each element is added once, and event 0 adds 1 too/);
    const other = new Recorder();
    other.call(0, 'append', 's', 1)('ok');
    expect(() => checkSet(other.operations)).to.throw(/a set has add and read/);
  });

  it('are right over random runs of an atomic set, and wrong when an element is taken out of the last read', () => {
    for (let seed = 0; seed < 100; seed += 1) {
      const random = new SimRandom(`set ${seed}`);
      const elements: Json[] = [];
      let next = 0;
      const apply = (f: string, _key: string | undefined, value: Json): { type: 'ok'; value?: Json } => {
        if (f === 'read') return { type: 'ok', value: [...elements] };
        if (!elements.includes(value)) elements.push(value);
        return { type: 'ok' };
      };
      const events = runLoad(random, {
        operations: 200,
        processes: 6,
        apply,
        draw: (luck) => (luck.chance(0.2) ? { f: 'read' } : { f: 'add', value: (next += 1) }),
        infos: 0.1,
        fails: 0.05,
      });
      const last = { process: 999, f: 'read', timeNs: events.length * 1000 };
      const end = events.length;
      const known = operationsOf(events).filter(({ f, outcome }) => f === 'add' && outcome === 'ok');
      const finish = (value: Json): Operation[] =>
        operationsOf([
          ...events,
          { ...last, index: end, type: 'invoke' },
          { ...last, index: end + 1, type: 'ok', value },
        ]);
      expect(checkSet(finish(elements)).verdict, `seed ${seed}`).to.equal('valid');
      const victim = random.pick(known).input;
      expect(kinds(checkSet(finish(elements.filter((element) => element !== victim)))), `seed ${seed}`).to.deep.equal(['lost']);
    }
  });
});

describe('counters', () => {
  it('accept what may have happened', () => {
    const history = new Recorder();
    history.call(0, 'increment', 'c', 5)('ok');
    history.call(1, 'increment', 'c', 100)('info');
    history.call(0, 'increment', 'c', 1000)('fail');
    const pending = history.call(0, 'increment', 'c');
    for (const value of [5, 6, 105, 106]) history.call(2, 'read', 'c')('ok', value);
    pending('ok');
    history.call(2, 'read', 'c')('ok', 106);
    expect(checkCounter(history.operations).verdict).to.equal('valid');
  });

  for (const [value, range] of [[4, '5 and 105'], [106, '5 and 105'], [1005, '5 and 105']] as const) {
    it(`find a read of ${value} out of bounds`, () => {
      const history = new Recorder();
      history.call(0, 'increment', 'c', 5)('ok');
      history.call(1, 'increment', 'c', 100)('info');
      history.call(0, 'increment', 'c', 1000)('fail');
      history.call(2, 'read', 'c')('ok', value);
      const { verdict, findings } = checkCounter(history.operations);
      expect(verdict).to.equal('invalid');
      expect(findings.map(({ kind, title }) => [kind, title])).to.deep.equal([
        ['out-of-bounds', `a read shows ${value}; it must be within ${range}`],
      ]);
    });
  }

  it('find reads that go backwards', () => {
    const history = new Recorder();
    history.call(1, 'increment', 'c', 1)('info');
    history.call(2, 'read', 'c')('ok', 1);
    history.call(3, 'read', 'c')('ok', 0);
    expect(kinds(checkCounter(history.operations))).to.deep.equal(['backwards']);
  });

  it('count down as well', () => {
    const history = new Recorder();
    history.call(0, 'increment', 'c', 5)('ok');
    history.call(0, 'increment', 'c', -2)('ok');
    const pending = history.call(0, 'increment', 'c', -2);
    history.call(1, 'read', 'c')('ok', 3);
    history.call(1, 'read', 'c')('ok', 1);
    history.call(1, 'read', 'c')('ok', 3);
    expect(checkCounter(history.operations).verdict).to.equal('valid');
    history.call(1, 'read', 'c')('ok', 5);
    pending('ok');
    expect(kinds(checkCounter(history.operations))).to.deep.equal(['out-of-bounds']);
  });

  it('refuse what is no counter', () => {
    const history = new Recorder();
    history.call(0, 'increment', 'c', 'much')('ok');
    expect(() => checkCounter(history.operations)).to.throw(/the value of an increment is a number/);
  });

  it('are right over random runs of an atomic counter', () => {
    for (let seed = 0; seed < 100; seed += 1) {
      let sum = 0;
      const events = runLoad(new SimRandom(`counter ${seed}`), {
        operations: 300,
        processes: 8,
        apply: (f, _key, value) => {
          if (f === 'read') return { type: 'ok', value: sum };
          sum += Number(value);
          return { type: 'ok' };
        },
        draw: (luck) => (luck.chance(0.5) ? { f: 'read' } : { f: 'increment', value: luck.below(seed % 2 === 0 ? 5 : 9) - (seed % 2) * 4 }),
        infos: 0.1,
        fails: 0.05,
      });
      expect(checkCounter(operationsOf(events)).verdict, `seed ${seed}`).to.equal('valid');
    }
  });
});

function checkSet(operations: readonly Operation[]): Result {
  const checker = new SetChecker();
  for (const operation of operations) checker.add(operation);
  return run(checker.check());
}

function checkCounter(operations: readonly Operation[]): Result {
  const checker = new CounterChecker();
  for (const operation of operations) checker.add(operation);
  return run(checker.check());
}

function kinds({ findings }: Result): string[] {
  return findings.map(({ kind }) => kind);
}
