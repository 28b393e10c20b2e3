import { expect } from 'chai';
import type { HistoryEvent, Json, Operation } from '../../src/check/history.js';
import { linearize } from '../../src/check/linearize.js';
import { LinearizabilityChecker, registerModel, type Model } from '../../src/check/register.js';
import type { Result } from '../../src/check/result.js';
import type { Call, State } from '../../src/check/search.js';
import { run } from '../../src/check/work.js';
import { SimRandom } from '../../src/sim/random.js';
import { operationsOf, Recorder, registers, runLoad } from './support.js';

describe('linearizability of registers', () => {
  it('accepts an empty history', () => {
    expect(check([]).verdict).to.equal('valid');
  });

  it('accepts a read of either value while a write is under way', () => {
    const history = new Recorder();
    const write = history.call(0, 'write', 'x', 1);
    history.call(1, 'read', 'x')('ok', null);
    history.call(1, 'read', 'x')('ok', 1);
    write('ok');
    history.call(1, 'read', 'x')('ok', 1);
    expect(check(history.operations).verdict).to.equal('valid');
  });

  it('refuses a value that comes, goes, and shows what cannot be placed', () => {
    const history = new Recorder();
    history.call(0, 'write', 'other', 1)('ok');
    const write = history.call(0, 'write', 'x', 1);
    history.call(1, 'read', 'x')('ok', 1);
    history.call(1, 'read', 'x')('ok', null);
    write('ok');
    const { verdict, findings } = check(history.operations);
    expect(verdict).to.equal('invalid');
    expect(findings).to.have.lengthOf(1);
    expect(findings[0]?.key).to.equal('x');
    expect([findings[0]?.title, ...(findings[0]?.details ?? [])].join('\n')).to.equal(
      [
        'key "x": no order of its operations explains all answers',
        'all that ended before it can be explained; this cannot: process 1: read x -> null  (events 5-6, 0.0000-0.0000 s)',
        'one order that explains what came before, the last 2 of 2:',
        '  process 0: write x 1 ok  (events 2-7, 0.0000-0.0000 s)',
        '  process 1: read x -> 1  (events 3-4, 0.0000-0.0000 s)',
        'it leaves key "x" with 1',
      ].join('\n'),
    );
  });

  it('lets an operation of unknown outcome take effect much later, once, or never', () => {
    const history = new Recorder();
    history.call(0, 'write', 'x', 1)('info');
    history.call(1, 'write', 'x', 2)('ok');
    history.call(1, 'read', 'x')('ok', 2);
    expect(check(history.operations).verdict, 'never').to.equal('valid');
    history.call(1, 'read', 'x')('ok', 1);
    expect(check(history.operations).verdict, 'later').to.equal('valid');
    history.call(1, 'write', 'x', 3)('ok');
    history.call(1, 'read', 'x')('ok', 1);
    expect(check(history.operations).verdict, 'twice').to.equal('invalid');
  });

  it('knows that a failed operation has no effect, and what a mismatch tells', () => {
    const history = new Recorder();
    history.call(0, 'write', 'x', 1)('ok');
    history.call(0, 'write', 'x', 2)('fail');
    history.call(0, 'cas', 'x', [1, 3])('fail');
    expect(check(history.operations).verdict, 'refused for some reason').to.equal('valid');
    history.call(0, 'cas', 'x', [4, 5])('fail', [4, 5], { mismatch: true });
    expect(check(history.operations).verdict, 'compared with another value').to.equal('valid');
    history.call(0, 'cas', 'x', [1, 3])('fail', [1, 3], { mismatch: true });
    expect(check(history.operations).verdict, 'compared with the value that it had').to.equal('invalid');
  });

  it('begins with the given value', () => {
    const history = new Recorder();
    history.call(0, 'read', 'x')('ok', 7);
    expect(check(history.operations).verdict).to.equal('invalid');
    expect(check(history.operations, registerModel(7)).verdict).to.equal('valid');
  });

  it('refuses operations that a register does not have', () => {
    const history = new Recorder();
    history.call(0, 'increment', 'x', 7)('ok');
    expect(() => check(history.operations)).to.throw(/event 0: 'increment' does not fit: a register has read, write and cas/);
    const swap = new Recorder();
    swap.call(0, 'cas', 'x', 7)('ok');
    expect(() => check(swap.operations)).to.throw(/the value of a cas is \[old, new\]/);
  });

  it('says unknown, never valid, when it is told to give up or needs too much memory', () => {
    const operations = operationsOf(runLoad(new SimRandom(1), { operations: 16_000, processes: 10, apply: registers(), draw }));
    const { verdict, unknown } = check(operations, registerModel(), () => true);
    expect(verdict).to.equal('unknown');
    expect(unknown).to.have.lengthOf(2);
    const calls = callsOf(operations, registerModel());
    expect(run(linearize(calls, 'null', 10))).to.deep.equal({
      verdict: 'unknown',
      why: 'more than 10 configurations had to be remembered',
    });
  });

  it('keeps what it found before it gave up', () => {
    const history = new Recorder();
    history.call(0, 'read', 'wrong')('ok', 7);
    for (let at = 0; at < 3000; at += 1) history.call(0, 'write', 'long', at)('ok');
    const { verdict, unknown } = check(history.operations, registerModel(), () => true);
    expect(verdict).to.equal('invalid');
    expect(unknown).to.deep.equal(['1 more keys were not looked at']);
  });
});

