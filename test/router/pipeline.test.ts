import { expect } from 'chai';
import type { FrameStream, StreamHandlers } from '../../src/env/env.js';
import { BinaryWriter } from '../../src/lib/binary.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { bucketOf } from '../../src/placement/map.js';
import type { Answer, Operation } from '../../src/router/operations.js';
import { PipelineServer } from '../../src/router/pipeline-server.js';
import { encodeHello, PROTOCOL_VERSION } from '../../src/router/wire.js';
import { encodeCancel, encodeRequest } from '../../src/router/wire-calls.js';
import { decodePushes, type Push } from '../../src/router/wire-pushes.js';
import { BUCKETS, CLUSTER, FakeCluster, bytes, placementOf, silentLog, type FakeNode } from './support.js';

const KEY = bytes('key');
const GET: Operation = { kind: 'get', bucket: bucketOf(KEY, BUCKETS), key: KEY, anyReplica: false, consistency: { kind: 'linearizable' } };
const PINS: Operation = { kind: 'pins', buckets: [0], action: { kind: 'remove', name: 'audit' } };
const RESOLVE: Operation = { kind: 'resolve', bucket: 0, request: { id: { session: 1, sequence: 1, attempt: 1 }, start: 1, commit: 2 } };

/** A stream as the server sees it, whose other end a test plays. */
class TestStream implements FrameStream {
  readonly remote = 'a test';
  readonly frames: Buffer[] = [];
  /** What `send` answers. */
  flowing = true;
  end: { readonly error: TidemarkError | undefined } | undefined;

  send(frame: Buffer): boolean {
    this.frames.push(frame);
    return this.flowing;
  }

  close(error?: TidemarkError): void {
    this.end ??= { error };
  }

  get pushes(): Push[] {
    return this.frames.flatMap((frame) => decodePushes(frame));
  }
}

