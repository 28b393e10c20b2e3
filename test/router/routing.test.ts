import { expect } from 'chai';
import { bucketOf } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import { BUCKETS, FakeCluster, bytes, failureOf, idsOf, placementOf, refuse } from './support.js';

const KEY = bytes('key');
const VALUE = bytes('value');
const BUCKET = bucketOf(KEY, BUCKETS);

describe('router: the way of a request', () => {
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
