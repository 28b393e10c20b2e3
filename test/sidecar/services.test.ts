import { expect } from 'chai';
import { connect } from '../../src/client/index.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { systemRandom } from '../../src/env/real/random.js';
import { systemTimers } from '../../src/env/real/timers.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { Sidecar } from '../../src/sidecar/sidecar.js';
import { MemoryCluster } from '../client/support.js';
import { TestNetwork, clock } from '../network/support.js';
import { FakeMetrics, collect, failureOf, silentLog } from '../router/support.js';

/** The sidecar as stock gRPC clients, the client library and a scraper see it, over real sockets. */
describe('sidecar, over real streams', () => {
  const net = new TestNetwork();
  let cluster: MemoryCluster;
  let sidecar: Sidecar;
  let rpc: RpcClient;

  beforeEach(async () => {
    cluster = await MemoryCluster.start();
    const { network } = net;
    const env = { clock, timers: systemTimers(), random: systemRandom(), network, log: silentLog, metrics: new FakeMetrics() };
    const config = { listen: '127.0.0.1:0', http: '127.0.0.1:0', endpoints: cluster.endpoints, limits: DEFAULT_LIMITS };
    const exposition = { contentType: 'text/plain', text: () => Promise.resolve('metrics here\n') };
    sidecar = new Sidecar({ env, config, exposition, onFatal: (error) => void cluster.bugs.push(error) });
    await sidecar.open();
    rpc = net.network.rpcClient(sidecar.address);
  });

  afterEach(async () => {
    rpc.close();
    await sidecar.close();
    await cluster.close();
    expect([...cluster.bugs, ...net.bugs]).to.deep.equal([]);
  });

  const page = async (path: string): Promise<{ status: number; body: string }> => {
    const response = await fetch(`http://${sidecar.httpAddress}${path}`);
    return { status: response.status, body: await response.text() };
  };

  it('serves the public API to any client: two hops', async () => {
    const key = Buffer.from('k');
    const put = await rpc.unary<{ version: number; header: { hops: number } }>(
      'tidemark.v1.Commands',
      'Put',
      { key, value: Buffer.from('v') },
      10_000,
    );
    expect(put.header.hops).to.equal(2);
    const got = await rpc.unary<{ value: Buffer; version: number }>('tidemark.v1.Queries', 'Get', { key }, 10_000);
    expect([got.value.toString(), got.version]).to.deep.equal(['v', put.version]);
  });

  it('shows the real cluster to people', async () => {
    await sidecar.router.ready();
    const status = await rpc.unary<{ clusterId: string; node: number; nodes: { id: number; leaders: number }[] }>(
      'tidemark.v1.Cluster',
      'Status',
      {},
      10_000,
    );
    expect(status).to.include({ clusterId: 'memory', node: 0 });
    expect(status.nodes.map(({ id, leaders }) => [id, leaders])).to.deep.equal([
      [1, 8],
      [2, 8],
    ]);
    const transfer = rpc.unary('tidemark.v1.Cluster', 'TransferLeader', { bucket: 1, node: 1 }, 10_000);
    expect(await failureOf(transfer)).to.include({ code: 'UNIMPLEMENTED', reason: 'ASK_A_NODE' });
  });

  it('serves the client library', async () => {
    await using db = await connect({ endpoints: [sidecar.address] });
    await Promise.all(Array.from({ length: 200 }, (_, index) => db.put(`k${index}`, `${index}`)));
    const entries = await collect(db.scan({ prefix: 'k' }));
    expect(entries).to.have.length(200);
    expect(entries[0]?.served.hops).to.equal(2);
  });

  it('answers /health and /metrics', async () => {
    await sidecar.router.ready();
    expect(await page('/metrics')).to.deep.equal({ status: 200, body: 'metrics here\n' });
    const health = await page('/health');
    expect(health.status).to.equal(200);
    expect(JSON.parse(health.body)).to.include({ status: 'serving', cluster: 'memory', nodes: 2 });
    expect((await page('/other')).status).to.equal(404);
    await cluster.close();
    while ((await page('/health')).status !== 503) await new Promise((resolve) => setImmediate(resolve));
  });

  it('refuses nodes that take it for a peer', async () => {
    const closed = new Promise<string | undefined>((resolve) => {
      net.network.connect(sidecar.address, 'peer', Buffer.from('hello'), {
        frame: () => {},
        closed: (error) => resolve(error?.reason),
      });
    });
    expect(await closed).to.equal('NOT_A_NODE');
  });
});
