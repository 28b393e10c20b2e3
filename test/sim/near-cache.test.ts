import { expect } from 'chai';
import { isTidemarkError } from '../../src/lib/errors.js';
import { earlier } from '../../src/mvcc/timestamp.js';
import type { GetReply } from '../../src/router/options.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, startCluster, untilLed } from './support.js';

const bounded = (maxStalenessMs: number) => ({ kind: 'bounded', maxStalenessMs }) as const;
const NEAR = { nearCache: { keysMax: 2, readsPerSecondMin: 10 } };

async function start(seed: string, nearCache = NEAR): Promise<{ cluster: SimCluster; writer: Router; reader: Router }> {
  const cluster = await startCluster({ seed, nodes: 3, buckets: 2 });
  await untilLed(cluster);
  return { cluster, writer: cluster.client('writer'), reader: cluster.client('reader', undefined, nearCache) };
}

/** Reads a key 50 times a second. */
async function heat(cluster: SimCluster, reader: Router, key: string, seconds: number): Promise<GetReply[]> {
  const replies: GetReply[] = [];
  for (let n = 0; n < 50 * seconds; n += 1) {
    replies.push(await cluster.settle(reader.get(bytes(key), { consistency: bounded(1000) })));
    await cluster.loop.runFor(20);
  }
  return replies;
}

describe('the near cache of a router', () => {
  it('keeps what bounded reads ask for most, and answers without a hop as of a moment within the bound', async () => {
    const { cluster, writer, reader } = await start('near');
    await cluster.settle(writer.put(bytes('hot'), bytes('1')));
    await heat(cluster, reader, 'hot', 4);
    for (let n = 2; n < 12; n += 1) {
      await cluster.settle(writer.put(bytes('hot'), bytes(String(n))));
      await cluster.loop.runFor(300);
      const { record, served } = await cluster.settle(reader.get(bytes('hot'), { consistency: bounded(1000) }));
      expect(served).to.include({ hops: 0, node: 0, consistency: 'bounded' });
      expect(served.timestamp).to.be.at.least(earlier(writer.now(), 1000));
      expect([record?.key.toString(), record?.value.toString()]).to.deep.equal(['hot', String(n)]);
      // Whatever the caller does with its copy.
      record?.key.fill('x');
      record?.value.fill('x');
    }
    await cluster.settle(writer.delete(bytes('hot')));
    await cluster.loop.runFor(300);
    const gone = await cluster.settle(reader.get(bytes('hot'), { consistency: bounded(1000) }));
    expect([gone.record, gone.served.hops]).to.deep.equal([undefined, 0]);
    const [cold] = await heat(cluster, reader, 'cold', 0.02);
    expect(cold?.served.hops).to.equal(1);
  });

  it('is not used for a bound or a session that the mark of its stream does not prove', async () => {
    const { cluster, writer, reader } = await start('proof');
    await cluster.settle(writer.put(bytes('hot'), bytes('old')));
    await heat(cluster, reader, 'hot', 4);
    for (let n = 0; n < 10; n += 1) {
      // Its own write, and what somebody else wrote and told it.
      const own = await cluster.settle(reader.put(bytes('hot'), bytes(`own ${n}`)));
      const mine = await cluster.settle(reader.get(bytes('hot'), { consistency: bounded(1000) }));
      expect(mine.record?.value.toString()).to.equal(`own ${n}`);
      expect(mine.served.timestamp).to.be.at.least(own.timestamp);
      const { timestamp } = await cluster.settle(writer.put(bytes('hot'), bytes(`told ${n}`)));
      const told = await cluster.settle(reader.get(bytes('hot'), { consistency: bounded(1000), atLeast: timestamp }));
      expect(told.record?.value.toString()).to.equal(`told ${n}`);
      const tight = await cluster.settle(reader.get(bytes('hot'), { consistency: bounded(1) }));
      expect(tight.served.hops).to.equal(1);
      await cluster.loop.runFor(37);
    }
    const latest = await cluster.settle(reader.get(bytes('hot')));
    expect(latest.served).to.include({ hops: 1, consistency: 'linearizable' });
  });

  it('is not used when its stream stalls, and is again when that goes on', async () => {
    const { cluster, writer, reader } = await start('stall');
    await cluster.settle(writer.put(bytes('hot'), bytes('old')));
    await heat(cluster, reader, 'hot', 4);
    for (const id of cluster.ids) cluster.network.partition('reader', `n${id}`);
    await cluster.settle(writer.put(bytes('hot'), bytes('new')));
    const cutMs = cluster.loop.nowMs;
    let lastMs = 0;
    for (let n = 0; n < 30; n += 1) {
      const reply = reader.get(bytes('hot'), { consistency: bounded(1000), timeoutMs: 50 }).then(
        ({ record, served }) => ({ value: record?.value.toString(), hops: served.hops }),
        (error: unknown) => (isTidemarkError(error) ? error.code : String(error)),
      );
      const answer = await cluster.settle(reply);
      if (typeof answer === 'string') expect(answer).to.equal('UNAVAILABLE');
      else {
        expect(answer).to.deep.equal({ value: 'old', hops: 0 });
        lastMs = cluster.loop.nowMs - cutMs;
      }
      await cluster.loop.runFor(50);
    }
    expect(lastMs, 'as long as it can be proved').to.be.within(500, 1050);
    cluster.network.heal();
    await cluster.loop.runFor(3000);
    const [first] = await heat(cluster, reader, 'hot', 0.02);
    expect(first?.record?.value.toString()).to.equal('new');
    await heat(cluster, reader, 'hot', 4);
    const [again] = await heat(cluster, reader, 'hot', 0.02);
    expect(again?.served.hops).to.equal(0);
  });

  it('keeps no more keys than it may, lets go of cold ones, and keeps no value that is too large', async () => {
    const { cluster, writer, reader } = await start('bounds', { nearCache: { ...NEAR.nearCache, bytesMax: 2000 } as typeof NEAR.nearCache });
    await cluster.settle(writer.put(bytes('a'), bytes('1')));
    await cluster.settle(writer.put(bytes('large'), Buffer.alloc(2000)));
    await heat(cluster, reader, 'a', 4);
    expect((await heat(cluster, reader, 'a', 0.02))[0]?.served.hops).to.equal(0);
    await heat(cluster, reader, 'large', 4);
    expect((await heat(cluster, reader, 'large', 0.02))[0]?.served.hops).to.equal(1);
    for (const key of ['b', 'c', 'd']) await heat(cluster, reader, key, 4);
    expect((await heat(cluster, reader, 'd', 0.02))[0]?.served.hops).to.equal(0);
    expect((await heat(cluster, reader, 'a', 0.02))[0]?.served.hops, 'cold meanwhile').to.equal(1);
    await reader.close();
    expect(cluster.fatal).to.deep.equal([]);
  });
});
