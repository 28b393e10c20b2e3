import { expect } from 'chai';
import { isTidemarkError } from '../../src/client/index.js';
import type { RequestId } from '../../src/client/index.js';
import { TestCluster } from './cluster.js';
import { tagOf } from './load.js';

const BUCKETS = 8;
const COMMANDS = 'tidemark.v1.Commands';
const PATIENCE_MS = 3000;
const PER_BUCKET = 6;

interface Command {
  readonly key: string;
  readonly method: 'Put' | 'Delete' | 'Write';
  readonly request: object;
}

/** What the first execution said; a repetition must say the same. */
interface Outcome {
  readonly version?: number | undefined;
  readonly timestamp?: number | undefined;
  readonly applied?: boolean | undefined;
}

describe('commands repeated under their request id', function () {
  this.timeout(60_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  it('apply once, although their leader is killed while they are under way', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS });
    const database = await cluster.connect();
    const commands = commandsOf(database.now());
    for (const { key } of commands) await database.put(key, 'before');
    const leader = (await cluster.bucketsOf(1))[0]?.bucket.leader ?? 0;
    const survivors = cluster.nodeIds.filter((id) => id !== leader);

    // The first attempt goes to the leader, which is killed as soon as the first answer is there.
    const first = commands.map((command) => attempt(leader, command));
    await Promise.race(first);
    await cluster.kill(leader);
    await Promise.all(first);

    const outcomes = await Promise.all(commands.map((command, index) => repeat(survivors, command, index)));
    for (const [index, outcome] of (await Promise.all(first)).entries()) {
      if (outcome !== undefined) expect(outcome, commands[index]?.key).to.deep.equal(outcomes[index]);
    }
    await cluster.startNode(leader);
    await cluster.settled();
    const again = await Promise.all(commands.map((command, index) => repeat(cluster.nodeIds, command, index)));
    expect(again).to.deep.equal(outcomes);

    for (const [index, { key, method }] of commands.entries()) {
      const versions = [];
      for await (const version of database.history(key)) versions.push(version);
      expect(versions, key).to.have.lengthOf(2);
      const { version, timestamp, applied } = outcomes[index] ?? {};
      expect(versions[0], key).to.include({ version: version ?? timestamp, deleted: method === 'Delete' });
      if (method === 'Write') expect(applied, key).to.equal(true);
    }
  });

  async function attempt(node: number, { method, request }: Command): Promise<Outcome | undefined> {
    try {
      const reply = await cluster.rpc(node).unary<Outcome & { header: object }>(COMMANDS, method, request, PATIENCE_MS);
      const { version, timestamp, applied } = reply;
      return method === 'Write' ? { timestamp, applied } : { version };
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      expect(error.code, error.message).to.be.oneOf(['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED', 'INTERNAL']);
      return undefined;
    }
  }

  /** Until it is answered, each time through another node. */
  async function repeat(nodes: readonly number[], command: Command, start: number): Promise<Outcome> {
    for (let n = start; ; n += 1) {
      const outcome = await attempt(nodes[n % nodes.length] ?? 0, command);
      if (outcome !== undefined) return outcome;
    }
  }
});

/** For each bucket some puts, deletes and conditional writes, which a second execution would refuse. */
function commandsOf(born: number): Command[] {
  const commands: Command[] = [];
  for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
    for (let n = 0; n < PER_BUCKET; n += 1) {
      const sequence = commands.length + 1;
      const id: RequestId = { session: process.pid + 1, born, sequence, lowest: 1 };
      const name = `{${tagOf(bucket, BUCKETS)}}${n}`;
      const key = Buffer.from(name);
      const value = Buffer.from('after');
      if (n % 3 === 0) commands.push({ key: name, method: 'Put', request: { key, value, id } });
      else if (n % 3 === 1) commands.push({ key: name, method: 'Delete', request: { key, id } });
      else {
        const conditions = [{ key, value: Buffer.from('before') }];
        commands.push({ key: name, method: 'Write', request: { conditions, mutations: [{ put: { key, value } }], id } });
      }
    }
  }
  return commands;
}
