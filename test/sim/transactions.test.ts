import { expect } from 'chai';
import type { Condition, Mutation } from '../../src/bucket/requests.js';
import { bucketOf } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, isData, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

const BUCKETS = 8;

/** Keys of different buckets: the first is in that of home. */
function keysOf(count: number): string[] {
  const found = new Map<number, string>();
  for (let n = 0; found.size < count; n += 1) {
    const bucket = bucketOf(bytes(`k${n}`), BUCKETS);
    if (!found.has(bucket)) found.set(bucket, `k${n}`);
  }
  return [...found.values()];
}

function puts(keys: readonly string[], value: string): Mutation[] {
  return keys.map((key) => ({ kind: 'put', key: bytes(key), value: bytes(value) }));
}

const absent = (key: string): Condition => ({ kind: 'absent', key: bytes(key) });

async function valueOf(router: Router, key: string): Promise<string | undefined> {
  return (await router.get(bytes(key))).record?.value.toString();
}

/** Everything that is prepared, or committed and not resolved everywhere, on any running node. */
function leftovers(cluster: SimCluster): number {
  let count = 0;
  for (const id of cluster.ids) {
    if (!cluster.running(id)) continue;
    for (const { bucket, state } of cluster.node(id).hosting.replicas.values()) {
      if (isData(bucket)) count += state.participant.count + state.home.count;
    }
  }
  return count;
}

async function untilSettled(cluster: SimCluster, withinMs = 5000): Promise<void> {
  const settled = await cluster.loop.runUntil(() => leftovers(cluster) === 0, withinMs);
  expect(settled, 'no intent, lock or record outlives its time').to.equal(true);
}

describe('transactions over several buckets in a simulated cluster', () => {
  it('commit as a whole at one timestamp, and leave nothing behind', async () => {
    const cluster = await startCluster({ seed: 'txn-commit', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const keys = keysOf(3);
    const { applied, timestamp } = await cluster.settle(client.write(keys.map(absent), puts(keys, 'one')));
    expect(applied).to.equal(true);
    for (const key of keys) {
      const { record } = await cluster.settle(client.get(bytes(key)));
      expect(record?.value.toString(), key).to.equal('one');
      expect(record?.version, key).to.equal(timestamp);
    }
    await untilSettled(cluster);
    for (const key of keys) {
      const before = await cluster.settle(client.get(bytes(key), { consistency: { kind: 'asOf', timestamp: timestamp - 1 } }));
      expect(before.record, key).to.equal(undefined);
    }
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('refused by a condition in one bucket change nothing anywhere', async () => {
    const cluster = await startCluster({ seed: 'txn-refuse', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const keys = keysOf(3);
    for (const there of keys) {
      const { timestamp: version } = await cluster.settle(client.put(bytes(there), bytes('before')));
      const result = await cluster.settle(client.write(keys.map(absent), puts(keys, 'never')));
      expect(result).to.include({ applied: false, failedCondition: keys.indexOf(there), failedVersion: version });
      for (const key of keys) {
        expect(await cluster.settle(valueOf(client, key)), key).to.equal(key === there ? 'before' : undefined);
      }
      await cluster.settle(client.delete(bytes(there)));
    }
    await untilSettled(cluster);
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
    expect(leaderOf(cluster, keys[0] ?? '', BUCKETS)).to.be.greaterThan(0);
    expect(replicasOf(cluster, 0).length).to.equal(3);
  });
});
