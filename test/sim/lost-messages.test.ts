import { expect } from 'chai';
import { moveReplica } from '../../src/placement/record.js';
import { bucketOf } from '../../src/placement/map.js';
import { bytes, change, leaderOf, replicasOf, startCluster, untilLed } from './support.js';

/** What a node gave out for a peer that it could not reach is not waited for as if it had been sent. */
describe('a replica to which messages were lost', () => {
  it('has what was written meanwhile as soon as it can be reached, and not an election timeout later', async () => {
    const cluster = await startCluster({ seed: 'dropped', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('a')));
    await cluster.loop.runFor(1000);
    const leader = leaderOf(cluster, 'k', 1);
    const other = cluster.ids.find((id) => id !== leader) ?? 0;
    cluster.network.breakStreams(`n${leader}`, `n${other}`);
    // It is dialled again, but not at once.
    await cluster.loop.runFor(5);
    await cluster.settle(client.put(bytes('k'), bytes('b')));
    const applied = (): number[] => replicasOf(cluster, 0).map(({ replica }) => replica.state.applied.index);
    const writtenMs = cluster.loop.nowMs;
    expect(await cluster.loop.runUntil(() => new Set(applied()).size === 1, 5000)).to.equal(true);
    expect(cluster.loop.nowMs - writtenMs).to.be.below(350);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is made though the log has been compacted since its leader first called for it', async () => {
    const limits = { bucketsMovingMax: 0, logEntriesKept: 20, logBytesKept: 1000 };
    const cluster = await startCluster({ seed: 'uncalled', nodes: 4, buckets: 4, limits });
    const client = cluster.client('c1');
    await untilLed(cluster);
    const bucket = bucketOf(bytes('k'), 4);
    const nodes = replicasOf(cluster, bucket).map(({ node }) => node);
    const to = cluster.ids.find((id) => !nodes.includes(id)) ?? 0;
    const [from = 0] = nodes.filter((node) => node !== leaderOf(cluster, 'k', 4));
    cluster.crash(to);
    await change(cluster, (record) => moveReplica(record, bucket, from, to));
    for (let n = 0; n < 200; n += 1) {
      await cluster.settle(client.put(bytes('k'), Buffer.alloc(100)));
      await cluster.loop.runFor(30);
    }
    await cluster.restart(to);
    const isThere = (): boolean => {
      const there = replicasOf(cluster, bucket).map(({ node }) => node);
      return there.includes(to) && !there.includes(from);
    };
    expect(await cluster.loop.runUntil(isThere, 20_000)).to.equal(true);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
