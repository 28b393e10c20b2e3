import { join } from 'node:path';
import { expect } from 'chai';
import { tidemark as run } from '../cli/support.js';
import type { BucketsReply } from '../../src/cli/cluster/inspect.js';
import { freePorts, TestCluster } from './cluster.js';
import { Load } from './load.js';
import { TestProcess, tidemark } from './process.js';

const BUCKETS = 16;
const SILENT_MS_MAX = 3000;

/** The commands by which nodes come and go, against real processes under load. */
describe('a cluster whose nodes are replaced one after the other', function () {
  this.timeout(180_000);
  let cluster: TestCluster;
  const newcomers: TestProcess[] = [];

  afterEach(async () => {
    for (const newcomer of newcomers.splice(0)) await newcomer.kill();
    await cluster.close();
  });

  const add = async (name: string, port: number, through: string): Promise<TestProcess> => {
    const listen = `127.0.0.1:${port}`;
    const args = ['cluster', 'add', '--join', through, '--listen', listen, '--data', join(cluster.folder, name)];
    const newcomer = new TestProcess({ name, args: tidemark(...args), logPath: join(cluster.folder, 'logs', `${name}.log`) });
    newcomers.push(newcomer);
    await newcomer.ready();
    return newcomer;
  };

  const succeeds = async (...args: string[]): Promise<string> => {
    const { code, out, err } = await run(['cluster', ...args, '--timeout', '30s']);
    expect(code, `${args.join(' ')}: ${err}`).to.equal(0);
    return out;
  };

  const statusOf = async (port: number): Promise<[number, number][]> => {
    const { out } = await run(['cluster', 'status', '--json', '--endpoint', `127.0.0.1:${port}`]);
    return (JSON.parse(out) as { nodes: { id: number; replicas: number }[] }).nodes.map(({ id, replicas }) => [id, replicas]);
  };

  it('each of five in turn, keeps all that it acknowledged, and is silent nowhere for longer than an election', async function () {
    this.timeout(300_000);
    const buckets = BUCKETS / 2;
    cluster = await TestCluster.start({ nodes: 5, replicas: 3, buckets });
    const clients = [await cluster.connect(), await cluster.connect({ endpoints: [cluster.address(5)] })];
    const load = new Load({ buckets, clients, restMs: 50 });
    load.start();
    await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(0));
    load.watch();
    const ports = await freePorts(5);
    for (const leaving of cluster.nodeIds) {
      const port = ports[leaving - 1] ?? 0;
      // Through a node that is there from the beginning, or, when the last of those goes, through one that is not.
      const through = leaving < 5 ? cluster.address(leaving + 1) : `127.0.0.1:${ports[0]}`;
      await add(`next-${leaving}`, port, through);
      await succeeds('remove', String(leaving), '--endpoint', `127.0.0.1:${port}`);
      expect((await cluster.process(leaving).ended).code).to.equal(9);
    }
    expectNoLongSilence(load);
    await load.stop();
    const [last = 0] = ports.slice(-1);
    await load.check(await cluster.connect({ endpoints: [`127.0.0.1:${last}`] }));
    await succeeds('rebalance', '--endpoint', `127.0.0.1:${last}`);
    const status = await statusOf(last);
    expect(status.map(([id]) => id)).to.deep.equal([6, 7, 8, 9, 10]);
    expect(status.reduce((sum, [, replicas]) => sum + replicas, 0)).to.equal(3 * buckets);
    for (const [id, replicas] of status) expect(replicas, `replicas on node ${id}`).to.be.within(4, 5);
  });

  it('loses no acknowledged write and repeats none, and is silent nowhere for longer than an election', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS, sidecar: true, limits: { valueBytesMax: 10_000 } });
    const clients = [await cluster.connect(), await cluster.connect({ endpoints: [cluster.address(0)] })];
    const load = new Load({ buckets: BUCKETS, clients });
    load.start();
    await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(0));
    load.watch();
    const [first = 0, second = 0] = await freePorts(2);
    let four = await add('four', first, cluster.address(2));
    const endpoint = ['--endpoint', `127.0.0.1:${first}`];
    await succeeds('rebalance', ...endpoint);
    await cluster.eventually('it says that it has its share', async () => /^node 4 has its share of the buckets: 1[23] replicas$/m.test(four.log()));
    // It is a member from now on, wherever its life ends.
    await four.kill();
    four = await add('four', first, cluster.address(2));
    expect(four.log()).to.match(/node 4 of cluster/);
    // It goes by the limits of its cluster, though it was given no file.
    const tooLong = await run(['put', 'long', 'x'.repeat(10_001), ...endpoint]);
    expect(tooLong.err).to.match(/10001 bytes.*10000/);
    const args = ['cluster', 'add', '--join', cluster.address(3), '--listen', `127.0.0.1:${first}`, '--address', `127.0.0.1:${second}`];
    const logPath = join(cluster.folder, 'logs', 'taken.log');
    const taken = new TestProcess({ name: 'taken', args: tidemark(...args, '--data', join(cluster.folder, 'taken')), logPath });
    expect((await taken.ended).code).to.equal(1);
    expect(taken.log()).to.match(/ADDRESS_IN_USE/);
    const nobody = ['cluster', 'add', '--join', `127.0.0.1:${second}`, '--listen', `127.0.0.1:${second}`, '--data', join(cluster.folder, 'alone')];
    const alone = new TestProcess({ name: 'alone', args: tidemark(...nobody), logPath: join(cluster.folder, 'logs', 'alone.log') });
    await cluster.eventually('it waits to be let in', async () => /waiting to be let into the cluster/.test(alone.log()));
    alone.signal('SIGINT');
    expect(await alone.ended, 'the first Ctrl-C ends it').to.deep.equal({ code: 130, signal: null });
    expect((await statusOf(first)).map(([id]) => id), 'who cannot listen is no member').to.deep.equal([1, 2, 3, 4]);
    await add('five', second, cluster.address(3));
    for (const leaving of [1, 2]) {
      const out = await succeeds('remove', String(leaving), ...endpoint);
      expect(out).to.not.match(new RegExp(`^ *${leaving} `, 'm'));
      expect((await cluster.process(leaving).ended).code).to.equal(9);
    }
    expectNoLongSilence(load);
    await load.stop();
    await load.check(await cluster.connect({ endpoints: [`127.0.0.1:${second}`] }));
    expect(await statusOf(second)).to.deep.equal([
      [3, BUCKETS],
      [4, BUCKETS],
      [5, BUCKETS],
    ]);
    const refused = await run(['cluster', 'drain', '4', ...endpoint]);
    expect(refused.err).to.match(/without node 4 there are 2 nodes for the 3 replicas of each bucket; add a node first/);
    expect(refused.code).to.not.equal(0);
  });

  it('has nodes drained and given back, and buckets moved and handed over, by the commands, and is not felt to be', async () => {
    cluster = await TestCluster.start({ nodes: 4, replicas: 3, buckets: BUCKETS });
    const load = new Load({ buckets: BUCKETS, clients: [await cluster.connect(), await cluster.connect()] });
    load.start();
    await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(0));
    load.watch();
    const endpoint = ['--endpoint', cluster.address(1)];
    const replicasAt = async (node: number): Promise<number> => new Map(await statusOf(Number(cluster.address(1).split(':')[1]))).get(node) ?? NaN;
    const bucket = async (): Promise<{ leader: number; nodes: number[] }> => {
      const [found] = (JSON.parse(await succeeds('buckets', '--id', '7', '--json', ...endpoint)) as BucketsReply).buckets;
      return { leader: found?.bucket.leader ?? 0, nodes: found?.bucket.replicas.map(({ node }) => node).sort() ?? [] };
    };
    expect(await succeeds('drain', '4', ...endpoint)).to.match(/everything is in its place/);
    expect(await replicasAt(4)).to.equal(0);
    await succeeds('undrain', '4', ...endpoint);
    await succeeds('rebalance', ...endpoint);
    expect(await replicasAt(4)).to.be.within(BUCKETS / 2, BUCKETS);
    const before = await bucket();
    const to = cluster.nodeIds.find((id) => !before.nodes.includes(id)) ?? 0;
    const [from = 0] = before.nodes.filter((id) => id !== before.leader);
    expect(await succeeds('move', '7', '--from', String(from), '--to', String(to), ...endpoint)).to.match(/everything is in its place/);
    const moved = await bucket();
    expect(moved.nodes).to.deep.equal([...before.nodes.filter((id) => id !== from), to].sort());
    await succeeds('transfer', '7', String(to), ...endpoint);
    await cluster.eventually('it leads', async () => (await bucket()).leader === to);
    expectNoLongSilence(load);
    await load.stop();
    await load.check(await cluster.connect());
  });
});

function expectNoLongSilence(load: Load): void {
  const { ms, bucket } = load.longestGap;
  if (process.env['TIDEMARK_TIMES'] !== undefined) console.log(`${Math.round(ms)} ms of silence`);
  expect(ms, `bucket ${bucket} was silent`).to.be.below(SILENT_MS_MAX);
}
