import { expect } from 'chai';
import { bytes, Counters, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

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

  it('are sent what they had no room for when they have, and not when their leader has missed an answer for long', async () => {
    const limits = { overlayBytesMax: 2000, appendsInFlightMax: 2 };
    const cluster = await startCluster({ seed: 'dropped', nodes: 3, buckets: 1, limits });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const leader = leaderOf(cluster, 'a', 1);
    const slow = cluster.ids.find((id) => id !== leader) ?? 0;
    const applied = (node: number): number => cluster.node(node).hosting.replicas.get(0)?.state.applied.index ?? 0;
    cluster.disk(slow).stall(1500, 'state');
    const puts = Promise.all(Array.from({ length: 100 }, (_, n) => client.put(bytes(`key ${n}`), bytes('x'.repeat(200)))));
    await cluster.loop.runFor(1500);
    let longestMs = 0;
    while (applied(slow) < 100) {
      const [before, fromMs] = [applied(slow), cluster.loop.nowMs];
      expect(await cluster.loop.runUntil(() => applied(slow) > before, 5000), `more than ${before}`).to.equal(true);
      longestMs = Math.max(longestMs, cluster.loop.nowMs - fromMs);
    }
    await cluster.settle(puts);
    expect(longestMs, 'without progress').to.be.lessThan(ELECTION_MS / 2);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('work off what has waited in portions, so that no turn lasts for long', async () => {
    const cluster = await startCluster({ seed: 'portions', nodes: 3, buckets: 1, limits: { overlayBytesMax: 80_000 } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const portions: number[] = [];
    for (const { replica } of replicasOf(cluster, 0)) {
      const collect = replica.collect.bind(replica);
      replica.collect = (reading) => {
        const before = replica.blocked ? replica.state.applied.index : Infinity;
        const ready = collect(reading);
        portions.push(Math.max(0, replica.state.applied.index - before));
        return ready;
      };
    }
    // All in one turn, so that they are committed before the first of them fills an overlay.
    const put = (n: number): Promise<unknown> => client.put(bytes(`key ${n}`), bytes('x'.repeat(20)), { timeoutMs: 10_000 });
    await cluster.settle(Promise.all(Array.from({ length: 1000 }, (_, n) => put(n))));
    expect(Math.max(...portions)).to.be.within(100, 256);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });
});

const ELECTION_MS = 1200;
