import { expect } from 'chai';
import { Alarms } from '../../src/router/alarms.js';
import { NearCache } from '../../src/router/near-cache.js';
import { bytes, FakeTime } from './support.js';

describe('which keys a near cache follows', () => {
  /** Reads two keys 50 times a second for some seconds, among so many others that come once each. */
  async function followed(crowd: number): Promise<string[]> {
    const time = new FakeTime();
    const begun: string[] = [];
    const ports = {
      clock: time,
      alarms: new Alarms(time, time),
      now: () => time.nowMs,
      async *changes(range: { readonly start: Buffer }) {
        begun.push(range.start.toString());
        await new Promise(() => undefined);
      },
      isClosed: () => false,
    };
    const cache = new NearCache({ keysMax: 4, readsPerSecondMin: 10 }, ports);
    let others = 0;
    for (let tenth = 0; tenth < 60; tenth += 1) {
      for (let n = 0; n < 5; n += 1) for (const key of ['a', 'b']) cache.read(bytes(key), 1000, 0);
      for (let n = 0; n < crowd / 10; n += 1) cache.read(bytes(`cold ${(others += 1)}`), 1000, 0);
      await time.pass(100);
    }
    cache.close();
    return begun.sort();
  }

  it('are the hot ones, and no others, however many cold ones there are', async () => {
    expect(await followed(0)).to.deep.equal(['a', 'b']);
    expect(await followed(1000)).to.deep.equal(['a', 'b']);
  });
});
