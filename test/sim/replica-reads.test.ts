import { expect } from 'chai';
import { isTidemarkError } from '../../src/lib/errors.js';
import { bucketOf, nodeOfReplica, type NodeId } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { withReadReplica } from '../../src/sim/read-replicas.js';
import { bytes, change, Counters, leaderOf, replicasOf, startCluster, untilLed } from './support.js';
import { leadingReplica } from './transaction-support.js';

/** Nothing moves but what the test moves. */
const UNPLANNED = { bucketsMovingMax: 0 };
const ALWAYS = { linearizableAnywhere: 'always' } as const;

/** A cluster of five whose first bucket has read replicas on the two nodes that have no other replica of it. */
async function startWithReadReplicas(seed: string, buckets = 1): Promise<{ cluster: SimCluster; learners: NodeId[] }> {
  const cluster = await startCluster({ seed, nodes: 5, replicas: 3, buckets, limits: UNPLANNED });
  await untilLed(cluster);
  const hosts = new Set(replicasOf(cluster, 0).map(({ node }) => node));
  const learners = cluster.ids.filter((id) => !hosts.has(id));
  for (const id of learners) await change(cluster, (record) => withReadReplica(record, 0, id));
  const areThere = (): boolean => replicasOf(cluster, 0).length === 5 && replicasOf(cluster, 0).every(({ replica }) => replica.resolved() > 0);
  expect(await cluster.loop.runUntil(areThere, 20_000), 'the read replicas are there').to.equal(true);
  await cluster.loop.runFor(500);
  return { cluster, learners };
}

/** Keeps reading, and holds every answer against what was acknowledged before it was asked for. */
class Readers {
  readonly served = new Map<NodeId, number>();
  readonly #running: Promise<void>[] = [];
  #stopped = false;

  constructor(cluster: SimCluster, routers: readonly Router[], counters: Counters, keys: readonly string[]) {
    for (const router of routers) for (const key of keys) this.#running.push(this.#read(cluster, router, counters, key));
  }

