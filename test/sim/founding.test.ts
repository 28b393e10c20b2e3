import { expect } from 'chai';
import { SimCluster } from '../../src/sim/cluster.js';
import { bytes, failure, untilLed } from './support.js';

const OLD = [1, 2, 3];
const NEW = [4, 5];

/** Machines for five nodes, of which the first three are, or will be, a cluster. */
const machines = (seed: string): SimCluster => new SimCluster({ seed, nodes: 5, buckets: 10, replicas: 3 });

const bootAll = (cluster: SimCluster, ids: readonly number[], founders?: readonly number[]): Promise<unknown> =>
  cluster.settle(Promise.all(ids.map((id) => cluster.boot(id, founders))));

function expectStopped(cluster: SimCluster, ids: readonly number[], reason: string): void {
  expect(cluster.fatal.map(({ node }) => node)).to.have.members(ids);
  for (const { error } of cluster.fatal) expect(error).to.include({ code: 'FAILED_PRECONDITION', reason });
}

const leads = (cluster: SimCluster, ids: readonly number[]): boolean =>
  ids.some((id) => cluster.running(id) && [...cluster.node(id).hosting.replicas.values()].some(({ isLeader }) => isLeader));

describe('new nodes with a longer list of members', () => {
  it('stop, and the running cluster goes on', async () => {
    const cluster = machines('founding-running');
    await bootAll(cluster, OLD, OLD);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('before')));
    await bootAll(cluster, NEW);
    expect(await cluster.loop.runUntil(() => cluster.fatal.length === 2, 10_000)).to.equal(true);
    expectStopped(cluster, NEW, 'WRONG_FOUNDING');
    await cluster.settle(client.put(bytes('k'), bytes('after')));
    for (const id of OLD) expect(cluster.running(id), `node ${id}`).to.equal(true);
  });

  it('elect no leader while the nodes of the cluster are down, and stop when these are back', async () => {
    const cluster = machines('founding-down');
    await bootAll(cluster, OLD, OLD);
    await untilLed(cluster);
    for (const id of OLD) cluster.crash(id);
    await bootAll(cluster, NEW);
    // Of five nodes with three replicas each, some buckets would have two of theirs here.
    expect(await cluster.loop.runUntil(() => leads(cluster, NEW), 20_000)).to.equal(false);
    const refused = await failure(cluster.settle(cluster.client('c1').put(bytes('k'), bytes('v'), { timeoutMs: 5000 })));
    expect(refused).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
    await bootAll(cluster, OLD, OLD);
    expect(await cluster.loop.runUntil(() => cluster.fatal.length === 2, 20_000)).to.equal(true);
    expectStopped(cluster, NEW, 'WRONG_FOUNDING');
    await untilLed(cluster);
  });

  it('also stop when they are started again before the others are back', async () => {
    const cluster = machines('founding-again');
    await bootAll(cluster, OLD, OLD);
    await untilLed(cluster);
    for (const id of OLD) cluster.crash(id);
    for (let life = 0; life < 3; life += 1) {
      await bootAll(cluster, NEW);
      await cluster.loop.runFor(3000);
      expect(leads(cluster, NEW)).to.equal(false);
      if (life < 2) for (const id of NEW) cluster.crash(id);
    }
    await bootAll(cluster, OLD, OLD);
    expect(await cluster.loop.runUntil(() => cluster.fatal.length === 2, 20_000)).to.equal(true);
    expectStopped(cluster, NEW, 'WRONG_FOUNDING');
  });
});

describe('a new cluster', () => {
  it('begins when a majority of its nodes have met, in whatever order they start', async () => {
    const cluster = machines('founding-majority');
    for (const id of [2, 5]) {
      await cluster.settle(cluster.boot(id));
      expect(await cluster.loop.runUntil(() => leads(cluster, [2, 5]), 5000)).to.equal(false);
    }
    await cluster.settle(cluster.boot(3));
    expect(await cluster.loop.runUntil(() => leads(cluster, [2, 3, 5]), 5000)).to.equal(true);
    await bootAll(cluster, [1, 4]);
    await untilLed(cluster);
    await cluster.settle(cluster.client('c1').put(bytes('k'), bytes('v')));
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('needs no majority at the next start: its nodes know that they are part of it', async () => {
    const cluster = machines('founding-next');
    await cluster.start();
    await untilLed(cluster);
    for (const id of cluster.ids) cluster.crash(id);
    await bootAll(cluster, NEW);
    expect(await cluster.loop.runUntil(() => leads(cluster, NEW), 20_000)).to.equal(true);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
