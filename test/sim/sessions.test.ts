import { expect } from 'chai';
import type { RequestId } from '../../src/bucket/requests.js';
import { SessionPieces } from '../../src/bucket/session-pieces.js';
import type { Limits } from '../../src/env/limits.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

const idOf = (session: number, born: number, sequence = 1): RequestId => ({ session, born, sequence, lowest: 1 });

function start(seed: string, limits: Partial<Limits>): Promise<SimCluster> {
  return startCluster({ seed, nodes: 3, buckets: 1, limits });
}

/** One command each of so many sessions that begin now, a few at a time. */
async function useSessions(cluster: SimCluster, client: Router, from: number, count: number, key = 'busy'): Promise<void> {
  for (let at = from; at < from + count; at += 100) {
    const sessions = Array.from({ length: Math.min(100, from + count - at) }, (_, n) => at + n);
    const puts = sessions.map((session) => client.put(bytes(key), bytes(String(session)), { id: idOf(session, client.now()) }));
    await cluster.settle(Promise.all(puts));
  }
}

/** The sessions of every replica of the only bucket, as they would stand on disk. */
function tables(cluster: SimCluster): string[] {
  return replicasOf(cluster, 0).map(({ replica }) => {
    const pieces = new SessionPieces(replica.state.sessions.freeze());
    const all: Buffer[] = [];
    for (let piece = pieces.next(); piece !== undefined; piece = pieces.next()) all.push(piece);
    return Buffer.concat(all).toString('hex');
  });
}

describe('many sessions of one bucket', () => {
  it('of clients that live for one command each all get their answer, and take bounded room, alike on all replicas', async () => {
    const cluster = await start('short-lived', { sessionsPerBucketMax: 20 });
    await untilLed(cluster);
    for (let n = 1; n <= 150; n += 1) {
      const client = cluster.client(`c${n}`);
      await cluster.settle(client.put(bytes('k'), bytes(String(n))));
      await client.close();
    }
    await untilEqual(cluster);
    for (const { replica } of replicasOf(cluster, 0)) expect(replica.state.sessions.count).to.equal(20);
    const [one, ...others] = tables(cluster);
    for (const other of others) expect(other).to.equal(one);
    const client = cluster.client('last');
    expect((await cluster.settle(client.get(bytes('k')))).record?.value.toString()).to.equal('150');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('do not lock out a live client whose session is forgotten, or was never seen and is older', async () => {
    const cluster = await start('live', { sessionsPerBucketMax: 10 });
    await untilLed(cluster);
    const [live, late, busy] = [cluster.client('live'), cluster.client('late'), cluster.client('busy')];
    await cluster.settle(live.put(bytes('k'), bytes('1')));
    const births = [live, late].map((client) => client.now());
    // The second has its session from a command that the bucket never saw.
    for (const client of [late, busy]) await cluster.settle(client.ready());
    cluster.network.isolate('late');
    expect((await failure(cluster.settle(late.put(bytes('k'), bytes('x'), { timeoutMs: 500 })))).code).to.equal('UNAVAILABLE');
    cluster.network.heal();
    await cluster.loop.runFor(70_000);
    await useSessions(cluster, busy, 1000, 50);
    const horizon = replicasOf(cluster, 0)[0]?.replica.state.sessions.horizon;
    expect(horizon).to.be.above(Math.max(...births));
    for (const client of [live, late]) {
      const { record } = await cluster.settle(client.get(bytes('k')));
      const condition = { kind: 'version', key: bytes('k'), version: record?.version ?? 0 } as const;
      const put = { kind: 'put', key: bytes('k'), value: bytes('2') } as const;
      expect(await cluster.settle(client.write([condition], [put]))).to.include({ applied: true });
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('are forgotten rather than that a command is executed twice', async () => {
    const cluster = await start('twice', { sessionsPerBucketMax: 10 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    const id = idOf(7, client.now());
    await cluster.settle(client.put(bytes('k'), bytes('once'), { id }));
    await cluster.settle(client.put(bytes('k'), bytes('newer')));
    await useSessions(cluster, client, 100, 30);
    for (const router of [client, cluster.node(1).router, cluster.node(2).router]) {
      const error = await failure(cluster.settle(router.put(bytes('k'), bytes('once'), { id })));
      expect(error).to.include({ reason: 'REQUEST_FORGOTTEN', outcome: 'unknown' });
      expect(Number(error.details['horizon'])).to.be.at.least(id.born);
    }
    const { record } = await cluster.settle(client.get(bytes('k')));
    expect(record?.value.toString()).to.equal('newer');
  });

  it('travel with a snapshot in pieces, though together they are larger than a message', async () => {
    const sessions = 3000;
    const cluster = await start('large', {
      ...{ logEntriesKept: 5, messageBytesMax: 100_000, appendBytesMax: 20_000, sessionsPerBucketMax: sessions },
    });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    const away = leaderOf(cluster, 'k', 1) === 3 ? 2 : 3;
    cluster.crash(away);
    const born = client.now();
    await useSessions(cluster, client, 1, sessions);
    await cluster.loop.runFor(3000);
    await cluster.restart(away);
    const installed = (): boolean => cluster.log.lines.some((line) => line.includes('installed a snapshot'));
    expect(await cluster.loop.runUntil(installed, 30_000)).to.equal(true);
    await untilEqual(cluster);
    const [one, ...others] = tables(cluster);
    for (const other of others) expect(other).to.equal(one);
    // The one that has them from the snapshot leads, after a restart.
    cluster.crash(away);
    await cluster.restart(away);
    await cluster.loop.runFor(3000);
    const [there, leader] = [away, leaderOf(cluster, 'k', 1)].map((node) => replicasOf(cluster, 0).find((each) => each.node === node));
    if (there !== undefined && there !== leader) leader?.replica.transferLeadership(there.replica.id);
    await cluster.loop.runUntil(() => there?.replica.raft.canServe() === true, 5000);
    expect(there?.replica.raft.canServe()).to.equal(true);
    for (const session of [1, 1500, sessions]) {
      const again = await cluster.settle(client.put(bytes('busy'), bytes('again'), { id: idOf(session, born) }));
      expect(again.applied).to.equal(true);
    }
    expect((await cluster.settle(client.get(bytes('busy')))).record?.value.toString()).to.equal(String(sessions));
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('come back after a crash at any moment of a checkpoint', async () => {
    const cluster = await start('checkpoint', { logEntriesKept: 20, logBytesKept: 2000 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    await useSessions(cluster, client, 1, 3000);
    await untilEqual(cluster);
    let next = 3001;
    for (let moment = 0; moment < 20; moment += 1) {
      await useSessions(cluster, client, next, 60);
      next += 60;
      const { replica } = replicasOf(cluster, 0)[0] ?? {};
      const before = replica?.state.sessionsIndex ?? 0;
      cluster.node(1).hosting.compact(() => Infinity);
      await cluster.loop.runFor(moment * 7);
      cluster.crash(1);
      await cluster.restart(1);
      await untilEqual(cluster);
      const [one, other] = tables(cluster);
      expect(one, `after ${moment * 7} ms, checkpoint at ${before}`).to.equal(other);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });
});
