import { expect } from 'chai';
import type { Timestamp } from '../../src/bucket/requests.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { Cancellation } from '../../src/lib/cancel.js';
import { isTidemarkError } from '../../src/lib/errors.js';
import { earlier, later } from '../../src/mvcc/timestamp.js';
import { scanPage } from '../../src/node/scan.js';
import type { ScanOptions } from '../../src/router/options.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, Counters, failure, leaderOf, replicasOf, startCluster, strides, untilLed } from './support.js';

const KEYS = ['a', 'b', 'c', 'd', 'e', 'f'];

describe('reads of a simulated cluster', () => {
  it('are refused in time by a node that is alone, unless they ask for what it has', async () => {
    const cluster = await startCluster({ seed: 'alone', nodes: 3, buckets: 4 });
    const client = cluster.client('c1');
    for (const key of KEYS) await cluster.settle(client.put(bytes(key), bytes(`${key}1`)));
    await cluster.loop.runFor(500);
    cluster.network.isolate('n1');
    await cluster.loop.runFor(2000);
    const gateway = cluster.node(1).router;
    for (const key of KEYS) {
      const began = cluster.loop.nowMs;
      const refusals = await cluster.settle(
        Promise.all([
          failure(gateway.put(bytes(key), bytes('lost'), { timeoutMs: 1500 })),
          failure(gateway.get(bytes(key), { timeoutMs: 1500 })),
          failure(gateway.get(bytes(key), { timeoutMs: 1500, consistency: { kind: 'bounded', maxStalenessMs: 1000 } })),
        ]),
      );
      for (const { code } of refusals) expect(code).to.equal('UNAVAILABLE');
      expect(refusals[0]?.outcome, 'of the put').to.equal('none');
      expect(cluster.loop.nowMs - began, 'before the deadline').to.be.lessThan(1500);
      const local = await cluster.settle(gateway.get(bytes(key), { consistency: { kind: 'local' } }));
      expect(local.record?.value.toString()).to.equal(`${key}1`);
      expect(local.served).to.include({ consistency: 'local', node: 1 });
      const old = await cluster.settle(gateway.get(bytes(key), { consistency: { kind: 'bounded', maxStalenessMs: 60_000 } }));
      expect(old.record?.value.toString()).to.equal(`${key}1`);
      expect(old.served).to.include({ consistency: 'bounded', node: 1 });
      expect(old.served.timestamp).to.be.lessThan(client.now());
    }
    cluster.network.heal();
    await cluster.loop.runFor(5000);
    for (const key of KEYS) {
      const { record } = await cluster.settle(gateway.get(bytes(key)));
      expect(record?.value.toString()).to.equal(`${key}1`);
    }
  });

  for (const leaseReads of [true, false]) {
    it(`are never stale after a pause of the leader, ${leaseReads ? 'with leases' : 'with read-index'}`, async () => {
      const cluster = await startCluster({ seed: `pause-${leaseReads}`, nodes: 3, buckets: 2, timing: { leaseReads } });
      const client = cluster.client('c1');
      const counters = new Counters(cluster, client, KEYS, 20);
      let answered = 0;
      for (let round = 0; round < 4; round += 1) {
        await cluster.loop.runFor(1000);
        const key = KEYS[round] ?? '';
        const leader = leaderOf(cluster, key, 2);
        // This client knows nobody but the old leader.
        const stubborn = cluster.client(`stubborn${round}`);
        await cluster.settle(stubborn.get(bytes(key)));
        for (const id of cluster.ids) if (id !== leader) cluster.network.partition(`stubborn${round}`, `n${id}`);
        cluster.process(leader).pause();
        const reads: Promise<void>[] = [];
        const read = async (router: Router): Promise<void> => {
          const acknowledged = counters.acknowledged.get(key) ?? 0;
          try {
            const { record } = await router.get(bytes(key), { timeoutMs: 15_000 });
            answered += 1;
            expect(Number(record?.value.toString())).to.be.at.least(acknowledged);
          } catch (error) {
            if (!isTidemarkError(error)) throw error;
          }
        };
        for (let n = 0; n < 100; n += 1) {
          reads.push(read(stubborn));
          await cluster.loop.runFor(100);
        }
        cluster.process(leader).resume();
        const gateway = cluster.node(leader).router;
        for (let n = 0; n < 20; n += 1) {
          reads.push(read(gateway), read(stubborn));
          await cluster.loop.runFor(3);
        }
        cluster.network.heal();
        await cluster.settle(Promise.all(reads));
      }
      await counters.stop(cluster);
      expect(answered).to.be.greaterThan(100);
      await counters.check(cluster, client);
      expect(cluster.fatal).to.deep.equal([]);
    });
  }

  it('as of a timestamp are the same for ever, though a leader with a slow clock takes over', async () => {
    const cluster = await startCluster({ seed: 'as-of', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    const served: { readonly asOf: Timestamp; readonly value: string | undefined }[] = [];
    const readAsOf = async (asOf: Timestamp): Promise<void> => {
      const { record } = await cluster.settle(client.get(bytes('k'), { consistency: { kind: 'asOf', timestamp: asOf } }));
      served.push({ asOf, value: record?.value.toString() });
    };
    let version: Timestamp = 0;
    for (let round = 0; round < 12; round += 1) {
      await untilLed(cluster);
      const fast = leaderOf(cluster, 'k', 1);
      for (const id of cluster.ids) {
        const clock = cluster.clock(id);
        const wanted = id === fast ? 300 : -300;
        clock.jumpWall(Date.UTC(2026, 0, 1) + cluster.loop.nowMs + wanted - clock.wallMs());
      }
      await cluster.loop.runFor(300);
      for (let n = 0; n < 3; n += 1) {
        const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes(`${round}.${n}`)));
        expect(timestamp, 'versions go forward').to.be.greaterThan(version);
        for (const each of served) expect(timestamp, 'no commit at or below what was served').to.be.greaterThan(each.asOf);
        version = timestamp;
      }
      // The present of the fast leader, in which nothing has been written yet.
      await cluster.loop.runFor(5);
      // Or a moment that lies ahead of it: then the answer has to wait until a quorum knows of the promise.
      await readAsOf(later(cluster.node(fast).hybrid.physicalNow(), round % 2 === 0 ? 0 : 500));
      const closed = cluster.ids.map((id) => cluster.node(id).hosting.replicas.get(0)?.raft.closedTimestamp ?? 0);
      cluster.network.isolate(`n${fast}`);
      cluster.crash(fast);
      await untilLed(cluster);
      const after = await cluster.settle(client.put(bytes('k'), bytes(`${round} after`)));
      expect(after.timestamp, 'above every closed timestamp').to.be.greaterThan(Math.max(...closed));
      expect(after.timestamp, 'above what was served').to.be.greaterThan(served.at(-1)?.asOf ?? 0);
      version = after.timestamp;
      cluster.network.heal();
      await cluster.restart(fast);
      await cluster.loop.runFor(2500);
    }
    const versions: { readonly version: Timestamp; readonly value: Buffer }[] = [];
    const collect = async (): Promise<void> => {
      for await (const page of client.history(bytes('k'))) versions.push(...page.versions);
    };
    await cluster.settle(collect());
    for (const { asOf, value } of served) {
      const { record } = await cluster.settle(client.get(bytes('k'), { consistency: { kind: 'asOf', timestamp: asOf } }));
      expect(record?.value.toString()).to.equal(value);
      expect(versions.find((each) => each.version <= asOf)?.value.toString()).to.equal(value);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('by scan see all that was acknowledged, at one moment, forward and in reverse, over many pages', async () => {
    const cluster = await startCluster({ seed: 'scan', nodes: 3, buckets: 4, limits: { pageEntriesMax: 5 } });
    const client = cluster.client('c1');
    const names = Array.from({ length: 40 }, (_, at) => `s${String(at).padStart(2, '0')}`);
    // Every round writes all keys in order, so a scan as of one moment sees a prefix of the new round and the rest of the old.
    let round = 0;
    let done = 0;
    let stopped = false;
    const write = async (): Promise<void> => {
      for (round = 1; !stopped; round += 1) {
        for (const name of names) await client.put(bytes(name), bytes(String(round)));
        done = round;
      }
    };
    const writing = write();
    await cluster.loop.runFor(500);
    let mixed = 0;
    for (let n = 0; n < 30; n += 1) {
      const finished = done;
      const found = await cluster.settle(scanned(cluster, client, n % 2 === 1));
      if (n % 2 === 1) found.reverse();
      expect(found.map(([key]) => key)).to.deep.equal(names);
      const rounds = found.map(([, value]) => Number(value));
      for (const each of rounds) expect(each).to.be.at.least(finished);
      const sorted = [...rounds].sort((a, b) => b - a);
      expect(rounds, 'one moment').to.deep.equal(sorted);
      expect(new Set(rounds).size).to.be.at.most(2);
      mixed += new Set(rounds).size - 1;
      await cluster.loop.runFor(20);
    }
    stopped = true;
    await cluster.settle(writing);
    expect(mixed, 'scans in the midst of a round').to.be.greaterThan(10);
  });

  it('by scan get past any number of deleted keys, in bounded pages, and streams in front of their tail as well', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'tombstones', nodes: 1, buckets: 1, limits: { writeMutationsMax: 5000 } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const names = Array.from({ length: 20_000 }, (_, at) => bytes(`k${String(at).padStart(5, '0')}`));
    for (const at of [0, 5000, 10_000, 15_000]) {
      const mutations = names.slice(at, at + 5000).map((key) => ({ kind: 'delete', key }) as const);
      await cluster.settle(client.write([], mutations));
    }
    for (const key of ['a', 'z']) await cluster.settle(client.put(bytes(key), bytes(key)));
    const scan = async (options: ScanOptions): Promise<string[]> => {
      const found: string[] = [];
      const read = async (): Promise<void> => {
        for await (const { records } of client.scan({ start: bytes('b'), end: EMPTY }, options)) {
          found.push(records.map(({ key }) => key.toString()).join(' '));
        }
      };
      await cluster.settle(read());
      return found;
    };
    expect(await scan({ limit: 1 }), 'forward').to.deep.equal(['', '', 'z']);
    expect(await scan({ limit: 2, reverse: true }), 'in reverse').to.deep.equal(['z', '', '']);
    const told = client.changes({ start: EMPTY, end: EMPTY }, { from: { kind: 'beginning' } });
    const entries: string[] = [];
    while (entries.length < 2) {
      const next = await cluster.settle(told.next());
      if (next.done === true || next.value.kind !== 'entries') throw new Error('the snapshot is not complete');
      entries.push(...next.value.entries.map(({ key }) => key.toString()));
    }
    expect(entries).to.deep.equal(['a', 'z']);
    await cluster.settle(told.return(undefined));
  });

  it('by scan stop where nobody waits any more', async () => {
    const cluster = await startCluster({ seed: 'nobody waits', nodes: 1, buckets: 1 });
    await untilLed(cluster);
    const replicas = replicasOf(cluster, 0).map(({ replica }) => replica);
    const [state] = replicas.map((replica) => replica.state.store);
    if (state === undefined) throw new Error('there is no replica');
    const clock = cluster.clock(1);
    const options = { nodeId: 1, limits: DEFAULT_LIMITS, clock, state };
    const range = { start: EMPTY, end: EMPTY };
    const consistency = { kind: 'local' } as const;
    const operation = { kind: 'scan', buckets: [0], range, reverse: false, keysOnly: false, limit: 1, consistency } as const;
    const now = clock.monotonicMs();
    const signal = new Cancellation();
    signal.abort();
    const late = await failure(cluster.settle(scanPage(operation, replicas, options, strides, { deadlineMs: now })));
    expect(late).to.include({ code: 'UNAVAILABLE', reason: 'TIMED_OUT', outcome: 'none' });
    const gone = scanPage(operation, replicas, options, strides, { deadlineMs: now + 60_000, signal });
    expect(await failure(cluster.settle(gone))).to.include({ code: 'CANCELLED' });
  });

  it('by bounded scan are served by any node, leaders included, and do not go back behind what the client saw', async () => {
    const cluster = await startCluster({ seed: 'bounded-scan', nodes: 3, buckets: 4 });
    const client = cluster.client('c1');
    for (let n = 0; n < 30; n += 1) {
      await cluster.settle(client.put(bytes(`k${n % 7}`), bytes(String(n))));
      const consistency = { kind: 'bounded', maxStalenessMs: 300 } as const;
      const records: string[] = [];
      const scan = async (): Promise<void> => {
        for await (const page of client.scan({ start: EMPTY, end: EMPTY }, { consistency, timeoutMs: 1000 })) {
          expect(page.served.consistency).to.equal('bounded');
          expect(page.served.timestamp).to.be.greaterThan(earlier(client.now(), 600));
          records.push(...page.records.map(({ value }) => value.toString()));
        }
      };
      await cluster.settle(scan());
      expect(records, `after write ${n}`).to.include(String(n));
    }
  });

  it('follow a session over buckets whose leaders have different clocks', async () => {
    const cluster = await startCluster({ seed: 'session', nodes: 3, buckets: 8 });
    const client = cluster.client('c1');
    for (const id of cluster.ids) cluster.clock(id).jumpWall(300 * (id - 2));
    await cluster.loop.runFor(200);
    let last: Timestamp = 0;
    for (let n = 0; n < 60; n += 1) {
      const { timestamp } = await cluster.settle(client.put(bytes(`k${n}`), bytes(String(n))));
      expect(timestamp, `k${n} is written after k${n - 1}`).to.be.greaterThan(last);
      last = timestamp;
    }
  });
});

async function scanned(cluster: SimCluster, client: Router, reverse: boolean): Promise<[string, string][]> {
  const found: [string, string][] = [];
  for await (const page of client.scan({ start: bytes('s'), end: bytes('t') }, { reverse })) {
    for (const { key, value } of page.records) found.push([key.toString(), value.toString()]);
    await new Promise<void>((resolve) => {
      cluster.loop.timers.after(3, resolve);
    });
  }
  return found;
}
