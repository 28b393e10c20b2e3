import { expect } from 'chai';
import type { Timestamp } from '../../src/bucket/requests.js';
import { ANY_STALENESS_MS } from '../../src/bucket/requests.js';
import { Strides } from '../../src/bucket/strides.js';
import { Database } from '../../src/client/database.js';
import type { Limits } from '../../src/env/limits.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { LOGICAL } from '../../src/mvcc/timestamp.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, strides, untilLed } from './support.js';

const BUCKETS = 4;
const KEYS = Array.from({ length: 12 }, (_, at) => `k${at}`);

async function contents(cluster: SimCluster, router: Router, timestamp: Timestamp, timeoutMs = 5000): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const read = async (): Promise<void> => {
    const pages = router.scan({ start: EMPTY, end: EMPTY }, { consistency: { kind: 'asOf', timestamp }, timeoutMs });
    for await (const { records } of pages) for (const { key, value } of records) found.set(key.toString(), value.toString());
  };
  await cluster.settle(read());
  return found;
}

/** A key with so many versions, newest first, in the only bucket of one node, and how often records are looked at from now on. */
async function startLong(seed: string, count: number, limits: Partial<Limits> = {}) {
  const cluster = await startCluster({ seed, nodes: 1, buckets: 1, limits });
  await untilLed(cluster);
  const client = cluster.client('c1');
  const versions: Timestamp[] = [];
  for (let n = 0; n < count; n += 1) versions.unshift((await cluster.settle(client.put(bytes('k'), bytes(String(n))))).timestamp);
  const [replica] = replicasOf(cluster, 0).map((each) => each.replica);
  if (replica === undefined) throw new Error('no replica');
  const looks = { count: 0 };
  const { store } = replica.state;
  const get = store.get.bind(store);
  store.get = (key) => {
    looks.count += 1;
    return get(key);
  };
  return { cluster, client, replica, versions, looks };
}

