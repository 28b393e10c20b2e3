import { expect } from 'chai';
import { bucketOf, type BucketId, type NodeId } from '../../src/placement/map.js';
import { readersOf } from '../../src/placement/replicas.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import type { Router } from '../../src/router/router.js';
import { bytes, Counters, replicasOf, startCluster } from './support.js';

const BUCKETS = 8;
/** A simulated second is dear: what is hot here is lukewarm elsewhere. */
const LIMITS = { hotReadsPerSecond: 40, coolMs: 10_000, readReplicasMax: 2 };
const HOT = bytes('hot');

/** Reads one key again and again, from several places at once, until it is stopped. */
class Readers {
  readonly servedBy = new Map<NodeId, number>();
  readonly #running: Promise<void>[] = [];
  #stopped = false;

  constructor(cluster: SimCluster, routers: readonly Router[], key: Buffer, perSecond: number) {
    for (const router of routers) this.#running.push(this.#read(cluster, router, key, (1000 * routers.length) / perSecond));
  }

  async #read(cluster: SimCluster, router: Router, key: Buffer, everyMs: number): Promise<void> {
    while (!this.#stopped) {
      const { served } = await router.get(key, { consistency: { kind: 'bounded', maxStalenessMs: 10_000 } });
      this.servedBy.set(served.node, (this.servedBy.get(served.node) ?? 0) + 1);
      await new Promise<void>((resolve) => {
        cluster.loop.timers.after(everyMs, resolve);
      });
    }
  }

  async stop(cluster: SimCluster): Promise<void> {
    this.#stopped = true;
    await cluster.settle(Promise.all(this.#running));
  }
}

const placedReaders = (cluster: SimCluster, bucket: BucketId): NodeId[] =>
  readersOf(cluster.node(1).keeper.record.map[bucket]?.replicas ?? []).map(({ node }) => node);

/** Nodes whose replica of the bucket is a learner that has all there is. */
const readyReaders = (cluster: SimCluster, bucket: BucketId): NodeId[] =>
  replicasOf(cluster, bucket)
    .filter(({ replica: { id, raft, state } }) => raft.config.learners.includes(id) && state.applied.index > 0)
    .map(({ node }) => node);

describe('one hot key', () => {
  it('gets read replicas within seconds, which serve it and vote for nothing, and loses them when it has cooled', async function () {
    this.timeout(120_000);
    const cluster = await startCluster({ seed: 'hot', nodes: 5, buckets: BUCKETS, limits: LIMITS });
    const routers = Array.from({ length: 5 }, (_, at) => cluster.client(`c${at}`));
    const [client] = routers;
    if (client === undefined) throw new Error('there is no client');
    await cluster.settle(client.put(HOT, bytes('1')));
    const bucket = bucketOf(HOT, BUCKETS);
    const voters = replicasOf(cluster, bucket).map(({ node }) => node);
    const counters = new Counters(cluster, client, ['a', 'b', 'c', 'd', 'e', 'f'], 100);
    await cluster.loop.runFor(3000);
    expect(cluster.node(1).keeper.record.epoch).to.equal(1);

    const readers = new Readers(cluster, routers, HOT, 600);
    const hotMs = cluster.loop.nowMs;
    expect(await cluster.loop.runUntil(() => readyReaders(cluster, bucket).length === 2, 10_000), 'help comes in time').to.equal(true);
    expect(cluster.loop.nowMs - hotMs).to.be.below(8000);
    await cluster.loop.runFor(1000);
    readers.servedBy.clear();
    await cluster.loop.runFor(5000);
    expect([...readers.servedBy.keys()].sort()).to.deep.equal([1, 2, 3, 4, 5]);
    for (const { replica } of replicasOf(cluster, bucket)) {
      expect(replica.raft.config.voters).to.have.lengthOf(3);
      expect(replica.raft.config.outgoing).to.deep.equal([]);
    }
    expect(replicasOf(cluster, bucket).filter(({ replica: { id, raft } }) => raft.config.voters.includes(id)).map(({ node }) => node)).to.deep.equal(voters);

    await readers.stop(cluster);
    const coldMs = cluster.loop.nowMs;
    expect(await cluster.loop.runUntil(() => placedReaders(cluster, bucket).length === 0, 60_000), 'they go again').to.equal(true);
    expect(cluster.loop.nowMs - coldMs).to.be.above(LIMITS.coolMs);
    await cluster.loop.runFor(5000);
    expect(replicasOf(cluster, bucket).map(({ node }) => node)).to.deep.equal(voters);
    const { epoch } = cluster.node(1).keeper.record;
    await cluster.loop.runFor(20_000);
    expect(cluster.node(1).keeper.record.epoch).to.equal(epoch);
    await counters.stop(cluster);
    await counters.check(cluster, client);
    expect(counters.errors).to.deep.equal([]);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('gets another read replica for one on a node that is dead', async function () {
    this.timeout(120_000);
    const cluster = await startCluster({ seed: 'hot-dead', nodes: 6, buckets: 1, limits: { ...LIMITS, coolMs: 600_000 } });
    const routers = Array.from({ length: 3 }, (_, at) => cluster.client(`c${at}`));
    const [client] = routers;
    if (client === undefined) throw new Error('there is no client');
    await cluster.settle(client.put(HOT, bytes('1')));
    const readers = new Readers(cluster, routers, HOT, 300);
    expect(await cluster.loop.runUntil(() => readyReaders(cluster, 0).length === 2, 15_000), 'help comes in time').to.equal(true);
    const [dead = 0, kept = 0] = placedReaders(cluster, 0);
    // Not for a moment's absence.
    cluster.crash(dead);
    await cluster.loop.runFor(5000);
    await cluster.restart(dead);
    await cluster.loop.runFor(15_000);
    expect(placedReaders(cluster, 0).sort()).to.deep.equal([dead, kept].sort());
    cluster.crash(dead);
    const isHelped = (): boolean => readyReaders(cluster, 0).filter((node) => node !== dead).length === 2;
    expect(await cluster.loop.runUntil(isHelped, 30_000), 'another takes its place').to.equal(true);
    expect(placedReaders(cluster, 0)).to.have.lengthOf(2).and.to.include(kept).and.not.to.include(dead);
    await cluster.restart(dead);
    await cluster.loop.runFor(10_000);
    expect(replicasOf(cluster, 0)).to.have.lengthOf(5);
    await readers.stop(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is written by its voters alone: no write waits for a read replica, and none ever leads', async function () {
    this.timeout(120_000);
    const limits = { ...LIMITS, coolMs: 600_000 };
    const cluster = await startCluster({ seed: 'hot-writes', nodes: 5, buckets: 1, limits });
    const routers = Array.from({ length: 3 }, (_, at) => cluster.client(`c${at}`));
    const [client] = routers;
    if (client === undefined) throw new Error('there is no client');
    await cluster.settle(client.put(HOT, bytes('1')));
    const readers = new Readers(cluster, routers, HOT, 600);
    expect(await cluster.loop.runUntil(() => readyReaders(cluster, 0).length === 2, 15_000), 'help comes in time').to.equal(true);
    await readers.stop(cluster);
    const helpers = readyReaders(cluster, 0);
    const leads = (): NodeId | undefined => replicasOf(cluster, 0).find(({ replica }) => replica.raft.canServe())?.node;
    const voters = replicasOf(cluster, 0).map(({ node }) => node).filter((node) => !helpers.includes(node));
    // Both read replicas are out of reach, and one voter is dead: two of three are a quorum, of five they would be none.
    for (const node of helpers) cluster.network.isolate(`n${node}`);
    const follower = voters.find((node) => node !== leads()) ?? 0;
    cluster.crash(follower);
    await cluster.loop.runFor(2000);
    const startMs = cluster.loop.nowMs;
    await cluster.settle(client.put(HOT, bytes('2')));
    expect(cluster.loop.nowMs - startMs).to.be.below(100);
    cluster.network.heal();
    await cluster.restart(follower);
    await cluster.loop.runFor(3000);
    // Leaders come and go; it is always a voter.
    for (let turn = 0; turn < 4; turn += 1) {
      const leader = leads() ?? 0;
      expect(voters).to.include(leader);
      cluster.crash(leader);
      expect(await cluster.loop.runUntil(() => leads() !== undefined, 10_000), 'another leads').to.equal(true);
      expect(voters).to.include(leads());
      await cluster.restart(leader);
      await cluster.loop.runFor(2000);
    }
    const { record } = await cluster.settle(client.get(HOT));
    expect(record?.value.toString()).to.equal('2');
    expect(readyReaders(cluster, 0).sort()).to.deep.equal(helpers.sort());
    expect(cluster.fatal).to.deep.equal([]);
  });
});
