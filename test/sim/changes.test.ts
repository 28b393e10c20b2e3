import { expect } from 'chai';
import { comparePositions } from '../../src/changes/change.js';
import type { Limits } from '../../src/env/limits.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { bucketOf } from '../../src/placement/map.js';
import type { StreamEvent, StreamFrom } from '../../src/router/change-stream.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, failure, leaderOf, startCluster, untilLed } from './support.js';
import { handOver } from './transaction-support.js';

const ALL = { start: EMPTY, end: EMPTY };

/** Reads a stream until it has told the mark of something that was written when it was asked for. */
async function readUntil(cluster: SimCluster, router: Router, from: StreamFrom, timestamp: number): Promise<StreamEvent[]> {
  const read = async (): Promise<StreamEvent[]> => {
    const events: StreamEvent[] = [];
    for await (const event of router.changes(ALL, { from, before: true })) {
      events.push(event);
      if (event.kind === 'mark' && event.timestamp >= timestamp) break;
    }
    return events;
  };
  return cluster.settle(read());
}

function told(events: readonly StreamEvent[]): string[] {
  return events.flatMap((event) => {
    if (event.kind === 'entries') return event.entries.map(({ key, value }) => `${key.toString()}:${value.toString()}`);
    if (event.kind === 'mark') return [];
    return event.changes.map(({ key, value, deleted, before }) => {
      return `${key.toString()}=${deleted ? '-' : value.toString()} (${before?.value.toString() ?? ''})`;
    });
  });
}

function lastOf(events: readonly StreamEvent[]): StreamEvent {
  const last = events.at(-1);
  if (last === undefined) throw new Error('nothing was told');
  return last;
}

async function nextOf(cluster: SimCluster, stream: AsyncGenerator<StreamEvent>): Promise<StreamEvent> {
  const { value, done } = (await cluster.settle(stream.next())) as IteratorResult<StreamEvent, undefined>;
  if (done === true) throw new Error('the stream ended');
  return value;
}

/** A cluster that keeps history for a short time. */
async function startShort(
  seed: string,
  retentionMs: number,
  limits: Partial<Limits> = {},
): Promise<{ cluster: SimCluster; client: Router; put: (key: string, value: string) => Promise<number> }> {
  const cluster = await startCluster({ seed, nodes: 3, buckets: 2, limits: { retentionMs, ...limits } });
  await untilLed(cluster);
  const client = cluster.client('c1');
  const put = async (key: string, value: string): Promise<number> => {
    return (await cluster.settle(client.put(bytes(key), bytes(value)))).timestamp;
  };
  return { cluster, client, put };
}

