import { expect } from 'chai';
import type { WriteRequest } from '../../src/bucket/requests.js';
import type { NodeId } from '../../src/placement/map.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, Counters, failure, isData, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

const KEYS = ['a', 'b', 'c', 'd', 'e', 'f'];
const ELECTION_MS = 500;

/** How many buckets of data a node leads. */
function led(cluster: SimCluster, id: NodeId): number {
  const replicas = [...cluster.node(id).hosting.replicas.values()];
  return replicas.filter(({ bucket, isLeader }) => isData(bucket) && isLeader).length;
}

/** The longest time without an acknowledged write of some key, from now on. */
class Silence {
  longestMs = 0;
  readonly #cluster: SimCluster;
  readonly #counters: Counters;
  readonly #last = new Map<string, { n: number; ms: number }>();

  constructor(cluster: SimCluster, counters: Counters) {
    this.#cluster = cluster;
    this.#counters = counters;
    this.#look();
  }

  #look(): void {
    const ms = this.#cluster.loop.nowMs;
    for (const [key, n] of this.#counters.acknowledged) {
      const last = this.#last.get(key);
      this.longestMs = Math.max(this.longestMs, ms - (last?.ms ?? ms));
      if (last?.n !== n) this.#last.set(key, { n, ms });
    }
    this.#cluster.loop.timers.after(5, () => this.#look());
  }
}

describe('a node whose disk hangs', () => {
  for (const store of ['log', 'state'] as const) {
    it(`gives its buckets away while its ${store} store does not answer, gets none, and leads again afterwards`, async () => {
      // The state store is missed when what waits for it may grow no more: here in less than half a second.
      const limits = { overlayBytesMax: 10_000 };
      const cluster = await startCluster({ seed: `hang-${store}`, nodes: 3, buckets: 6, limits });
      await untilLed(cluster);
      const client = cluster.client('c1');
      const counters = new Counters(cluster, client, KEYS, 50);
      await cluster.loop.runFor(3500);
      const victim = leaderOf(cluster, 'a', 6);
      expect(led(cluster, victim)).to.equal(2);
      const silence = new Silence(cluster, counters);
      cluster.disk(victim).stall(8000, store);
      await cluster.loop.runFor(store === 'log' ? 2 * ELECTION_MS : 4 * ELECTION_MS);
      expect(led(cluster, victim), 'after the hand-over').to.equal(0);
      // Commands are acknowledged again at once, and go on to be: nobody gives the node a bucket that it does not take.
      expect(silence.longestMs).to.be.below(store === 'log' ? 1.5 * ELECTION_MS : 3.5 * ELECTION_MS);
      const resumed = new Silence(cluster, counters);
      while (cluster.loop.nowMs < 11_000) {
        await cluster.loop.runFor(50);
        expect(led(cluster, victim)).to.equal(0);
      }
      expect(resumed.longestMs).to.be.below(ELECTION_MS / 2);
      const back = (): boolean => led(cluster, victim) === 2;
      expect(await cluster.loop.runUntil(back, 15_000), 'it leads again').to.equal(true);
      await counters.stop(cluster);
      await counters.check(cluster, client);
      await untilEqual(cluster);
      expect(cluster.fatal).to.deep.equal([]);
    });
  }

  it('does not stand when its leader dies', async () => {
    const cluster = await startCluster({ seed: 'hang-stand', nodes: 3, buckets: 6 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('a'), bytes('1')));
    cluster.disk(3).stall(8000, 'state');
    for (let n = 0; n < 20; n += 1) {
      for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes(String(n))));
      await cluster.loop.runFor(100);
    }
    expect(led(cluster, 3)).to.equal(0);
    cluster.crash(1);
    await cluster.loop.runFor(2500);
    expect([led(cluster, 2), led(cluster, 3)]).to.deep.equal([6, 0]);
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes('last')));
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is not taken for dead by its leader, which a quorum of such nodes would bring down', async () => {
    const cluster = await startCluster({ seed: 'hang-followers', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 10);
    await cluster.loop.runFor(500);
    const leader = leaderOf(cluster, 'a', 1);
    const states = (): string[] => replicasOf(cluster, 0).map(({ replica: { raft } }) => `${raft.role} of term ${raft.term}`);
    const before = states();
    for (const id of cluster.ids) if (id !== leader) cluster.disk(id).stall(4000);
    for (let n = 0; n < 80; n += 1) {
      await cluster.loop.runFor(50);
      expect(states()).to.deep.equal(before);
    }
    const { count } = counters;
    expect(await cluster.loop.runUntil(() => counters.count >= count + 2 * KEYS.length, 500), 'it goes on at once').to.equal(true);
    await counters.stop(cluster);
    await counters.check(cluster, client);
    await untilEqual(cluster);
  });

  it('keeps its buckets where nobody else could do better', async () => {
    const cluster = await startCluster({ seed: 'hang-all', nodes: 3, buckets: 3 });
    await untilLed(cluster);
    const terms = (): number[] => cluster.ids.flatMap((id) => replicasOf(cluster, id - 1).map(({ replica }) => replica.raft.term));
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 10);
    await cluster.loop.runFor(1000);
    const before = terms();
    for (const id of cluster.ids) cluster.disk(id).stall(4000, 'log');
    await cluster.loop.runFor(4500);
    // One word of it may cross with the first hand-over.
    expect(Math.max(...terms().map((term, at) => term - (before[at] ?? 0)))).to.be.at.most(1);
    await counters.stop(cluster);
    await counters.check(cluster, client);
    await untilEqual(cluster);
  });
});