  async #read(cluster: SimCluster, router: Router, counters: Counters, key: string): Promise<void> {
    while (!this.#stopped) {
      const acknowledged = counters.acknowledged.get(key) ?? 0;
      try {
        const { record, served } = await router.get(bytes(key), { timeoutMs: 5000 });
        expect(Number(record?.value.toString() ?? 0), `${key} at node ${served.node}`).to.be.at.least(acknowledged);
        expect(served.consistency).to.equal('linearizable');
        this.served.set(served.node, (this.served.get(served.node) ?? 0) + 1);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
      }
      await new Promise<void>((resolve) => {
        cluster.loop.timers.after(12, resolve);
      });
    }
  }

  async stop(cluster: SimCluster): Promise<void> {
    this.#stopped = true;
    await cluster.settle(Promise.all(this.#running));
  }
}

describe('linearizable reads at replicas that do not lead', () => {
  it('go to read replicas and followers where a bucket has been given read replicas, in one hop, and nowhere else', async () => {
    const { cluster, learners } = await startWithReadReplicas('hot', 2);
    const client = cluster.client('c1');
    const names = Array.from({ length: 20 }, (_, at) => `k${at}`);
    const hot = names.filter((name) => bucketOf(bytes(name), 2) === 0);
    const cold = names.filter((name) => bucketOf(bytes(name), 2) === 1);
    const served = new Map<NodeId, number>();
    for (let round = 0; round < 6; round += 1) {
      for (const key of hot) {
        await cluster.settle(client.put(bytes(key), bytes(String(round))));
        // At a read replica the first one waits until the entry is there; hot is what is read more often than written.
        for (let read = 0; read < 3; read += 1) {
          const { record, served: by } = await cluster.settle(client.get(bytes(key)));
          expect(record?.value.toString(), `${key} at node ${by.node}`).to.equal(String(round));
          expect(by).to.include({ consistency: 'linearizable', hops: 1 });
          served.set(by.node, (served.get(by.node) ?? 0) + 1);
        }
      }
    }
    for (const id of learners) expect(served.get(id) ?? 0, `read replica ${id}: ${JSON.stringify([...served])}`).to.be.greaterThan(9);
    expect(served.size).to.equal(5);
    for (const key of cold) {
      const { served: by } = await cluster.settle(client.get(bytes(key)));
      expect(by.node).to.equal(leaderOf(cluster, key, 2));
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('wait for what gathers for a read replica, which leaves on time though nothing else happens', async () => {
    const { cluster, learners } = await startWithReadReplicas('gathers');
    const client = cluster.client('c1');
    for (let round = 0; round < 20; round += 1) {
      await cluster.loop.runFor(37);
      // The first one leaves at once, the second gathers.
      for (const value of ['first', 'second']) await cluster.settle(client.put(bytes('k'), bytes(`${value} ${round}`)));
      const leader = leadingReplica(cluster, 'k');
      const behind = (): NodeId[] => {
        return leader.raft.progress().flatMap(({ id, match }) => (match < leader.raft.lastIndex ? [nodeOfReplica(id)] : []));
      };
      await cluster.loop.runFor(2);
      if (round === 0) expect(behind()).to.deep.equal(learners);
      await cluster.loop.runFor(15);
      expect(behind(), `round ${round}`).to.deep.equal([]);
    }
  });

  it('see all that was acknowledged, also at a replica that was cut off from the leader unawares', async () => {
    const { cluster, learners } = await startWithReadReplicas('cut-off');
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('old')));
    await cluster.loop.runFor(300);
    const [learner = 0] = learners;
    // This client knows nobody but the read replica, which hears nobody.
    const stubborn = cluster.client('stubborn');
    await cluster.settle(stubborn.get(bytes('k')));
    for (const id of cluster.ids) if (id !== learner) cluster.network.partition(`n${id}`, [`n${learner}`, 'stubborn']);
    await cluster.settle(client.put(bytes('k'), bytes('new')));
    const answer = stubborn.get(bytes('k'), { timeoutMs: 3000 }).then(
      ({ record }) => record?.value.toString(),
      (error: unknown) => (isTidemarkError(error) ? error.code : String(error)),
    );
    expect(await cluster.settle(answer)).to.equal('UNAVAILABLE');
    cluster.network.heal();
    const { record } = await cluster.settle(stubborn.get(bytes('k')));
    expect(record?.value.toString()).to.equal('new');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('that were asked before a pause of the replica confirm none that are asked after it', async () => {
    const { cluster, learners } = await startWithReadReplicas('paused');
    const client = cluster.client('c1');
    const [learner = 0] = learners;
    const { reads } = replicasOf(cluster, 0).find(({ node }) => node === learner)?.replica ?? expect.fail('it has no replica');
    const read = async (): Promise<string | undefined> => {
      const deadlineMs = cluster.clock(learner).monotonicMs() + 5000;
      const view = await reads.openKeyHere(bytes('k'), deadlineMs);
      expect(view.served.consistency).to.equal('linearizable');
      return reads.latest(bytes('k'))?.value.toString();
    };
    for (let run = 0; run < 20; run += 1) {
      await cluster.settle(client.put(bytes('k'), bytes(`a${run}`)));
      const first = read();
      // Its question has left, and the answer comes to a process that stands still, as does all else from the leader.
      await cluster.loop.runFor(run / 10);
      cluster.process(learner).pause();
      await cluster.settle(client.put(bytes('k'), bytes(`b${run}`)));
      await cluster.loop.runFor(50);
      cluster.process(learner).resume();
      const second = read();
      expect(await cluster.settle(first)).to.be.oneOf([`a${run}`, `b${run}`]);
      expect(await cluster.settle(second)).to.equal(`b${run}`);
    }
  });

  for (const leaseReads of [true, false]) {
    it(`go on, and are never stale, while leaders crash, hand over and are cut off, ${leaseReads ? 'with leases' : 'with read-index'}`, async function () {
      this.timeout(60_000);
      const cluster = await startCluster({ seed: `storm-${leaseReads}`, nodes: 5, replicas: 3, buckets: 1, limits: { ...UNPLANNED, logEntriesKept: 20 }, timing: { leaseReads } });
      const client = cluster.client('c1');
      const keys = ['a', 'b'];
      const counters = new Counters(cluster, client, keys, 20);
      const readers = new Readers(cluster, [cluster.client('r1', undefined, ALWAYS), cluster.client('r2', undefined, ALWAYS)], counters, keys);
      const hosts = new Set(replicasOf(cluster, 0).map(({ node }) => node));
      for (const id of cluster.ids) if (!hosts.has(id)) await change(cluster, (record) => withReadReplica(record, 0, id));
      for (let round = 0; round < 6; round += 1) {
        await cluster.loop.runFor(1500);
        const leader = leaderOf(cluster, 'a', 1);
        const replica = replicasOf(cluster, 0).find(({ node }) => node === leader)?.replica;
        if (round % 3 === 0) {
          cluster.crash(leader);
          await cluster.loop.runFor(2000);
          await cluster.restart(leader);
        } else if (round % 3 === 1) {
          const heir = replica?.raft.progress().find(({ id }) => replica.raft.config.voters.includes(id));
          if (heir !== undefined) replica?.transferLeadership(heir.id);
        } else {
          cluster.network.isolate(`n${leader}`);
          await cluster.loop.runFor(2000);
          cluster.network.heal();
        }
        await untilLed(cluster);
      }
      await readers.stop(cluster);
      await counters.stop(cluster);
      await counters.check(cluster, client);
      expect(readers.served.size, 'all nodes serve').to.equal(5);
      expect(cluster.fatal).to.deep.equal([]);
    });
  }

  it('that meet a transaction under way on the key are sent on to the leader', async () => {
    const { cluster, learners } = await startWithReadReplicas('intents', 2);
    const client = cluster.client('c1');
    const names = Array.from({ length: 40 }, (_, at) => `k${at}`);
    const [here = ''] = names.filter((name) => bucketOf(bytes(name), 2) === 0);
    const [there = ''] = names.filter((name) => bucketOf(bytes(name), 2) === 1);
    const both = (value: string) => [there, here].map((key) => ({ kind: 'put' as const, key: bytes(key), value: bytes(value) }));
    const [learner = 0] = learners;
    const { replica } = replicasOf(cluster, 0).find(({ node }) => node === learner) ?? expect.fail('it has no replica');
    let met = 0;
    for (let run = 0; run < 30; run += 1) {
      await cluster.settle(client.write([], both(String(run))));
      // Committed and acknowledged; what it wrote here may not be resolved yet.
      const reads = Array.from({ length: 6 }, () => client.get(bytes(here)));
      if (replica.state.participant.intentOn(bytes(here)) !== undefined) met += 1;
      for (const { record } of await cluster.settle(Promise.all(reads))) expect(record?.value.toString()).to.equal(String(run));
    }
    expect(met, 'reads that met an intent').to.be.greaterThan(0);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
