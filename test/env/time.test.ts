import { expect } from 'chai';
import { systemClock } from '../../src/env/real/clock.js';
import { systemRandom } from '../../src/env/real/random.js';
import { systemTimers } from '../../src/env/real/timers.js';
import { randomIdentity } from '../../src/env/time.js';

describe('system timers and clock', () => {
  const clock = systemClock();
  const timers = systemTimers();

  it('never fires early, also after a turn that blocked the loop', async () => {
    await new Promise<void>((resolve) => setImmediate(resolve));
    const blockedSince = clock.monotonicMs();
    while (clock.monotonicMs() - blockedSince < 30);
    const start = clock.monotonicMs();
    await new Promise<void>((resolve) => timers.after(10.5, resolve));
    expect(clock.monotonicMs() - start).to.be.at.least(10.5);
  });

  it('does not fire once it was cancelled', async () => {
    let fired = false;
    timers.after(1, () => (fired = true)).cancel();
    await new Promise<void>((resolve) => timers.after(5, resolve));
    expect(fired).to.equal(false);
  });

  it('waits for delays of more than 31 bits', async () => {
    let fired = false;
    const timer = timers.after(2 ** 32, () => (fired = true));
    await new Promise<void>((resolve) => timers.after(5, resolve));
    timer.cancel();
    expect(fired).to.equal(false);
  });

  it('ends the turn behind the promises of the turn', async () => {
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      timers.turnEnd(() => {
        order.push('turn end');
        resolve();
      });
      void Promise.resolve().then(() => order.push('promise'));
      order.push('turn');
    });
    expect(order).to.deep.equal(['turn', 'promise', 'turn end']);
  });
});

describe('system randomness', () => {
  it('is uniform over its whole range', () => {
    const random = systemRandom();
    const draws = 20_000;
    const tenths = new Array<number>(10).fill(0);
    for (let i = 0; i < draws; i += 1) {
      const float = random.float();
      expect(float >= 0 && float < 1).to.equal(true);
      tenths[Math.floor(float * 10)] = (tenths[Math.floor(float * 10)] ?? 0) + 1;
      const integer = random.uint32();
      expect(Number.isInteger(integer) && integer >= 0 && integer < 2 ** 32).to.equal(true);
    }
    // Six standard deviations of a binomial count: wrong about once in five hundred million runs.
    for (const count of tenths) expect(Math.abs(count - draws / 10)).to.be.below(6 * Math.sqrt(draws * 0.09));
  });
});

describe('an identity by chance', () => {
  it('has all bits that a number holds exactly, and is never 0', () => {
    const always = (uint32: number): number => randomIdentity({ uint32: () => uint32, float: () => 0 });
    expect(always(2 ** 32 - 1)).to.equal(Number.MAX_SAFE_INTEGER);
    expect(always(0)).to.equal(1);
  });
});
