import { expect } from 'chai';
import { later } from '../../src/mvcc/timestamp.js';
import { NodeClock } from '../../src/router/node-clock.js';

const START = later(0, 1_000_000);

/** What a node whose clock is right says at that moment. */
function told(saidMs: number): number {
  return later(START, saidMs);
}

describe('the clock of a node as its callers know it', () => {
  it('is what a welcome says, and says nothing if that was long on its way', () => {
    const clock = new NodeClock();
    clock.welcome(told(10), 0, 20);
    expect(clock.told).to.deep.equal({ now: told(10), atMs: 20 });
    const slow = new NodeClock();
    slow.welcome(told(10), 0, 2800);
    expect(slow.told).to.equal(undefined);
    slow.hear(told(3100), 3110);
    expect(slow.told).to.deep.equal({ now: told(3100), atMs: 3110 });
  });

  it('is not set back by what was held up on its way, however much of it comes at once', () => {
    const clock = new NodeClock();
    clock.welcome(told(10), 0, 20);
    for (const saidMs of [1000, 2000, 3000]) clock.hear(told(saidMs), 5000);
    expect(clock.told).to.deep.equal({ now: told(10), atMs: 20 });
    clock.hear(told(5100), 5101);
    expect(clock.told).to.deep.equal({ now: told(5100), atMs: 5101 });
  });

  it('is set back when the node still says so a while later', () => {
    const clock = new NodeClock();
    clock.welcome(told(60_000), 0, 20);
    clock.hear(told(1000), 1000);
    expect(clock.told?.now).to.equal(told(60_000));
    clock.hear(told(2000), 2000);
    expect(clock.told).to.deep.equal({ now: told(2000), atMs: 2000 });
    clock.hear(told(1500), 2100);
    expect(clock.told?.now).to.equal(told(2000));
  });

  it('goes ahead at once', () => {
    const clock = new NodeClock();
    clock.welcome(told(10), 0, 20);
    clock.hear(told(5000), 100);
    expect(clock.told?.now).to.equal(told(5000));
  });
});
