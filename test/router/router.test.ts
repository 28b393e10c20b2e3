import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import { bucketOf } from '../../src/placement/map.js';
import type { Operation } from '../../src/router/operations.js';
import type { Router } from '../../src/router/router.js';
import { BUCKETS, FakeCluster, bytes, collect, failureOf, placementOf, refuse } from './support.js';

const KEY = bytes('key');
const VALUE = bytes('value');
const BUCKET = bucketOf(KEY, BUCKETS);

describe('router: one request', () => {
  let cluster: FakeCluster;
  let router: Router;

  beforeEach(() => {
    cluster = new FakeCluster();
  });

  afterEach(async () => {
    await router.close();
    expect(cluster.bugs).to.deep.equal([]);
  });

  it('goes to the leader at once: one hop, one attempt', async () => {
    await cluster.startAll(2);
    cluster.node(2).lead(500);
    router = cluster.router();
    const reply = await cluster.time.run(router.put(KEY, VALUE));
    expect(reply.served).to.deep.equal({ node: 2, timestamp: 500, consistency: 'linearizable', hops: 1 });
    expect(reply.applied).to.equal(true);
    expect(cluster.node(2).asked).to.have.length(1);
    expect(cluster.node(1).asked).to.have.length(0);
  });

  it('puts all requests of a turn to one node in one frame', async () => {
    await cluster.startAll(2);
    cluster.node(2).lead();
    router = cluster.router();
    await cluster.time.run(router.ready());
    let frames = 0;
    const { pipelines } = cluster.node(2);
    if (pipelines === undefined) throw new Error('not started');
    const accept = pipelines.accept.bind(pipelines);
    pipelines.accept = (hello, stream) => {
      const handlers = accept(hello, stream);
      const frame = handlers.frame.bind(handlers);
      handlers.frame = (data) => {
        frames += 1;
        frame(data);
      };
      return handlers;
    };
    cluster.network.breakStreams('client', 'n2');
    await cluster.time.pass(200);
    const all = Array.from({ length: 100 }, (_, index) => router.put(bytes(`k${index}`), VALUE));
    await cluster.time.run(Promise.all(all));
    expect(frames).to.equal(1);
    expect(cluster.node(2).asked).to.have.length(100);
  });

  it('follows a redirect, keeps the request id, and remembers the leader', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => {
      throw refuse('NOT_LEADER', { leader: '3' });
    };
    cluster.node(3).lead();
    router = cluster.router();
    const startMs = cluster.time.nowMs;
    const reply = await cluster.time.run(router.put(KEY, VALUE));
    expect(reply.served.node).to.equal(3);
    expect(cluster.time.nowMs - startMs).to.be.lessThan(20);
    expect(idsOf(cluster.node(1).asked)).to.deep.equal(idsOf(cluster.node(3).asked));
    await cluster.time.run(router.put(KEY, VALUE));
    expect(cluster.node(1).asked).to.have.length(1);
    expect(router.leaderOf(BUCKET)).to.equal(3);
  });

  it('asks each node at most once in a round when redirects go in circles', async () => {
    await cluster.startAll(1);
    for (const node of cluster.nodes) {
      node.behave = () => {
        throw refuse('NOT_LEADER', { leader: String((node.id % 3) + 1) });
      };
    }
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.put(KEY, VALUE, { timeoutMs: 2000 })));
    expect(failure.code).to.equal('UNAVAILABLE');
    const asked = cluster.nodes.reduce((sum, node) => sum + node.asked.length, 0);
    // About ten pauses of up to 250 ms, three nodes in each round.
    expect(asked).to.be.within(9, 60);
  });

  it('waits through an election, and goes on as soon as a leader is pushed', async () => {
    await cluster.startAll(0);
    router = cluster.router();
    const put = router.put(KEY, VALUE);
    await cluster.time.pass(1500);
    cluster.node(3).lead();
    for (const node of cluster.nodes) node.pipelines?.pushLeaders(node.hints(3, 5));
    const beforeMs = cluster.time.nowMs;
    const { served } = await cluster.time.run(put);
    expect(served.node).to.equal(3);
    expect(cluster.time.nowMs - beforeMs).to.be.lessThan(10);
  });

  it('takes no hint from an older term', async () => {
    await cluster.startAll(0);
    router = cluster.router();
    await cluster.time.run(router.ready());
    await cluster.time.pass(50);
    cluster.node(3).pipelines?.pushLeaders(cluster.node(3).hints(3, 5));
    await cluster.time.pass(50);
    cluster.node(1).pipelines?.pushLeaders(cluster.node(1).hints(1, 4));
    await cluster.time.pass(50);
    expect(router.leaderOf(BUCKET)).to.equal(3);
  });

  it('drops a leader that does not answer, and tries another under the same id', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => new Promise(() => {});
    cluster.node(2).lead();
    cluster.node(3).behave = () => {
      throw refuse('NOT_LEADER', { leader: '2' });
    };
    router = cluster.router();
    const startMs = cluster.time.nowMs;
    const { served } = await cluster.time.run(router.put(KEY, VALUE));
    expect(served.node).to.equal(2);
    expect(cluster.time.nowMs - startMs).to.be.within(1000, 1200);
    expect(idsOf(cluster.node(1).asked)).to.deep.equal(idsOf(cluster.node(2).asked));
    await cluster.time.run(router.put(KEY, VALUE));
    expect(cluster.node(1).asked).to.have.length(1);
  });

  it('survives the death of the leader: the stream breaks, the same command goes to the next', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => new Promise(() => {});
    cluster.node(2).lead();
    cluster.node(3).lead();
    router = cluster.router();
    const put = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    cluster.network.kill('n1');
    const { served } = await cluster.time.run(put);
    expect(served.node).to.be.oneOf([2, 3]);
    expect(idsOf(cluster.node(1).asked)).to.deep.equal(idsOf(cluster.node(served.node).asked));
  });

  it('reconnects with backoff when a node comes back', async () => {
    await cluster.startAll(1);
    router = cluster.router();
    await cluster.time.run(router.ready());
    cluster.network.kill('n1');
    const put = router.put(KEY, VALUE);
    await cluster.time.pass(3000);
    await cluster.start(cluster.node(1), placementOf(cluster.nodes.map(({ info }) => info)));
    cluster.node(1).lead();
    const beforeMs = cluster.time.nowMs;
    const { served } = await cluster.time.run(put);
    expect(served.node).to.equal(1);
    expect(cluster.time.nowMs - beforeMs).to.be.lessThan(1500);
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

  it('refuses a write over several buckets, and keys in braces keep together', async () => {
    await cluster.startAll(1);
    cluster.node(1).lead();
    router = cluster.router();
    const put = (key: string) => ({ kind: 'put', key: bytes(key), value: VALUE }) as const;
    const failure = await cluster.time.run(failureOf(router.write([], [put('a'), put('b'), put('c')])));
    expect(failure).to.include({ code: 'UNIMPLEMENTED', reason: 'CROSS_BUCKET_WRITE', outcome: 'none' });
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

  it('says why no endpoint can be reached', async () => {
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.get(KEY, { timeoutMs: 1000 })));
    expect(failure).to.include({ code: 'UNAVAILABLE', reason: 'NO_NODE_REACHED', outcome: 'none' });
    expect(failure.message).to.include('10.0.0.1:7100').and.include('10.0.0.3:7100');
  });

  it('refuses nodes of another cluster', async () => {
    await cluster.startAll(1);
    router = cluster.router({ clusterId: 'another' });
    const failure = await cluster.time.run(failureOf(router.ready()));
    expect(failure).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_CLUSTER' });
  });

  it('follows a new placement to another address', async () => {
    cluster = new FakeCluster(4);
    const [first, , , fourth] = cluster.nodes;
    if (first === undefined || fourth === undefined) throw new Error('no nodes');
    const before = placementOf([first.info], { leader: 1 });
    await cluster.start(first, before);
    await cluster.start(fourth, before);
    first.lead();
    fourth.lead();
    router = cluster.router({ seeds: [first.address] });
    await cluster.time.run(router.put(KEY, VALUE));
    first.placement = placementOf([fourth.info], { epoch: 2, leader: 4 });
    first.pipelines?.pushPlacement();
    await cluster.time.pass(50);
    const { served } = await cluster.time.run(router.put(KEY, VALUE));
    expect(served.node).to.equal(4);
    expect(fourth.asked.at(-1)?.context.epoch).to.equal(2);
  });

  it('ends a stream that sends garbage, and goes on elsewhere', async () => {
    await cluster.startAll(1);
    cluster.node(2).lead();
    cluster.node(3).lead();
    await cluster.node(1).server?.close(0);
    await cluster.networkOf('n1').serve({
      address: cluster.node(1).address,
      accept: (_channel, _hello, stream) => {
        stream.send(bytes('this is no frame'));
        return { frame: () => {}, closed: () => {} };
      },
      services: {},
    });
    router = cluster.router();
    const { served } = await cluster.time.run(router.put(KEY, VALUE));
    expect(served.node).to.be.oneOf([2, 3]);
  });
});

