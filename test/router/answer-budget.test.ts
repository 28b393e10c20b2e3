import { expect } from 'chai';
import { Cancellation } from '../../src/lib/cancel.js';
import { Alarms } from '../../src/router/alarms.js';
import { AnswerBudget, type Hold } from '../../src/router/answer-budget.js';
import { failureOf, FakeTime } from './support.js';

describe('the budget for answers', () => {
  let time: FakeTime;
  let budget: AnswerBudget;

  const soon = (ms: number): number => time.monotonicMs() + ms;

  beforeEach(() => {
    time = new FakeTime();
    // Of which 100 may be reserved.
    budget = new AnswerBudget(time, new Alarms(time, time), 125);
  });

  it('lets wait in turn, large ones not passed by small ones, and gives each its room once', async () => {
    const first = await budget.reserve(80, soon(1000));
    const got: string[] = [];
    const holds: Hold[] = [];
    for (const [name, bytes] of [['large', 90], ['small', 10], ['other', 10]] as const) {
      void budget.reserve(bytes, soon(1000)).then((hold) => {
        got.push(name);
        holds.push(hold);
      });
    }
    await time.pass(10);
    expect(got).to.deep.equal([]);
    first.resize(5);
    await time.pass(10);
    expect([got, budget.bytes]).to.deep.equal([['large'], 95]);
    first.release();
    first.release();
    await time.pass(10);
    expect([got, budget.bytes]).to.deep.equal([['large', 'small'], 100]);
    for (const hold of holds) hold.release();
    await time.pass(10);
    expect([got, budget.bytes]).to.deep.equal([['large', 'small', 'other'], 10]);
  });

  it('admits those behind one that goes away, if they fit', async () => {
    await budget.reserve(60, soon(1000));
    const caller = new Cancellation();
    const large = failureOf(budget.reserve(60, soon(5000), caller));
    const small = budget.reserve(20, soon(5000));
    caller.abort();
    expect(await time.run(large)).to.include({ reason: 'CANCELLED' });
    await time.run(small);
    expect(budget.bytes).to.equal(80);
  });

  it('refuses who has waited until its deadline, and what is there without room, saying why', async () => {
    await budget.reserve(60, soon(1000));
    const dueMs = soon(1000);
    const late = await time.run(failureOf(budget.reserve(60, soon(1000))));
    expect(late).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'ANSWERS_UNREAD', retriable: true });
    expect(late.message).to.match(/60 bytes of answers .* at most 125 .*read faster/);
    expect(time.monotonicMs()).to.be.at.least(dueMs);
    expect(() => budget.take(66)).to.throw().that.includes({ reason: 'ANSWERS_UNREAD' });
    budget.take(65);
    expect(budget.bytes).to.equal(125);
  });

  it('has room for what is there however much is reserved, and reserves none of that', async () => {
    const first = await budget.reserve(100, soon(1000));
    const waiting = budget.reserve(10, soon(10_000));
    const small = budget.take(20);
    expect(budget.bytes).to.equal(120);
    first.resize(85);
    small.resize(10);
    await time.pass(10);
    expect(budget.bytes, 'none yet for the one that waits').to.equal(95);
    small.release();
    (await time.run(waiting)).release();
    expect(budget.bytes).to.equal(85);
  });

  it('takes more than all of it when it is empty, and forgets who went away', async () => {
    const hold = await budget.reserve(1000, soon(1000));
    expect(budget.bytes).to.equal(100);
    const gone = new AbortController();
    const waiting = failureOf(budget.reserve(10, soon(10_000), gone.signal));
    gone.abort();
    expect(await time.run(waiting)).to.include({ code: 'CANCELLED' });
    hold.release();
    expect(budget.bytes).to.equal(0);
  });

  it('cuts off the slowest reader, one at a time, only while others wait', async () => {
    const cuts: string[] = [];
    const park = (hold: Hold, name: string): void =>
      hold.park(() => {
        cuts.push(name);
        hold.release();
      });
    park(await budget.reserve(50, soon(1000)), 'first');
    await time.pass(100);
    park(await budget.reserve(50, soon(1000)), 'second');
    await time.pass(20_000);
    expect(cuts).to.deep.equal([]);
    const hold = await time.run(budget.reserve(40, soon(40_000)));
    expect([cuts, budget.bytes]).to.deep.equal([['first'], 90]);
    hold.release();
    // Nor one that has not been slow for long.
    park(await budget.reserve(50, soon(1000)), 'third');
    const waiting = budget.reserve(60, soon(40_000));
    await time.pass(4000);
    expect(cuts).to.deep.equal(['first', 'second']);
    await time.run(waiting);
    expect(cuts).to.deep.equal(['first', 'second', 'third']);
  });
});