describe('a node that is told to stop', () => {
  it('hands over what it leads: a rolling restart costs no election timeout', async () => {
    const cluster = await startCluster({ seed: 'rolling', nodes: 3, buckets: 6 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 10);
    await cluster.loop.runFor(3500);
    const silence = new Silence(cluster, counters);
    for (const id of cluster.ids) {
      expect(led(cluster, id)).to.equal(2);
      const begunMs = cluster.loop.nowMs;
      await cluster.settle(cluster.stop(id));
      expect(cluster.loop.nowMs - begunMs, 'how long it took').to.be.below(1000);
      await cluster.loop.runFor(500);
      await cluster.restart(id);
      expect(await cluster.loop.runUntil(() => led(cluster, id) === 2, 10_000), 'it leads again').to.equal(true);
    }
    await counters.stop(cluster);
    expect(silence.longestMs).to.be.below(ELECTION_MS / 4);
    expect(counters.errors).to.deep.equal([]);
    await counters.check(cluster, client);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('does not wait for others that stop too, nor long for those that do not answer', async () => {
    const cluster = await startCluster({ seed: 'all-stop', nodes: 3, buckets: 6 });
    await untilLed(cluster);
    const begunMs = cluster.loop.nowMs;
    await cluster.settle(Promise.all(cluster.ids.map((id) => cluster.stop(id))));
    expect(cluster.loop.nowMs - begunMs).to.be.below(700);
    for (const id of cluster.ids) await cluster.restart(id);
    await untilLed(cluster);
    const [first, ...others] = cluster.ids;
    for (const id of others) cluster.process(id).pause();
    const thenMs = cluster.loop.nowMs;
    await cluster.settle(cluster.stop(first ?? 0));
    expect(cluster.loop.nowMs - thenMs).to.be.below(1700);
    expect(cluster.fatal).to.deep.equal([]);
  });
});

describe('a leader that no quorum answers any more', () => {
  it('ends the requests that wait for it in the turn in which it gives up', async () => {
    const cluster = await startCluster({ seed: 'abandon', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('v')));
    const leader = leaderOf(cluster, 'k', 1);
    const replica = replicasOf(cluster, 0).find(({ node }) => node === leader)?.replica;
    if (replica === undefined) throw new Error('the leader has a replica');
    cluster.network.isolate(`n${leader}`);
    const id = { session: 1, born: client.now(), sequence: 1, lowest: 1 };
    const request: WriteRequest = { id, conditions: [], mutations: [{ kind: 'put', key: bytes('k'), value: bytes('w') }] };
    let settledMs = Infinity;
    const written = failure(replica.commands.write(request)).finally(() => (settledMs = cluster.loop.nowMs));
    expect(await cluster.loop.runUntil(() => !replica.isLeader, 2000)).to.equal(true);
    const lostMs = cluster.loop.nowMs;
    const error = await cluster.settle(written);
    expect(error).to.include({ code: 'UNAVAILABLE', reason: 'LEADERSHIP_LOST', outcome: 'unknown', retriable: true });
    expect(settledMs - lostMs).to.equal(0);
  });
});
