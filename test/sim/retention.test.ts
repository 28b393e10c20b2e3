import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { Record, Timestamp } from '../../src/bucket/requests.js';
import { StateSnapshot } from '../../src/bucket/snapshot.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { later, LOGICAL } from '../../src/mvcc/timestamp.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster, SimClusterOptions } from '../../src/sim/cluster.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, strides, untilLed } from './support.js';

const RETENTION_MS = 2000;

async function startShort(seed: string, options: Partial<SimClusterOptions> = {}): Promise<{ cluster: SimCluster; client: Router }> {
  const limits = { retentionMs: RETENTION_MS, pageEntriesMax: 2, ...options.limits };
  const cluster = await startCluster({ seed, nodes: 3, buckets: 2, ...options, limits });
  await untilLed(cluster);
  return { cluster, client: cluster.client('c1') };
}

async function put(cluster: SimCluster, client: Router, key: string, value: string): Promise<Timestamp> {
  return (await cluster.settle(client.put(bytes(key), bytes(value)))).timestamp;
}

async function valueAsOf(cluster: SimCluster, router: Router, key: string, timestamp: Timestamp): Promise<string | undefined> {
  const { record } = await cluster.settle(router.get(bytes(key), { consistency: { kind: 'asOf', timestamp } }));
  return record?.value.toString();
}

function dataReplicas(cluster: SimCluster): Replica[] {
  return [0, 1].flatMap((bucket) => replicasOf(cluster, bucket).map(({ replica }) => replica));
}

/** How many version records and pointers of a key all nodes hold. */
function stored(cluster: SimCluster, key: string): { versions: number; pointers: number } {
  let [versions, pointers] = [0, 0];
  for (const id of cluster.ids) {
    const all = cluster.disk(id).stores.get('state')?.range(EMPTY, Buffer.from([0xff])) ?? [];
    for (const [name, value] of all) {
      if (name[0] === 0x76 && value.includes(key)) versions += 1;
      if (name[0] === 0x6b && name.includes(key)) pointers += 1;
    }
  }
  return { versions, pointers };
}

