import { expect } from 'chai';
import { BinaryWriter } from '../../src/lib/binary.js';
import { EPOCH_LEAD_MAX } from '../../src/placement/epoch.js';
import { bucketOf, type Placement } from '../../src/placement/map.js';
import { PROTOCOL_VERSION, encodeHello } from '../../src/router/wire.js';
import { encodeRequest } from '../../src/router/wire-calls.js';
import { decodePushes } from '../../src/router/wire-pushes.js';
import type { Router } from '../../src/router/router.js';
import { BUCKETS, CLUSTER, FakeCluster, bytes, failureOf, placementOf, refuse, type FakeNode } from './support.js';

const KEY = bytes('key');
const VALUE = bytes('value');
const BUCKET = bucketOf(KEY, BUCKETS);

describe('routers and nodes with maps of other epochs', () => {
  let cluster: FakeCluster;
  let router: Router | undefined;
  let first: FakeNode;
  let second: FakeNode;
  /** All buckets on the one node, then all on the other. */
  let older: Placement;
  let newer: Placement;

  beforeEach(async () => {
    router = undefined;
    cluster = new FakeCluster(2);
    [first, second] = [cluster.node(1), cluster.node(2)];
    older = placementOf([first.info], { leader: 1 });
    newer = placementOf([second.info], { epoch: 2, leader: 2 });
    await cluster.start(first, older);
    await cluster.start(second, newer);
    first.lead();
    second.lead();
  });

  afterEach(async () => {
    await router?.close();
    expect(cluster.bugs).to.deep.equal([]);
  });

  /** A router that has learned the older map from node 1, and knows nothing of node 2. */
  async function routerWithOldMap(): Promise<Router> {
    router = cluster.router({ seeds: [first.address] });
    await cluster.time.run(router.ready());
    return router;
  }

  it('a router with an old map is corrected by the first refusal, and asks the right node next', async () => {
    const asking = await routerWithOldMap();
    first.placement = newer;
    first.behave = () => {
      throw refuse('NOT_HOSTED', { epoch: '2' });
    };
    const { served } = await cluster.time.run(asking.put(KEY, VALUE));
    expect(served).to.include({ node: 2, hops: 1 });
    expect([first.asked.length, second.asked.length]).to.deep.equal([1, 1]);
    expect([first, second].map(({ asked }) => asked[0]?.context.epoch)).to.deep.equal([1, 2]);
    await cluster.time.run(asking.put(KEY, VALUE));
    expect(first.asked).to.have.lengthOf(1);
  });

  it('a router with an old map is corrected by the first answer, though its node has left the cluster', async () => {
    const asking = await routerWithOldMap();
    first.placement = newer;
    const { served } = await cluster.time.run(asking.put(KEY, VALUE));
    expect(served.node).to.equal(1);
    expect(asking.placement?.epoch).to.equal(2);
    expect((await cluster.time.run(asking.put(KEY, VALUE))).served.node).to.equal(2);
  });

  it('a router with a newer map than a node’s keeps it, and goes on to who has the bucket', async () => {
    const nodes = [first.info, second.info];
    newer = placementOf(nodes, { epoch: 2, leader: 1 });
    second.placement = newer;
    first.behave = () => {
      throw refuse('NOT_HOSTED', { epoch: '1' });
    };
    router = cluster.router();
    await cluster.time.run(router.ready());
    await cluster.time.pass(50);
    const { served } = await cluster.time.run(router.put(KEY, VALUE));
    expect(served.node).to.equal(2);
    expect(router.placement?.epoch).to.equal(2);
    expect(first.asked.length).to.be.at.most(1);
  });

  it('nodes that each say that the other has the bucket are asked in rounds with pauses, until the time is up', async () => {
    const nodes = [first.info, second.info];
    for (const [node, other] of [[first, second], [second, first]] as const) {
      node.placement = placementOf(nodes, { epoch: node.id, leader: other.id });
      node.behave = () => {
        throw refuse('NOT_HOSTED', { epoch: String(node.id) });
      };
    }
    router = cluster.router();
    const failure = await cluster.time.run(failureOf(router.put(KEY, VALUE, { timeoutMs: 2000 })));
    expect(failure).to.include({ code: 'UNAVAILABLE', reason: 'NO_LEADER', outcome: 'none' });
    expect(failure.message).to.contain(`bucket ${BUCKET} could not be served`).and.to.contain('NOT_HOSTED');
    // Pauses double from 10 to 250 ms.
    expect(first.asked.length + second.asked.length).to.be.within(4, 40);
  });

  it('who is thought to lead is forgotten with its replica', async () => {
    const asking = await routerWithOldMap();
    await cluster.time.run(asking.put(KEY, VALUE));
    expect(asking.leaderOf(BUCKET)).to.equal(1);
    // Still a node, but no replica of this bucket stands there any more; nobody is known to lead.
    const nodes = [first.info, second.info];
    const map = older.map.map((bucket) => ({ ...bucket, replicas: [{ id: 2, node: 2, learner: false }], leader: 0 }));
    first.placement = { ...older, epoch: 3, nodes, map };
    first.pipelines?.pushPlacement();
    await cluster.time.pass(50);
    expect(asking.leaderOf(BUCKET)).to.equal(0);
    expect((await cluster.time.run(asking.put(KEY, VALUE))).served.node).to.equal(2);
  });

  it('a router believes no placement of an absurd epoch', async () => {
    const asking = await routerWithOldMap();
    first.placement = { ...newer, epoch: 2 + EPOCH_LEAD_MAX };
    first.pipelines?.pushPlacement();
    await cluster.time.pass(20);
    expect(asking.placement?.epoch).to.equal(1);
    expect(asking.isConnected(1)).to.equal(false);
    first.placement = newer;
    await cluster.time.pass(2000);
    expect(asking.placement?.epoch).to.equal(2);
  });

  it('a stream is sent each placement with one reply only, and none for requests without a map', async () => {
    first.placement = newer;
    const seen: string[] = [];
    const stream = cluster.networkOf('raw').connect(
      first.address,
      'pipeline',
      encodeHello({ protocol: PROTOCOL_VERSION, clusterId: CLUSTER, role: 'client' }),
      {
        frame: (frame) => {
          for (const push of decodePushes(frame)) {
            if (push.kind === 'placement') seen.push(`placement ${push.placement.epoch}`);
            if (push.kind === 'answer') seen.push(`answer ${push.number}`);
            if (push.kind === 'error') seen.push(push.error.reason);
          }
        },
        closed: () => void seen.push('closed'),
      },
    );
    await cluster.time.pass(20);
    expect(seen.splice(0)).to.deep.equal(['placement 2']);
    const ask = async (...epochs: number[]): Promise<string[]> => {
      const out = new BinaryWriter();
      const operation = { kind: 'get', bucket: BUCKET, key: KEY, anyReplica: false, consistency: { kind: 'local' } } as const;
      epochs.forEach((epoch, number) => encodeRequest(out, { number, epoch, remainingMs: 5000, hops: 0, seen: 0, operation }));
      stream.send(out.take());
      await cluster.time.pass(20);
      return seen.splice(0);
    };
    expect(await ask(0, 2, 3)).to.deep.equal(['answer 0', 'answer 1', 'answer 2']);
    expect(await ask(1, 1)).to.deep.equal(['answer 0', 'placement 2', 'answer 1']);
    expect(await ask(1)).to.deep.equal(['answer 0']);
    expect(await ask(3 + EPOCH_LEAD_MAX)).to.deep.equal(['WRONG_EPOCH']);
    first.placement = { ...newer, epoch: 3 };
    first.behave = () => {
      throw refuse('NOT_HOSTED');
    };
    expect(await ask(0, 3)).to.deep.equal(['NOT_HOSTED', 'placement 3', 'NOT_HOSTED']);
    stream.close();
  });
});
