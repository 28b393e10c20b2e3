import { expect } from 'chai';
import { Counters, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

describe('state stores that fall behind', () => {
  it('hold writes back, and nobody takes their leaders for dead', async () => {
    const cluster = await startCluster({ seed: 'behind', nodes: 3, buckets: 1, limits: { overlayBytesMax: 2000 } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const terms = (): number[] => replicasOf(cluster, 0).map(({ replica }) => replica.raft.term);
    const before = terms();
    const keys = Array.from({ length: 40 }, (_, at) => `key ${at} ${'x'.repeat(200)}`);
    const counters = new Counters(cluster, client, keys, 1);
    await cluster.loop.runFor(6000);
    await counters.stop(cluster);
    await counters.check(cluster, client);
    await untilEqual(cluster);
    expect(terms()).to.deep.equal(before);
    expect(counters.errors).to.deep.equal([]);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
