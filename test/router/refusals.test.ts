import { expect } from 'chai';
import { endOf } from '../../src/changes/change.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { bucketOf } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import { BUCKETS, FakeCluster, bytes, collect, failureOf, refuse } from './support.js';

const KEY = bytes('key');
const VALUE = bytes('value');
const BUCKET = bucketOf(KEY, BUCKETS);

describe('router: what it refuses, and when it gives up', () => {
  let cluster: FakeCluster;
  let router: Router;

  beforeEach(() => {
    cluster = new FakeCluster();
  });

  afterEach(async () => {
    await router.close();
    expect(cluster.bugs).to.deep.equal([]);
  });

  it('fails with UNAVAILABLE a little before the deadline, naming the bucket and what was tried; outcome none', async () => {
    await cluster.startAll(0);
    router = cluster.router();
    const startMs = cluster.time.nowMs;
    const failure = await cluster.time.run(failureOf(router.put(KEY, VALUE, { timeoutMs: 5000 })));
    expect(cluster.time.nowMs - startMs).to.be.within(4790, 4830);
    expect(failure).to.include({ code: 'UNAVAILABLE', reason: 'NO_LEADER', outcome: 'none', retriable: true });
    expect(failure.message).to.include(`bucket ${BUCKET} `).and.include('node 2 at 10.0.0.2:7100 (NOT_LEADER');
  });

  it('keeps the margin small for short deadlines', async () => {
    await cluster.startAll(0);
    router = cluster.router();
    await cluster.time.run(router.ready());
    const startMs = cluster.time.nowMs;
    await cluster.time.run(failureOf(router.get(KEY, { timeoutMs: 100 })));
    expect(cluster.time.nowMs - startMs).to.be.within(89, 105);
  });

  it('reports outcome unknown if an attempt may have taken effect, whatever the last error says', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => {
      throw new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', 'lost', { outcome: 'unknown', retriable: true });
    };
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.put(KEY, VALUE, { timeoutMs: 1000 })));
    expect(failure).to.include({ code: 'UNAVAILABLE', outcome: 'unknown' });

    for (const id of [2, 3]) {
      cluster.node(id).behave = () => {
        throw new TidemarkError('INVALID_ARGUMENT', 'VALUE_TOO_LARGE', 'too large here');
      };
    }
    cluster.node(1).pipelines?.pushLeaders(cluster.node(1).hints(1, 9));
    await cluster.time.pass(50);
    const final = await cluster.time.run(failureOf(router.put(KEY, VALUE, { timeoutMs: 1000 })));
    expect(final).to.include({ reason: 'VALUE_TOO_LARGE', outcome: 'unknown' });
  });

  it('a read that times out has outcome none', async () => {
    await cluster.startAll(1);
    for (const node of cluster.nodes) node.behave = () => new Promise(() => {});
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.get(KEY, { timeoutMs: 3000 })));
    expect(failure).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
  });

  it('a write that nobody answers has outcome unknown', async () => {
    await cluster.startAll(1);
    for (const node of cluster.nodes) node.behave = () => new Promise(() => {});
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.delete(KEY, { timeoutMs: 3000 })));
    expect(failure).to.include({ code: 'UNAVAILABLE', outcome: 'unknown' });
  });

  it('passes errors that no retry can cure to the caller at once', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => {
      throw new TidemarkError('RESOURCE_EXHAUSTED', 'TOO_MANY_COMMANDS', 'busy', { retriable: true });
    };
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.put(KEY, VALUE)));
    expect(failure).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'TOO_MANY_COMMANDS', outcome: 'none' });
    expect(cluster.node(1).asked).to.have.length(1);
  });

  it('sends a write over several buckets as one to that of its first mutation, else of its first condition', async () => {
    await cluster.startAll(1);
    cluster.node(1).lead();
    router = cluster.router();
    const put = (key: string) => ({ kind: 'put', key: bytes(key), value: VALUE }) as const;
    const exists = (key: string) => ({ kind: 'exists', key: bytes(key) }) as const;
    await cluster.time.run(router.write([exists('b')], [put('a'), put('c')]));
    await cluster.time.run(router.write([exists('b'), exists('a')], []));
    const homes = cluster.node(1).asked.map(({ operation }) => (operation.kind === 'write' ? operation.bucket : -1));
    expect(homes).to.deep.equal([bucketOf(bytes('a'), BUCKETS), bucketOf(bytes('b'), BUCKETS)]);
    const reply = await cluster.time.run(router.write([], [put('{u}/a'), put('{u}/b'), put('{u}/c')]));
    expect(reply.applied).to.equal(true);
  });

  it('refuses bad input before anything is sent', async () => {
    await cluster.startAll(1);
    router = cluster.router();
    const reasonOf = async (work: Promise<unknown>): Promise<string> => (await cluster.time.run(failureOf(work))).reason;
    expect(await reasonOf(router.put(bytes(''), VALUE))).to.equal('EMPTY_KEY');
    expect(await reasonOf(router.put(bytes('!x'), VALUE))).to.equal('RESERVED_KEY');
    expect(await reasonOf(router.put(Buffer.alloc(4097, 1), VALUE))).to.equal('KEY_TOO_LARGE');
    expect(await reasonOf(router.put(KEY, Buffer.alloc(2 ** 20 + 1)))).to.equal('VALUE_TOO_LARGE');
    // Of a put or a delete it speaks as the caller does.
    const fieldOf = async (work: Promise<unknown>): Promise<unknown> => (await cluster.time.run(failureOf(work))).details['field'];
    expect(await fieldOf(router.put(bytes(''), VALUE))).to.equal('key');
    expect(await fieldOf(router.put(KEY, Buffer.alloc(2 ** 20 + 1)))).to.equal('value');
    expect(await fieldOf(router.delete(bytes('!x')))).to.equal('key');
    expect(await fieldOf(router.write([], [{ kind: 'delete', key: bytes('') }]))).to.equal('mutations[0].key');
    expect(await reasonOf(router.write([], []))).to.equal('EMPTY_WRITE');
    const twice = [{ kind: 'delete', key: KEY } as const, { kind: 'delete', key: KEY } as const];
    expect(await reasonOf(router.write([], twice))).to.equal('DUPLICATE_KEY');
    const early = { consistency: { kind: 'asOf', timestamp: -1 } } as const;
    expect(await reasonOf(router.get(KEY, early))).to.equal('TIMESTAMP_MALFORMED');
    expect(await reasonOf(router.get(KEY, { timeoutMs: Number.NaN }))).to.equal('TIMEOUT_MALFORMED');
    expect(await reasonOf(router.get(KEY, { timeoutMs: -1 }))).to.equal('TIMEOUT_MALFORMED');
    const inverted = { start: bytes('b'), end: bytes('a') };
    expect(await reasonOf(collect(router.scan(inverted)))).to.equal('RANGE_INVERTED');
    expect(cluster.nodes.every((node) => node.asked.length === 0)).to.equal(true);
  });

  it('refuses more than it may keep in flight, of commands and of queries each by itself', async () => {
    cluster = new FakeCluster(1, { routerInFlightMax: 10, routerBytesInFlightMax: 1000 });
    await cluster.startAll(1);
    cluster.node(1).behave = () => new Promise(() => {});
    router = cluster.router();
    const waiting = Array.from({ length: 10 }, () => failureOf(router.get(KEY, { timeoutMs: 1000 })));
    const failure = await cluster.time.run(failureOf(router.get(KEY)));
    expect(failure).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'ROUTER_BUSY', outcome: 'none' });
    const node = cluster.node(1);
    node.behave = (operation, { hops }) => (operation.kind === 'write' ? node.answer(operation, hops) : new Promise(() => {}));
    await cluster.time.run(router.put(KEY, VALUE));
    await cluster.time.run(Promise.all(waiting));
    node.behave = () => new Promise(() => {});
    expect(router.inFlight).to.equal(0);
    const large = failureOf(router.put(KEY, Buffer.alloc(600), { timeoutMs: 1000 }));
    const refused = await cluster.time.run(failureOf(router.put(KEY, Buffer.alloc(600), { timeoutMs: 1000 })));
    expect(refused.reason).to.equal('ROUTER_BUSY');
    expect(router.inFlight).to.equal(1);
    const query = await cluster.time.run(failureOf(router.get(Buffer.alloc(600, 'k'), { timeoutMs: 300 })));
    expect(query.reason).to.not.equal('ROUTER_BUSY');
    await cluster.time.run(large);
  });

  it('serves as many change streams as it may, those of its near cache not counted', async () => {
    cluster = new FakeCluster(1, { changeStreamsMax: 2 });
    await cluster.startAll(1);
    cluster.node(1).lead();
    router = cluster.router();
    const range = { start: KEY, end: bytes('kez') };
    const open = async (isOwn: boolean): Promise<string> => {
      const next = await cluster.time.run(router.changes(range, { isOwn }).next());
      return next.done === true ? 'the end' : next.value.kind;
    };
    for (const isOwn of [true, true, true, false, false]) expect(await open(isOwn)).to.equal('mark');
    expect(await cluster.time.run(failureOf(open(false)))).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'TOO_MANY_STREAMS' });
    expect(await open(true)).to.equal('mark');
  });

  it('ends change streams that it serves others when it is closed, whatever they wait for', async () => {
    await cluster.startAll(1);
    const [node] = cluster.nodes;
    if (node === undefined) throw new Error('there is a node');
    router = cluster.router({ role: 'sidecar' });
    await cluster.time.run(router.ready());
    node.behave = (operation, { hops }) => {
      return operation.kind === 'scan' || operation.kind === 'changes' ? new Promise(() => {}) : node.answer(operation, hops);
    };
    const range = { start: KEY, end: bytes('kez') };
    const buckets = Array.from({ length: BUCKETS }, (_, bucket) => bucket);
    const needs = { stream: 1, above: 0 };
    const page = { kind: 'changes', buckets, range, after: endOf(1), before: false, limit: 10, needs } as const;
    const ends = [
      failureOf(router.changes(range, { from: { kind: 'beginning' } }).next()),
      failureOf(router.changes(range, { from: { kind: 'timestamp', timestamp: 1 } }).next()),
      failureOf(router.execute(page, { epoch: 1, deadlineMs: cluster.time.nowMs + 100_000, hops: 0 })),
    ];
    await cluster.time.pass(300);
    await router.close();
    for (const end of ends) expect(await cluster.time.run(end)).to.include({ code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN' });
  });

  it('lets nodes end transactions for which all the commands that it may keep in flight may wait', async () => {
    cluster = new FakeCluster(1, { routerInFlightMax: 10 });
    await cluster.startAll(1);
    const node = cluster.node(1);
    node.behave = (operation, { hops }) => (operation.kind === 'write' ? new Promise(() => {}) : node.answer(operation, hops));
    router = cluster.router({ role: 'node' });
    const waiting = Array.from({ length: 10 }, () => failureOf(router.put(KEY, VALUE, { timeoutMs: 1000 })));
    const context = { epoch: 1, deadlineMs: cluster.time.nowMs + 1000, hops: 0 };
    const request = { id: { session: 1, sequence: 1, attempt: 1 }, start: 1, commit: 2 };
    await cluster.time.run(router.execute({ kind: 'resolve', bucket: 0, request }, context));
    expect((await cluster.time.run(failureOf(router.put(KEY, VALUE)))).reason).to.equal('ROUTER_BUSY');
    await cluster.time.run(Promise.all(waiting));
  });

  it('stops when the caller goes away', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => new Promise(() => {});
    router = cluster.router();
    const controller = new AbortController();
    const put = failureOf(router.put(KEY, VALUE, { signal: controller.signal }));
    await cluster.time.pass(100);
    controller.abort();
    const failure = await cluster.time.run(put);
    expect(failure).to.include({ code: 'CANCELLED', outcome: 'unknown' });
  });

  it('lets nothing hang when it is closed, and tries nothing any more', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = (operation, { hops }) => {
      if (operation.kind === 'write') return new Promise(() => {});
      if (operation.kind === 'get') throw refuse('NOT_LEADER');
      return cluster.node(1).answer(operation, hops);
    };
    router = cluster.router();
    const sent = failureOf(router.put(KEY, VALUE));
    const pausing = failureOf(router.get(KEY));
    const elsewhere = cluster.router({ seeds: ['10.0.0.9:7100'] });
    const waiting = failureOf(elsewhere.put(KEY, VALUE));
    await cluster.time.pass(300);
    const asked = cluster.nodes.flatMap((node) => node.asked).length;
    await router.close();
    await elsewhere.close();
    expect(await cluster.time.run(sent)).to.include({ code: 'CANCELLED', reason: 'CLOSED', outcome: 'unknown' });
    expect(await cluster.time.run(pausing)).to.include({ code: 'CANCELLED', reason: 'CLOSED', outcome: 'none' });
    expect(await cluster.time.run(waiting)).to.include({ code: 'CANCELLED', reason: 'CLOSED', outcome: 'none' });
    await cluster.time.pass(60_000);
    expect(cluster.nodes.flatMap((node) => node.asked).length).to.equal(asked);
  });

  it('tells who asked a node or a sidecar that is stopping to ask another, not that they have cancelled', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = (operation, { hops }) => {
      if (operation.kind === 'write') return new Promise(() => {});
      return cluster.node(1).answer(operation, hops);
    };
    router = cluster.router({ role: 'sidecar' });
    const sent = failureOf(router.put(KEY, VALUE));
    await cluster.time.pass(300);
    await router.close();
    const stopping = { code: 'UNAVAILABLE', reason: 'SHUTTING_DOWN', retriable: true };
    expect(await cluster.time.run(sent)).to.include({ ...stopping, outcome: 'unknown' });
    expect(await cluster.time.run(failureOf(router.get(KEY)))).to.include({ ...stopping, outcome: 'none' });
    const stream = router.changes({ start: KEY, end: KEY }, { from: { kind: 'now' } });
    expect(await cluster.time.run(failureOf(stream.next()))).to.include({ ...stopping, outcome: 'none' });
  });
});
