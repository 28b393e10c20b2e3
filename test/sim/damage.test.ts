import { expect } from 'chai';
import type { StreamHandlers } from '../../src/env/env.js';
import { EMPTY, type Bytes } from '../../src/lib/bytes.js';
import { decodeRecord, versionOfKey } from '../../src/mvcc/records.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { SimLoop } from '../../src/sim/loop.js';
import { SimWorldNetwork } from '../../src/sim/network.js';
import { Atlas } from '../../src/sim/swarm/damage.js';
import { bridge, majorityRing, type Pairs } from '../../src/sim/swarm/shapes.js';
import { planOfSeed, runSwarm } from '../../src/sim/swarm/swarm.js';
import { bytes, leaderOf, replicasOf, startCluster, untilLed } from './support.js';

const KEYS = ['a', 'b', 'c', 'd', 'e', 'f'];

/** The keys of the version records of a user key in the state store of a node. */
function versionsOf(cluster: SimCluster, node: number, key: string): Bytes[] {
  const entries = cluster.disk(node).stores.get('state')?.range(EMPTY, EMPTY) ?? [];
  return [...entries].filter(([at, value]) => isVersionOf(at, value, key)).map(([at]) => at);
}

function isVersionOf(at: Bytes, value: Bytes, key: string): boolean {
  try {
    return decodeRecord(value).key.equals(bytes(key)) && versionOfKey(at).index > 0;
  } catch {
    return false;
  }
}