describe('pipeline server', () => {
  let cluster: FakeCluster;
  let node: FakeNode;
  let stream: TestStream;

  beforeEach(async () => {
    cluster = new FakeCluster(1, { streamBufferBytesMax: 64 * 1024 });
    node = cluster.node(1);
    await cluster.start(node, placementOf([node.info], { leader: 1 }));
    stream = new TestStream();
  });

  function open(hello: Buffer = encodeHello({ protocol: PROTOCOL_VERSION, clusterId: CLUSTER, role: 'client' })): StreamHandlers {
    if (node.pipelines === undefined) throw new Error('not started');
    return node.pipelines.accept(hello, stream);
  }

  function ask(handlers: StreamHandlers, operations: readonly Operation[], first = 1): void {
    const out = new BinaryWriter();
    for (const [index, operation] of operations.entries()) {
      const number = first + index;
      encodeRequest(out, { number, epoch: 1, remainingMs: 1000, hops: 0, seen: 0, operation });
    }
    handlers.frame(out.take());
  }

  const refusal = (hello: Buffer): string => {
    try {
      open(hello);
    } catch (error) {
      if (error instanceof TidemarkError) return error.reason;
      throw error;
    }
    return 'none';
  };

  it('welcomes with cluster, node, clock and placement', async () => {
    open();
    await cluster.time.pass(1);
    expect(stream.pushes).to.deep.equal([
      { kind: 'welcome', welcome: { clusterId: CLUSTER, node: 1, now: 1000 + 1000 * 4096 } },
      { kind: 'placement', placement: node.placement },
    ]);
  });

  it('tells its clock again, beside what it sends anyway: once a second, and at once when it was set', async () => {
    node.lead();
    const handlers = open();
    const kinds = async (first: number): Promise<string[]> => {
      await cluster.time.pass(1);
      stream.frames.length = 0;
      ask(handlers, [GET], first);
      await cluster.time.pass(1);
      return stream.pushes.map(({ kind }) => kind);
    };
    await cluster.time.pass(900);
    expect(await kinds(1)).to.deep.equal(['answer']);
    await cluster.time.pass(60_000);
    expect(await kinds(5)).to.deep.equal(['answer', 'welcome']);
    expect(await kinds(6)).to.deep.equal(['answer']);
    node.wallAhead += 5000 * 4096;
    expect(await kinds(2)).to.deep.equal(['answer', 'welcome']);
    expect(await kinds(3)).to.deep.equal(['answer']);
    node.wallAhead -= 5000 * 4096;
    expect(await kinds(4)).to.deep.equal(['answer', 'welcome']);
  });

  it('tells new callers who leads now', async () => {
    const leaders = [{ bucket: 3, leader: 2, term: 8 }];
    const pipelines = new PipelineServer({
      env: { clock: cluster.time, timers: cluster.time, log: silentLog },
      limits: cluster.limits,
      node: 1,
      handle: node,
      placement: () => node.placement,
      leaders: () => leaders,
      wallNow: () => 1000,
      fatal: () => {},
    });
    pipelines.accept(encodeHello({ protocol: PROTOCOL_VERSION, clusterId: '', role: 'client' }), stream);
    await cluster.time.pass(1);
    expect(stream.pushes.at(-1)).to.deep.equal({ kind: 'leaders', hints: leaders });
  });

  it('refuses other protocols, other clusters, garbage, and everybody before it has a placement', () => {
    expect(refusal(encodeHello({ protocol: PROTOCOL_VERSION + 1, clusterId: '', role: 'client' }))).to.equal('PROTOCOL_MISMATCH');
    expect(refusal(encodeHello({ protocol: PROTOCOL_VERSION, clusterId: 'x', role: 'client' }))).to.equal('WRONG_CLUSTER');
    expect(refusal(bytes('GET / HTTP/1.1'))).to.equal('MALFORMED_MESSAGE');
    expect(refusal(Buffer.alloc(0))).to.equal('MALFORMED_MESSAGE');
    node.placement = undefined;
    expect(refusal(encodeHello({ protocol: PROTOCOL_VERSION, clusterId: '', role: 'client' }))).to.equal('NOT_READY');
    expect(node.pipelines?.size).to.equal(0);
  });

  it('answers all requests of a turn in one frame', async () => {
    node.lead();
    const handlers = open();
    await cluster.time.pass(1);
    stream.frames.length = 0;
    ask(handlers, [GET, GET, GET]);
    await cluster.time.pass(1);
    expect(stream.frames).to.have.length(1);
    expect(stream.pushes.map((push) => (push.kind === 'answer' ? push.number : push.kind))).to.deep.equal([1, 2, 3]);
  });

  it('refuses what is malformed in itself without bothering the node', async () => {
    node.lead();
    const handlers = open();
    await cluster.time.pass(1);
    stream.frames.length = 0;
    const id = { session: 1, born: 1, sequence: 1, lowest: 1 };
    const write = (key: string): Operation => ({
      kind: 'write',
      bucket: bucketOf(bytes(key), BUCKETS),
      request: { id, conditions: [], mutations: [{ kind: 'delete', key: bytes(key) }] },
    });
    ask(handlers, [
      { ...GET, bucket: (GET.bucket + 1) % BUCKETS },
      { ...GET, key: bytes('') },
      write('!system'),
      { kind: 'readTimestamp', buckets: [0xffff_ffff] },
      { kind: 'readTimestamp', buckets: [1, 1] },
      { kind: 'readTimestamp', buckets: [] },
    ]);
    await cluster.time.pass(1);
    const reasons = stream.pushes.map((push) => (push.kind === 'error' ? push.error.reason : push.kind));
    expect(reasons).to.deep.equal(['WRONG_BUCKET', 'EMPTY_KEY', 'RESERVED_KEY', 'WRONG_BUCKET', 'WRONG_BUCKET', 'NO_BUCKETS']);
    expect(node.asked).to.have.length(0);
  });

  it('closes a stream that sends garbage, and no other', async () => {
    node.lead();
    const other = stream;
    const otherHandlers = open();
    stream = new TestStream();
    open().frame(bytes('garbage'));
    expect(stream.end?.error?.code).to.equal('INVALID_ARGUMENT');
    expect(node.pipelines?.size).to.equal(1);
    ask(otherHandlers, [GET]);
    await cluster.time.pass(1);
    expect(other.pushes.at(-1)?.kind).to.equal('answer');
  });

  it('drops answers that were cancelled', async () => {
    let answer = (): void => {};
    node.behave = async (operation, { hops }) => {
      await new Promise<void>((resolve) => (answer = resolve));
      return node.answer(operation, hops);
    };
    const handlers = open();
    ask(handlers, [GET]);
    const out = new BinaryWriter();
    encodeCancel(out, 1);
    encodeCancel(out, 99);
    handlers.frame(out.take());
    answer();
    await cluster.time.pass(1);
    expect(stream.pushes.map(({ kind }) => kind)).to.deep.equal(['welcome', 'placement']);
  });

  it('starts only as many reads as may fill a few buffers, and none while the stream is congested', async () => {
    node.behave = (operation, { hops }) => {
      const answer = node.answer(operation, hops);
      return { ...answer, result: { record: { key: KEY, value: Buffer.alloc(60_000), version: 1 } } };
    };
    const handlers = open();
    await cluster.time.pass(1);
    stream.flowing = false;
    ask(handlers, Array.from({ length: 100 }, () => GET));
    await cluster.time.pass(100);
    // Before the first sign of congestion came a full frame and the few reads that were under way.
    expect(node.asked.length).to.be.within(4, 20);
    const before = node.asked.length;
    await cluster.time.pass(100);
    expect(node.asked.length).to.equal(before);
    stream.flowing = true;
    handlers.drained?.();
    await cluster.time.pass(100);
    expect(node.asked.length).to.equal(100);
    expect(stream.pushes.filter(({ kind }) => kind === 'answer')).to.have.length(100);
    for (const frame of stream.frames) expect(frame.length).to.be.lessThan(400_000);
  });

  it('cuts off a caller that reads nothing', async () => {
    node.lead();
    const handlers = open();
    await cluster.time.pass(1);
    stream.flowing = false;
    node.pipelines?.pushPlacement();
    await cluster.time.pass(1);
    const long = 'x'.repeat(10_000);
    node.placement = placementOf([{ ...node.info, zone: long }]);
    for (let round = 0; round < 200; round += 1) node.pipelines?.pushPlacement();
    expect(stream.end?.error).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'SLOW_CONSUMER' });
    expect(node.pipelines?.size).to.equal(0);
    // What still arrives does no harm.
    ask(handlers, [GET]);
    handlers.drained?.();
    handlers.closed(undefined);
    expect(node.asked).to.have.length(0);
  });

  it('keeps a bounded number of bytes for all callers together, and cuts off one that reads nothing while others wait', async () => {
    cluster = new FakeCluster(1, { streamBufferBytesMax: 100_000, answerBytesMax: 1_000_000 });
    node = cluster.node(1);
    await cluster.start(node, placementOf([node.info], { leader: 1 }));
    node.behave = (operation, { hops }) => {
      const answer = node.answer(operation, hops);
      return { ...answer, result: { record: { key: KEY, value: Buffer.alloc(100_000), version: 1 } } };
    };
    const idle = Array.from({ length: 20 }, () => {
      stream = new TestStream();
      stream.flowing = false;
      const handlers = open();
      ask(handlers, Array.from({ length: 10 }, () => GET));
      return stream;
    });
    stream = new TestStream();
    const reader = open();
    await cluster.time.pass(1000);
    // Each of the first ones has its few reads; the others wait.
    const kept = node.asked.length;
    expect(kept * 100_000).to.be.below(2_000_000);
    expect(idle.filter(({ end }) => end !== undefined)).to.deep.equal([]);
    ask(reader, Array.from({ length: 10 }, () => GET));
    await cluster.time.pass(30_000);
    expect(stream.pushes.filter(({ kind }) => kind === 'answer')).to.have.length(10);
    const errors = idle.flatMap(({ end }) => (end === undefined ? [] : [end.error?.reason]));
    expect(new Set(errors)).to.deep.equal(new Set(['SLOW_CONSUMER']));
  });

  it('cuts an answer to what fits into a message; one of which no entry does fails by itself, and the stream goes on', async () => {
    cluster = new FakeCluster(1, { messageBytesMax: 2 ** 21 });
    node = cluster.node(1);
    await cluster.start(node, placementOf([node.info], { leader: 1 }));
    const version = { version: 1, value: Buffer.alloc(200_000) };
    const changes = Array.from({ length: 10 }, (_, index) => ({ key: bytes(`k${index}`), before: version, after: version }));
    node.behave = (operation, { hops }) => {
      const answer = node.answer(operation, hops);
      if (operation.kind === 'diff') return { ...answer, result: { changes, resume: undefined } };
      return operation.kind === 'get' ? { ...answer, result: { record: { ...version, key: KEY, value: Buffer.alloc(2 ** 21) } } } : answer;
    };
    const handlers = open();
    const range = { start: bytes(''), end: bytes('') };
    ask(handlers, [GET, { kind: 'diff', buckets: [0], range, from: 0, to: 1, limit: 1000 }, GET]);
    await cluster.time.pass(1);
    for (const frame of stream.frames) expect(frame.length).to.be.below(2 ** 21);
    const errors = stream.pushes.flatMap((push) => (push.kind === 'error' ? [push.error] : []));
    expect(errors.map(({ reason, retriable }) => [reason, retriable])).to.deep.equal(Array(2).fill(['ANSWER_TOO_LARGE', false]));
    const results = stream.pushes.flatMap((push) => (push.kind === 'answer' ? [push.answer.result] : [])) as Answer<'diff'>['result'][];
    expect(results.map(({ changes: told, resume }) => [told.length, resume?.toString()])).to.deep.equal([[3, 'k3']]);
    expect(stream.end).to.equal(undefined);
  });

  it('takes no more requests of one stream than it may', async () => {
    cluster = new FakeCluster(1, { routerInFlightMax: 10 });
    node = cluster.node(1);
    await cluster.start(node, placementOf([node.info], { leader: 1 }));
    node.behave = () => new Promise(() => {});
    const handlers = open();
    ask(handlers, Array.from({ length: 12 }, () => GET));
    await cluster.time.pass(1);
    const errors = stream.pushes.flatMap((push) => (push.kind === 'error' ? [push.error.reason] : []));
    expect(errors).to.deep.equal(['STREAM_BUSY', 'STREAM_BUSY']);
    const request = {
      id: { session: 1, born: 1, sequence: 1, lowest: 1 },
      conditions: [],
      mutations: [{ kind: 'delete', key: KEY } as const],
    };
    ask(handlers, [{ kind: 'write', bucket: bucketOf(KEY, BUCKETS), request }], 13);
    await cluster.time.pass(1);
    expect(node.asked.at(-1)?.operation.kind, 'a command beside a flood of queries').to.equal('write');
  });

  it('closes a stream that asks again under a number that is under way, as whatever', async () => {
    for (const again of [GET, RESOLVE]) {
      node.behave = () => new Promise(() => {});
      stream = new TestStream();
      const handlers = open(encodeHello({ protocol: PROTOCOL_VERSION, clusterId: CLUSTER, role: 'node' }));
      ask(handlers, [GET, GET]);
      await cluster.time.pass(1);
      const asked = node.asked.splice(0);
      ask(handlers, [again, GET], 2);
      await cluster.time.pass(1);
      expect(stream.end?.error).to.include({ code: 'INVALID_ARGUMENT', reason: 'MALFORMED_MESSAGE' });
      expect(stream.end?.error?.message).to.match(/request 2 is under way/);
      expect(asked.map(({ context }) => context.signal?.aborted)).to.deep.equal([true, true]);
      expect([node.asked.length, node.pipelines?.size]).to.deep.equal([0, 0]);
    }
  });

  it('takes what nodes ask for transactions beside as many commands as it may', async () => {
    cluster = new FakeCluster(1, { routerInFlightMax: 10 });
    node = cluster.node(1);
    await cluster.start(node, placementOf([node.info], { leader: 1 }));
    node.behave = (operation, { hops }) => (operation.kind === 'resolve' ? node.answer(operation, hops) : new Promise(() => {}));
    const handlers = open(encodeHello({ protocol: PROTOCOL_VERSION, clusterId: CLUSTER, role: 'node' }));
    ask(handlers, Array.from({ length: 10 }, () => PINS));
    ask(handlers, [RESOLVE, PINS], 11);
    await cluster.time.pass(1);
    const ends = stream.pushes.flatMap((push) => (push.kind === 'answer' || push.kind === 'error' ? [push.kind] : []));
    expect(ends.sort()).to.deep.equal(['answer', 'error']);
  });

  it('hands bugs to the process', async () => {
    node.behave = () => {
      throw new RangeError('a bug');
    };
    ask(open(), [GET]);
    await cluster.time.pass(1);
    expect(cluster.bugs).to.have.length(1);
    expect(cluster.bugs[0]).to.be.instanceOf(RangeError);
  });
});
