import { expect } from 'chai';
import { isTidemarkError, type Database } from '../../src/client/index.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { TestCluster } from './cluster.js';
import { tagOf } from './load.js';
import { Register } from './register.js';

const BUCKETS = 12;
const PAUSED = 1;
const PAUSE_MS = 10_000;
const PATIENCE_MS = 20_000;
const SMART_READS_PER_KEY = 2;
/** Many connections keep the node so busy that it is stopped amid a turn, with more of them to read before it looks at a clock. */
const CONNECTIONS = 12;

describe('a paused node', function () {
  this.timeout(90_000);
  let cluster: TestCluster;
  let stopping = false;

  afterEach(async () => {
    stopping = true;
    await cluster.close();
  });

  it('that goes on after 10 s under load never answers a linearizable read with a stale value', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS });
    const registers = Array.from({ length: BUCKETS }, (_, bucket) => new Register(`{${tagOf(bucket, BUCKETS)}}`));
    const writer = await cluster.connect();
    const smart = await cluster.connect();
    const seed = await cluster.connect({ endpoints: [cluster.address(PAUSED)] });
    let answers = 0;
    const work: Promise<void>[] = [];
    const failures: unknown[] = [];
    const loop = async (turn: () => Promise<void>): Promise<void> => {
      try {
        while (!stopping) await turn();
      } catch (error) {
        if (!stopping) failures.push(error);
        stopping = true;
      }
    };
    const count = async (read: Promise<number>): Promise<void> => {
      const answered = await read;
      answers += answered;
    };
    const clients = Array.from({ length: CONNECTIONS }, () => cluster.network.rpcClient(cluster.address(PAUSED)));
    for (const register of registers) {
      await register.writeNext(writer);
      work.push(loop(() => register.writeNext(writer)));
      for (let n = 0; n < SMART_READS_PER_KEY; n += 1) {
        for (const database of [smart, seed]) work.push(loop(() => count(through(database, register))));
      }
      for (const client of clients) work.push(loop(() => count(direct(client, register))));
    }
    const led = (await cluster.bucketsOf(PAUSED)).filter(({ local }) => local?.role === 'leader').length;
    expect(led, 'buckets that the node leads before it is paused').to.be.above(0);

    cluster.signal(PAUSED, 'SIGSTOP');
    const writtenBefore = registers.map(({ acknowledged }) => acknowledged);
    // Requests sent to it in all this time, on old connections and new ones, lie in its sockets and are the first that it sees
    // when it goes on.
    const asked: Promise<number>[] = [];
    const ask = setInterval(() => {
      clients.push(cluster.network.rpcClient(cluster.address(PAUSED)));
      for (const client of clients) asked.push(...registers.map((register) => direct(client, register)));
    }, 1000);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    clearInterval(ask);
    for (const [index, { acknowledged }] of registers.entries()) {
      expect(acknowledged, 'writes while it was paused').to.be.above(writtenBefore[index] ?? 0);
    }
    cluster.signal(PAUSED, 'SIGCONT');
    const late = await Promise.all(asked);
    if (failures.length > 0) throw failures[0];
    expect(sum(late), 'reads sent to the paused node that were answered').to.be.above(0);
    await cluster.settled();
    const answersThen = answers;
    await cluster.eventually('reads are served again', async () => stopping || answers > answersThen + 500);
    stopping = true;
    await Promise.all(work);
    if (failures.length > 0) throw failures[0];
    for (const client of clients) client.close();
    await cluster.converged();
  });
});

/** One read through plain unary gRPC at the node itself; 1 if it was answered. */
function direct(client: RpcClient, register: Register): Promise<number> {
  return honest(
    register.read(async (key) => {
      const request = { key, read: { consistency: 'CONSISTENCY_LINEARIZABLE' } };
      return client.unary<{ value: Buffer }>('tidemark.v1.Queries', 'Get', request, PATIENCE_MS);
    }),
  );
}

function through(database: Database, register: Register): Promise<number> {
  return honest(
    register.read(async (key) => {
      const entry = await database.get(key);
      return { value: entry.value ?? Buffer.alloc(0) };
    }),
  );
}

/**
 * A refusal is honest; a stale value is not, and fails the test. INTERNAL is what grpc-js makes of a call whose connection the
 * server has cut, as one does that finds its own pings unanswered.
 */
async function honest(read: Promise<void>): Promise<number> {
  try {
    await read;
    return 1;
  } catch (error) {
    if (!isTidemarkError(error)) throw error;
    expect(error.code, error.message).to.be.oneOf(['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'INTERNAL']);
    return 0;
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
