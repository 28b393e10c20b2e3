import { expect } from 'chai';
import type { RequestId } from '../../src/bucket/requests.js';
import { nodeOfReplica } from '../../src/placement/map.js';
import { bytes, Counters, failure, leaderOf, startCluster, untilEqual, untilLed } from './support.js';

const KEYS = ['a', 'b', 'c', 'd', 'e', 'f'];

describe('what a simulated cluster keeps', () => {
  it('is all that it acknowledged, when all nodes crash at once under load, again and again', async () => {
    const cluster = await startCluster({ seed: 'crash-all', nodes: 3, buckets: 4 });
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS);
    for (let round = 0; round < 5; round += 1) {
      await cluster.loop.runFor(300 + 37 * round);
      for (const id of cluster.ids) cluster.crash(id);
      await cluster.loop.runFor(100);
      for (const id of cluster.ids) await cluster.restart(id);
      await untilLed(cluster);
    }
    await cluster.loop.runFor(500);
    await counters.stop(cluster);
    expect(counters.count).to.be.greaterThan(300);
    await counters.check(cluster, client);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('reaches a node that was away until the log was compacted, as a snapshot', async () => {
    const cluster = await startCluster({ seed: 'snapshot', nodes: 3, buckets: 2, limits: { logEntriesKept: 20 } });
    const client = cluster.client('c1');
    cluster.crash(3);
    const counters = new Counters(cluster, client, KEYS, 50);
    await cluster.loop.runFor(4000);
    await counters.stop(cluster);
    await cluster.restart(3);
    await untilEqual(cluster);
    // The state is there a moment before its install has come to its end.
    const installed = (): boolean => cluster.log.lines.some((line) => line.includes('installed a snapshot'));
    expect(await cluster.loop.runUntil(installed, 1000)).to.equal(true);
    await counters.check(cluster, client);
    // What was installed is what is found after the next start.
    cluster.crash(3);
    await cluster.restart(3);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is the same after a crash at any moment of an install', async () => {
    for (let point = 0; point < 24; point += 1) {
      const cluster = await startCluster({
        seed: `install-${point}`,
        nodes: 3,
        buckets: 1,
        limits: { logEntriesKept: 5, snapshotChunkBytes: 300 },
        diskFaults: { surviveChance: point % 3 === 0 ? 0 : point % 3 === 1 ? 1 : 0.5 },
      });
      const client = cluster.client('c1');
      cluster.crash(3);
      const counters = new Counters(cluster, client, KEYS, 50);
      await cluster.loop.runFor(3500);
      await counters.stop(cluster);
      await cluster.restart(3);
      const sending = (): boolean => cluster.log.lines.some((line) => line.includes('sending a snapshot'));
      expect(await cluster.loop.runUntil(sending, 10_000)).to.equal(true);
      await cluster.loop.runFor(point * 0.7);
      cluster.crash(3);
      await cluster.loop.runFor(200);
      await cluster.restart(3);
      await untilEqual(cluster);
      await counters.check(cluster, client);
      expect(cluster.fatal, `crash ${point * 0.7} ms after the offer`).to.deep.equal([]);
    }
  });

  it('reaches a replica with small pages whose disk stalls and whose links fail, as snapshots', async () => {
    const cluster = await startCluster({
      seed: 'pages',
      nodes: 3,
      buckets: 1,
      limits: { logEntriesKept: 5, appendBytesMax: 200, snapshotChunkBytes: 300 },
    });
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 10);
    for (let round = 0; round < 6; round += 1) {
      await cluster.loop.runFor(700);
      cluster.disk(3).stall(1500);
      await cluster.loop.runFor(300);
      cluster.network.isolate('n3');
      await cluster.loop.runFor(1500);
      cluster.network.heal();
    }
    await counters.stop(cluster);
    await untilEqual(cluster);
    await counters.check(cluster, client);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is not touched by a failed sync or a full disk, which end the node', async () => {
    const cluster = await startCluster({ seed: 'fsync', nodes: 3, buckets: 4 });
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 30);
    for (const [id, how, reason] of [
      [1, 'sync', 'DISK_FAILED'],
      [2, 'full', 'DISK_FULL'],
      [3, 'sync', 'DISK_FAILED'],
    ] as const) {
      await cluster.loop.runFor(500);
      cluster.disk(id).failNextWrite(how);
      await cluster.loop.runFor(3000);
      expect(cluster.running(id), `node ${id} has stopped`).to.equal(false);
      expect(cluster.fatal.at(-1)).to.include({ node: id });
      expect(cluster.fatal.at(-1)?.error).to.include({ reason });
      await cluster.restart(id);
      await untilLed(cluster);
      await cluster.loop.runFor(3000);
    }
    await counters.stop(cluster);
    expect(cluster.fatal.length).to.equal(3);
    await counters.check(cluster, client);
    await untilEqual(cluster);
  });

  it('is never read from a rotten disk: the node stops instead', async () => {
    let stopped = 0;
    for (let seed = 0; seed < 6; seed += 1) {
      const cluster = await startCluster({ seed: `rot-${seed}`, nodes: 3, buckets: 2 });
      const client = cluster.client('c1');
      for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes(`value of ${key}`)));
      await cluster.loop.runFor(200);
      for (let n = 0; n < 40; n += 1) cluster.disk(2).rot('state');
      const gateway = cluster.node(2).router;
      for (const key of KEYS) {
        if (!cluster.running(2)) break;
        const consistency = { kind: 'local' } as const;
        const read = gateway.get(bytes(key), { consistency, timeoutMs: 500 });
        const found = await cluster.loop.runUntilSettled(
          read.then(({ record }) => record?.value.toString(), () => 'failed'),
          2000,
        ).catch(() => 'failed');
        expect(found).to.be.oneOf([`value of ${key}`, 'failed']);
      }
      if (!cluster.running(2)) {
        stopped += 1;
        expect(cluster.fatal[0]?.error).to.include({ code: 'DATA_LOSS' });
      }
      for (const key of KEYS) {
        const { record } = await cluster.settle(client.get(bytes(key)));
        expect(record?.value.toString()).to.equal(`value of ${key}`);
      }
    }
    expect(stopped).to.be.greaterThan(3);
  });

  it('does not come back under its old name from a wiped disk', async () => {
    const cluster = await startCluster({ seed: 'wiped', nodes: 3, buckets: 2 });
    const client = cluster.client('c1');
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes(key)));
    cluster.crash(1);
    cluster.disk(1).wipe();
    await cluster.restart(1);
    await cluster.loop.runFor(3000);
    expect(cluster.running(1), 'the wiped node goes on').to.equal(false);
    expect(cluster.fatal.map(({ node }) => node)).to.deep.equal([1]);
    for (const key of KEYS) {
      const { record } = await cluster.settle(client.get(bytes(key)));
      expect(record?.value.toString()).to.equal(key);
    }
    // With one more node away nobody has a quorum: the wiped one must not make up for it.
    cluster.crash(2);
    await cluster.restart(1);
    await cluster.loop.runFor(5000);
    const error = await failure(cluster.settle(client.put(bytes('a'), bytes('b'), { timeoutMs: 3000 })));
    expect(error.code).to.equal('UNAVAILABLE');
  });
});

