import { expect } from 'chai';
import type { Condition } from '../../src/bucket/requests.js';
import { keyAfter } from '../../src/lib/ordered.js';
import { bucketOf } from '../../src/placement/map.js';
import { Cancellation } from '../../src/lib/cancel.js';
import { Alarms } from '../../src/router/alarms.js';
import { Hedging } from '../../src/router/hedging.js';
import { NodeLoads } from '../../src/router/node-loads.js';
import type { Answer } from '../../src/router/operations.js';
import type { ReplicaChoice } from '../../src/router/replica-choice.js';
import { ReplicaReads } from '../../src/router/replica-reads.js';
import type { Router } from '../../src/router/router.js';
import { BUCKETS, FakeCluster, FakeMetrics, FakeTime, bytes, failureOf, placementOf, refuse } from './support.js';

const KEY = bytes('key');
const VALUE = bytes('value');

describe('router: replica reads', () => {
  let cluster: FakeCluster;
  let router: Router;

  beforeEach(async () => {
    cluster = new FakeCluster();
    await cluster.startAll(1);
    for (const node of cluster.nodes) node.lead(node.id * 100);
  });

  afterEach(() => router.close());

  it('spread over all replicas', async () => {
    router = cluster.router();
    // Nodes that are still being dialed are passed over.
    await cluster.time.run(router.ready());
    await cluster.time.pass(50);
    const reads = Array.from({ length: 30 }, () => router.get(KEY, { consistency: { kind: 'bounded', maxStalenessMs: 1000 } }));
    await cluster.time.run(Promise.all(reads));
    for (const node of cluster.nodes) expect(node.asked.length).to.be.greaterThan(5);
  });

  it('stay in the zone', async () => {
    router = cluster.router({ zone: 'z3' });
    await cluster.time.run(router.ready());
    await cluster.time.pass(50);
    for (let round = 0; round < 5; round += 1) {
      const { served } = await cluster.time.run(router.get(KEY, { consistency: { kind: 'local' } }));
      expect(served.node).to.equal(3);
    }
  });

  it('fall back to the leader when a replica is stale', async () => {
    for (const id of [2, 3]) {
      cluster.node(id).behave = () => {
        throw refuse('STALE');
      };
    }
    router = cluster.router();
    for (let round = 0; round < 6; round += 1) {
      const { served } = await cluster.time.run(router.get(KEY, { consistency: { kind: 'bounded', maxStalenessMs: 10 } }));
      expect(served.node).to.equal(1);
    }
  });

  it('carry what the session has seen of the bucket', async () => {
    router = cluster.router();
    await cluster.time.run(router.put(KEY, VALUE));
    await cluster.time.run(router.get(KEY, { consistency: { kind: 'bounded', maxStalenessMs: 10 } }));
    const reads = cluster.nodes.flatMap((node) => node.asked).filter(({ operation }) => operation.kind === 'get');
    expect(reads.map(({ context }) => context.seen)).to.deep.equal([100]);
  });

  it('carry what the session has seen of a bucket in which a write only checked something, whether that held or not', async () => {
    router = cluster.router();
    const others = Array.from({ length: 40 }, (_, n) => bytes(`other ${n}`));
    const keyIn = (bucket: number): Buffer => others.find((key) => bucketOf(key, BUCKETS) === bucket) ?? expect.fail('no key');
    const [held, refused, ranged, untouched] = [1, 2, 3, 4].map((n) => keyIn((bucketOf(KEY, BUCKETS) + n) % BUCKETS));
    const put = { kind: 'put', key: KEY, value: VALUE } as const;
    const write = async (applied: boolean, conditions: Condition[]): Promise<void> => {
      cluster.node(1).behave = (operation, { hops }) => {
        const answer = cluster.node(1).answer(operation, hops);
        const result = { applied, timestamp: 100, failedCondition: applied ? -1 : 0, failedVersion: 0 };
        return operation.kind === 'write' ? { ...answer, result } : answer;
      };
      expect((await cluster.time.run(router.write(conditions, [put]))).applied).to.equal(applied);
    };
    await write(true, [{ kind: 'absent', key: held ?? KEY }]);
    await write(false, [{ kind: 'exists', key: refused ?? KEY }]);
    const range = { start: ranged ?? KEY, end: keyAfter(ranged ?? KEY) };
    await write(true, [{ kind: 'unchanged', range, since: 90 }]);
    const seen: (number | undefined)[] = [];
    for (const key of [held, refused, ranged, untouched]) {
      for (const node of cluster.nodes) node.asked.length = 0;
      await cluster.time.run(router.get(key ?? KEY, { consistency: { kind: 'bounded', maxStalenessMs: 10 } }));
      seen.push(...cluster.nodes.flatMap((node) => node.asked.map(({ context }) => context.seen)));
    }
    expect(seen).to.deep.equal([100, 100, 100, 0]);
  });

  it('a node serves from itself: one hop; what it sends on makes two', async () => {
    const [, , third] = cluster.nodes;
    if (third === undefined) throw new Error('no node');
    router = cluster.router({ role: 'node', seeds: [], self: { node: 3, handle: third } });
    router.adopt(placementOf(cluster.nodes.map(({ info }) => info), { leader: 1 }));
    const local = await cluster.time.run(router.get(KEY, { consistency: { kind: 'local' } }));
    expect(local.served).to.include({ node: 3, hops: 1 });
    const remote = await cluster.time.run(router.get(KEY));
    expect(remote.served).to.include({ node: 1, hops: 2 });
    cluster.network.isolate('client');
    const alone = await cluster.time.run(router.get(KEY, { consistency: { kind: 'local' } }));
    expect(alone.served).to.include({ node: 3, hops: 1, consistency: 'local' });
  });
});

