import { expect } from 'chai';
import { Alarms } from '../../src/router/alarms.js';
import type { StreamEvent } from '../../src/router/change-stream.js';
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

describe('what a near cache keeps', () => {
  it('are values alone, not the frames in which they came', async () => {
    const time = new FakeTime();
    const frame = Buffer.alloc(1_000_000, 'v');
    const [first, second] = [frame.subarray(10, 10_010), frame.subarray(20_000, 30_000)];
    let tellsMore: () => void = () => undefined;
    const ports = {
      clock: time,
      alarms: new Alarms(time, time),
      now: () => time.nowMs,
      async *changes(): AsyncGenerator<StreamEvent> {
        const key = bytes('a');
        yield { kind: 'entries', timestamp: 1, entries: [{ key, value: first, version: 1 }], cursor: '' };
        yield { kind: 'mark', timestamp: 1_000_000, cursor: '' };
        await new Promise<void>((resolve) => {
          tellsMore = resolve;
        });
        const at = { timestamp: 1_000_001, bucket: 0, index: 1, position: 0 };
        const change = { at, key, deleted: false, value: second, before: undefined, transaction: bytes('t') };
        yield { kind: 'changes', changes: [change], cursor: '' };
        yield { kind: 'mark', timestamp: 2_000_000, cursor: '' };
        await new Promise(() => undefined);
      },
      isClosed: () => false,
    };
    const cache = new NearCache({ keysMax: 4, readsPerSecondMin: 10 }, ports);
    const shown = async (version: number): Promise<Buffer> => {
      for (let tenth = 0; tenth < 30; tenth += 1) {
        for (let n = 0; n < 5; n += 1) cache.read(bytes('a'), 1000, 0);
        await time.pass(100);
      }
      const record = cache.read(bytes('a'), 1000, 0)?.record;
      expect(record?.version).to.equal(version);
      return record?.value ?? expect.fail('it is kept');
    };
    for (const version of [1, 1_000_001]) {
      const value = await shown(version);
      expect(value.length).to.equal(10_000);
      expect(value.buffer.byteLength).to.equal(10_000);
      tellsMore();
    }
    cache.close();
  });
});
