import { expect } from 'chai';
import type { ServeOptions } from '../../src/env/network.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { bucketOf, serverNamed, SIDECAR_NODE } from '../../src/placement/map.js';
import { Sidecar } from '../../src/sidecar/sidecar.js';
import { BUCKETS, CLUSTER, FakeCluster, FakeMetrics, bytes, collect, failureOf, randomOf, silentLog } from '../router/support.js';

const KEY = bytes('key');
const VALUE = bytes('value');
const LISTEN = '127.0.0.1:7100';

describe('sidecar', () => {
  let cluster: FakeCluster;
  let sidecar: Sidecar;
  /** What the sidecar has said of its health. */
  let health: boolean[];

  function sidecarOf(name = 'sidecar', listen = LISTEN): Sidecar {
    const network = cluster.networkOf(name);
    const env = {
      clock: cluster.time,
      timers: cluster.time,
      random: randomOf(7),
      network: {
        serve: async (options: ServeOptions) => {
          return { ...(await network.serve(options)), setServing: (serving: boolean) => void health.push(serving) };
        },
        connect: network.connect.bind(network),
        serveHttp: network.serveHttp.bind(network),
      },
      log: silentLog,
      metrics: new FakeMetrics(),
    };
    const endpoints = cluster.nodes.map(({ address }) => address);
    const config = { listen, endpoints, limits: DEFAULT_LIMITS };
    return new Sidecar({ env, config, onFatal: (error) => void cluster.bugs.push(error) });
  }

  beforeEach(() => {
    cluster = new FakeCluster();
    health = [];
    sidecar = sidecarOf();
  });

  afterEach(async () => {
    await cluster.time.run(sidecar.close());
    expect(cluster.bugs).to.deep.equal([]);
  });

  it('looks like the only node to the client library; each operation passes two processes', async () => {
    await cluster.startAll(2);
    cluster.node(2).lead(500);
    await cluster.time.run(sidecar.open());
    const client = cluster.router({ seeds: [LISTEN] });
    const reply = await cluster.time.run(client.put(KEY, VALUE));
    expect(reply.served).to.deep.equal({ node: 2, timestamp: 500, consistency: 'linearizable', hops: 2 });
    expect(client.placement).to.deep.include({ clusterId: CLUSTER, buckets: BUCKETS });
    expect(client.placement?.nodes.map(({ id }) => id)).to.deep.equal([SIDECAR_NODE]);
    expect(cluster.node(2).asked[0]?.context.hops).to.equal(1);
    await client.close();
  });

  it('is named as what it is, not by the number that it passes for a node with', () => {
    expect(serverNamed(SIDECAR_NODE, LISTEN)).to.equal(`the sidecar at ${LISTEN}`);
    expect(serverNamed(4, '10.0.0.4:7100')).to.equal('node 4 at 10.0.0.4:7100');
  });

  it('passes request ids through, and retries for its clients', async () => {
    await cluster.startAll(1);
    cluster.node(1).behave = () => new Promise(() => {});
    cluster.node(2).lead();
    cluster.node(3).lead();
    await cluster.time.run(sidecar.open());
    const client = cluster.router({ seeds: [LISTEN] });
    const id = { session: 77, born: 1, sequence: 3, lowest: 2 };
    const put = client.put(KEY, VALUE, { id });
    await cluster.time.pass(100);
    cluster.network.kill('n1');
    await cluster.time.run(put);
    const asked = cluster.nodes.flatMap((node) => node.asked).map(({ operation }) => operation);
    const writes = asked.filter((operation) => operation.kind === 'write');
    expect(writes).to.have.length(2);
    for (const write of writes) expect(write.request.id).to.deep.equal(id);
    await client.close();
  });

  it('spreads a scan of its client over the nodes and merges the answers', async () => {
    await cluster.startAll();
    const all = Array.from({ length: 500 }, (_, index) => `k${String(index).padStart(4, '0')}`);
    // Each node leads some buckets and shows only their keys.
    for (const node of cluster.nodes) {
      node.pipelines?.pushLeaders([]);
      node.behave = (operation, { hops }) => {
        const answer = node.answer(operation, hops, 100 + node.id);
        if (operation.kind !== 'scan') return answer;
        const { buckets, range, limit } = operation;
        expect(operation.consistency).to.deep.equal({ kind: 'asOf', timestamp: 103 });
        const mine = all.filter((key) => buckets.includes(bucketOf(bytes(key), BUCKETS)) && range.start.compare(bytes(key)) <= 0);
        const records = mine.slice(0, limit).map((key) => ({ key: bytes(key), value: VALUE, version: 1 }));
        return { ...answer, result: { records, more: mine.length > limit }, served: { ...answer.served, timestamp: 103 } };
      };
    }
    await cluster.time.run(sidecar.open());
    await cluster.time.run(sidecar.router.ready());
    sidecar.router.learn(Array.from({ length: BUCKETS }, (_, bucket) => ({ bucket, leader: (bucket % 3) + 1, term: 1 })));
    const client = cluster.router({ seeds: [LISTEN], limits: { ...DEFAULT_LIMITS, pageEntriesMax: 100 } });
    const range = { start: bytes(''), end: bytes('') };
    const pages = await cluster.time.run(collect(client.scan(range)));
    expect(pages.flatMap(({ records }) => records.map(({ key }) => key.toString()))).to.deep.equal(all);
    for (const { served } of pages) expect(served).to.include({ timestamp: 103, consistency: 'asOf', hops: 2 });
    await client.close();
  });

  it('refuses streams until it has found the cluster, and serves when it has', async () => {
    await cluster.time.run(sidecar.open());
    const client = cluster.router({ seeds: [LISTEN] });
    const failure = await cluster.time.run(failureOf(client.get(KEY, { timeoutMs: 2000 })));
    expect(failure).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
    expect(failure.message).to.include('has not joined its cluster yet');
    expect(health).to.deep.equal([false]);
    await cluster.startAll(1);
    cluster.node(1).lead();
    const { served } = await cluster.time.run(client.get(KEY));
    expect(served.node).to.equal(1);
    expect(health).to.deep.equal([false, true]);
    await client.close();
  });

  it('fails before its client does when the cluster cannot serve', async () => {
    await cluster.startAll();
    await cluster.time.run(sidecar.open());
    const client = cluster.router({ seeds: [LISTEN] });
    await cluster.time.run(client.ready());
    const startMs = cluster.time.nowMs;
    const failure = await cluster.time.run(failureOf(client.put(KEY, VALUE, { timeoutMs: 5000 })));
    expect(cluster.time.nowMs - startMs).to.be.within(4500, 4850);
    expect(failure).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
    expect(failure.message).to.include('NOT_LEADER');
    await client.close();
  });

  it('of two sidecars the client takes the one that lives', async () => {
    await cluster.startAll(1);
    cluster.node(1).lead();
    await cluster.time.run(sidecar.open());
    const other = sidecarOf('sidecar2', '127.0.0.1:7300');
    await cluster.time.run(other.open());
    const client = cluster.router({ seeds: [LISTEN, '127.0.0.1:7300'] });
    await cluster.time.run(client.put(KEY, VALUE));
    await cluster.time.pass(100);
    cluster.network.kill('sidecar2');
    await cluster.time.run(client.put(KEY, VALUE));
    await client.close();
    await cluster.time.run(other.close());
  });
});
