import { expect } from 'chai';
import { Database } from '../../src/client/database.js';
import type { RequestId } from '../../src/bucket/requests.js';
import { EPOCH_MS } from '../../src/mvcc/timestamp.js';
import { bucketOf } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import { WALL_START_MS } from '../../src/sim/clock.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, strides, untilLed } from './support.js';

describe('clocks that are not what they should be', () => {
  it('never let a machine that slept answer from the lease it had before', async () => {
    const cluster = await startCluster({ seed: 'slept', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('old')));
    await cluster.loop.runFor(500);
    const old = leaderOf(cluster, 'k', 1);
    const replica = replicasOf(cluster, 0).find(({ node }) => node === old)?.replica;
    if (replica === undefined) throw new Error('the leader hosts no replica');
    // Asleep its monotonic clock stands still, and awake it hears nobody: it cannot know that another leads.
    cluster.network.isolate(`n${old}`);
    cluster.clock(old).setMonotonicRate(1e-9);
    cluster.process(old).pause();
    await cluster.settle(client.put(bytes('k'), bytes('new')));
    cluster.clock(old).setMonotonicRate(1);
    cluster.process(old).resume();
    const { reads } = replica;
    const answer = reads.open({ kind: 'linearizable' }, cluster.clock(old).monotonicMs() + 400).then(
      async (view) => (await reads.get(bytes('k'), view, strides))?.value.toString(),
      (error: unknown) => error,
    );
    expect(await cluster.settle(answer)).to.include({ code: 'UNAVAILABLE' });
    cluster.network.heal();
    await untilLed(cluster);
    const { record } = await cluster.settle(client.get(bytes('k')));
    expect(record?.value.toString()).to.equal('new');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('shut nobody out: what an entry from a clock far ahead has told every node is no news in a request', async () => {
    const buckets = 4;
    const cluster = await startCluster({ seed: 'ahead', nodes: 3, buckets });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(5000);
    const keys = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
    const ahead = keys.filter((key) => leaderOf(cluster, key, buckets) === 1);
    const others = keys.filter((key) => leaderOf(cluster, key, buckets) !== 1);
    expect([ahead.length, others.length]).to.satisfy((counts: number[]) => counts.every((count) => count > 0));
    const client = cluster.client('c1');
    const useAll = async (): Promise<void> => {
      for (const router of [client, cluster.node(2).router, cluster.node(3).router]) {
        for (const key of [...ahead, ...others]) {
          await cluster.settle(router.put(bytes(key), bytes('x')));
          await cluster.loop.runFor(200);
        }
        for (const key of keys) await cluster.settle(router.get(bytes(key)));
      }
    };
    await useAll();
    await cluster.loop.runFor(1000);
    cluster.crash(3);
    await cluster.restart(3);
    await untilLed(cluster);
    await useAll();
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('are not believed for ever: a client that a wrong clock has welcomed last knows the time when that is set right', async () => {
    const buckets = 4;
    const cluster = await startCluster({ seed: 'welcomed', nodes: 5, buckets });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const aheadMs = (): number => Math.round(client.now() / 4096 - (WALL_START_MS - EPOCH_MS + cluster.loop.nowMs));
    // The node that welcomes everybody last does so with a clock that is a minute ahead.
    cluster.clock(1).jumpWall(60_000);
    cluster.crash(1);
    await cluster.restart(1);
    await cluster.loop.runFor(3000);
    expect(client.isConnected(1)).to.equal(true);
    expect(aheadMs(), 'while four of five clocks are right').to.be.within(-1000, 1000);
    cluster.clock(1).jumpWall(-60_000);
    for (const key of KEYS) await cluster.settle(client.get(bytes(key)));
    expect(aheadMs()).to.be.within(-1000, 1000);
    // Nobody refuses what is born now.
    for (const [n, key] of KEYS.entries()) {
      const id = { session: 1000 + n, born: client.now(), sequence: 1, lowest: 1 };
      await cluster.settle(client.put(bytes(key), bytes('x'), { id, timeoutMs: 1000 }));
    }
  });

  it('are told as they are, and not as what was heard from one that is far ahead', async () => {
    const cluster = await startCluster({ seed: 'heard', nodes: 3, buckets: 4 });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(60_000);
    const ahead = KEYS.find((key) => leaderOf(cluster, key, 4) === 1) ?? '';
    await cluster.settle(cluster.node(1).router.put(bytes(ahead), bytes('x')));
    // By now every node has given its timestamps behind that entry. Who comes now would count on from there.
    await cluster.loop.runFor(500);
    cluster.clock(1).jumpWall(-60_000);
    const client = cluster.client('c1');
    const aheadMs = (): number => Math.round(client.now() / 4096 - (WALL_START_MS - EPOCH_MS + cluster.loop.nowMs));
    await cluster.settle(client.ready());
    await cluster.loop.runFor(500);
    expect(aheadMs()).to.be.within(-1000, 1000);
    await cluster.loop.runFor(90_000);
    expect(aheadMs()).to.be.within(-1000, 1000);
  });

  it('refuse no session of a caller that lets the client name it, though what it has seen is a minute ahead', async () => {
    const cluster = await startCluster({ seed: 'born-ahead', nodes: 5, replicas: 3, buckets: 10 });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(60_000);
    await cluster.loop.runFor(400);
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    const nodesOf = (key: string): number[] => replicasOf(cluster, bucketOf(bytes(key), 10)).map(({ node }) => node);
    const ahead = KEYS.find((key) => leaderOf(cluster, key, 10) === 1) ?? '';
    const behind = KEYS.find((key) => !nodesOf(ahead).includes(leaderOf(cluster, key, 10))) ?? '';
    expect([ahead, behind]).to.not.include('');
    await cluster.settle(client.get(bytes(ahead)));
    const put = (id: RequestId) => cluster.settle(client.put(bytes(behind), bytes('x'), { id, timeoutMs: 1000 }));
    await put(client.newRequestId());
    expect(client.newRequestId().session).to.not.equal(client.newRequestId().session);
  });

  it('that are behind after a restart keep no bucket from leading elsewhere, as long as its node may not lead', async () => {
    const buckets = 8;
    const cluster = await startCluster({ seed: 'mute', nodes: 3, buckets });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.ready());
    const wasLedBy1 = KEYS.filter((key) => leaderOf(cluster, key, buckets) === 1);
    expect(wasLedBy1).to.not.deep.equal([]);
    cluster.crash(1);
    cluster.clock(1).jumpWall(-20_000);
    await cluster.restart(1);
    await untilLed(cluster);
    let longestMs = 0;
    for (const untilMs = cluster.loop.nowMs + 15_000; cluster.loop.nowMs < untilMs; ) {
      for (const key of wasLedBy1) {
        const atMs = cluster.loop.nowMs;
        await cluster.settle(client.put(bytes(key), bytes('x')));
        longestMs = Math.max(longestMs, cluster.loop.nowMs - atMs);
      }
    }
    expect(longestMs).to.be.below(500);
    // When it may, it leads again.
    const { replicas } = cluster.node(1).hosting;
    const leadsAgain = (): boolean => wasLedBy1.every((key) => replicas.get(bucketOf(bytes(key), buckets))?.isLeader === true);
    expect(await cluster.loop.runUntil(() => leadsAgain(), 20_000)).to.equal(true);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('that were behind when all nodes started cost no more time once they are set right', async () => {
    const cluster = await startCluster({ seed: 'set-right', nodes: 3, buckets: 8 });
    await untilLed(cluster);
    for (const id of cluster.ids) {
      cluster.crash(id);
      cluster.clock(id).jumpWall(-3_600_000);
    }
    for (const id of cluster.ids) await cluster.restart(id);
    await cluster.loop.runFor(5000);
    const lead = (): number[] => cluster.ids.filter((id) => [...cluster.node(id).hosting.replicas.values()].some(({ isLeader }) => isLeader));
    expect(lead(), 'while they may have promised what is ahead of their clocks').to.deep.equal([]);
    for (const id of cluster.ids) cluster.clock(id).jumpWall(3_600_000);
    await untilLed(cluster, 5000);
    expect(cluster.fatal).to.deep.equal([]);
  });

  for (const ahead of [1, 2, 3]) {
    it(`do not fail scans: node ${ahead} of 3 is five seconds ahead`, async () => {
      const cluster = await startCluster({ seed: `scan-ahead-${ahead}`, nodes: 3, buckets: 8 });
      await untilLed(cluster);
      const client = cluster.client('c1');
      await cluster.settle(Promise.all(KEYS.map((key) => client.put(bytes(key), bytes('x')))));
      cluster.clock(ahead).jumpWall(5000);
      for (let round = 0; round < 4; round += 1) {
        await cluster.loop.runFor(400);
        for (const router of [client, ...cluster.ids.map((id) => cluster.node(id).router)]) {
          expect(await scanned(cluster, router)).to.deep.equal(KEYS);
        }
        if (round > 0) await cluster.settle(Promise.all(KEYS.map((key) => client.put(bytes(key), bytes('y')))));
      }
      expect(cluster.fatal).to.deep.equal([]);
    });
  }

  it('delay what a session does behind a clock far ahead, until the others have come near, and fail nothing', async () => {
    const cluster = await startCluster({ seed: 'five-ahead', nodes: 5, replicas: 3, buckets: 10 });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(4000);
    await cluster.loop.runFor(400);
    const ahead = KEYS.find((key) => leaderOf(cluster, key, 10) === 1);
    if (ahead === undefined) throw new Error('node 1 leads nothing');
    for (const router of [cluster.client('c1'), ...cluster.ids.map((id) => cluster.node(id).router)]) {
      await cluster.settle(router.put(bytes(ahead), bytes('x')));
      for (const key of KEYS) {
        await cluster.settle(router.put(bytes(key), bytes('x')));
        await cluster.settle(router.get(bytes(key)));
      }
      expect(await scanned(cluster, router)).to.deep.equal(KEYS);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('end in UNAVAILABLE, which may be tried again, when they are too far apart to wait for', async () => {
    const cluster = await startCluster({ seed: 'hour-ahead', nodes: 5, replicas: 3, buckets: 10 });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(3_600_000);
    await cluster.loop.runFor(400);
    const nodesOf = (key: string): number[] => replicasOf(cluster, bucketOf(bytes(key), 10)).map(({ node }) => node);
    const ahead = KEYS.find((key) => leaderOf(cluster, key, 10) === 1) ?? '';
    const behind = KEYS.find((key) => !nodesOf(ahead).includes(leaderOf(cluster, key, 10))) ?? '';
    expect([ahead, behind]).to.not.include('');
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes(ahead), bytes('x')));
    // Its commit would have to come after what the session has seen.
    const error = await failure(cluster.settle(client.put(bytes(behind), bytes('x'), { timeoutMs: 1000 })));
    expect(error).to.include({ code: 'UNAVAILABLE', retriable: true, outcome: 'none' });
    expect(error.message).to.include('CLOCK_TOO_FAR_AHEAD');
    const scan = await failure(cluster.settle(scanAll(client, 1000)));
    expect(scan).to.include({ code: 'UNAVAILABLE', retriable: true });
    // Who has not seen it is not concerned, and reads of single keys are not.
    const other = cluster.client('c2');
    await cluster.settle(other.put(bytes(behind), bytes('x'), { timeoutMs: 1000 }));
    const { record } = await cluster.settle(client.get(bytes(behind), { timeoutMs: 1000 }));
    expect(record?.value.toString()).to.equal('x');
    // What the caller itself asks for in the far future is its mistake.
    const future = client.now() + 7_200_000 * 4096;
    for (const router of [client, cluster.node(2).router]) {
      const asOf = { kind: 'asOf', timestamp: future } as const;
      const refused = await failure(cluster.settle(router.get(bytes(behind), { consistency: asOf, timeoutMs: 1000 })));
      expect(refused).to.include({ code: 'INVALID_ARGUMENT', reason: 'CLOCK_TOO_FAR_AHEAD' });
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('keep no Write out of a bucket that is a minute ahead of its home, and of all that home’s node has heard', async () => {
    const cluster = await startCluster({ seed: 'minute-ahead', nodes: 5, replicas: 3, buckets: 10 });
    await untilLed(cluster);
    cluster.clock(1).jumpWall(60_000);
    await cluster.loop.runFor(400);
    const nodesOf = (key: string): number[] => replicasOf(cluster, bucketOf(bytes(key), 10)).map(({ node }) => node);
    const ahead = KEYS.find((key) => leaderOf(cluster, key, 10) === 1) ?? '';
    const behind = KEYS.find((key) => !nodesOf(ahead).includes(leaderOf(cluster, key, 10))) ?? '';
    expect([ahead, behind]).to.not.include('');
    const before = await cluster.settle(cluster.client('c1').put(bytes(ahead), bytes('before')));
    const { hybrid } = cluster.node(leaderOf(cluster, behind, 10));
    const aheadMs = (timestamp: number): number => (timestamp - hybrid.physicalNow()) / 4096;
    expect(aheadMs(before.timestamp)).to.be.greaterThan(50_000);
    // Who has not seen that put; home is the bucket of the first key.
    const other = cluster.client('c2');
    const both = [behind, ahead].map((key) => ({ kind: 'put' as const, key: bytes(key), value: bytes('both') }));
    const refused = await cluster.settle(other.write([{ kind: 'absent', key: bytes(ahead) }], both, { timeoutMs: 500 }));
    expect(refused).to.include({ applied: false, failedVersion: before.timestamp });
    expect(aheadMs(hybrid.last), 'home’s node goes by its own clock').to.be.lessThan(1000);
    expect(await cluster.settle(other.write([], both, { timeoutMs: 500 }))).to.include({ applied: true });
    for (const key of [behind, ahead]) {
      expect((await cluster.settle(other.get(bytes(key)))).record?.value.toString(), key).to.equal('both');
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('carry the timeline to where they are once they commit: writes and gets go on, scans and streams wait for real time', async () => {
    const aheadMs = 30_000;
    const cluster = await startCluster({ seed: 'carried', nodes: 3, buckets: 4 });
    await untilLed(cluster);
    const open = async (name: string): Promise<Database> => {
      const db = new Database(cluster.machine(name, cluster.loop.clock()).env, { endpoints: cluster.endpoints, limits: cluster.limits });
      await cluster.settle(db.ready());
      return db;
    };
    const watcher = await open('watcher');
    const told: number[] = [];
    const watch = (async () => {
      for await (const { kind } of watcher.changes({ from: 'now' })) {
        if (kind === 'put') told.push(cluster.loop.nowMs);
      }
    })().catch(() => undefined);
    await cluster.loop.runFor(500);
    cluster.clock(1).jumpWall(aheadMs);
    const ahead = KEYS.find((key) => leaderOf(cluster, key, 4) === 1) ?? '';
    // One bucket is at rest all the while.
    const resting = (bucketOf(bytes(ahead), 4) + 1) % 4;
    const keys = KEYS.filter((key) => bucketOf(bytes(key), 4) !== resting);
    await cluster.settle(cluster.client('c1').put(bytes(ahead), bytes('x')));
    const committedMs = cluster.loop.nowMs;
    cluster.clock(1).jumpWall(-aheadMs);
    await cluster.loop.runFor(1000);
    // Who has seen nothing of it is carried along as well.
    const other = cluster.client('c2');
    for (const key of keys) {
      const { timestamp } = await cluster.settle(other.put(bytes(key), bytes('y'), { timeoutMs: 1000 }));
      expect(timestamp / 4096 - (WALL_START_MS - EPOCH_MS + committedMs)).to.be.within(aheadMs - 100, aheadMs + 100);
      expect((await cluster.settle(other.get(bytes(key), { timeoutMs: 1000 }))).record?.value.toString()).to.equal('y');
    }
    expect(await failure(cluster.settle(scanAll(cluster.client('c3'), 1000)))).to.include({ code: 'UNAVAILABLE', retriable: true });
    expect(told).to.deep.equal([]);
    await cluster.loop.runFor(aheadMs);
    expect(await scanned(cluster, cluster.client('c4'))).to.deep.equal(keys);
    expect(told.length).to.equal(keys.length + 1);
    expect(Math.min(...told)).to.be.within(committedMs + aheadMs - 100, committedMs + aheadMs + 1000);
    expect(cluster.fatal).to.deep.equal([]);
    await cluster.settle(Promise.all([watcher.close(), watch]));
  });

  it('may be ahead of what a client takes for the present, but not once it has scanned: so `watch --until now` asks', async () => {
    const cluster = await startCluster({ seed: 'present', nodes: 3, buckets: 8 });
    cluster.clock(2).jumpWall(450);
    const connect = async (name: string): Promise<Database> => {
      const db = new Database(cluster.machine(name, cluster.loop.clock()).env, { endpoints: cluster.endpoints, limits: cluster.limits });
      await cluster.settle(db.ready());
      return db;
    };
    const writer = await connect('writer');
    let last = 0;
    for (let n = 0; n < 20; n += 1) last = Math.max(last, (await cluster.settle(writer.put(`k${n}`, 'v'))).version);
    const reader = await connect('reader');
    expect(reader.now()).to.be.lessThan(last);
    const scan = (async () => {
      for await (const { key } of reader.scan({ limit: 1, keysOnly: true })) expect(key.length).to.be.greaterThan(0);
    })();
    await cluster.settle(scan);
    expect(reader.now()).to.be.at.least(last);
  });
});

const KEYS = Array.from({ length: 20 }, (_, n) => `key ${String(n).padStart(2, '0')}`);

async function scanAll(router: Router, timeoutMs?: number): Promise<string[]> {
  const keys: string[] = [];
  for await (const { records } of router.scan({ start: bytes(''), end: bytes('') }, { timeoutMs })) {
    for (const { key } of records) keys.push(key.toString());
  }
  return keys;
}

function scanned(cluster: SimCluster, router: Router): Promise<string[]> {
  return cluster.settle(scanAll(router));
}
