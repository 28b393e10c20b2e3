import { expect } from 'chai';
import { unpack } from 'msgpackr';
import type { Timestamp } from '../../src/bucket/requests.js';
import { Strides } from '../../src/bucket/strides.js';
import { TableLoader } from '../../src/bucket/tables.js';
import { StateSnapshot } from '../../src/bucket/snapshot.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { EMPTY } from '../../src/lib/bytes.js';
import type { TidemarkError } from '../../src/lib/errors.js';
import { later } from '../../src/mvcc/timestamp.js';
import { Installs } from '../../src/node/installs.js';
import { scanPage } from '../../src/node/scan.js';
import type { NodeId } from '../../src/placement/map.js';
import { moveReplica } from '../../src/placement/record.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { ListLogger } from '../node/support.js';
import { bytes, change, failure, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

/**
 * Moments that random faults hardly ever hit, each at a seam where two safeguards meet. Nearly every test here fails with a planted bug
 * (see mutants.ts).
 */
describe('at the seams of a simulated cluster', () => {
  it('a machine that slept serves nothing from the lease of before, though its monotonic clock stood still', async () => {
    const cluster = await startCluster({ seed: 'sleep', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('old')));
    await cluster.loop.runFor(300);
    const { leader, others } = roles(cluster);
    cluster.process(leader).pause();
    cluster.network.partition(`n${leader}`, others.map((id) => `n${id}`));
    await cluster.loop.runFor(3000);
    await untilLedBeside(cluster, leader);
    await cluster.settle(client.put(bytes('k'), bytes('new')));
    cluster.clock(leader).slept(3000);
    cluster.process(leader).resume();
    expect(await readSoon(cluster, cluster.node(leader).router)).to.be.oneOf(['new', 'nothing']);
  });

  it('a scan takes its timestamp from leaders that are confirmed', async () => {
    const cluster = await startCluster({ seed: 'handed-over', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('old')));
    await cluster.loop.runFor(300);
    const { leader, others } = roles(cluster);
    // It hands over, and hears nothing of what follows.
    for (const id of others) cluster.network.stall(`n${id}`, `n${leader}`, 3000);
    const replica = cluster.node(leader).hosting.replicas.get(0);
    const heir = replica?.raft.progress()[0]?.id ?? 0;
    replica?.transferLeadership(heir);
    await untilLedBeside(cluster, leader);
    const successor = replicasOf(cluster, 0).find(({ node, replica: one }) => node !== leader && one.raft.canServe());
    const id = { session: 1, born: client.now(), sequence: 1, lowest: 1 };
    const mutations = [{ kind: 'put', key: bytes('k'), value: bytes('new') }] as const;
    await cluster.settle(successor?.replica.commands.write({ id, conditions: [], mutations }) ?? Promise.reject(new Error('no leader')));
    const found: string[] = [];
    const scan = async (): Promise<void> => {
      const pages = cluster.node(leader).router.scan({ start: EMPTY, end: EMPTY }, { timeoutMs: 8000 });
      for await (const { records } of pages) found.push(...records.map(({ value }) => value.toString()));
    };
    await cluster.settle(scan());
    expect(found).to.deep.equal(['new']);
  });

  it('a leader with a fast clock promises no moment that a quorum does not know of', async () => {
    const cluster = await startCluster({ seed: 'fast', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('old')));
    const { leader, others } = roles(cluster);
    setClock(cluster, leader, 800);
    for (const id of others) setClock(cluster, id, -300);
    await cluster.loop.runFor(300);
    const asOf = later(cluster.node(leader).hybrid.physicalNow(), 900);
    const served = await readAsOf(cluster, cluster.node(leader).router, asOf, 300);
    cluster.crash(leader);
    await untilLedBeside(cluster, leader);
    await expectKept(cluster, cluster.client('c2'), asOf, served);
  });

  for (const waitMs of [300, 3000]) {
    it(`a voter promises no moment beyond what it has written down, ${waitMs} ms after its clock fell back`, async () => {
      for (let run = 0; run < RUNS; run += 1) {
        const cluster = await startCluster({ seed: `slow-${run}`, nodes: 3, buckets: 1 });
        const client = cluster.client('c1');
        await cluster.settle(client.put(bytes('k'), bytes('old')));
        await cluster.loop.runFor(300);
        const { leader, others } = roles(cluster);
        const [voter = 0, stranger = 0] = others;
        for (const id of others) setClock(cluster, id, -20_000);
        cluster.network.partition(`n${stranger}`, [`n${leader}`, `n${voter}`]);
        await cluster.loop.runFor(waitMs);
        // At present, for the leader: far ahead of what the others may promise.
        const asOf = cluster.node(leader).hybrid.physicalNow();
        const served = await readAsOf(cluster, cluster.node(leader).router, asOf, 300);
        cluster.crash(voter);
        cluster.crash(leader);
        cluster.network.heal();
        await cluster.restart(voter);
        await untilLedBeside(cluster, leader, 60_000);
        await expectKept(cluster, cluster.client('c2'), asOf, served);
      }
    });
  }

  it('a snapshot counts on disk before the log that it replaces is dropped', async () => {
    const cluster = await startCluster(SMALL('flip'));
    const away = await leaveBehind(cluster);
    await cluster.restart(away);
    const installs = (): boolean => replicaOn(cluster, away)?.installing === true;
    expect(await cluster.loop.runUntil(installs, 10_000)).to.equal(true);
    cluster.disk(away).stall(2000, 'state');
    await cluster.loop.runFor(200);
    cluster.crash(away);
    await cluster.restart(away);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('the log begins where a snapshot ends, though the node died between the two', async () => {
    const cluster = await startCluster(SMALL('gap'));
    const away = await leaveBehind(cluster);
    await cluster.restart(away);
    const installs = (): boolean => replicaOn(cluster, away)?.installing === true;
    expect(await cluster.loop.runUntil(installs, 10_000)).to.equal(true);
    cluster.disk(away).stall(2000, 'log');
    await cluster.loop.runFor(200);
    expect(installs()).to.equal(true);
    cluster.crash(away);
    await cluster.restart(away);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('a snapshot that the log has overtaken while it came takes nothing back', async () => {
    const cluster = await startCluster({ seed: 'overtaken', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('0')));
    await cluster.loop.runFor(300);
    const { leader, others } = roles(cluster);
    const [behind = 0] = others;
    cluster.network.isolate(`n${behind}`);
    for (let n = 1; n <= 20; n += 1) await cluster.settle(client.put(bytes('k'), bytes(String(n))));
    await cluster.loop.runFor(300);
    const source = new StateSnapshot(replicaOn(cluster, leader)?.state ?? expect.fail('nobody leads'));
    const sink = installsOf(cluster, behind).accept(0, source.header) ?? expect.fail('it is not wanted');
    for (;;) {
      const chunk = await cluster.settle(source.next(1000));
      if (chunk === undefined) break;
      await cluster.settle(sink.write(chunk));
    }
    source.close();
    cluster.network.heal();
    await cluster.settle(client.put(bytes('k'), bytes('21')));
    await untilEqual(cluster);
    const { applied, slot } = replicaOn(cluster, behind)?.state.meta ?? expect.fail('it has no replica');
    expect(applied.index).to.be.greaterThan(source.meta.index);
    await cluster.settle(sink.finish());
    expect(replicaOn(cluster, behind)?.state.meta).to.include({ applied, slot });
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('a snapshot that is being sent ends when another state took its place, whose old slot may be swept', async () => {
    const cluster = await startCluster({ seed: 'swept', nodes: 1, buckets: 1 });
    const client = cluster.client('c1');
    for (let n = 0; n < 20; n += 1) await cluster.settle(client.put(bytes(`k${n}`), bytes(String(n))));
    await cluster.loop.runFor(500);
    const { state } = replicaOn(cluster, 1) ?? expect.fail('the node has no replica');
    const source = new StateSnapshot(state);
    while (isSessions(await cluster.settle(source.next(100)))) expect(source.meta.index).to.be.greaterThan(20);
    state.replace({ ...state.meta, slot: 4711 }, new TableLoader(state.tables));
    const error = await failure(cluster.settle(source.next(100)));
    expect(error).to.include({ code: 'ABORTED', reason: 'SNAPSHOT_REPLACED' });
  });

  it('what was cut off the log does not come back after a crash', async () => {
    for (let run = 0; run < RUNS; run += 1) {
      const cluster = await startCluster({ seed: `tail-${run}`, nodes: 3, buckets: 1, diskFaults: { surviveChance: 0 } });
      const client = cluster.client('c1');
      await cluster.settle(client.put(bytes('k'), bytes('old')));
      await cluster.loop.runFor(300);
      const { leader, others } = roles(cluster);
      cluster.network.partition(`n${leader}`, others.map((id) => `n${id}`));
      const { router } = cluster.node(leader);
      for (let n = 0; n < 40; n += 1) router.put(bytes('k'), bytes(`lost ${n}`), { timeoutMs: 1000 }).catch(() => undefined);
      await cluster.loop.runFor(300);
      const longest = replicaOn(cluster, leader)?.raft.lastIndex ?? 0;
      await untilLedBeside(cluster, leader);
      cluster.network.heal();
      const isCut = (): boolean => {
        const raft = replicaOn(cluster, leader)?.raft;
        return raft !== undefined && raft.lastIndex < longest && raft.durableIndex === raft.lastIndex && raft.role === 'follower';
      };
      expect(await cluster.loop.runUntil(isCut, 10_000)).to.equal(true);
      cluster.crash(leader);
      await cluster.restart(leader);
      await untilLed(cluster);
      const { record } = await cluster.settle(cluster.client('c2').get(bytes('k')));
      // The router tries again what it could not bring to an end.
      expect(record?.value.toString()).to.match(/^(old|lost \d+)$/);
      await untilEqual(cluster);
      expect(cluster.fatal).to.deep.equal([]);
    }
  });

  it('a replica that is given up while it is read sends its readers elsewhere, and is not taken for damaged', async () => {
    const cluster = await startCluster({ seed: 'read-on', nodes: 4, buckets: 1, limits: { bucketsMovingMax: 0 } });
    const client = cluster.client('c1');
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('first')));
    for (let n = 0; n < 1200; n += 100) {
      const keys = Array.from({ length: 100 }, (_, at) => (n < 600 ? 'k' : `k${n + at}`));
      await cluster.settle(Promise.all(keys.map((key) => client.put(bytes(key), bytes('v')))));
    }
    const last = (await cluster.settle(client.put(bytes('z'), bytes('v')))).timestamp;
    await cluster.loop.runFor(1000);
    // What takes a real node a few milliseconds takes no time here: each stride, each page.
    const soon = (): Promise<void> => new Promise((resolve) => void cluster.loop.timers.after(1, resolve));
    const { hosting } = cluster.node(3);
    const replica = hosting.replicas.get(0);
    if (replica === undefined) throw new Error('node 3 has a replica');
    const { store } = replica.state;
    const page = store.page.bind(store);
    const retire = hosting.retire.bind(hosting);
    const failures: Promise<TidemarkError>[] = [];
    hosting.retire = (given, settled) => {
      store.page = async (options) => {
        const found = await page(options);
        await soon();
        return found;
      };
      const range = { start: EMPTY, end: EMPTY };
      const scan = { kind: 'scan', buckets: [0], range, consistency: { kind: 'asOf', timestamp: last }, limit: 1000, reverse: false } as const;
      const options = { nodeId: 3, limits: DEFAULT_LIMITS, clock: cluster.clock(3), state: store };
      const context = { deadlineMs: Infinity, seen: 0 };
      const view = { timestamp, served: { node: 3, timestamp, consistency: 'asOf', hops: 0 } } as const;
      // They pass their gates in the last moments.
      for (const reads of [0, 1, 2, 3, 4, 5]) {
        const begin = async <T>(read: () => Promise<T>): Promise<T> => {
          for (let n = 0; n < reads; n += 1) await soon();
          return read();
        };
        failures.push(failure(begin(() => replica.reads.get(bytes('k'), view, new Strides(soon)))));
        failures.push(failure(begin(() => scanPage({ ...scan, keysOnly: false }, [replica], options, new Strides(soon), context))));
      }
      return retire(given, settled);
    };
    await change(cluster, (record) => moveReplica(record, 0, 3, 4));
    expect(await cluster.loop.runUntil(() => hosting.replicas.get(0) === undefined, 30_000)).to.equal(true);
    const found = await cluster.settle(Promise.all(failures));
    expect(found.length).to.equal(12);
    for (const { reason } of found) expect(reason).to.equal('NOT_LEADER');
    expect(cluster.fatal).to.deep.equal([]);
  });
});

/** Runs of one scenario, whose moments differ a little. */
const RUNS = 8;

/** A chunk is [sessions or null, records]. */
function isSessions(chunk: Buffer | undefined): boolean {
  const [sessions] = unpack(chunk ?? expect.fail('the snapshot is over')) as [unknown];
  return sessions !== null;
}

const SMALL = (seed: string) => ({
  seed,
  nodes: 3,
  buckets: 1,
  limits: { logEntriesKept: 5, snapshotChunkBytes: 300 },
  diskFaults: { surviveChance: 0 },
});

function roles(cluster: SimCluster): { leader: NodeId; others: NodeId[] } {
  const leader = leaderOf(cluster, 'k', 1);
  return { leader, others: cluster.ids.filter((id) => id !== leader) };
}

function replicaOn(cluster: SimCluster, id: NodeId): ReturnType<typeof replicasOf>[number]['replica'] | undefined {
  return replicasOf(cluster, 0).find(({ node }) => node === id)?.replica;
}

/** The way of a snapshot into the replicas of a node, but for the log, which none of these comes to. */
function installsOf(cluster: SimCluster, id: NodeId): Installs {
  const { hosting } = cluster.node(id);
  return new Installs({
    hosting,
    state: hosting.store,
    writer: { reset: () => Promise.resolve() },
    log: new ListLogger(() => undefined),
    transfer: () => expect.fail('nothing is sent'),
    settled: () => Promise.resolve(),
    now: () => cluster.clock(id).monotonicMs(),
    onBug: (error) => expect.fail(String(error)),
  });
}

function setClock(cluster: SimCluster, id: NodeId, offsetMs: number): void {
  const clock = cluster.clock(id);
  clock.jumpWall(Date.UTC(2026, 0, 1) + cluster.loop.nowMs + offsetMs - clock.wallMs());
}

async function untilLedBeside(cluster: SimCluster, old: NodeId, withinMs = 20_000): Promise<void> {
  const led = (): boolean => replicasOf(cluster, 0).some(({ node, replica }) => node !== old && replica.raft.canServe());
  expect(await cluster.loop.runUntil(led, withinMs), 'another node leads in time').to.equal(true);
}

async function readSoon(cluster: SimCluster, router: Router): Promise<string> {
  const read = router.get(bytes('k'), { timeoutMs: 1000 });
  return cluster.settle(read.then(({ record }) => record?.value.toString() ?? 'nothing', () => 'nothing'));
}

/** What it is, or undefined if that moment was not promised in time. */
async function readAsOf(cluster: SimCluster, router: Router, timestamp: Timestamp, timeoutMs: number): Promise<string | undefined> {
  const read = router.get(bytes('k'), { consistency: { kind: 'asOf', timestamp }, timeoutMs });
  return cluster.settle(read.then(({ record }) => record?.value.toString(), () => undefined));
}

/** If that moment was promised, nothing is written at or before it any more. */
async function expectKept(cluster: SimCluster, client: Router, asOf: Timestamp, served: string | undefined): Promise<void> {
  const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('later')));
  if (served !== undefined) expect(timestamp, 'of what is written after the promise').to.be.greaterThan(asOf);
}

/** One node is away until the others have compacted their logs. */
async function leaveBehind(cluster: SimCluster): Promise<NodeId> {
  const client = cluster.client('c1');
  await cluster.settle(client.put(bytes('k'), bytes('0')));
  const [away = 0] = roles(cluster).others;
  cluster.crash(away);
  for (let n = 1; n <= 60; n += 1) {
    await cluster.settle(client.put(bytes(`k${n % 7}`), bytes(String(n))));
    await cluster.loop.runFor(60);
  }
  return away;
}
