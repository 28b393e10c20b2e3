import { expect } from 'chai';
import { bucketOf } from '../../src/placement/map.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, Counters, startCluster, untilEqual } from './support.js';

const BUCKETS = 8;
const BUDGET = 200_000;

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
