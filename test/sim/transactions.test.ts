import { expect } from 'chai';
import type { TidemarkError } from '../../src/lib/errors.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';
import { absent, keyLedBy, keysOf, puts, untilSettled, valueOf } from './transaction-support.js';

const BUCKETS = 8;

describe('transactions over several buckets in a simulated cluster', () => {
  it('commit as a whole at one timestamp, and leave nothing behind', async () => {
    const cluster = await startCluster({ seed: 'txn-commit', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const keys = keysOf(3, BUCKETS);
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
    const keys = keysOf(3, BUCKETS);
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

  it('end at once when one bucket refuses for good, with what it says and its details', async () => {
    const limits = { retentionMs: 2000, rangeEntriesMax: 20 };
    const cluster = await startCluster({ seed: 'txn-for-good', nodes: 3, buckets: BUCKETS, limits });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const [home = '', other = ''] = keysOf(2, BUCKETS);
    /** Of the partition of `other`, more than may be looked at. */
    const fill = async (prefix: string): Promise<number> => {
      let last = 0;
      for (let n = 0; n < 30; n += 1) {
        last = (await cluster.settle(client.put(bytes(`{${other}}${prefix}${n}`), bytes('x')))).timestamp;
      }
      return last;
    };
    const since = await fill('/');
    const refusal = async (): Promise<TidemarkError> => {
      const began = cluster.loop.nowMs;
      const range = { start: bytes(`{${other}}/`), end: bytes(`{${other}}0`) };
      const mutations = puts([home, `{${other}}/x`], 'never');
      const error = await failure(cluster.settle(client.write([{ kind: 'unchanged', range, since }], mutations)));
      expect(cluster.loop.nowMs - began, 'it does not wait for better times').to.be.lessThan(100);
      expect(error.outcome).to.equal('none');
      expect(await cluster.settle(valueOf(client, home))).to.equal(undefined);
      await untilSettled(cluster, 100);
      return error;
    };
    await fill('+');
    expect(await refusal()).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'RANGE_TOO_LARGE' });
    await cluster.loop.runFor(6000);
    const gone = await refusal();
    expect(gone).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    expect(Number(gone.details['earliestReadable'])).to.be.greaterThan(since);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('end at once when one bucket refuses, though another cannot answer, and keep nothing locked', async () => {
    const cluster = await startCluster({ seed: 'txn-refused', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const [home, other] = [keyLedBy(cluster, 1), keyLedBy(cluster, 2)];
    const silent = keyLedBy(cluster, 3);
    for (const key of [home, other, silent]) await cluster.settle(client.put(bytes(key), bytes('before')));
    cluster.crash(3);
    const began = cluster.loop.nowMs;
    const reply = await cluster.settle(client.write([absent(other)], puts([home, other, silent], 'never')));
    expect(reply).to.include({ applied: false, failedCondition: 0 });
    expect(cluster.loop.nowMs - began, 'long before that bucket has a leader').to.be.lessThan(100);
    await cluster.settle(client.put(bytes(home), bytes('after')));
    expect(cluster.loop.nowMs - began).to.be.lessThan(150);
    await cluster.restart(3);
    await untilSettled(cluster);
    expect(await cluster.settle(valueOf(client, silent))).to.equal('before');
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('that want the same keys in opposite orders all come to an end', async () => {
    const cluster = await startCluster({ seed: 'txn-opposite', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const [clients, keys] = [[cluster.client('c1'), cluster.client('c2'), cluster.client('c3')], keysOf(3, BUCKETS)];
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