describe('change streams of a simulated cluster', () => {
  it('tell a change soon, without waiting for buckets at rest, through a client and through a node', async () => {
    const cluster = await startCluster({ seed: 'changes-soon', nodes: 3, buckets: 12 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    for (const router of [client, cluster.node(2).router]) {
      const stream = router.changes(ALL, { from: { kind: 'now' } });
      await nextOf(cluster, stream);
      for (let n = 0; n < 10; n += 1) {
        const { timestamp } = await cluster.settle(client.put(bytes(`k${n}`), bytes('x')));
        const writtenMs = cluster.loop.nowMs;
        for (let event = await nextOf(cluster, stream); event.kind === 'mark'; event = await nextOf(cluster, stream)) {
          expect(event.timestamp).to.be.lessThan(timestamp);
        }
        expect(cluster.loop.nowMs - writtenMs, 'heartbeats are 100 ms apart here').to.be.lessThan(80);
      }
      await cluster.settle(stream.return(undefined));
    }
  });

  it('tell every change once, in order, with what was there before', async () => {
    const cluster = await startCluster({ seed: 'changes', nodes: 3, buckets: 4 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const expected: string[] = [];
    let last = 0;
    const values = new Map<string, string>();
    const first = await cluster.settle(client.put(bytes('zero'), bytes('0')));
    for (let round = 0; round < 40; round += 1) {
      const key = `k${round % 7}`;
      const before = values.get(key) ?? '';
      if (round % 9 === 8) {
        last = (await cluster.settle(client.delete(bytes(key)))).timestamp;
        values.delete(key);
        expected.push(`${key}=- (${before})`);
      } else {
        last = (await cluster.settle(client.put(bytes(key), bytes(`v${round}`)))).timestamp;
        values.set(key, `v${round}`);
        expected.push(`${key}=v${round} (${before})`);
      }
    }
    const from = { kind: 'timestamp', timestamp: first.timestamp } as const;
    for (const router of [client, ...cluster.ids.map((id) => cluster.node(id).router)]) {
      const events = await readUntil(cluster, router, from, last);
      expect(told(events)).to.deep.equal(expected);
    }
    const snapshot = told(await readUntil(cluster, client, { kind: 'beginning' }, last));
    expect(snapshot).to.deep.equal(['zero', ...values.keys()].sort().map((key) => `${key}:${values.get(key) ?? '0'}`));
  });

  it('tell a transaction over several buckets whole, with one id, though others commit above it before it is resolved', async () => {
    const cluster = await startCluster({ seed: 'changes-whole', nodes: 3, buckets: 4 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const first = await cluster.settle(client.put(bytes('zero'), bytes('0')));
    const keys = ['a', 'b', 'c', 'd', 'e', 'f'];
    const buckets = new Set(keys.map((key) => bucketOf(bytes(key), 4)));
    expect(buckets.size, 'the keys are in several buckets').to.be.greaterThan(2);
    // Participants may be resolved long after the commit: plain writes to other keys of theirs overtake it.
    const busy = new Set(['other']);
    const others = async (): Promise<void> => {
      for (let n = 0; busy.has('other'); n += 1) await client.put(bytes(`o${n % 16}`), bytes(`${n}`));
    };
    const running = others();
    const commits = new Map<number, string>();
    for (let round = 0; round < 20; round += 1) {
      const mutations = keys.map((key) => ({ kind: 'put', key: bytes(key), value: bytes(`${round}`) }) as const);
      const { timestamp } = await cluster.settle(client.write([], mutations));
      commits.set(timestamp, `${round}`);
    }
    busy.clear();
    await cluster.settle(running);
    const last = Math.max(...commits.keys());
    const events = await readUntil(cluster, client, { kind: 'timestamp', timestamp: first.timestamp }, last);
    const changes = events.flatMap((event) => (event.kind === 'changes' ? event.changes : []));
    expect(changes.map(({ at }) => at)).to.deep.equal(changes.map(({ at }) => at).sort(comparePositions));
    const ids = new Set<string>();
    for (const [timestamp, value] of commits) {
      // A plain write in another bucket may have the very same timestamp.
      const parts = changes.filter(({ at, key }) => at.timestamp === timestamp && keys.includes(key.toString()));
      expect(parts.map(({ key }) => key.toString()).sort(), 'whole').to.deep.equal(keys);
      expect(parts.every((part) => part.value.toString() === value)).to.equal(true);
      const own = new Set(parts.map(({ transaction }) => transaction.toString()));
      expect(own.size, 'one id').to.equal(1);
      for (const id of own) ids.add(id);
    }
    expect(ids.size, 'of no other').to.equal(commits.size);
    const overtaken = [...buckets].some((bucket) => {
      const indexes = changes.flatMap(({ at }) => (at.bucket === bucket ? [at.index] : []));
      return indexes.some((index, place) => index < (indexes[place - 1] ?? 0));
    });
    expect(overtaken, 'an entry of a log committed below an earlier one').to.equal(true);
  });

  it('from now tell what begins when the first mark has come, whichever clock it is by', async () => {
    const cluster = await startCluster({ seed: 'changes-now', nodes: 3, buckets: 8 });
    await untilLed(cluster);
    cluster.clock(2).jumpWall(400);
    await cluster.loop.runFor(3000);
    for (const router of [cluster.client('c1'), ...cluster.ids.map((id) => cluster.node(id).router)]) {
      const stream = router.changes(ALL);
      expect((await nextOf(cluster, stream)).kind).to.equal('mark');
      // By a client that knows nothing of the stream, nor of its timestamps.
      const writer = cluster.client(`w${cluster.loop.eventsRun}`);
      const keys = Array.from({ length: 16 }, (_, at) => `k${at}`);
      const replies = await cluster.settle(Promise.all(keys.map((key) => writer.put(bytes(key), bytes('x')))));
      const last = Math.max(...replies.map(({ timestamp }) => timestamp));
      const seen: StreamEvent[] = [];
      while (!seen.some((event) => event.kind === 'mark' && event.timestamp >= last)) seen.push(await nextOf(cluster, stream));
      expect(told(seen).map((line) => line.replace(/=.*/, '')).sort()).to.deep.equal([...keys].sort());
      await cluster.settle(stream.return(undefined));
    }
  });

  it('from the beginning show the snapshot to the session: its bounded reads do not go back behind it', async () => {
    const cluster = await startCluster({ seed: 'changes-session', nodes: 3, buckets: 2 });
    await untilLed(cluster);
    const [writer, reader, other] = [cluster.client('c1'), cluster.client('c2'), cluster.client('c3')];
    const keys = Array.from({ length: 10 }, (_, n) => `k${n}`);
    await cluster.settle(Promise.all([reader, other].map((client) => client.ready())));
    const found = async (client: Router): Promise<number> => {
      const consistency = { kind: 'bounded', maxStalenessMs: 60_000 } as const;
      const replies = await cluster.settle(Promise.all(keys.map((key) => client.get(bytes(key), { consistency }))));
      return replies.filter(({ record }) => record !== undefined).length;
    };
    for (const key of keys) await cluster.settle(writer.put(bytes(key), bytes('x')));
    const stream = reader.changes(ALL, { from: { kind: 'beginning' } });
    const entries = await nextOf(cluster, stream);
    expect(entries.kind).to.equal('entries');
    expect(await found(reader)).to.equal(keys.length);
    for (const key of keys) await cluster.settle(writer.delete(bytes(key)));
    // Nothing is there: that, too, is something to see.
    const empty = other.changes(ALL, { from: { kind: 'beginning' } });
    const mark = await nextOf(cluster, empty);
    expect(mark.kind).to.equal('mark');
    expect(await found(other)).to.equal(0);
    await cluster.settle(Promise.all([stream, empty].map((each) => each.return(undefined))));
  });

  it('refuse a cursor whose changes were collected, and name the earliest', async () => {
    const { cluster, client, put } = await startShort('changes-horizon', 3000);
    const first = await put('k', '1');
    const { cursor } = lastOf(await readUntil(cluster, client, { kind: 'timestamp', timestamp: first }, first));
    const second = await put('k', '2');
    await put('k', '3');
    await cluster.loop.runFor(12_000);
    const last = await put('k', '4');
    for (const from of [{ kind: 'cursor', cursor }, { kind: 'timestamp', timestamp: second }] as const) {
      const error = await failure(readUntil(cluster, client, from, last));
      expect(error).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
      const earliest = Number(error.details['earliestReadable']);
      expect(earliest).to.be.greaterThan(second);
      expect(told(await readUntil(cluster, client, { kind: 'timestamp', timestamp: earliest }, last))).to.deep.equal(['k=4 (3)']);
    }
  });

  it('that stand still within their budget keep what they have not told: it is not collected', async () => {
    for (const home of ['client', 'node']) {
      const { cluster, client, put } = await startShort(`changes-held-${home}`, 60_000);
      const before = await put('k', '0');
      await put('k', '1');
      const router = home === 'client' ? client : cluster.node(1).router;
      const stream = router.changes(ALL, { from: { kind: 'timestamp', timestamp: before }, before: true });
      const seen: StreamEvent[] = [await nextOf(cluster, stream)];
      for (const value of ['2', '3']) await put('k', value);
      await cluster.loop.runFor(5 * 60_000);
      const last = await put('k', '4');
      while (!seen.some((event) => event.kind === 'mark' && event.timestamp >= last)) seen.push(await nextOf(cluster, stream));
      expect(told(seen), home).to.deep.equal(['k=1 (0)', 'k=2 (1)', 'k=3 (2)', 'k=4 (3)']);
      await cluster.settle(stream.return(undefined));
      await cluster.loop.runFor(2 * 60_000);
      const gone = await failure(readUntil(cluster, client, { kind: 'timestamp', timestamp: before }, last));
      expect(gone.reason, 'once it has ended, it holds nothing').to.equal('BEFORE_HORIZON');
    }
  });

  it('that stand still beyond it end with the cursor at which they were', async () => {
    const { cluster, client, put } = await startShort('changes-over', 4000, { horizonHoldMsMax: 10_000 });
    const first = await put('k', '1');
    const stream = client.changes(ALL, { from: { kind: 'timestamp', timestamp: first } });
    const { cursor } = await nextOf(cluster, stream);
    await put('k', '2');
    await put('k', '3');
    await cluster.loop.runFor(40_000);
    const error = await failure(cluster.settle(stream.next()));
    expect(error).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    expect(error.details['cursor']).to.equal(cursor);
    expect(Number(error.details['earliestReadable'])).to.be.greaterThan(first);
  });

  it('are complete on a node that was cut off and caught up by a snapshot', async () => {
    const limits = { logEntriesKept: 5, logBytesKept: 500, snapshotChunkBytes: 500 };
    const cluster = await startCluster({ seed: 'changes-snapshot', nodes: 3, buckets: 1, limits });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const first = await cluster.settle(client.put(bytes('zero'), bytes('0')));
    const away = cluster.ids.find((id) => id !== leaderOf(cluster, 'zero', 1)) ?? 1;
    cluster.network.isolate(`n${away}`);
    const expected: string[] = [];
    let last = 0;
    for (let n = 0; n < 60; n += 1) {
      last = (await cluster.settle(client.put(bytes(`k${n}`), bytes(`v${n}`)))).timestamp;
      expected.push(`k${n}=v${n} ()`);
      await cluster.loop.runFor(50);
    }
    cluster.network.heal();
    await cluster.loop.runFor(6000);
    expect(cluster.log.lines.some((line) => line.includes('installed a snapshot')), 'by snapshot').to.equal(true);
    // Streams ask the leader.
    await handOver(cluster, 0, away);
    const { router } = cluster.node(away);
    await cluster.loop.runUntil(() => router.leaderOf(0) === away, 1000);
    const from = { kind: 'timestamp', timestamp: first.timestamp } as const;
    expect(told(await readUntil(cluster, router, from, last))).to.deep.equal(expected);
  });

  it('go on over leaders that change and nodes that die', async () => {
    const cluster = await startCluster({ seed: 'changes-leaders', nodes: 3, buckets: 4 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const first = await cluster.settle(client.put(bytes('zero'), bytes('0')));
    const stream = client.changes(ALL, { from: { kind: 'timestamp', timestamp: first.timestamp }, before: true });
    const seen: StreamEvent[] = [];
    const expected: string[] = [];
    for (let round = 0; round < 12; round += 1) {
      const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes(`v${round}`)));
      expected.push(`k=v${round} (${round === 0 ? '' : `v${round - 1}`})`);
      const away = cluster.ids[round % 3] ?? 1;
      cluster.crash(away);
      while (!seen.some((event) => event.kind === 'mark' && event.timestamp >= timestamp)) seen.push(await nextOf(cluster, stream));
      await cluster.settle(cluster.boot(away));
      await untilLed(cluster);
    }
    expect(told(seen)).to.deep.equal(expected);
    await cluster.settle(stream.return(undefined));
  });
});
