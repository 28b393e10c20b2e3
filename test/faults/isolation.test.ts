import { expect } from 'chai';
import { isTidemarkError, type Database } from '../../src/client/index.js';
import { TestCluster } from './cluster.js';
import { tagOf } from './load.js';

const BUCKETS = 8;
const DEADLINE_MS = 3000;
const COMMANDS = 'tidemark.v1.Commands';
const QUERIES = 'tidemark.v1.Queries';

describe('a node alone', function () {
  this.timeout(60_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  for (const others of ['dead', 'stopped'] as const) {
    it(`refuses before the deadline what needs the others, who are ${others}, and serves local reads`, async () => {
      cluster = await TestCluster.start({ buckets: BUCKETS });
      const database = await cluster.connect();
      const keys = Array.from({ length: BUCKETS }, (_, bucket) => Buffer.from(`{${tagOf(bucket, BUCKETS)}}`));
      for (const key of keys) await database.put(key, 'before');
      await cluster.converged();
      // Of a client that knows the whole cluster, and of one that knows only this node.
      const alone = await cluster.connect({ endpoints: [cluster.address(1)] });
      if (others === 'dead') await cluster.kill(2, 3);
      else for (const id of [2, 3]) cluster.signal(id, 'SIGSTOP');

      // Until its last lease has run out it may still serve reads: nobody else can lead before.
      await cluster.eventually('node 1 leads nothing any more', async () => {
        return (await cluster.bucketsOf(1)).every(({ local }) => local?.role !== 'leader');
      });

      const rpc = cluster.rpc(1);
      const writes: Promise<Refusal>[] = [];
      const reads: Promise<Refusal>[] = [];
      for (const key of keys) {
        const write = { mutations: [{ delete: { key } }], conditions: [{ key, exists: true }] };
        writes.push(refusal(rpc.unary(COMMANDS, 'Put', { key, value: Buffer.from('alone') }, DEADLINE_MS)));
        writes.push(refusal(rpc.unary(COMMANDS, 'Write', write, DEADLINE_MS)));
        reads.push(refusal(rpc.unary(QUERIES, 'Get', { key }, DEADLINE_MS)));
        for (const client of [database, alone]) {
          writes.push(refusal(client.put(key, 'alone', { timeoutMs: DEADLINE_MS })));
          reads.push(refusal(client.get(key, { timeoutMs: DEADLINE_MS })));
        }
      }
      reads.push(refusal(all(rpc.stream(QUERIES, 'Scan', {}, DEADLINE_MS))));
      reads.push(refusal(all(alone.scan({ timeoutMs: DEADLINE_MS }))));
      for (const { error, ms } of [...(await Promise.all(writes)), ...(await Promise.all(reads))]) {
        if (!isTidemarkError(error)) throw error;
        expect(error.code, error.message).to.equal('UNAVAILABLE');
        expect(ms, error.message).to.be.below(DEADLINE_MS);
      }
      for (const { error } of await Promise.all(reads)) expect(error).to.include({ outcome: 'none', retriable: true });

      for (const key of keys) {
        const read = { consistency: 'CONSISTENCY_LOCAL' };
        const reply = await rpc.unary(QUERIES, 'Get', { key, read }, DEADLINE_MS);
        expect(reply).to.deep.include({ found: true, value: Buffer.from('before') });
        expect(reply).to.deep.nested.include({ 'header.node': 1, 'header.consistency': 'CONSISTENCY_LOCAL', 'header.hops': 1 });
        const entry = await alone.get(key, { consistency: 'local', timeoutMs: DEADLINE_MS });
        expect(entry.text()).to.equal('before');
        expect(entry.served).to.include({ node: 1, consistency: 'local', hops: 1 });
      }
      const status = await rpc.unary<{ nodes: { reachable: boolean }[] }>('tidemark.v1.Cluster', 'Status', {}, DEADLINE_MS);
      expect(status.nodes.map(({ reachable }) => reachable)).to.deep.equal([true, false, false]);

      if (others === 'dead') for (const id of [2, 3]) await cluster.startNode(id);
      else for (const id of [2, 3]) cluster.signal(id, 'SIGCONT');
      await cluster.settled();
      for (const key of keys) await alone.put(key, 'after');
      await cluster.converged();
    });
  }

  it('that was away until the log was compacted catches up by snapshot', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS, limits: { logEntriesKept: 20, logBytesKept: 4096 } });
    const database = await cluster.connect();
    const tags = Array.from({ length: BUCKETS }, (_, bucket) => tagOf(bucket, BUCKETS));
    await Promise.all(tags.map((tag) => fill(database, tag, 'before', 10)));
    await cluster.converged();
    await cluster.kill(3);
    await Promise.all(tags.map((tag) => fill(database, tag, 'while away', 150)));
    await cluster.startNode(3);
    await cluster.converged();
    const received = (await cluster.metrics(3)).get('tidemark_snapshots_received_total') ?? 0;
    expect(received, 'snapshots that node 3 received').to.be.at.least(1);
    // What it holds now is enough to go on with when another one dies.
    await cluster.kill(1);
    const direct = await cluster.connect({ endpoints: [cluster.address(3)] });
    for (const tag of tags) {
      expect((await direct.get(`{${tag}}149`)).text()).to.equal('while away');
      expect((await direct.get(`{${tag}}9`)).text()).to.equal('while away');
      const versions = await all(direct.history(`{${tag}}9`));
      expect(versions.map((version) => version.text())).to.deep.equal(['while away', 'before']);
    }
  });
});

async function fill(database: Database, tag: string, value: string, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) await database.put(`{${tag}}${n}`, value);
}

interface Refusal {
  readonly error: unknown;
  readonly ms: number;
}

async function refusal(work: Promise<unknown>): Promise<Refusal> {
  const begunMs = performance.now();
  const error: unknown = await work.then(() => new Error('it was served'), (reason: unknown) => reason);
  return { error, ms: performance.now() - begunMs };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}