function forgotten(horizon: number): TidemarkError {
  const options = { outcome: 'unknown', details: { horizon: String(horizon) } } as const;
  return new TidemarkError('FAILED_PRECONDITION', 'REQUEST_FORGOTTEN', 'nobody knows', options);
}

describe('router: request ids', () => {
  it('tell the lowest outstanding sequence, and change with the session', async () => {
    const cluster = new FakeCluster(1, { sessionLifetimeMs: 1000 });
    await cluster.startAll(1);
    const held: (() => void)[] = [];
    cluster.node(1).behave = async (operation, { hops }) => {
      await new Promise<void>((resolve) => held.push(resolve));
      return cluster.node(1).answer(operation, hops);
    };
    const router = cluster.router();
    const first = router.put(KEY, VALUE);
    const second = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[1]?.();
    await cluster.time.run(second);
    const third = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[0]?.();
    held[2]?.();
    await cluster.time.run(Promise.all([first, third]));
    const fourth = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[3]?.();
    await cluster.time.run(fourth);
    await cluster.time.pass(1000);
    const fifth = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[4]?.();
    await cluster.time.run(fifth);
    const ids = cluster.node(1).asked.map(({ operation }) => (operation.kind === 'write' ? operation.request.id : undefined));
    expect(ids.map((id) => [id?.sequence, id?.lowest])).to.deep.equal([
      [1, 1],
      [2, 1],
      [3, 1],
      [4, 4],
      [1, 1],
    ]);
    expect(ids[4]?.session).to.not.equal(ids[0]?.session);
    expect(ids[0]?.session).to.equal(ids[3]?.session);
    // Born on the cluster's clock (which the fake nodes say is 1000), a little early, not on the client's.
    expect(ids[0]?.born).to.be.within(1, 1000 + 100 * 4096);
    await router.close();
  });

  it('are those of a younger session, if the bucket takes the present one for forgotten', async () => {
    const cluster = new FakeCluster(1);
    await cluster.startAll(1);
    const node = cluster.node(1);
    node.behave = (operation, { hops }) => {
      if (operation.kind === 'write' && operation.request.id.born <= 5_000_000) throw forgotten(5_000_000);
      return node.answer(operation, hops);
    };
    const router = cluster.router();
    await cluster.time.run(router.put(KEY, VALUE));
    await cluster.time.run(router.put(KEY, VALUE));
    const ids = node.asked.map(({ operation }) => (operation.kind === 'write' ? operation.request.id : undefined));
    expect(ids.map((id) => id?.born === 5_000_001)).to.deep.equal([false, true, true]);
    expect(ids[1]?.session).to.not.equal(ids[0]?.session);
    expect([ids[2]?.session, ids[2]?.sequence]).to.deep.equal([ids[1]?.session, 2]);
    await router.close();
  });

  it('stay as they are if an attempt under them may have been the one that was forgotten', async () => {
    const cluster = new FakeCluster(1);
    await cluster.startAll(1);
    const node = cluster.node(1);
    node.behave = () => {
      const again = node.asked.length > 1;
      throw again ? forgotten(5_000_000) : new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', 'it may be done', { outcome: 'unknown' });
    };
    const router = cluster.router();
    const error = await cluster.time.run(failureOf(router.put(KEY, VALUE)));
    expect(error).to.include({ reason: 'REQUEST_FORGOTTEN', outcome: 'unknown' });
    // Nor may whoever asked this router take it for a command that was not done.
    expect(error.details).to.deep.equal({});
    expect([node.asked.length, idsOf(node.asked).length]).to.deep.equal([2, 1]);
    await router.close();
  });

  it('are taken from a caller that brings its own', async () => {
    const cluster = new FakeCluster(1);
    await cluster.startAll(1);
    cluster.node(1).lead();
    const router = cluster.router();
    const id = { session: 5, born: 6, sequence: 8, lowest: 7 };
    await cluster.time.run(router.put(KEY, VALUE, { id }));
    expect(idsOf(cluster.node(1).asked)).to.deep.equal([JSON.stringify(id)]);
    const wrong = await cluster.time.run(failureOf(router.put(KEY, VALUE, { id: { ...id, lowest: 9 } })));
    expect(wrong.reason).to.equal('REQUEST_ID_MALFORMED');
    await router.close();
  });
});

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

function idOf(operation: Operation | undefined): string {
  return operation?.kind === 'write' ? JSON.stringify(operation.request.id) : '';
}

function idsOf(asked: readonly { readonly operation: Operation }[]): string[] {
  return [...new Set(asked.map(({ operation }) => idOf(operation)))];
}
