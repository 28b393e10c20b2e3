import { expect } from 'chai';
import { SYSTEM_BUCKET, type NodeId } from '../../src/placement/map.js';
import type { PlacementChange, PlacementRecord } from '../../src/placement/record.js';
import type { KeeperProgress, PlacementKeeper } from '../../src/node/placement-keeper.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { failure, replicasOf, startCluster } from './support.js';

/** Whoever plans, after a while in which somebody does. */
function plannerOf(cluster: SimCluster): { node: NodeId; keeper: PlacementKeeper } {
  const leader = replicasOf(cluster, SYSTEM_BUCKET).find(({ replica }) => replica.raft.canServe());
  if (leader === undefined) throw new Error('nobody plans');
  return { node: leader.node, keeper: cluster.node(leader.node).keeper };
}

const ask = (cluster: SimCluster, what: PlacementChange): Promise<PlacementRecord> => {
  const { node, keeper } = plannerOf(cluster);
  return cluster.settle(keeper.change(what, cluster.clock(node).monotonicMs() + 2000));
};

const progressOf = (cluster: SimCluster): KeeperProgress | undefined => plannerOf(cluster).keeper.progress;

describe('what people ask of a placement', () => {
  it('is refused if the nodes that are left cannot be reached, and taken when they are back', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'too-few', nodes: 4, buckets: 4 });
    await cluster.loop.runFor(3000);
    cluster.crash(4);
    await cluster.loop.runFor(5000);
    const refused = await failure(ask(cluster, { kind: 'drain', node: 3 }));
    expect(refused).to.include({ code: 'FAILED_PRECONDITION', reason: 'TOO_FEW_NODES' });
    expect(refused.message).to.match(/there are 2 nodes for the 3 replicas of each bucket, as node 4 cannot be reached; add a node first$/);
    const { record } = plannerOf(cluster).keeper;
    const bucket = record.map.findIndex(({ replicas }) => replicas.every(({ node }) => node !== 4));
    const gone = { code: 'FAILED_PRECONDITION', reason: 'NODE_UNREACHABLE', message: 'node 4 cannot be reached' };
    expect(await failure(ask(cluster, { kind: 'move', bucket, from: 3, to: 4 }))).to.include(gone);
    const led = record.map.findIndex(({ replicas }) => replicas.slice(1).some(({ node }) => node === 4));
    expect(await failure(ask(cluster, { kind: 'lead', bucket: led, node: 4 }))).to.include(gone);
    await cluster.restart(4);
    await cluster.loop.runFor(5000);
    expect((await ask(cluster, { kind: 'drain', node: 3 })).draining).to.deep.equal([3]);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is known with how many buckets each node leads, wherever their replicas are', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'leads', nodes: 5, buckets: 12 });
    await cluster.loop.runFor(10_000);
    const led = new Map<NodeId, number>();
    for (let bucket = 0; bucket < 12; bucket += 1) {
      const { node } = replicasOf(cluster, bucket).find(({ replica }) => replica.raft.canServe()) ?? { node: 0 };
      led.set(node, (led.get(node) ?? 0) + 1);
    }
    const told = [1, 2, 3, 4, 5].map((node) => progressOf(cluster)?.leads(node));
    expect(told).to.deep.equal([1, 2, 3, 4, 5].map((node) => led.get(node) ?? 0));
    expect(led.has(0)).to.equal(false);
  });

  it('goes on with the next buckets as soon as some are done, not once a second', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'pace', nodes: 4, buckets: 48, limits: { bucketsMovingMax: 8 } });
    await cluster.loop.runFor(3000);
    await ask(cluster, { kind: 'drain', node: 4 });
    const keepers = [1, 2, 3].map((node) => cluster.node(node).keeper);
    const isEmpty = ({ record }: PlacementKeeper): boolean => record.map.every(({ replicas }) => replicas.every(({ node }) => node !== 4));
    const isDone = (): boolean => keepers.some((keeper) => keeper.progress?.moving.length === 0 && isEmpty(keeper));
    // 36 replicas, eight at a time.
    expect(await cluster.loop.runUntil(isDone, 5000)).to.equal(true);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is known to be undone as long as a node that it needs is away', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'undone', nodes: 5, buckets: 4 });
    await cluster.loop.runFor(3000);
    cluster.crash(5);
    await cluster.loop.runFor(5000);
    await ask(cluster, { kind: 'ownReplicas', buckets: [1], count: 5 });
    await cluster.loop.runFor(10_000);
    const wanted = { tooFewVoters: 1, tooManyVoters: 0, onDraining: 0, onLost: 0, crowded: 0 };
    expect(progressOf(cluster)?.wanted).to.deep.include(wanted);
    expect(progressOf(cluster)).to.deep.include({ moving: [], unreachable: [5] });
    await cluster.restart(5);
    await cluster.loop.runFor(20_000);
    expect(progressOf(cluster)?.wanted).to.deep.include({ ...wanted, tooFewVoters: 0, short: 0 });
    expect(progressOf(cluster)).to.deep.include({ moving: [], unreachable: [] });
    expect(cluster.fatal).to.deep.equal([]);
  });
});