describe('time travel', () => {
  it('shows all buckets at one moment, from any replica, though no leader can be asked', async () => {
    const cluster = await startCluster({ seed: 'cut', nodes: 3, buckets: BUCKETS, limits: { pageEntriesMax: 5 } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const moments: { readonly at: Timestamp; readonly want: ReadonlyMap<string, string> }[] = [];
    const now = new Map<string, string>();
    for (let round = 0; round < 8; round += 1) {
      for (const key of KEYS) {
        if ((round + key.length) % 3 === 2) {
          await cluster.settle(client.delete(bytes(key)));
          now.delete(key);
        } else {
          await cluster.settle(client.put(bytes(key), bytes(`${key} in ${round}`)));
          now.set(key, `${key} in ${round}`);
        }
      }
      const { timestamp } = await cluster.settle(client.put(bytes('mark'), bytes(String(round))));
      now.set('mark', String(round));
      moments.push({ at: timestamp, want: new Map(now) });
    }
    await cluster.loop.runFor(2000);
    const check = async (router: Router): Promise<void> => {
      for (const { at, want } of moments) {
        const found = await contents(cluster, router, at);
        expect([...found].sort()).to.deep.equal([...want].sort());
        const { record, served } = await cluster.settle(router.get(bytes('mark'), { consistency: { kind: 'asOf', timestamp: at } }));
        expect(record?.value.toString()).to.equal(want.get('mark'));
        expect(served).to.include({ consistency: 'asOf', timestamp: at });
      }
    };
    await check(client);
    // Each node by itself: most buckets are led by others, which it cannot hear.
    for (const id of cluster.ids) {
      cluster.network.isolate(`n${id}`);
      await cluster.loop.runFor(2500);
      await check(cluster.node(id).router);
      const tooLate = cluster.node(id).hybrid.physicalNow();
      const began = cluster.loop.nowMs;
      const refused = await failure(contents(cluster, cluster.node(id).router, tooLate, 2000));
      expect(refused).to.include({ code: 'UNAVAILABLE' });
      expect(Number(refused.details['resolved']), 'says how far it got').to.be.within(moments.at(-1)?.at ?? Infinity, tooLate);
      expect(cluster.loop.nowMs - began, 'after waiting').to.be.within(1000, 2000);
      cluster.network.heal();
      await untilLed(cluster);
      await cluster.loop.runFor(1000);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('waits for a moment that is not complete yet', async () => {
    const cluster = await startCluster({ seed: 'wait', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('1')));
    const key = 'k';
    const leader = leaderOf(cluster, key, BUCKETS);
    // The client reaches all but the leader, whose followers hear it.
    cluster.network.partition('c1', `n${leader}`);
    await cluster.loop.runFor(1500);
    const timestamp = cluster.node(leader).hybrid.physicalNow();
    const { record, served } = await cluster.settle(
      client.get(bytes(key), { consistency: { kind: 'asOf', timestamp }, timeoutMs: 5000 }),
    );
    expect(record?.value.toString()).to.equal('1');
    expect(served.node).to.not.equal(leader);
  });

  it('serves a bounded read as soon as a replica has come far enough, though the leader stays out of reach', async () => {
    const cluster = await startCluster({ seed: 'far-enough', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('1')));
    const leader = leaderOf(cluster, 'k', 1);
    const others = cluster.ids.filter((id) => id !== leader);
    cluster.network.partition('c1', `n${leader}`);
    await cluster.loop.runFor(1000);
    for (const id of others) cluster.network.setLatency({ minMs: 200, maxMs: 200 }, `n${leader}`, `n${id}`);
    await cluster.loop.runFor(1000);
    const consistency = { kind: 'bounded', maxStalenessMs: ANY_STALENESS_MS } as const;
    const atLeast = cluster.node(leader).hybrid.physicalNow();
    const { record, served } = await cluster.settle(client.get(bytes('k'), { consistency, atLeast, timeoutMs: 5000 }));
    expect(served.timestamp).to.be.at.least(atLeast);
    expect(record?.value.toString()).to.equal('1');
    expect(served.node).to.not.equal(leader);
  });

  it('lets a session read its own writes through any node, with the token, and never goes back', async () => {
    const cluster = await startCluster({ seed: 'token', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const writer = cluster.client('c1');
    const bounded = { kind: 'bounded', maxStalenessMs: ANY_STALENESS_MS } as const;
    for (let round = 0; round < 15; round += 1) {
      const key = KEYS[round % KEYS.length] ?? '';
      const { timestamp: token } = await cluster.settle(writer.put(bytes(key), bytes(String(round))));
      const { timestamp: later } = await cluster.settle(writer.put(bytes('last'), bytes(String(round)), { atLeast: token }));
      expect(later).to.be.greaterThan(token);
      for (const id of cluster.ids) {
        const gateway = cluster.node(id).router;
        const read = gateway.get(bytes(key), { consistency: bounded, atLeast: later });
        const { record } = await cluster.settle(read);
        expect(record?.value.toString(), `through node ${id}`).to.equal(String(round));
        const found = new Map<string, string>();
        const scan = async (): Promise<void> => {
          const pages = gateway.scan({ start: EMPTY, end: EMPTY }, { consistency: bounded, atLeast: later });
          for await (const page of pages) for (const each of page.records) found.set(each.key.toString(), each.value.toString());
        };
        await cluster.settle(scan());
        expect(found.get('last')).to.equal(String(round));
        expect(found.get(key)).to.equal(String(round));
      }
      await cluster.loop.runFor(50);
    }
    // Once followers have heard of it, they serve it themselves.
    const { timestamp } = await cluster.settle(writer.put(bytes('last'), bytes('end')));
    await cluster.loop.runFor(1000);
    for (const id of cluster.ids) {
      const options = { consistency: bounded, atLeast: timestamp };
      const { record, served } = await cluster.settle(cluster.node(id).router.get(bytes('last'), options));
      expect(record?.value.toString()).to.equal('end');
      expect(served).to.include({ node: id, consistency: 'bounded' });
    }
  });

  it('says how far the replicas are if none comes as far as the token before the deadline', async () => {
    const cluster = await startCluster({ seed: 'token-late', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('1')));
    await cluster.loop.runFor(1000);
    for (const id of cluster.ids) cluster.network.isolate(`n${id}`);
    await cluster.loop.runFor(3000);
    const [replica] = replicasOf(cluster, 0).map((each) => each.replica);
    const token = (replica?.resolved() ?? 0) + 500 * LOGICAL;
    const gateway = cluster.node(replicasOf(cluster, 0)[0]?.node ?? 1).router;
    const consistency = { kind: 'bounded', maxStalenessMs: ANY_STALENESS_MS } as const;
    const began = cluster.loop.nowMs;
    const refused = await failure(cluster.settle(gateway.get(bytes('k'), { consistency, atLeast: token, timeoutMs: 2000 })));
    expect(refused).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
    expect(Number(refused.details['resolved'])).to.equal(replica?.resolved());
    expect(refused.message).to.include('at best complete up to');
    expect(cluster.loop.nowMs - began).to.be.within(1000, 2000);
  });

  it('lets a session that has seen nothing in a range, or no key, not go back behind that', async () => {
    const cluster = await startCluster({ seed: 'nothing', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const { env } = cluster.machine('c1', cluster.loop.clock());
    const db = new Database(env, { endpoints: cluster.endpoints, limits: cluster.limits });
    const stranger = cluster.client('c2');
    const session = db.session();
    const scan = async (): Promise<string[]> => {
      const keys: string[] = [];
      for await (const { key } of session.scan({ prefix: 's/' })) keys.push(key.toString());
      return keys;
    };
    const many = async (): Promise<string[]> => {
      const keys: string[] = [];
      for await (const { key, found } of session.getMany(['s/k'])) if (found) keys.push(key.toString());
      return keys;
    };
    const one = async (): Promise<string[]> => ((await session.get('s/k')).found ? ['s/k'] : []);
    for (const read of [scan, many, one]) {
      await cluster.settle(session.put('s/k', 'there'));
      expect(await cluster.settle(read())).to.deep.equal(['s/k']);
      const { timestamp: deleted } = await cluster.settle(stranger.delete(bytes('s/k')));
      await cluster.loop.runFor(1000);
      expect(await cluster.settle(read())).to.deep.equal([]);
      expect(session.token).to.be.at.least(deleted);
      // Whoever goes on with the token sees no more than the session.
      for (const id of cluster.ids) expect([...(await contents(cluster, cluster.node(id).router, session.token)).keys()]).to.deep.equal([]);
    }
    await db.close();
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('lists the versions that there were at a moment, from any replica', async () => {
    const cluster = await startCluster({ seed: 'history', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const versions: Timestamp[] = [];
    for (let n = 0; n < 5; n += 1) versions.push((await cluster.settle(client.put(bytes('k'), bytes(String(n))))).timestamp);
    await cluster.loop.runFor(2000);
    for (const id of cluster.ids) {
      const found: Timestamp[] = [];
      const nodes = new Set<number>();
      const read = async (): Promise<void> => {
        const consistency = { kind: 'asOf', timestamp: versions[2] ?? 0 } as const;
        for await (const page of cluster.node(id).router.history(bytes('k'), { consistency })) {
          found.push(...page.versions.map(({ version }) => version));
          nodes.add(page.served.node);
        }
      };
      await cluster.settle(read());
      expect(found).to.deep.equal([versions[2], versions[1], versions[0]]);
      expect([...nodes]).to.deep.equal([id]);
    }
  });

  it('reads a long history in pages without walking over what it has shown, and ends it at the horizon', async () => {
    const { cluster, client, replica, versions, looks } = await startLong('long', 200, { pageEntriesMax: 2 });
    const found: Timestamp[][] = [[], []];
    const read = async (into: Timestamp[], pauseMs: number): Promise<void> => {
      for await (const page of client.history(bytes('k'))) {
        into.push(...page.versions.map(({ version }) => version));
        await new Promise<void>((resolve) => void cluster.loop.timers.after(pauseMs, resolve));
      }
    };
    // Two at a time, while the key goes on changing.
    const both = Promise.all([read(found[0] ?? [], 3), read(found[1] ?? [], 5)]);
    await cluster.settle(client.put(bytes('k'), bytes('later')));
    await cluster.settle(both);
    for (const one of found) expect(one.slice(-200)).to.deep.equal(versions);
    expect(looks.count).to.be.below(1500);
    const view = await cluster.settle(replica.reads.open({ kind: 'linearizable' }, Infinity));
    const page = (from: Timestamp) => replica.reads.history(bytes('k'), view, { from, to: 0, limit: 2, bytesMax: 1000 }, strides);
    const [one = 0, two = 0, three = 0] = versions;
    expect(await page(one)).to.deep.include({ more: true }).and.nested.property('versions.length', 2);
    expect((await page(two - 1)).versions.map(({ version }) => version)).to.deep.equal(versions.slice(2, 4));
    for (const [horizon, shown] of [[two - 1, [three]], [two, []]] as const) {
      Object.defineProperty(replica.state, 'horizon', { value: horizon, configurable: true });
      expect((await page(two - 1)).versions.map(({ version }) => version)).to.deep.equal(shown);
    }
  });

  it('reads a long page of the history of a key in several turns, and ends it where the horizon has come meanwhile', async () => {
    const { cluster, replica, versions, looks } = await startLong('long-page', 1000);
    const view = await cluster.settle(replica.reads.open({ kind: 'linearizable' }, Infinity));
    const turns: number[] = [];
    const read = async (atPause: () => void): Promise<Timestamp[]> => {
      turns.length = looks.count = 0;
      const inTurns = new Strides(() => {
        turns.push(looks.count);
        looks.count = 0;
        atPause();
        return Promise.resolve();
      });
      const wanted = { from: Number.MAX_SAFE_INTEGER, to: 0, limit: 2000, bytesMax: 1_000_000 };
      const page = await replica.reads.history(bytes('k'), view, wanted, inTurns);
      expect(page.more).to.equal(false);
      return page.versions.map(({ version }) => version);
    };
    expect(await read(() => undefined)).to.deep.equal(versions);
    expect(turns).to.have.lengthOf(2);
    expect(Math.max(...turns, looks.count)).to.be.at.most(405);
    const horizon = versions[100] ?? 0;
    const raise = (): void => void Object.defineProperty(replica.state, 'horizon', { value: horizon, configurable: true });
    const shown = await read(raise);
    expect(turns).to.have.lengthOf(1);
    expect(shown).to.deep.equal(versions.slice(0, shown.length));
    expect(shown.length).to.be.within(101, 401);
  });
});
