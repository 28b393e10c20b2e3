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

async function versionsOf(router: Router, key: string): Promise<number> {
  let count = 0;
  for await (const { versions } of router.history(bytes(key))) count += versions.length;
  return count;
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

  it('are whole or not at all, and leave nothing behind, whenever the node of their home dies', async () => {
    const outcomes = new Set<string>();
    for (const afterMs of [1, 2, 3, 4, 5, 6, 8, 10, 14, 20]) {
      const cluster = await startCluster({ seed: `txn-crash-${afterMs}`, nodes: 3, buckets: BUCKETS });
      await untilLed(cluster);
      const client = cluster.client('c1');
      const keys = keysOf(3);
      for (const key of keys) await cluster.settle(client.put(bytes(key), bytes('before')));
      const home = leaderOf(cluster, keys[0] ?? '', BUCKETS);
      const id = { session: 4711, born: client.now(), sequence: 1, lowest: 1 };
      const write = client.write([], puts(keys, 'after'), { id, timeoutMs: 300 });
      const settled = write.then(() => 'ok', () => 'failed');
      await cluster.loop.runFor(afterMs);
      cluster.crash(home);
      await cluster.settle(settled);
      await cluster.loop.runFor(6000);
      expect(leftovers(cluster), `crash after ${afterMs} ms`).to.equal(0);
      const values = new Set<string | undefined>();
      for (const key of keys) values.add(await cluster.settle(valueOf(client, key)));
      expect([...values], `crash after ${afterMs} ms`).to.have.length(1);
      outcomes.add(String([...values][0]));
      // The same request through another router: executed now, or answered as it was then.
      const again = await cluster.settle(cluster.client('c2').write([], puts(keys, 'after'), { id }));
      for (const key of keys) {
        const { record } = await cluster.settle(client.get(bytes(key)));
        expect(record).to.deep.include({ version: again.timestamp, value: bytes('after') });
      }
      expect(await cluster.settle(versionsOf(client, keys[1] ?? '')), 'applied once').to.equal(2);
      await untilSettled(cluster);
      expect(cluster.fatal).to.deep.equal([]);
    }
    expect([...outcomes].sort(), 'some before the decision, some behind it').to.deep.equal(['after', 'before']);
  });

  it('that want the same keys in opposite orders all come to an end', async () => {
    const cluster = await startCluster({ seed: 'txn-opposite', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const [clients, keys] = [[cluster.client('c1'), cluster.client('c2'), cluster.client('c3')], keysOf(3)];
    const writes = Array.from({ length: 30 }, (_, n) => {
      const order = [0, 1, 2].map((at) => keys[(n + at) % 3] ?? '');
      const client = clients[n % 3] ?? expect.fail('no client');
      return client.write([], puts(n % 2 === 0 ? order : order.reverse(), String(n)));
    });
    const replies = await cluster.settle(Promise.all(writes));
    expect(new Set(replies.map(({ timestamp }) => timestamp)).size, 'one after the other').to.equal(30);
    const last = replies.reduce((a, c) => (c.timestamp > a.timestamp ? c : a));
    for (const key of keys) {
      const { record } = await cluster.settle(clients[0]?.get(bytes(key)) ?? expect.fail('no client'));
      expect(record?.version).to.equal(last.timestamp);
    }
    await untilSettled(cluster);
    await untilEqual(cluster);
  });
});
