import { expect } from 'chai';
import { bytes, Counters, leaderOf, replicasOf, startCluster, untilEqual } from './support.js';

describe('a snapshot of an idle bucket', () => {
  it('is not sent again and again when only the word of its arrival was lost', async () => {
    const cluster = await startCluster({ seed: 'word-lost', nodes: 3, buckets: 1, limits: { logEntriesKept: 5 } });
    const client = cluster.client('c1');
    cluster.crash(3);
    const counters = new Counters(cluster, client, ['a', 'b'], 50);
    await cluster.loop.runFor(3500);
    await counters.stop(cluster);
    await cluster.restart(3);
    const lines = (text: string): number => cluster.log.lines.filter((line) => line.includes(text)).length;
    expect(await cluster.loop.runUntil(() => lines('installed a snapshot') > 0, 10_000)).to.equal(true);
    const leader = leaderOf(cluster, 'a', 1);
    cluster.network.breakStreams('n3', `n${leader}`);
    await cluster.loop.runFor(8000);
    expect(lines('sending a snapshot')).to.be.lessThan(5);
    const progress = replicasOf(cluster, 0).flatMap(({ replica }) => replica.raft.progress());
    expect(progress.map(({ state }) => state)).to.deep.equal(['replicate', 'replicate']);
    await cluster.settle(client.put(bytes('a'), bytes('0')));
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