describe('linearizability of random histories', () => {
  /** Few values, so that operations are mistaken for each other; every shape that one object can show in a few operations. */
  it('agrees with trying all orders', () => {
    const count = { valid: 0, invalid: 0 };
    for (let seed = 0; seed < 3000; seed += 1) {
      const random = new SimRandom(seed);
      const events = runLoad(random, {
        operations: 3 + random.below(5),
        processes: 1 + random.below(5),
        apply: registers(),
        draw: (luck) => ({ ...draw(luck), key: 'x' }),
        infos: random.pick([0, 0.2, 0.5]),
        fails: random.pick([0, 0.1]),
      });
      const operations = operationsOf(damage(events, random, random.below(4)));
      const expected = byTryingAll(callsOf(operations, registerModel()), 'null') ? 'valid' : 'invalid';
      count[expected] += 1;
      expect(check(operations).verdict, `seed ${seed}`).to.equal(expected);
    }
    expect(Math.min(count.valid, count.invalid)).to.be.greaterThan(250);
  });

  it('agrees with trying all orders of appends, where every operation changes and tells the state', () => {
    const count = { valid: 0, invalid: 0 };
    for (let seed = 0; seed < 2000; seed += 1) {
      const random = new SimRandom(`append ${seed}`);
      let text = '';
      const events = runLoad(random, {
        operations: 3 + random.below(5),
        processes: 1 + random.below(5),
        apply: (f, _key, value) => {
          if (f === 'read') return { type: 'ok', value: text };
          text = `${f === 'put' ? '' : text}${value as string}`;
          return { type: 'ok' };
        },
        draw: (luck) => ({ f: luck.pick(['read', 'read', 'append', 'append', 'put']), value: luck.pick(['a', 'b']) }),
        infos: random.pick([0, 0.3]),
      });
      const operations = operationsOf(damage(events, random, random.below(4)));
      const expected = byTryingAll(callsOf(operations, textModel), '') ? 'valid' : 'invalid';
      count[expected] += 1;
      expect(check(operations, textModel).verdict, `seed ${seed}`).to.equal(expected);
    }
    expect(Math.min(count.valid, count.invalid)).to.be.greaterThan(300);
  });

  for (const processes of [5, 30]) {
    it(`accepts long histories of an atomic register under ${processes} processes, and finds a damaged read`, () => {
      for (let seed = 0; seed < 6; seed += 1) {
        const random = new SimRandom(`long ${seed}`);
        const unique = seed % 2 === 1;
        let last = 0;
        const events = runLoad(random, {
          operations: 1500,
          processes,
          apply: registers(),
          draw: (luck) => (unique ? { ...draw(luck), f: luck.pick(['read', 'write']), value: (last += 1) } : draw(luck)),
          infos: 0.02,
          fails: 0.02,
        });
        expect(check(operationsOf(events)).verdict, `seed ${seed}`).to.equal('valid');
        const reads = events.filter(({ f, type }) => f === 'read' && type === 'ok');
        const victim = reads[Math.floor(reads.length / 2)];
        const damaged = events.map((event) => (event === victim ? { ...event, value: 'nobody wrote this' } : event));
        const { verdict, findings } = check(operationsOf(damaged));
        expect(verdict, `seed ${seed}`).to.equal('invalid');
        expect(findings[0]?.details[0], `seed ${seed}`).to.include('"nobody wrote this"');
      }
    });
  }
});

function draw(random: SimRandom): { f: string; key: string; value: Json } {
  const f = random.pick(['read', 'read', 'write', 'cas']);
  const value = f === 'cas' ? [random.below(3), random.below(3)] : f === 'write' ? random.below(3) : null;
  return { f, key: random.pick(['x', 'y']), value };
}

/** Gives some reads another answer; the history may still be possible. */
function damage(events: readonly HistoryEvent[], random: SimRandom, times: number): HistoryEvent[] {
  const damaged = [...events];
  for (let time = 0; time < times; time += 1) {
    const reads = damaged.filter(({ f, type }) => f === 'read' && type === 'ok');
    if (reads.length === 0) break;
    const victim = random.pick(reads);
    const donor = random.pick(damaged.filter(({ value }) => !Array.isArray(value)));
    damaged[damaged.indexOf(victim)] = { ...victim, value: donor.value ?? null };
  }
  return damaged;
}

/** A text that can be put and appended to. */
const textModel: Model = {
  initial: '',
  step: ({ f, input, output, outcome }) => {
    if (outcome === 'fail' || (f === 'read' && outcome !== 'ok')) return undefined;
    const value = ((f === 'read' ? output : input) ?? '') as string;
    const name = `${f} ${value}`;
    if (f === 'read') return { name, kind: 'read', wants: value, apply: (state) => (state === value ? state : undefined) };
    if (f === 'put') return { name, kind: 'blind', result: value, apply: () => value };
    return { name, kind: 'update', apply: (state) => `${state}${value}` };
  },
};

function check(operations: readonly Operation[], model?: Model, giveUp?: () => boolean): Result {
  const checker = new LinearizabilityChecker(model);
  for (const operation of operations) checker.add(operation);
  return run(checker.check(), giveUp);
}

function callsOf(operations: readonly Operation[], model: Model): Call[] {
  return operations.flatMap((operation) => {
    const step = model.step(operation);
    return step === undefined ? [] : [{ step, call: operation.begin, return: operation.end }];
  });
}

/** The definition, without any cleverness. */
function byTryingAll(calls: readonly Call[], state: State): boolean {
  const deadline = Math.min(...calls.map((call) => call.return));
  if (deadline === Infinity) return true;
  return calls.some((call) => {
    const after = call.call < deadline ? call.step.apply(state) : undefined;
    return after !== undefined && byTryingAll(calls.filter((other) => other !== call), after);
  });
}
