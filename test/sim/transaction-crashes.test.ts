import { expect } from 'chai';
import type { Condition, RequestId } from '../../src/bucket/requests.js';
import { Database } from '../../src/client/database.js';
import type { Transaction } from '../../src/client/transaction.js';
import type { Timestamp } from '../../src/mvcc/timestamp.js';
import type { NodeId } from '../../src/placement/map.js';
import type { WriteReply } from '../../src/router/options.js';
import { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import type { SimProcess } from '../../src/sim/process.js';
import { bytes, startCluster, untilEqual, untilLed } from './support.js';
import { endingOf, keyLedBy, leadingReplica, leftovers, puts, stepsOf, untilSettled, versionsOf, type Ending } from './transaction-support.js';

/**
 * Whoever takes part in a transaction dies between two steps, or is cut off, or sleeps: every two steps, not some of them. A step is
 * whatever a process does in one go: it takes a message, hears that a sync is done, or that a timer is due. It happens to them
 * behind the first step of one process; in another run of the same world behind its second, and so on, until the transaction is
 * over, resolved and forgotten before it comes to that.
 */
const BUCKETS = 6;
/** Too short for an election: who loses the leader that he asked is told so, if anybody dares to say that it failed. */
const CLIENT_TIMEOUT_MS = 400;
/**
 * For so long at most an intent, a lock or a record outlives whoever would have ended it: an election (0.8 s), the patience of a
 * leader that finds an intent (1 s), and its look around, four times a second. The worst of all these worlds takes 1.73 s.
 */
const RECOVERY_MS = 2500;

interface World {
  readonly cluster: SimCluster;
  readonly client: Router;
  readonly clientProcess: SimProcess;
  readonly id: RequestId;
  /** In the bucket of home, then in those of two participants. */
  readonly keys: readonly string[];
  /** That a key exists which lies in a third participant, where nothing is written: it locks, and must be told as well. */
  readonly condition: Condition;
}

/** `cut off`: from everybody, for a while. `asleep`: it does nothing for a while, and then all that it would have done. */
type Fate = 'dead' | 'cut off' | 'asleep';

interface Case {
  /** Who leads home and the two participants. */
  readonly leaders: readonly [NodeId, NodeId, NodeId];
  /** Whose steps count. */
  readonly steps: 'client' | NodeId;
  readonly dying: readonly ('client' | NodeId)[];
  readonly fate?: Fate;
}

/** Long enough for others to be elected, who find out what is left and end it. */
const AWAY_MS = 2500;

async function start({ leaders }: Case): Promise<World> {
  const cluster = await startCluster({ seed: `dies-${leaders.join()}`, nodes: 3, buckets: BUCKETS });
  await untilLed(cluster);
  const { process: clientProcess, env } = cluster.machine('c1', cluster.loop.clock());
  const client = new Router({ env, limits: cluster.limits, role: 'client', seeds: cluster.endpoints });
  const keys: string[] = [];
  for (const node of leaders) keys.push(keyLedBy(cluster, node, keys));
  const read = keyLedBy(cluster, 3, keys);
  await cluster.settle(Promise.all([...keys, read].map((key) => client.put(bytes(key), bytes('before')))));
  const condition: Condition = { kind: 'exists', key: bytes(read) };
  // One participant is farther away, so that home has steps between their prepares.
  for (const [from, to] of [['n1', 'n3'], ['n3', 'n1']] as const) cluster.network.setLatency({ minMs: 2, maxMs: 3 }, from, to);
  return { cluster, client, clientProcess, keys, condition, id: { session: 4711, born: client.now(), sequence: 1, lowest: 1 } };
}

/** How far the transaction has come, as those see it who lead. */
function stageOf({ cluster, keys: [home = '', ...others] }: World, before: Timestamp): string {
  const { state } = leadingReplica(cluster, home);
  if (state.home.count === 0 && (state.pointer(bytes(home))?.timestamp ?? 0) > before) return 'forgotten';
  const prepared = others.filter((key) => leadingReplica(cluster, key).state.participant.count > 0).length;
  return `${state.home.count > 0 ? 'decided' : 'open'}, ${prepared} prepared`;
}

/** Runs one world in which they die behind that step. Undefined if the transaction was over before. */
async function dieBehind(wanted: number, which: Case): Promise<{ stage: string; value: string } | undefined> {
  const world = await start(which);
  const { cluster, client, clientProcess, keys, id, condition } = world;
  const before = client.now();
  let ending: Ending<WriteReply> | undefined;
  const write = endingOf(client.write([condition], puts(keys, 'after'), { id, timeoutMs: CLIENT_TIMEOUT_MS }));
  void write.then((how) => (ending = how));
  const steps = stepsOf(which.steps === 'client' ? clientProcess : cluster.process(which.steps));
  const isOver = (): boolean => ending !== undefined && stageOf(world, before) === 'forgotten';
  await cluster.loop.runUntil(() => steps() >= wanted || isOver(), 10_000);
  if (steps() < wanted) return undefined;
  const stage = stageOf(world, before);
  const nodes = which.dying.filter((each) => each !== 'client');
  if (which.dying.includes('client')) clientProcess.kill();
  const { fate = 'dead' } = which;
  for (const node of nodes) befall(cluster, node, fate);
  const reader = cluster.client('c2');
  const moment = reader.wallNow();
  const survivors = cluster.ids.filter((node) => !nodes.includes(node)).map((node) => cluster.node(node).router);
  const seen = survivors.map((router) => endingOf(readAll(router, keys, moment, 3000)));
  // Without a quorum nobody can end anything.
  if (nodes.length > 1) for (const node of nodes) await cluster.restart(node);
  if (fate !== 'dead') {
    await cluster.loop.runFor(AWAY_MS);
    for (const node of nodes) comeBack(cluster, node);
  }
  await untilSettled(cluster, RECOVERY_MS);
  if (!which.dying.includes('client')) await cluster.settle(write);

  // What is true now, and was told: the same to everybody, at every moment, and of all keys alike.
  const [value = '', ...more] = new Set(await cluster.settle(readAll(reader, keys)));
  expect(more, 'all of it or nothing').to.deep.equal([]);
  const { reply, outcome }: Ending<WriteReply> = ending ?? {};
  if (reply !== undefined) expect(value, 'what was acknowledged is there').to.equal('after');
  if (outcome === 'none') expect(value, 'what failed is not there').to.equal('before');
  const then = await cluster.settle(readAll(reader, keys, moment));
  expect(new Set(then).size, 'as of the moment of the death: all of it or nothing').to.equal(1);
  for (const { reply: earlier = then } of await cluster.settle(Promise.all(seen))) {
    expect(earlier, 'as it was read at once').to.deep.equal(then);
  }
  for (const node of nodes) if (!cluster.running(node)) await cluster.restart(node);
  await untilEqual(cluster);

  // The same request again, through somebody else: done now, or answered as it was.
  const again = await cluster.settle(reader.write([condition], puts(keys, 'after'), { id }));
  expect(again.timestamp).to.equal(reply?.timestamp ?? again.timestamp);
  for (const key of keys) {
    const { record } = await cluster.settle(reader.get(bytes(key)));
    expect(record, key).to.deep.include({ version: again.timestamp, value: bytes('after') });
    expect(await cluster.settle(versionsOf(reader, key)), 'applied once').to.equal(2);
  }
  await untilSettled(cluster);
  for (const router of cluster.ids.map((node) => cluster.node(node).router)) {
    expect(new Set(await cluster.settle(readAll(router, keys, again.timestamp)))).to.deep.equal(new Set(['after']));
    expect(new Set(await cluster.settle(readAll(router, keys, again.timestamp - 1)))).to.deep.equal(new Set(['before']));
  }
  expect(leftovers(cluster)).to.equal(0);
  expect(cluster.fatal).to.deep.equal([]);
  return { stage, value };
}

function befall(cluster: SimCluster, node: NodeId, fate: Fate): void {
  if (fate === 'dead') cluster.crash(node);
  else if (fate === 'cut off') cluster.network.isolate(`n${node}`);
  else cluster.process(node).pause();
}

function comeBack(cluster: SimCluster, node: NodeId): void {
  cluster.network.heal();
  cluster.process(node).resume();
}

async function readAll(router: Router, keys: readonly string[], timestamp?: Timestamp, timeoutMs?: number): Promise<string[]> {
  const options = timestamp === undefined ? { timeoutMs } : { timeoutMs, consistency: { kind: 'asOf', timestamp } as const };
  const replies = await Promise.all(keys.map((key) => router.get(bytes(key), options)));
  return replies.map(({ record }) => record?.value.toString() ?? '');
}

/** Moves one from an account to another, through the client library. Undefined if it was over before that step of home. */
async function dieInTransfer(wanted: number, timeoutMs: number): Promise<string | undefined> {
  const { cluster, client, keys } = await start({ leaders: [1, 2, 3], steps: 1, dying: [1] });
  const db = new Database(cluster.machine('c3', cluster.loop.clock()).env, { endpoints: cluster.endpoints, limits: cluster.limits });
  await cluster.settle(Promise.all([db.ready(), ...keys.map((key) => client.put(bytes(key), bytes('10')))]));
  const [from = '', to = ''] = keys;
  const transfer = async (tx: Transaction): Promise<void> => {
    const [a, b] = await Promise.all([tx.get(from), tx.get(to)]);
    tx.put(from, String(Number(a.text()) - 1));
    tx.put(to, String(Number(b.text()) + 1));
  };
  let ending: Ending<void> | undefined;
  const ended = endingOf(db.transaction(transfer, { timeoutMs }));
  void ended.then((how) => (ending = how));
  const steps = stepsOf(cluster.process(1));
  const isOver = (): boolean => ending !== undefined && leftovers(cluster) === 0;
  await cluster.loop.runUntil(() => steps() >= wanted || isOver(), 10_000);
  if (steps() < wanted) return undefined;
  cluster.crash(1);
  await untilSettled(cluster, timeoutMs + RECOVERY_MS);
  const { outcome = 'done' } = await cluster.settle(ended);
  await untilSettled(cluster, RECOVERY_MS);
  const found = (await cluster.settle(readAll(client, keys))).join();
  expect(found).to.be.oneOf(outcome === 'done' ? ['9,11,10'] : outcome === 'none' ? ['10,10,10'] : ['9,11,10', '10,10,10']);
  expect(cluster.fatal).to.deep.equal([]);
  return outcome;
}

/** Until a step is never reached. */
async function everyStep<T>(die: (step: number) => Promise<T | undefined>): Promise<T[]> {
  const found: T[] = [];
  for (let step = 1; ; step += 1) {
    try {
      const end = await die(step);
      if (end === undefined) return found;
      found.push(end);
    } catch (error) {
      throw new Error(`behind step ${step}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }
}

const PREPARING = ['open, 0 prepared', 'open, 1 prepared', 'open, 2 prepared'];
const RESOLVING = ['decided, 2 prepared', 'decided, 1 prepared', 'decided, 0 prepared'];

const CASES: readonly (Case & { readonly name: string; readonly stages: readonly string[] })[] = [
  // All its steps are to send a request and to take the answer.
  { name: 'its client', leaders: [1, 2, 3], steps: 'client', dying: ['client'], stages: PREPARING.slice(0, 1) },
  { name: 'the node of its home', leaders: [1, 2, 3], steps: 1, dying: [1], stages: [...PREPARING, ...RESOLVING] },
  { name: 'the node of a participant', leaders: [1, 2, 3], steps: 2, dying: [2], stages: [...PREPARING, ...RESOLVING] },
  { name: 'its client, with the node of its home and of a participant,', leaders: [1, 1, 3], steps: 1, dying: ['client', 1], stages: RESOLVING },
  { name: 'every node', leaders: [1, 2, 3], steps: 1, dying: [1, 2, 3], stages: [...PREPARING, ...RESOLVING] },
  { name: 'the node of its home', fate: 'cut off', leaders: [1, 2, 3], steps: 1, dying: [1], stages: [...PREPARING, ...RESOLVING] },
  { name: 'the node of its home', fate: 'asleep', leaders: [1, 2, 3], steps: 1, dying: [1], stages: [...PREPARING, ...RESOLVING] },
  { name: 'the node of a participant', fate: 'cut off', leaders: [1, 2, 3], steps: 2, dying: [2], stages: [...PREPARING, ...RESOLVING] },
  { name: 'the node of a participant', fate: 'asleep', leaders: [1, 2, 3], steps: 2, dying: [2], stages: [...PREPARING, ...RESOLVING] },
];

describe('a transaction is whole or not at all, nobody is told anything wrong, and nothing of it stays,', () => {
  for (const { name, stages, ...which } of CASES) {
    const what = which.fate === undefined || which.fate === 'dead' ? 'dies' : `is ${which.fate}`;
    it(`between whichever two of its steps ${name} ${what}`, async function () {
      this.timeout(240_000);
      const found = await everyStep((step) => dieBehind(step, which));
      expect(found.map(({ stage }) => stage)).to.include.members(stages);
      for (const { stage, value } of found) {
        if (stage.startsWith('decided')) expect(value, stage).to.equal('after');
      }
      const values = new Set(found.map(({ value }) => value));
      // A coordinator that lives on tries again.
      const expected = which.dying.includes(which.leaders[0]) || which.steps === 'client' ? ['after', 'before'] : ['after'];
      expect([...values], 'some before the decision, some behind it').to.include.members(expected);
    });
  }

  it('through the client library too, for which home dies: done, not done, or not known, and then it may be either', async function () {
    this.timeout(240_000);
    expect(new Set(await everyStep((step) => dieInTransfer(step, 500)))).to.deep.equal(new Set(['none', 'unknown', 'done']));
    // Long enough to hear from the next leader.
    expect(new Set(await everyStep((step) => dieInTransfer(step, 10_000)))).to.deep.equal(new Set(['done']));
  });
});
