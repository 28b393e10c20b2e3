import { expect } from 'chai';
import { bytes, leaderOf, replicasOf, startCluster, untilLed } from './support.js';

describe('clocks that are not what they should be', () => {
  it('never let a machine that slept answer from the lease it had before', async () => {
    const cluster = await startCluster({ seed: 'slept', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('old')));
    await cluster.loop.runFor(500);
    const old = leaderOf(cluster, 'k', 1);
    const replica = replicasOf(cluster, 0).find(({ node }) => node === old)?.replica;
    if (replica === undefined) throw new Error('the leader hosts no replica');
    // Asleep its monotonic clock stands still, and awake it hears nobody: it cannot know that another leads.
    cluster.network.isolate(`n${old}`);
    cluster.clock(old).setMonotonicRate(1e-9);
    cluster.process(old).pause();
    await cluster.settle(client.put(bytes('k'), bytes('new')));
    cluster.clock(old).setMonotonicRate(1);
    cluster.process(old).resume();
    const { reads } = replica;
    const answer = reads.open({ kind: 'linearizable' }, cluster.clock(old).monotonicMs() + 400).then(
      (view) => reads.get(bytes('k'), view)?.value.toString(),
      (error: unknown) => error,
    );
    expect(await cluster.settle(answer)).to.include({ code: 'UNAVAILABLE' });
    cluster.network.heal();
    await untilLed(cluster);
    const { record } = await cluster.settle(client.get(bytes('k')));
    expect(record?.value.toString()).to.equal('new');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('shut nobody out: what an entry from a clock far ahead has told every node is no news in a request', async () => {
    const buckets = 4;
    const cluster = await startCluster({ seed: 'ahead', nodes: 3, buckets });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(5000);
    const keys = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
    const ahead = keys.filter((key) => leaderOf(cluster, key, buckets) === 1);
    const others = keys.filter((key) => leaderOf(cluster, key, buckets) !== 1);
    expect([ahead.length, others.length]).to.satisfy((counts: number[]) => counts.every((count) => count > 0));
    const client = cluster.client('c1');
    const useAll = async (): Promise<void> => {
      for (const router of [client, cluster.node(2).router, cluster.node(3).router]) {
        for (const key of [...ahead, ...others]) {
          await cluster.settle(router.put(bytes(key), bytes('x')));
          await cluster.loop.runFor(200);
        }
        for (const key of keys) await cluster.settle(router.get(bytes(key)));
      }
    };
    await useAll();
    await cluster.loop.runFor(1000);
    cluster.crash(3);
    await cluster.restart(3);
    await untilLed(cluster);
    await useAll();
    expect(cluster.fatal).to.deep.equal([]);
  });
});
