import { expect } from 'chai';
import type { Router } from '../../src/router/router.js';
import { FakeCluster, bytes, placementOf, refuse } from './support.js';

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