describe('a node whose disk lost what was on it', () => {
  it('stops when it is an old copy, as soon as its leader speaks of what it had acknowledged', async () => {
    const cluster = await startCluster({ seed: 'old copy', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes('old')));
    const leader = leaderOf(cluster, 'a', 1);
    const follower = cluster.ids.find((id) => id !== leader) ?? 0;
    await cluster.loop.runFor(500);
    const copy = cluster.disk(follower).copy();
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes('new')));
    await cluster.loop.runFor(500);
    cluster.crash(follower);
    cluster.disk(follower).restore(copy);
    await cluster.restart(follower);
    await cluster.loop.runFor(3000);
    expect(leaderOf(cluster, 'a', 1), 'the same leader all the time').to.equal(leader);
    expect(cluster.running(follower)).to.equal(false);
    expect(cluster.fatal.map(({ node }) => node)).to.deep.equal([follower]);
    expect(cluster.fatal[0]?.error).to.include({ code: 'DATA_LOSS', reason: 'LOG_LOST' });
    for (const key of KEYS) {
      const { record } = await cluster.settle(client.get(bytes(key)));
      expect(record?.value.toString()).to.equal('new');
    }
  });

  it('stops when it finds a bad record by itself, without a request', async () => {
    const cluster = await startCluster({ seed: 'rot within', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    await cluster.loop.runFor(2000);
    for (const [key] of cluster.disk(2).stores.get('state')?.range(EMPTY, EMPTY) ?? []) cluster.disk(2).rot('state', key);
    // What time sets off reads the system bucket: an error there is the node's, not of the process that it is in.
    expect(await cluster.loop.runUntil(() => !cluster.running(2), 5000)).to.equal(true);
    expect(cluster.fatal.map(({ node }) => node)).to.deep.equal([2]);
    expect(cluster.fatal[0]?.error).to.include({ code: 'DATA_LOSS' });
  });

  it('stops when it finds a bad record in a snapshot that it sends, and another node sends a good one', async () => {
    const cluster = await startCluster({ seed: 'rot sent', nodes: 3, buckets: 1, limits: { logEntriesKept: 5 } });
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('cold'), bytes('cold')));
    const leader = leaderOf(cluster, 'a', 1);
    const away = cluster.ids.find((id) => id !== leader) ?? 0;
    await cluster.loop.runFor(1000);
    cluster.crash(away);
    for (let n = 0; n < 60; n += 1) await cluster.settle(client.put(bytes(KEYS[n % 6] ?? ''), bytes(String(n))));
    await cluster.loop.runFor(2000);
    const rotten = versionsOf(cluster, leader, 'cold');
    expect(rotten.map((key) => cluster.disk(leader).rot('state', key))).to.deep.equal([true]);
    await cluster.restart(away);
    expect(await cluster.loop.runUntil(() => !cluster.running(leader), 5000), 'it stops').to.equal(true);
    expect(cluster.fatal.map(({ node }) => node)).to.deep.equal([leader]);
    expect(cluster.fatal[0]?.error).to.include({ code: 'DATA_LOSS', reason: 'RECORD_CORRUPT' });
    const asOfNow = await cluster.settle(client.get(bytes('cold')));
    expect(asOfNow.record?.value.toString()).to.equal('cold');
    const known = (): string[] => {
      const replicas = replicasOf(cluster, 0).filter(({ node }) => node !== leader);
      return replicas.map(({ replica: { state } }) => `${state.applied.index} ${state.meta.digest}`);
    };
    const isSame = (): boolean => known().length === 2 && new Set(known()).size === 1;
    expect(await cluster.loop.runUntil(isSame, 5000), 'the one that was away has caught up').to.equal(true);
  });

  it('does not believe what it kept about itself', async () => {
    for (const name of ['n/placement', 'n/slot']) {
      const cluster = await startCluster({ seed: 'rot of its own', nodes: 3, buckets: 1 });
      await cluster.settle(cluster.join(4));
      await cluster.loop.runFor(5000);
      cluster.crash(2);
      expect(cluster.disk(2).rot('state', bytes(name)), name).to.equal(true);
      await cluster.restart(2).catch(() => undefined);
      expect(cluster.fatal[0]?.error, name).to.include({ code: 'DATA_LOSS', reason: 'STATE_CORRUPT' });
    }
  });

  it('sends those who ask it to the others, which have a good copy', async () => {
    const cluster = await startCluster({ seed: 'rot and ask', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes(key)));
    const leader = leaderOf(cluster, 'a', 1);
    // What was written lately is in memory still.
    for (let n = 0; n < 30; n += 1) await cluster.settle(client.put(bytes('other'), bytes(String(n))));
    await cluster.loop.runFor(1000);
    for (const [key] of cluster.disk(leader).stores.get('state')?.range(EMPTY, EMPTY) ?? []) {
      cluster.disk(leader).rot('state', key);
    }
    // The node itself as a gateway hands on what its own replica says; as it stops, that may be nothing.
    let told = 'nothing';
    cluster.node(leader).router.get(bytes('a')).then(
      () => (told = 'an answer'),
      (error: unknown) => (told = (error as { readonly code: string }).code),
    );
    await cluster.loop.runFor(100);
    expect(told).to.equal('nothing');
    for (const key of KEYS) {
      const { record } = await cluster.settle(client.get(bytes(key), { timeoutMs: 10_000 }));
      expect(record?.value.toString()).to.equal(key);
    }
    expect(cluster.running(leader)).to.equal(false);
    expect(cluster.fatal.map(({ node }) => node)).to.deep.equal([leader]);
  });

  it('does not start with a clock ceiling that is not the one it wrote', async () => {
    const cluster = await startCluster({ seed: 'rotten ceiling', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    cluster.crash(3);
    expect(cluster.disk(3).rot('log', Buffer.from('n/ceiling'))).to.equal(true);
    const failed = await cluster.restart(3).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(failed).to.include({ code: 'DATA_LOSS', reason: 'LOG_CORRUPT' });
  });
});