describe('retention', () => {
  it('collects what no readable moment shows, on every replica, and refuses what is older with the earliest moment', async () => {
    const { cluster, client } = await startShort('collect');
    const versions: Timestamp[] = [];
    for (let n = 0; n < 10; n += 1) versions.push(await put(cluster, client, 'twist', `t${n}`));
    await put(cluster, client, 'ghost', 'there');
    await cluster.settle(client.delete(bytes('ghost')));
    const kept = await put(cluster, client, 'still', 'as it was');
    expect(await valueAsOf(cluster, client, 'twist', versions[3] ?? 0)).to.equal('t3');
    await cluster.loop.runFor(RETENTION_MS + 4000);
    expect(stored(cluster, 'twist'), 'one version on each node').to.deep.equal({ versions: 3, pointers: 3 });
    expect(stored(cluster, 'ghost'), 'nothing of what was deleted').to.deep.equal({ versions: 0, pointers: 0 });
    const refused = await failure(valueAsOf(cluster, client, 'twist', versions[3] ?? 0));
    expect(refused).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    const earliest = Number(refused.details['earliestReadable']);
    expect(refused.message).to.include(String(earliest));
    expect(earliest).to.be.greaterThan(kept);
    expect(await valueAsOf(cluster, client, 'twist', earliest)).to.equal('t9');
    expect(await valueAsOf(cluster, client, 'ghost', earliest)).to.equal(undefined);
    expect(await valueAsOf(cluster, client, 'still', earliest)).to.equal('as it was');
    await put(cluster, client, 'ghost', 'again');
    const { record } = await cluster.settle(client.get(bytes('ghost')));
    expect(record?.value.toString()).to.equal('again');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is never above what is resolved, though a node is cut off for long', async () => {
    const { cluster, client } = await startShort('resolved');
    await put(cluster, client, 'k', '1');
    for (let round = 0; round < 3; round += 1) {
      const leader = leaderOf(cluster, 'k', 2);
      for (const { state } of dataReplicas(cluster)) state.participant.lowestIntent = () => later(round + 1, 0);
      cluster.network.isolate(`n${leader}`);
      await cluster.loop.runFor(RETENTION_MS + 2000);
      cluster.network.heal();
      await untilLed(cluster);
      for (let n = 0; n < 10; n += 1) {
        await cluster.loop.runFor(500);
        for (const replica of dataReplicas(cluster)) expect(replica.state.horizon).to.be.at.most(replica.resolved());
      }
    }
  });

  it('is not passed while a read in pages runs, within its budget, on any node; then the read ends with an error', async () => {
    const limits = { horizonHoldMsMax: 6000 };
    const { cluster, client } = await startShort('pages', { limits });
    const keys = Array.from({ length: 16 }, (_, at) => `k${String(at).padStart(2, '0')}`);
    for (const key of keys) await put(cluster, client, key, 'old');
    await cluster.loop.runFor(1000);
    const asOf = client.now() - 200 * LOGICAL;
    for (const key of keys) await put(cluster, client, key, 'new');
    await cluster.loop.runFor(1100);
    const pages = client.scan({ start: EMPTY, end: EMPTY }, { consistency: { kind: 'asOf', timestamp: asOf } });
    const found: Record[] = [];
    const began = cluster.loop.nowMs;
    // Pages for longer than history is kept.
    while (cluster.loop.nowMs < began + RETENTION_MS + 1500) {
      const page = await cluster.settle(pages.next());
      if (page.done === true) break;
      found.push(...page.value.records);
      await cluster.loop.runFor(600);
    }
    expect(found.length).to.be.greaterThan(4);
    for (const { value } of found) expect(value.toString()).to.equal('old');
    // Nobody asks for the next page: the read is over its budget.
    await cluster.loop.runFor(RETENTION_MS + 8000);
    const refused = await failure(cluster.settle(pages.next()));
    expect(refused).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
  });

  it('refuses an answer whose moment was passed by a horizon that rose while it was read', async () => {
    const { cluster, client } = await startShort('recheck', { buckets: 1, nodes: 1 });
    await put(cluster, client, 'k', 'old');
    await cluster.loop.runFor(1000);
    const asOf = client.now() - 100 * LOGICAL;
    await put(cluster, client, 'k', 'new');
    const [replica] = replicasOf(cluster, 0).map((each) => each.replica);
    if (replica === undefined) throw new Error('no replica');
    const view = await cluster.settle(replica.reads.open({ kind: 'asOf', timestamp: asOf }, Infinity));
    expect((await cluster.settle(replica.reads.get(bytes('k'), view, strides)))?.value.toString()).to.equal('old');
    await cluster.loop.runFor(RETENTION_MS + 3000);
    expect(replica.state.horizon).to.be.greaterThan(asOf);
    expect(await failure(replica.reads.get(bytes('k'), view, strides))).to.include({ reason: 'BEFORE_HORIZON' });
  });

  it('collects nothing while a snapshot copies the state', async () => {
    const { cluster, client } = await startShort('copy', { buckets: 1, nodes: 1 });
    for (let n = 0; n < 6; n += 1) await put(cluster, client, 'twist', `t${n}`);
    const [replica] = replicasOf(cluster, 0).map((each) => each.replica);
    if (replica === undefined) throw new Error('no replica');
    const snapshot = new StateSnapshot(replica.state);
    await cluster.loop.runFor(RETENTION_MS + 4000);
    expect(replica.state.horizon).to.be.greaterThan(0);
    expect(stored(cluster, 'twist').versions).to.equal(6);
    snapshot.close();
    snapshot.close();
    await cluster.loop.runFor(3000);
    expect(stored(cluster, 'twist').versions).to.equal(1);
  });

  it('leaves no version behind the deletion of its key where a copy was under way for a part of a pass only', async () => {
    const { cluster, client } = await startShort('brief-copy', { buckets: 1, nodes: 1 });
    await put(cluster, client, 'ghost', 'first');
    await put(cluster, client, 'ghost', 'second');
    // So many bytes that the deletion comes with a later page.
    for (let n = 0; n < 4; n += 1) await put(cluster, client, `filler ${n}`, 'x'.repeat(100_000));
    await cluster.settle(client.delete(bytes('ghost')));
    const [replica] = replicasOf(cluster, 0).map((each) => each.replica);
    if (replica === undefined) throw new Error('no replica');
    const { store } = replica.state;
    const page = store.pageOnDisk.bind(store);
    // Until the horizon has passed all of it, and then again while the first page of the first pass is looked at.
    let copy = new StateSnapshot(replica.state);
    await cluster.loop.runFor(RETENTION_MS + 4000);
    copy.close();
    let pages = 0;
    store.pageOnDisk = async (options) => {
      const found = await page(options);
      pages += 1;
      if (pages === 1) copy = new StateSnapshot(replica.state);
      else copy.close();
      return found;
    };
    await cluster.loop.runFor(4000);
    expect(pages).to.be.at.least(4);
    // What a snapshot would send: its receiver derives the pointers of keys from versions.
    expect(stored(cluster, 'ghost')).to.deep.equal({ versions: 0, pointers: 0 });
    expect(stored(cluster, 'filler').versions).to.equal(4);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('comes with a snapshot, before anything can be read of it', async () => {
    const limits = { logEntriesKept: 5, logBytesKept: 1000 };
    const { cluster, client } = await startShort('snapshot', { buckets: 1, limits });
    await put(cluster, client, 'k', 'old');
    const leader = leaderOf(cluster, 'k', 1);
    const away = cluster.ids.find((id) => id !== leader) ?? 0;
    cluster.network.isolate(`n${away}`);
    for (let n = 0; n < 60; n += 1) await put(cluster, client, 'k', `v${n}`);
    await cluster.loop.runFor(RETENTION_MS + 4000);
    const horizonOn = (id: number): Timestamp => replicasOf(cluster, 0).find(({ node }) => node === id)?.replica.state.horizon ?? 0;
    // From now on no horizon rises.
    for (const { replica } of replicasOf(cluster, 0)) replica.state.participant.lowestIntent = () => 1;
    await cluster.loop.runFor(1000);
    const horizon = horizonOn(leader);
    expect(horizonOn(away)).to.be.lessThan(horizon);
    cluster.network.heal();
    await cluster.loop.runFor(6000);
    expect(cluster.log.lines.some((line) => line.includes('installed a snapshot')), 'by snapshot').to.equal(true);
    expect(horizonOn(away)).to.equal(horizon);
  });

  it('holds what is pinned, until it is let go, it expires, or it is over its budget', async () => {
    const { cluster, client } = await startShort('pins', { buckets: 1, limits: { pinMsMax: 20_000 } });
    const leading = (): Replica => {
      const found = dataReplicas(cluster).find(({ raft }) => raft.canServe());
      if (found === undefined) throw new Error('nobody leads');
      return found;
    };
    const pin = async (name: string, timestamp: Timestamp, expires = 0): Promise<void> => {
      await cluster.settle(leading().commands.retain({ kind: 'pin', name, timestamp, expires, most: 3 }));
    };
    const names = (): string[] => leading().state.meta.pins.map(({ name, lost }) => (lost ? `${name} lost` : name)).sort();
    const first = await put(cluster, client, 'twist', 'first');
    const second = await put(cluster, client, 'twist', 'second');
    await put(cluster, client, 'twist', 'third');
    await pin('one', first);
    await pin('two', second);
    await pin('brief', second, later(client.now(), 3000));
    await pin('too many', second);
    await pin('one', second);
    expect(names()).to.deep.equal(['brief', 'one', 'two']);
    await cluster.loop.runFor(RETENTION_MS + 5000);
    expect(names(), 'one has expired').to.deep.equal(['one', 'two']);
    expect(await valueAsOf(cluster, client, 'twist', first)).to.equal('first');
    expect(await valueAsOf(cluster, client, 'twist', second)).to.equal('second');
    await cluster.settle(leading().commands.retain({ kind: 'unpin', name: 'one' }));
    await cluster.loop.runFor(4000);
    expect((await failure(valueAsOf(cluster, client, 'twist', first))).details).to.deep.equal({ earliestReadable: String(second) });
    expect(await valueAsOf(cluster, client, 'twist', second)).to.equal('second');
    expect(stored(cluster, 'twist').versions).to.equal(6);
    await pin('late', first);
    expect(names(), 'what is gone cannot be pinned').to.deep.equal(['two']);
    await cluster.loop.runFor(20_000);
    expect(names()).to.deep.equal(['two lost']);
    expect((await failure(valueAsOf(cluster, client, 'twist', second))).reason).to.equal('BEFORE_HORIZON');
    expect(stored(cluster, 'twist').versions).to.equal(3);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is shorter where records take more room than they may', async () => {
    const limits = { retentionMs: 3_600_000, retentionBytesMax: 200_000 };
    const { cluster, client } = await startShort('room', { buckets: 1, nodes: 1, limits });
    const first = await put(cluster, client, 'twist', 'first');
    for (let n = 0; n < 60; n += 1) {
      await put(cluster, client, 'twist', 'x'.repeat(5000));
      await cluster.loop.runFor(5000);
    }
    await cluster.loop.runFor(20_000);
    const refused = await failure(valueAsOf(cluster, client, 'twist', first));
    expect(refused.reason).to.equal('BEFORE_HORIZON');
    const kept = stored(cluster, 'twist').versions;
    expect(kept).to.be.within(12, 45);
    expect(await valueAsOf(cluster, client, 'twist', client.now() - 59_000 * LOGICAL), 'the last minute').to.have.lengthOf(5000);
  });

  it('does not follow a clock that runs ahead for a while: history and pins stay', async () => {
    const { cluster, client } = await startShort('ahead', { limits: { retentionMs: 20_000 } });
    const first = await put(cluster, client, 'twist', 'first');
    await put(cluster, client, 'twist', 'second');
    for (const { replica } of replicasOf(cluster, 0).concat(replicasOf(cluster, 1))) {
      if (!replica.raft.canServe()) continue;
      const expires = later(client.now(), 60_000);
      await cluster.settle(replica.commands.retain({ kind: 'pin', name: 'kept', timestamp: first, expires, most: 3 }));
    }
    const ahead = leaderOf(cluster, 'twist', 2);
    cluster.clock(ahead).jumpWall(3_600_000);
    await cluster.loop.runFor(5000);
    expect(leaderOf(cluster, 'twist', 2), 'it has led all the while').to.equal(ahead);
    // At the fast node, so that there is a commit an hour ahead: that is no reason either.
    await cluster.settle(cluster.node(ahead).router.put(bytes('twist'), bytes('third')));
    await cluster.loop.runFor(5000);
    cluster.clock(ahead).jumpWall(-3_600_000);
    await cluster.loop.runFor(5000);
    for (const { state } of dataReplicas(cluster)) {
      expect(state.horizon).to.be.at.most(first);
      expect(state.meta.pins.map(({ name, lost }) => [name, lost])).to.deep.equal([['kept', false]]);
    }
    expect(await valueAsOf(cluster, cluster.client('c2'), 'twist', first)).to.equal('first');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('waits for a read in pages also where there is little room, though much is to be kept', async () => {
    const limits = { retentionMs: 3_600_000, retentionBytesMax: 200_000 };
    const { cluster, client } = await startShort('room-paged', { buckets: 1, nodes: 1, limits });
    const moment = await put(cluster, client, 'twist', 'first');
    for (let n = 0; n < 10; n += 1) await put(cluster, client, `k${n}`, 'first');
    const pages = client.scan({ start: EMPTY, end: EMPTY }, { consistency: { kind: 'asOf', timestamp: client.now() } });
    const found: string[] = [];
    for (let done = false; !done; ) {
      const page = await cluster.settle(pages.next());
      done = page.done === true;
      if (page.done !== true) found.push(...page.value.records.map(({ key, value }) => `${key.toString()} ${value.toString()}`));
      // The last pages come long after the last minute in which everything is kept.
      for (let n = 0; n < 8; n += 1) {
        await put(cluster, client, 'k4', 'x'.repeat(30_000));
        await cluster.loop.runFor(3100);
      }
    }
    expect(found).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => `k${n} first`).concat('twist first'));
    expect((await failure(valueAsOf(cluster, client, 'twist', moment))).reason).to.equal('BEFORE_HORIZON');
  });

  it('goes on where it was after a restart, and after a change of leaders', async () => {
    const { cluster, client } = await startShort('restart');
    for (let n = 0; n < 5; n += 1) await put(cluster, client, 'twist', `t${n}`);
    await cluster.loop.runFor(RETENTION_MS + 3000);
    const before = dataReplicas(cluster).map(({ state }) => state.horizon);
    for (const id of cluster.ids) cluster.crash(id);
    for (const id of cluster.ids) await cluster.restart(id);
    dataReplicas(cluster).forEach(({ state }, at) => expect(state.horizon).to.be.at.least(0.999 * (before[at] ?? 0)));
    await untilLed(cluster);
    for (let n = 5; n < 9; n += 1) await put(cluster, client, 'twist', `t${n}`);
    await cluster.loop.runFor(RETENTION_MS + 4000);
    expect(stored(cluster, 'twist').versions).to.equal(3);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