describe('router: the choice of a replica', () => {
  const BOUNDED = { kind: 'bounded', maxStalenessMs: 1000 } as const;
  let cluster: FakeCluster;
  let router: Router;

  beforeEach(async () => {
    cluster = new FakeCluster(4);
  });

  afterEach(() => router.close());

  /** Answers everything after so long. */
  const answerAfter = (id: number, ms: number): void => {
    const node = cluster.node(id);
    node.behave = async (operation, { hops }) => {
      await new Promise<void>((resolve) => {
        cluster.time.after(ms, resolve);
      });
      return node.answer(operation, hops);
    };
  };

  const reads = async (count: number, together: number): Promise<Record<number, number>> => {
    const before = cluster.nodes.map(({ asked }) => asked.length);
    for (let n = 0; n < count; n += together) {
      await cluster.time.run(Promise.all(Array.from({ length: together }, () => router.get(KEY, { consistency: BOUNDED }))));
    }
    return Object.fromEntries(cluster.nodes.map(({ id, asked }, at) => [id, asked.length - (before[at] ?? 0)]));
  };

  it('gives a slow node less, and asks it again when it may have become fast', async () => {
    await cluster.startAll(1);
    for (const { id } of cluster.nodes) answerAfter(id, id === 3 ? 40 : 2);
    router = cluster.router({ hedging: { share: 0 } });
    await reads(40, 8);
    const counts = await reads(200, 8);
    expect(counts[3]).to.be.lessThan(20);
    for (const id of [1, 2, 4]) expect(counts[id]).to.be.greaterThan(30);
    answerAfter(3, 2);
    await cluster.time.pass(10_000);
    await reads(40, 8);
    expect((await reads(200, 8))[3]).to.be.greaterThan(30);
  });

  it('gives less to a node at which writes stand in line', async () => {
    await cluster.startAll(1);
    for (const { id } of cluster.nodes) answerAfter(id, 2);
    router = cluster.router({ hedging: { share: 0 } });
    await reads(40, 8);
    const writes = Array.from({ length: 20 }, () => router.put(KEY, VALUE));
    const counts = await reads(40, 40);
    await cluster.time.run(Promise.all(writes));
    expect(counts[1]).to.be.lessThan(5 + writes.length);
  });

  it('goes to another zone only when many stand in line in its own', async () => {
    await cluster.startAll(1);
    for (const { id } of cluster.nodes) answerAfter(id, 2);
    router = cluster.router({ zone: 'z2', hedging: { share: 0 } });
    await cluster.time.run(router.ready());
    await cluster.time.pass(50);
    expect(await reads(40, 2)).to.include({ 1: 0, 2: 40, 3: 0, 4: 0 });
    const counts = await reads(60, 60);
    expect(counts[2]).to.be.within(15, 50);
  });

  it('does not ask a replica that was too stale for such a bound again and again, but does for looser bounds', async () => {
    await cluster.startAll(1);
    cluster.node(1).lead();
    for (const { id } of cluster.nodes.slice(1)) {
      const node = cluster.node(id);
      node.behave = (operation, { hops }) => {
        if (operation.kind === 'get' && operation.consistency.kind === 'bounded' && operation.consistency.maxStalenessMs < 100) {
          throw refuse('STALE', { resolved: '5' });
        }
        return node.answer(operation, hops);
      };
    }
    router = cluster.router();
    for (let n = 0; n < 100; n += 1) {
      await cluster.time.run(router.get(KEY, { consistency: { kind: 'bounded', maxStalenessMs: 10 } }));
    }
    const asked = cluster.nodes.slice(1).map((node) => node.asked.length);
    for (const count of asked) expect(count).to.be.at.most(2);
    expect((await reads(40, 4))[2]).to.be.greaterThan(3);
  });

  it('asks a second one after what 95 of 100 reads take, within a budget, and calls the other request back', async () => {
    await cluster.startAll(1);
    for (const { id } of cluster.nodes) answerAfter(id, 2);
    router = cluster.router({ hedging: { share: 0.05 } });
    await reads(400, 4);
    const beforeMs = cluster.time.nowMs;
    const signals: (boolean | undefined)[] = [];
    for (const node of cluster.nodes.slice(0, 1)) {
      node.behave = (_operation, { signal }) => {
        signal?.addEventListener('abort', () => void signals.push(signal.aborted));
        return new Promise(() => {});
      };
    }
    for (let n = 0; n < 40; n += 1) await cluster.time.run(router.get(KEY, { consistency: BOUNDED }));
    const sent = cluster.metrics.counts.get('tidemark_router_hedges_sent_total') ?? 0;
    expect(sent).to.be.within(1, 0.05 * 440);
    expect(cluster.metrics.counts.get('tidemark_router_hedges_won_total')).to.equal(sent);
    expect(signals, 'whoever was slow is told').to.have.lengthOf(sent);
    expect(cluster.time.nowMs - beforeMs).to.be.lessThan(1000);
  });

  it('asks no second one where there is one replica, where it is turned off, and beyond the budget', async () => {
    await cluster.startAll(1);
    router = cluster.router({ hedging: { share: 0 } });
    for (const { id } of cluster.nodes) answerAfter(id, id === 2 ? 200 : 2);
    await reads(300, 1);
    expect(cluster.metrics.counts.get('tidemark_router_hedges_sent_total') ?? 0).to.equal(0);
    await router.close();
    router = cluster.router({ hedging: { share: 0.05 } });
    for (const { id } of cluster.nodes) answerAfter(id, 2);
    await reads(200, 1);
    for (const { id } of cluster.nodes) answerAfter(id, 200);
    await reads(200, 10);
    const sent = cluster.metrics.counts.get('tidemark_router_hedges_sent_total') ?? 0;
    expect(sent).to.be.within(5, 0.05 * 400 + 1);
  });
});

