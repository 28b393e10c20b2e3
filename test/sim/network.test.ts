import { expect } from 'chai';
import { bytes, Counters, isData, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

const KEYS = ['a', 'b', 'c', 'd', 'e', 'f'];

/** Acknowledged in the last while: everything goes on. */
async function expectProgress(cluster: Parameters<typeof untilLed>[0], counters: Counters, withinMs: number): Promise<void> {
  const before = new Map(counters.acknowledged);
  const all = (): boolean => KEYS.every((key) => (counters.acknowledged.get(key) ?? 0) > (before.get(key) ?? 0) + 1);
  expect(await cluster.loop.runUntil(all, withinMs), `every key is written within ${withinMs} ms`).to.equal(true);
}

describe('a simulated cluster with a bad network', () => {
  it('replaces a leader that hears the others but is not heard, and one that is heard but hears nobody', async () => {
    for (const direction of ['unheard', 'deaf'] as const) {
      const cluster = await startCluster({ seed: `one-way-${direction}`, nodes: 3, buckets: 1 });
      const client = cluster.client('c1');
      const counters = new Counters(cluster, client, KEYS, 20);
      await cluster.loop.runFor(1000);
      for (let round = 0; round < 3; round += 1) {
        await untilLed(cluster);
        const leader = leaderOf(cluster, 'a', 1);
        for (const id of cluster.ids.filter((each) => each !== leader)) {
          if (direction === 'unheard') cluster.network.cut(`n${leader}`, `n${id}`);
          else cluster.network.cut(`n${id}`, `n${leader}`);
        }
        await expectProgress(cluster, counters, 6000);
        expect(leaderOf(cluster, 'a', 1)).to.not.equal(leader);
        cluster.network.heal();
        await cluster.loop.runFor(3000);
      }
      await counters.stop(cluster);
      await counters.check(cluster, client);
      await untilEqual(cluster);
    }
  });

  it('goes on with a leader while one link of two followers is cut one way or flaps', async () => {
    const cluster = await startCluster({ seed: 'flap', nodes: 3, buckets: 2 });
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 20);
    await cluster.loop.runFor(1000);
    const termsOf = (): number[] => [0, 1].map((b) => Math.max(...replicasOf(cluster, b).map(({ replica }) => replica.raft.term)));
    const [one, two] = cluster.ids.filter((id) => id !== leaderOf(cluster, 'a', 2));
    cluster.network.cut(`n${one}`, `n${two}`);
    await expectProgress(cluster, counters, 5000);
    cluster.network.heal();
    for (let n = 0; n < 30; n += 1) {
      cluster.network.partition('n1', 'n2');
      await cluster.loop.runFor(70);
      cluster.network.heal();
      await cluster.loop.runFor(70);
    }
    await expectProgress(cluster, counters, 5000);
    // PreVote: a replica that was cut off does not depose a leader that works.
    expect(Math.max(...termsOf())).to.be.lessThan(12);
    await counters.stop(cluster);
    await counters.check(cluster, client);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('lets requests wait that a gateway can only redirect to a node out of reach, several at a time', async () => {
    // They woke each other at every redirect, and the process did nothing else any more (a swarm seed never ended).
    const cluster = await startCluster({ seed: 'redirects', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const leader = leaderOf(cluster, 'a', 1);
    const gateway = cluster.ids.find((id) => id !== leader) ?? 0;
    const { router } = cluster.node(gateway);
    await cluster.settle(router.put(bytes('a'), bytes('1')));
    const others = cluster.ids.filter((id) => id !== gateway);
    for (const id of others) cluster.network.refuseConnects(`n${id}`, true);
    for (let n = 0; n < 20; n += 1) {
      for (const id of others) cluster.network.breakStreams(`n${gateway}`, `n${id}`);
      const requests = Array.from({ length: 3 }, async (_, at) => router.put(bytes('a'), bytes(`${n} ${at}`)));
      await cluster.loop.runFor(7);
      if (n === 10) for (const id of others) cluster.network.refuseConnects(`n${id}`, false);
      if (n < 10) void Promise.allSettled(requests);
      else await cluster.settle(Promise.all(requests));
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('hands leadership around under load without an error or a loss', async () => {
    const cluster = await startCluster({ seed: 'transfer', nodes: 3, buckets: 2 });
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 5);
    await cluster.loop.runFor(1000);
    let moves = 0;
    for (let n = 0; n < 25; n += 1) {
      for (const bucket of [0, 1]) {
        const found = replicasOf(cluster, bucket).find(({ replica }) => replica.raft.canServe());
        const heirs = found?.replica.raft.transferringTo === 0 ? found.replica.raft.progress() : [];
        const heir = heirs[n % 2];
        if (heir === undefined) continue;
        found?.replica.transferLeadership(heir.id);
        moves += 1;
      }
      await cluster.loop.runFor(200);
    }
    await counters.stop(cluster);
    expect(moves).to.be.greaterThan(40);
    expect(counters.errors.map(({ message }) => message)).to.deep.equal([]);
    expect(counters.count).to.be.greaterThan(1000);
    await counters.check(cluster, client);
    await untilEqual(cluster);
  });

  it('spreads leadership again after a node was away', async () => {
    const cluster = await startCluster({ seed: 'spread', nodes: 3, buckets: 6 });
    await untilLed(cluster);
    const led = (): number[] =>
      cluster.ids.map((id) =>
        [...cluster.node(id).hosting.replicas.values()].filter(({ bucket, raft }) => isData(bucket) && raft.canServe()).length,
      );
    expect(led()).to.deep.equal([2, 2, 2]);
    const client = cluster.client('c1');
    cluster.crash(2);
    await cluster.settle(client.put(bytes('k'), bytes('v')));
    await cluster.loop.runFor(4000);
    await cluster.restart(2);
    const even = (): boolean => led().every((count) => count === 2);
    expect(await cluster.loop.runUntil(even, 20_000), `leaders: ${led().join()}`).to.equal(true);
  });
});
