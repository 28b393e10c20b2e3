import { expect } from 'chai';
import { SimLoop } from '../../src/sim/loop.js';
import { SimRandom } from '../../src/sim/random.js';

describe('simulated loop', () => {
  it('runs events by time, then by the order in which they were made', async () => {
    const loop = new SimLoop(1);
    const seen: string[] = [];
    const at = (ms: number, what: string): void => {
      loop.timers.after(ms, () => seen.push(`${what}@${loop.nowMs}`));
    };
    at(5, 'b');
    at(2.5, 'a');
    at(5, 'c');
    at(100, 'late');
    await loop.runFor(50);
    expect(seen).to.deep.equal(['a@2.5', 'b@5', 'c@5']);
    expect(loop.nowMs).to.equal(50);
  });

  it('keeps a heap of many timers in order, with some cancelled', async () => {
    const loop = new SimLoop('heap');
    const random = loop.random.fork('delays');
    const fired: number[] = [];
    let expected = 0;
    for (let i = 0; i < 2000; i += 1) {
      const delay = Math.floor(random.between(0, 300));
      const timer = loop.timers.after(delay, () => fired.push(delay));
      if (random.chance(0.3)) timer.cancel();
      else expected += 1;
    }
    await loop.runFor(1000);
    expect(fired).to.have.length(expected);
    expect(fired).to.deep.equal([...fired].sort((a, b) => a - b));
  });

  it('lets chains of promises settle between two events', async () => {
    const loop = new SimLoop(1);
    const seen: string[] = [];
    loop.timers.after(1, () => {
      void (async () => {
        for (let i = 0; i < 50; i += 1) await Promise.resolve();
        seen.push('promises of 1');
      })();
    });
    loop.timers.after(1, () => seen.push('second of 1'));
    await loop.runFor(2);
    expect(seen).to.deep.equal(['promises of 1', 'second of 1']);
  });

  it('ends a turn when no event is left at its time, and the events that a turn end makes come before the next one', async () => {
    const loop = new SimLoop(1);
    const process = loop.process('n1');
    const seen: string[] = [];
    process.timers.after(1, () => {
      seen.push('first');
      process.timers.turnEnd(() => {
        seen.push('end');
        process.timers.after(0, () => seen.push('after end'));
      });
      process.timers.turnEnd(() => seen.push('end too'));
    });
    process.timers.after(1, () => seen.push('second'));
    process.timers.after(1.001, () => seen.push('next time'));
    await loop.runFor(2);
    expect(seen).to.deep.equal(['first', 'second', 'end', 'after end', 'end too', 'next time']);
  });

  it('runs until a predicate holds, or says that it did not', async () => {
    const loop = new SimLoop(1);
    let ticks = 0;
    const tick = (): void => {
      ticks += 1;
      loop.timers.after(10, tick);
    };
    tick();
    expect(await loop.runUntil(() => ticks === 4, 1000)).to.equal(true);
    expect(loop.nowMs).to.equal(30);
    expect(await loop.runUntil(() => ticks === 0, 25)).to.equal(false);
    expect(loop.nowMs).to.equal(55);
  });

  it('answers with what a promise settles to, and throws what an event throws', async () => {
    const loop = new SimLoop(1);
    const later = new Promise<string>((resolve) => loop.timers.after(3, () => resolve('done')));
    expect(await loop.runUntilSettled(later, 10)).to.equal('done');
    loop.timers.after(1, () => {
      throw new Error('boom');
    });
    const failure = await loop.runFor(5).catch((error: unknown) => error);
    expect(failure).to.have.property('message', 'boom');
  });
});

describe('simulated process', () => {
  it('does nothing more once it was killed', async () => {
    const loop = new SimLoop(1);
    const process = loop.process('n1');
    let runs = 0;
    process.timers.after(5, () => (runs += 1));
    process.timers.after(15, () => (runs += 1));
    loop.timers.after(10, () => process.kill());
    await loop.runFor(100);
    expect(runs).to.equal(1);
  });

  it('holds its events back while it is paused and runs them in order when it goes on', async () => {
    const loop = new SimLoop(1);
    const process = loop.process('n1');
    const seen: string[] = [];
    for (const ms of [30, 10, 20]) process.timers.after(ms, () => seen.push(`${ms}@${loop.nowMs}`));
    const cancelled = process.timers.after(15, () => seen.push('cancelled'));
    loop.timers.after(5, () => process.pause());
    loop.timers.after(50, () => {
      cancelled.cancel();
      process.resume();
    });
    await loop.runFor(100);
    expect(seen).to.deep.equal(['10@50', '20@50', '30@50']);
  });

  it('has timers that keep to its own clock, also when the rate changes meanwhile', async () => {
    const loop = new SimLoop(1);
    const slow = loop.clock({ rate: 0.5, monotonicMs: 1000 });
    const process = loop.process('n1', slow);
    const fired: number[] = [];
    process.timers.after(100, () => fired.push(loop.nowMs));
    await loop.runFor(150);
    slow.setRate(0.25);
    await loop.runFor(1000);
    expect(fired).to.deep.equal([250]);
  });

  it('has a wall clock that jumps and drifts while the monotonic one only goes forward', async () => {
    const loop = new SimLoop(1);
    const clock = loop.clock({ wallMs: 5000, monotonicMs: 70 });
    await loop.runFor(10);
    expect([clock.wallMs(), clock.monotonicMs()]).to.deep.equal([5010, 80]);
    clock.jumpWall(-3000);
    clock.setWallRate(2);
    await loop.runFor(10);
    expect([clock.wallMs(), clock.monotonicMs()]).to.deep.equal([2030, 90]);
  });
});

describe('simulated randomness', () => {
  it('follows from the seed', () => {
    const draw = (random: SimRandom): number[] => Array.from({ length: 20 }, () => random.uint32());
    expect(draw(new SimRandom('a'))).to.deep.equal(draw(new SimRandom('a')));
    expect(draw(new SimRandom('a'))).not.to.deep.equal(draw(new SimRandom('b')));
  });

  it('forks by name, whatever was drawn before', () => {
    const one = new SimRandom(7);
    const two = new SimRandom(7);
    two.uint32();
    expect(one.fork('disk').uint32()).to.equal(two.fork('disk').uint32());
    expect(one.fork('disk').uint32()).not.to.equal(one.fork('network').uint32());
  });

  it('is uniform', () => {
    const random = new SimRandom(1);
    const draws = 50_000;
    const tenths = new Array<number>(10).fill(0);
    for (let i = 0; i < draws; i += 1) {
      const at = random.below(10);
      tenths[at] = (tenths[at] ?? 0) + 1;
    }
    for (const count of tenths) expect(Math.abs(count - draws / 10)).to.be.below(6 * Math.sqrt(draws * 0.09));
  });
});