describe('a hedged read', () => {
  it('of a router that is closed opens no stream again, for nobody would close it', async () => {
    const cluster = new FakeCluster();
    await cluster.startAll(1);
    for (const node of cluster.nodes) node.lead(node.id * 100);
    const router = cluster.router();
    await cluster.time.run(router.ready());
    const bounded = { consistency: { kind: 'bounded', maxStalenessMs: 1000 } } as const;
    // So many that the next one would be hedged.
    for (let reads = 0; reads < 100; reads += 1) await cluster.time.run(router.get(KEY, bounded));
    for (const node of cluster.nodes) node.behave = () => new Promise(() => undefined);
    const read = failureOf(router.get(KEY, bounded));
    await cluster.time.pass(2);
    await router.close();
    expect(await cluster.time.run(read)).to.include({ reason: 'CLOSED' });
    await cluster.time.pass(5000);
    expect(cluster.nodes.map(({ pipelines }) => pipelines?.size)).to.deep.equal([0, 0, 0]);
  });

  it('ends though its caller goes away in the turn in which the answer comes', async () => {
    const time = new FakeTime();
    const alarms = new Alarms(time, time);
    const hedging = new Hedging({ share: 1 }, new FakeMetrics());
    for (let reads = 0; reads < 100; reads += 1) hedging.took('settled', 1);
    let answer: (answer: Answer) => void = () => undefined;
    const choice: Pick<ReplicaChoice, 'pick' | 'pickBeside' | 'refused'> = { pick: () => 1, pickBeside: () => undefined, refused: () => undefined };
    const reads = new ReplicaReads({
      env: { clock: time },
      alarms,
      loads: new NodeLoads(time),
      choice: choice as ReplicaChoice,
      hedging,
      linearizableAnywhere: 'hot',
      now: () => 1,
      attempt: () => new Promise((resolve) => (answer = resolve)),
    });
    const caller = new Cancellation();
    const operation = { kind: 'get', bucket: 0, key: KEY, consistency: { kind: 'local' }, anyReplica: false } as const;
    const call = { giveUpMs: 10_000, hops: 0, seen: 0, signal: caller };
    const asked = reads.ask({ bucket: 0, sort: 'settled', staleMs: Infinity, operation }, call, undefined);
    answer({ result: { record: undefined }, served: { node: 1, timestamp: 1, consistency: 'local', hops: 1 } });
    caller.abort();
    expect((await time.run(asked)).answer?.served.node).to.equal(1);
  });
});
