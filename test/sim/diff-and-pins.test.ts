import { expect } from 'chai';
import type { Change, Timestamp } from '../../src/bucket/requests.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { later, LOGICAL } from '../../src/mvcc/timestamp.js';
import { changePins } from '../../src/node/pins.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, untilLed } from './support.js';

const BUCKETS = 4;

async function diff(cluster: SimCluster, router: Router, from: Timestamp, to?: Timestamp, prefix = ''): Promise<Change[]> {
  const found: Change[] = [];
  const read = async (): Promise<void> => {
    const end = prefix === '' ? EMPTY : bytes(`${prefix}\u007f`);
    for await (const { changes } of router.diff({ start: bytes(prefix), end }, { from, to })) found.push(...changes);
  };
  await cluster.settle(read());
  return found;
}

const shown = ({ key, before, after }: Change): string =>
  `${key.toString()}: ${before?.value.toString() ?? '-'} > ${after?.value.toString() ?? '-'}`;

describe('what changed between two moments', () => {
  it('counts as seen by its session where it reaches up to now, also if nothing did', async () => {
    const cluster = await startCluster({ seed: 'seen', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const [client, stranger] = [cluster.client('c1'), cluster.client('c2')];
    const { timestamp: from } = await cluster.settle(stranger.put(bytes('k'), bytes('1')));
    expect((await diff(cluster, client, 0)).map(shown)).to.deep.equal(['k: - > 1']);
    expect(client.seen).to.be.at.least(from);
    const { timestamp } = await cluster.settle(stranger.put(bytes('k'), bytes('1')));
    expect(await diff(cluster, client, from, from)).to.deep.equal([]);
    expect(client.seen, 'a moment that was chosen').to.be.below(timestamp);
    expect(await diff(cluster, client, timestamp)).to.deep.equal([]);
    expect(client.seen).to.be.at.least(timestamp);
  });

  it('is what scans at both would show to differ, over all buckets, in pages, from any node', async () => {
    const limits = { pageEntriesMax: 3 };
    const cluster = await startCluster({ seed: 'diff', nodes: 3, buckets: BUCKETS, limits });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const keys = Array.from({ length: 20 }, (_, at) => `k${String(at).padStart(2, '0')}`);
    const now = new Map<string, string>();
    const moments: { readonly at: Timestamp; readonly state: ReadonlyMap<string, string> }[] = [];
    for (let round = 0; round < 5; round += 1) {
      for (const [at, key] of keys.entries()) {
        if ((at * 7 + round * 3) % 5 > 1) continue;
        if ((at + round) % 3 === 0) {
          await cluster.settle(client.delete(bytes(key)));
          now.delete(key);
        } else {
          await cluster.settle(client.put(bytes(key), bytes(`${key}.${round}`)));
          now.set(key, `${key}.${round}`);
        }
      }
      const { timestamp } = await cluster.settle(client.put(bytes('mark'), bytes(String(round))));
      now.set('mark', String(round));
      moments.push({ at: timestamp, state: new Map(now) });
    }
    await cluster.loop.runFor(2000);
    for (const router of [client, ...cluster.ids.map((id) => cluster.node(id).router)]) {
      for (const from of moments) {
        for (const to of moments.filter(({ at }) => at >= from.at)) {
          const expected = [...new Set([...from.state.keys(), ...to.state.keys()])]
            .filter((key) => from.state.get(key) !== to.state.get(key))
            .sort()
            .map((key) => `${key}: ${from.state.get(key) ?? '-'} > ${to.state.get(key) ?? '-'}`);
          expect((await diff(cluster, router, from.at, to.at)).map(shown)).to.deep.equal(expected);
        }
      }
    }
    const first = moments[0]?.at ?? 0;
    const last = moments.at(-1)?.at ?? 0;
    expect((await diff(cluster, client, first)).map(shown), 'up to now').to.deep.equal(
      (await diff(cluster, client, first, last)).map(shown),
    );
    expect((await diff(cluster, client, first, last, 'mar')).map(shown)).to.deep.equal(['mark: 0 > 4']);
    const inverted = await failure(diff(cluster, client, last, first));
    expect(inverted).to.include({ code: 'INVALID_ARGUMENT', reason: 'RANGE_INVERTED' });
  });

  it('is refused below the horizon, with the earliest moment', async () => {
    const cluster = await startCluster({ seed: 'diff-old', nodes: 3, buckets: BUCKETS, limits: { retentionMs: 2000 } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('1')));
    await cluster.loop.runFor(6000);
    const refused = await failure(diff(cluster, client, timestamp));
    expect(refused).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    expect(Number(refused.details['earliestReadable'])).to.be.greaterThan(timestamp);
  });
});

describe('what is refused below the horizons of several buckets', () => {
  it('names a moment at which all of them can be read', async () => {
    const cluster = await startCluster({ seed: 'horizons', nodes: 3, buckets: 8, limits: { retentionMs: 4000 } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const first = (await cluster.settle(client.put(bytes('k'), bytes('0')))).timestamp;
    const scan = async (timestamp: Timestamp): Promise<void> => {
      for await (const page of client.scan({ start: EMPTY, end: EMPTY }, { consistency: { kind: 'asOf', timestamp } })) void page;
    };
    const named: number[] = [];
    for (let round = 0; round < 40; round += 1) {
      // Horizons move by steps, and so the buckets that are written to now and then differ.
      for (let n = 0; n < 6; n += 1) await cluster.settle(client.put(bytes(`k${(round * 7 + n) % 40}`), bytes(`${round}`)));
      await cluster.loop.runFor(300);
      const horizons = Array.from({ length: 8 }, (_, bucket) => replicasOf(cluster, bucket).map(({ replica }) => replica.state.horizon));
      const highest = Math.max(...horizons.flat());
      if (highest <= first) continue;
      for (const refused of [await failure(cluster.settle(scan(first))), await failure(diff(cluster, client, first))]) {
        expect(refused.reason).to.equal('BEFORE_HORIZON');
        const earliest = Number(refused.details['earliestReadable']);
        expect(earliest, `round ${round}`).to.be.at.least(highest);
        named.push(earliest - Math.min(...horizons.flat().filter((horizon) => horizon > 0)));
      }
    }
    expect(Math.max(...named), 'the buckets differ').to.be.above(0);
  });
});

describe('pins', () => {
  it('are kept by all buckets, or refused as a whole, and found through any node', async () => {
    const limits = { retentionMs: 2000, pinsMax: 2 };
    const cluster = await startCluster({ seed: 'pins', nodes: 3, buckets: BUCKETS, limits });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const { timestamp: early } = await cluster.settle(client.put(bytes('k'), bytes('early')));
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('pinned')));
    await cluster.settle(client.put(bytes('k'), bytes('later')));
    const add = (name: string, at: Timestamp, expires = 0): Promise<unknown> =>
      cluster.settle(client.pins({ kind: 'add', name, timestamp: at, expires }));
    await add('audit', timestamp);
    await add('audit', timestamp, later(timestamp, 3_600_000));
    await cluster.loop.runFor(7000);
    for (const id of cluster.ids) {
      const { pins, horizon } = await cluster.settle(cluster.node(id).router.pins());
      const expires = later(timestamp, 3_600_000);
      expect(pins).to.deep.equal([{ name: 'audit', timestamp, expires, lost: false, complete: true }]);
      expect(horizon).to.be.at.most(timestamp);
    }
    const consistency = { kind: 'asOf', timestamp } as const;
    expect((await cluster.settle(client.get(bytes('k'), { consistency }))).record?.value.toString()).to.equal('pinned');
    expect(await failure(add('audit', early))).to.include({ code: 'ALREADY_EXISTS', reason: 'PIN_EXISTS' });
    // Some bucket has no version and no horizon yet: it would take the pin, and must let it go again.
    const horizons = Array.from({ length: BUCKETS }, (_, bucket) => replicasOf(cluster, bucket)[0]?.replica.state.horizon ?? 0);
    expect(Math.max(...horizons)).to.be.greaterThan(early);
    expect(await failure(add('too-old', early))).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    await add('second', timestamp);
    const full = await failure(add('third', timestamp));
    expect(full).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'TOO_MANY_PINS' });
    const names = async (): Promise<string[]> => (await cluster.settle(client.pins())).pins.map(({ name }) => name);
    expect(await names()).to.deep.equal(['audit', 'second']);
    for (const name of ['audit', 'second', 'never-there']) await cluster.settle(client.pins({ kind: 'remove', name }));
    expect(await names()).to.deep.equal([]);
    await cluster.loop.runFor(6000);
    expect((await failure(cluster.settle(client.get(bytes('k'), { consistency })))).reason).to.equal('BEFORE_HORIZON');
    for (const name of ['', 'a b', 'x'.repeat(65)]) {
      expect((await failure(add(name, client.now() - LOGICAL))).reason).to.equal('PIN_NAME_MALFORMED');
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('that were acknowledged stay, though others try to give the name to another moment', async () => {
    const cluster = await startCluster({ seed: 'pins-at-once', nodes: 3, buckets: BUCKETS });
    await untilLed(cluster);
    const clients = [cluster.client('c1'), cluster.client('c2')];
    const { timestamp } = await cluster.settle(clients[0]?.put(bytes('k'), bytes('v')) ?? Promise.reject(new Error()));
    let held = 0;
    for (let round = 0; round < 30; round += 1) {
      const name = `round-${round}`;
      const moments = [timestamp, timestamp + 1 + round];
      const added = clients.map((client, at) => client.pins({ kind: 'add', name, timestamp: moments[at] ?? 0, expires: 0 }));
      const outcomes = await cluster.settle(Promise.allSettled(added));
      const pin = (await cluster.settle(cluster.node(1).router.pins())).pins.find((each) => each.name === name);
      outcomes.forEach(({ status }, at) => {
        if (status === 'rejected') return;
        held += 1;
        expect(pin, name).to.deep.include({ timestamp: moments[at], lost: false, complete: true });
      });
    }
    expect(held).to.be.above(0);
  });

  it('are gone when they were taken back, though their entry was in flight', async () => {
    const cluster = await startCluster({ seed: 'pins-in-flight', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('v')));
    const leader = leaderOf(cluster, 'k', 1);
    const { replica } = replicasOf(cluster, 0).find(({ node }) => node === leader) ?? expect.fail('it leads');
    const options = { limits: cluster.limits, now: client.now(), deadlineMs: cluster.clock(leader).monotonicMs() + 2000 };
    const name = 'audit';
    for (const back of [{ kind: 'takeBack', name, timestamp }, { kind: 'remove', name }] as const) {
      const adding = changePins({ kind: 'add', name, timestamp, expires: 0 }, [replica], options);
      const removing = changePins(back, [replica], options);
      // It may find its pin gone before it has looked.
      await cluster.settle(Promise.all([adding.catch(() => undefined), removing]));
      expect(replica.state.meta.pins, back.kind).to.deep.equal([]);
    }
    // What somebody else has given the name stays.
    await cluster.settle(changePins({ kind: 'add', name, timestamp: timestamp + 1, expires: 0 }, [replica], options));
    await cluster.settle(changePins({ kind: 'takeBack', name, timestamp }, [replica], options));
    expect(replica.state.meta.pins).to.have.length(1);
  });

  it('are not acknowledged by a leader that was deposed unawares', async () => {
    const cluster = await startCluster({ seed: 'pins-unawares', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('v')));
    const add = { kind: 'add', name: 'audit', timestamp, expires: 0 } as const;
    await cluster.settle(client.pins(add));
    const deposed = leaderOf(cluster, 'k', 1);
    const others = cluster.ids.filter((id) => id !== deposed);
    const { replica } = replicasOf(cluster, 0).find(({ node }) => node === deposed) ?? expect.fail('it leads');
    cluster.network.partition(`n${deposed}`, others.map((id) => `n${id}`));
    cluster.process(deposed).pause();
    const isLed = (): boolean => replicasOf(cluster, 0).some((each) => each.node !== deposed && each.replica.raft.canServe());
    expect(await cluster.loop.runUntil(isLed, 5000)).to.equal(true);
    await cluster.settle(client.pins({ kind: 'remove', name: 'audit' }));
    cluster.process(deposed).resume();
    expect(replica.isLeader).to.equal(true);
    const options = { limits: cluster.limits, now: client.now(), deadlineMs: cluster.clock(deposed).monotonicMs() + 2000 };
    for (const action of [add, { kind: 'list' } as const]) {
      expect((await failure(cluster.settle(changePins(action, [replica], options)))).code, action.kind).to.equal('UNAVAILABLE');
    }
  });
});
