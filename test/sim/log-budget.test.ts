import { expect } from 'chai';
import { bucketOf } from '../../src/placement/map.js';
import { moveReplica } from '../../src/placement/record.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, change, Counters, replicasOf, startCluster, untilEqual } from './support.js';

const BUCKETS = 8;
const BUDGET = 200_000;
const MOVE_BUDGET = 100_000;

/** A key of each bucket. */
function keys(): string[] {
  const found = new Map<number, string>();
  for (let n = 0; found.size < BUCKETS; n += 1) found.set(bucketOf(bytes(`k${n}`), BUCKETS), `k${n}`);
  return [...found.values()];
}

const logBytes = (cluster: SimCluster, id: number): number => cluster.disk(id).stores.get('log')?.bytes ?? 0;

/** One bucket is written to all the time, the others now and then, so that their entries share batches with it. */
async function load(seed: string, logStoreBytesMax: number): Promise<SimCluster> {
  const limits = { logStoreBytesMax, logEntriesKept: 600 };
  const cluster = await startCluster({ seed, nodes: 3, buckets: BUCKETS, limits });
  const client = cluster.client('c1');
  const [hot = '', ...cold] = keys();
  const counters = new Counters(cluster, client, cold, 100);
  for (let n = 0; n < 1500; n += 1) await cluster.settle(client.put(bytes(hot), Buffer.alloc(1000, n)));
  await counters.stop(cluster);
  await cluster.loop.runFor(3000);
  await counters.check(cluster, client);
  return cluster;
}

describe('the log of a node', () => {
  it('stays within its limit, though buckets that are hardly written to hold on to batches of a busy one', async () => {
    const cluster = await load('budget', BUDGET);
    for (const id of cluster.ids) expect(logBytes(cluster, id), `node ${id}`).to.be.within(1, BUDGET + 10_000);
    for (const id of cluster.ids) cluster.crash(id);
    for (const id of cluster.ids) await cluster.restart(id);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('would not without it', async () => {
    const cluster = await load('budget', 100 * BUDGET);
    for (const id of cluster.ids) expect(logBytes(cluster, id), `node ${id}`).to.be.greaterThan(2 * BUDGET);
  });
});

interface Move {
  readonly cluster: SimCluster;
  /** Whether it has come to its end. */
  readonly isPlaced: boolean;
  /** How many snapshots were sent of the bucket that moves. */
  readonly snapshots: number;
  /** The most that the log of any node took meanwhile. */
  readonly logBytesMax: number;
}

/** A replica moves by a snapshot of some 100 kB, while the log of its bucket grows by 70 kB a second. */
async function moveUnderLoad(seed: string, snapshotBytesPerSecond: number, withinMs: number): Promise<Move> {
  const limits = {
    bucketsMovingMax: 0,
    logStoreBytesMax: MOVE_BUDGET,
    logEntriesKept: 20,
    snapshotBytesPerSecond,
    snapshotChunkBytes: 5000,
  };
  const cluster = await startCluster({ seed, nodes: 4, buckets: BUCKETS, limits });
  const client = cluster.client('c1');
  const key = keys().find((each) => bucketOf(bytes(each), BUCKETS) === 0) ?? '';
  for (let n = 0; n < 50; n += 1) await cluster.settle(client.put(bytes(`{${key}}${n}`), Buffer.alloc(2000, n)));
  await cluster.loop.runFor(2000);
  let snapshots = 0;
  cluster.log.onLine = (line) => {
    if (line.includes('sending a snapshot') && line.includes('"bucket":0,')) snapshots += 1;
  };
  await change(cluster, (record) => {
    const nodes = record.map[0]?.replicas.map(({ node }) => node) ?? [];
    const to = record.nodes.map(({ id }) => id).find((id) => !nodes.includes(id)) ?? 0;
    return moveReplica(record, 0, nodes[2] ?? 0, to);
  });
  const isPlaced = (): boolean => {
    const config = replicasOf(cluster, 0).find(({ replica }) => replica.isLeader)?.replica.raft.config;
    return config?.learners.length === 0 && config.outgoing.length === 0 && config.voters.some((id) => id > 65_536);
  };
  const beganMs = cluster.loop.nowMs;
  let logBytesMax = 0;
  for (let n = 0; !isPlaced() && cluster.loop.nowMs - beganMs < withinMs; n += 1) {
    await cluster.settle(client.put(bytes(key), Buffer.alloc(1500, n)));
    await cluster.loop.runFor(18);
    for (const id of cluster.ids) logBytesMax = Math.max(logBytesMax, logBytes(cluster, id));
  }
  return { cluster, isPlaced: isPlaced(), snapshots, logBytesMax };
}

describe('the log behind a snapshot', () => {
  it('stays until its receiver is in step, though that takes longer than the limit lasts; and then no more', async () => {
    const { cluster, isPlaced, snapshots, logBytesMax } = await moveUnderLoad('held-log', 25_000, 20_000);
    expect({ isPlaced, snapshots }).to.deep.equal({ isPlaced: true, snapshots: 1 });
    expect(logBytesMax).to.be.within(1.5 * MOVE_BUDGET, 4 * MOVE_BUDGET);
    await cluster.loop.runFor(4000);
    for (const id of cluster.ids) expect(logBytes(cluster, id), `node ${id}`).to.be.below(MOVE_BUDGET + 10_000);
    expect(new Set(replicasOf(cluster, 0).map(({ replica }) => replica.state.meta.digest)).size, 'all the same').to.equal(1);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('goes when it has outgrown four times the limit, and another snapshot follows', async () => {
    const { cluster, snapshots, logBytesMax } = await moveUnderLoad('held-log', 11_000, 13_000);
    expect(snapshots).to.be.within(2, 3);
    // What is written in the second until it is looked at, and in the next until it is gone.
    expect(logBytesMax).to.be.within(4 * MOVE_BUDGET, 4 * MOVE_BUDGET + 150_000);
    expect(cluster.log.lines.some((line) => line.includes('the log behind a snapshot had to go'))).to.equal(true);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