describe('what a swarm breaks', () => {
  it('really puts old copies back, with and without leases', async function () {
    this.timeout(120_000);
    const faults = [['staleDisk', 3] as const, ['crash', 1] as const];
    const common = { nodes: 3, replicas: 3, buckets: 2, durationMs: 15_000, faults, faultEveryMs: 1500, faultMs: 600, moveEveryMs: 0, renewEveryMs: 0 };
    const less = { clients: 1, workers: 1, transactions: 0, streams: 0, pinners: 0 };
    for (const leaseReads of [true, false]) {
      let restored = 0;
      const observe = (cluster: SimCluster): void => {
        for (const id of cluster.ids) {
          const disk = cluster.disk(id);
          const restore = disk.restore.bind(disk);
          disk.restore = (copy) => {
            restored += 1;
            restore(copy);
          };
        }
      };
      for (let seed = 1; restored === 0 && seed <= 5; seed += 1) {
        const { problems } = await runSwarm(seed, { plan: { ...planOfSeed(seed), ...common, ...less, timing: { leaseReads } }, observe });
        expect(problems).to.deep.equal([]);
      }
      expect(restored, `leases: ${leaseReads}`).to.be.above(0);
    }
  });

  it('leaves a quorum of good copies, whatever it damages', () => {
    for (const [replicas, most] of [[1, 0], [2, 0], [3, 1], [4, 1], [5, 2], [7, 2]] as const) {
      const atlas = new Atlas(replicas);
      const damaged = [1, 2, 3, 4, 5, 6, 7].filter((id) => atlas.damage(id));
      expect(damaged.length, `${replicas} replicas`).to.equal(most);
      for (const id of damaged) expect(atlas.damage(id), 'once more').to.equal(true);
      expect([...damaged, 8].map((id) => atlas.isDamaged(id))).to.deep.equal([...damaged.map(() => true), false]);
    }
  });

  const reach = (names: readonly string[], pairs: Pairs, name: string): string[] => {
    return names.filter((other) => !pairs.some((pair) => pair.includes(name) && pair.includes(other) && name !== other));
  };
  const names = (count: number): string[] => Array.from({ length: count }, (_, at) => `n${at + 1}`);

  it('shows each node of a majority ring a majority of its own', () => {
    for (const count of [3, 4, 5, 6, 7]) {
      const all = names(count);
      const seen = all.map((name) => reach(all, majorityRing(all), name));
      for (const some of seen) expect(some.length).to.be.greaterThan(count / 2);
      if (count > 3) expect(new Set(seen.map((some) => some.join())).size).to.equal(count);
    }
  });

  it('lets one node be the bridge between two sides', () => {
    for (const count of [3, 4, 5, 6, 7]) {
      const all = names(count);
      const pairs = bridge(all);
      expect(reach(all, pairs, 'n1')).to.have.length(count);
      for (const name of all.slice(1)) expect(reach(all, pairs, name).length, name).to.be.below(count);
    }
  });

  it('stops before any event that it counts to', async () => {
    const loop = new SimLoop(1);
    const seen: string[] = [];
    for (const name of ['a', 'b', 'c', 'd']) loop.timers.after(5, () => seen.push(name));
    loop.beforeEvent(3, () => seen.push('!'));
    await loop.runFor(10);
    expect(seen.join('')).to.equal('ab!cd');
  });

  it('lets a stream end for one side first, and what it said come after what it said again', async () => {
    const loop = new SimLoop('half');
    const world = new SimWorldNetwork({ timers: loop.timers, random: loop.random });
    const heard: string[] = [];
    const quiet: StreamHandlers = { frame: () => undefined, closed: () => undefined };
    await world.networkFor('server').serve({
      address: 'server:1',
      services: {},
      accept: () => ({ frame: (frame) => heard.push(frame.toString()), closed: () => heard.push('end') }),
    });
    let closed = 0;
    // Which of the two ends is the first to lose it is drawn.
    for (let round = 0; closed === 0; round += 1) {
      heard.length = 0;
      const client = world.networkFor('client');
      const one = client.connect('server:1', 'pipeline', EMPTY, { ...quiet, closed: () => (closed += 1) });
      await loop.runFor(10);
      one.send(Buffer.from('first'));
      world.breakHalfStreams('client', 'server', 100);
      await loop.runFor(1);
      if (closed > 0) {
        const two = client.connect('server:1', 'pipeline', EMPTY, quiet);
        two.send(Buffer.from('again'));
      }
      await loop.runFor(1000);
      expect(round).to.be.below(20);
    }
    expect(heard).to.deep.equal(['again', 'first', 'end']);
  });

  it('lets others lead while a disk hangs for good, until it is told to answer again', async () => {
    const cluster = await startCluster({ seed: 'minority', nodes: 3, buckets: 2 });
    const client = cluster.client('c1');
    await untilLed(cluster);
    const end = cluster.disk(1).stall(1e9);
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes('1'), { timeoutMs: 20_000 }));
    for (const bucket of [0, 1]) {
      const led = replicasOf(cluster, bucket).filter(({ replica }) => replica.raft.canServe());
      expect(led.map(({ node }) => node)).to.not.include(1);
    }
    end();
    await cluster.settle(client.put(bytes('a'), bytes('2')));
    expect(cluster.fatal).to.deep.equal([]);
  });
});