describe('a command that is tried again under its id', () => {
  const idOf = (session: number, born: number): RequestId => ({ session, born, sequence: 1, lowest: 1 });

  it('applies once, over a new leader, restarts, compaction, and through another router', async () => {
    const cluster = await startCluster({ seed: 'retry', nodes: 3, buckets: 2, limits: { logEntriesKept: 10 } });
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('first')));
    const id = idOf(77, client.now());
    const refusedId = idOf(78, client.now());
    const put = { kind: 'put', key: bytes('k'), value: bytes('once') } as const;
    const absent = { kind: 'absent', key: bytes('k') } as const;
    const result = async (router = client): Promise<unknown> => {
      const [done, refused] = await cluster.settle(
        Promise.all([router.write([], [put], { id }), router.write([absent], [put], { id: refusedId })]),
      );
      return [done, refused].map(({ applied, timestamp, failedCondition, failedVersion }) => {
        return { applied, timestamp, failedCondition, failedVersion };
      });
    };
    const first = await result();
    expect(first).to.have.nested.property('[0].applied', true);
    expect(first).to.have.nested.property('[1].applied', false);
    expect(await result()).to.deep.equal(first);
    expect(await result(cluster.client('c2'))).to.deep.equal(first);
    cluster.crash(leaderOf(cluster, 'k', 2));
    expect(await result(), 'from a new leader').to.deep.equal(first);
    for (const node of cluster.ids) if (!cluster.running(node)) await cluster.restart(node);
    for (let n = 0; n < 100; n += 1) await cluster.settle(client.put(bytes('other'), bytes(String(n))));
    for (let n = 0; n < 100; n += 1) await cluster.settle(client.put(bytes('k'), bytes(`later ${n}`)));
    await cluster.loop.runFor(5000);
    expect(await result(), 'after compaction').to.deep.equal(first);
    for (const node of cluster.ids) cluster.crash(node);
    for (const node of cluster.ids) await cluster.restart(node);
    expect(await result(), 'after a restart').to.deep.equal(first);
    expect(await result(cluster.node(1).router), 'through a gateway').to.deep.equal(first);
    const { record } = await cluster.settle(client.get(bytes('k')));
    expect(record?.value.toString()).to.equal('later 99');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('applies once, through a leader that knows of it from a snapshot only', async () => {
    const cluster = await startCluster({ seed: 'retry-snapshot', nodes: 3, buckets: 1, limits: { logEntriesKept: 5 } });
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    cluster.crash(3);
    const id = idOf(77, client.now());
    const write = async (): Promise<unknown> => {
      const { applied, timestamp, served } = await cluster.settle(client.put(bytes('k'), bytes('once'), { id }));
      return { applied, timestamp, isOld: served.node !== 3 };
    };
    const first = await write();
    const counters = new Counters(cluster, client, ['k'], 50);
    await cluster.loop.runFor(4000);
    await counters.stop(cluster);
    await cluster.restart(3);
    await untilEqual(cluster);
    await cluster.loop.runFor(500);
    expect(cluster.log.lines.some((line) => line.includes('installed a snapshot'))).to.equal(true);
    const leader = cluster.node(leaderOf(cluster, 'k', 1)).hosting.replicas.get(0);
    const heir = leader?.raft.config.voters.find((voter) => nodeOfReplica(voter) === 3) ?? 0;
    leader?.transferLeadership(heir);
    const leads = (): boolean => cluster.node(3).hosting.replicas.get(0)?.raft.canServe() === true;
    expect(await cluster.loop.runUntil(leads, 2000)).to.equal(true);
    expect(await write()).to.deep.equal({ ...(first as object), isOld: false });
    const { record } = await cluster.settle(client.get(bytes('k')));
    expect(record?.value.toString()).to.not.equal('once');
  });

  it('is not executed when its session is forgotten, though its client’s clock was ahead', async () => {
    const cluster = await startCluster({ seed: 'forgotten', nodes: 3, buckets: 1, limits: { sessionRetentionMs: 2000 } });
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    // The session was born after its only command, by the cluster's time.
    const id = idOf(99, client.now() + 800 * 4096);
    await cluster.settle(client.put(bytes('k'), bytes('once'), { id }));
    await cluster.settle(client.put(bytes('k'), bytes('newer')));
    for (let n = 0; n < 40; n += 1) {
      await cluster.loop.runFor(100);
      await cluster.settle(client.put(bytes('clock'), bytes(String(n))));
    }
    const error = await failure(cluster.settle(client.put(bytes('k'), bytes('once'), { id })));
    expect(error).to.include({ reason: 'REQUEST_FORGOTTEN', outcome: 'unknown' });
    const { record } = await cluster.settle(client.get(bytes('k')));
    expect(record?.value.toString()).to.equal('newer');
  });
});
