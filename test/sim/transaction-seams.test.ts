import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { PrepareRequest, RequestId } from '../../src/bucket/requests.js';
import type { Limits } from '../../src/env/limits.js';
import { bucketOf, type NodeId } from '../../src/placement/map.js';
import type { WriteReply } from '../../src/router/options.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import type { Prepared } from '../../src/txn/transaction.js';
import { bytes, failure, replicasOf, startCluster, strides, untilEqual, untilLed } from './support.js';
import {
  endingOf,
  handOver,
  holdUp,
  keyLedBy,
  leadingReplica,
  puts,
  untilSettled,
  valueOf,
  versionsOf,
  type Ending,
  type HeldUp,
} from './transaction-support.js';

/**
 * Moments of a transaction over two buckets that chance hardly ever brings about, each where two safeguards meet. Nearly every
 * test here fails with a planted bug (see mutants.ts).
 */
interface World {
  readonly cluster: SimCluster;
  readonly client: Router;
  /** Home is led by node 1, the participant by node 2. */
  readonly home: string;
  readonly other: string;
}

const BUCKETS = 6;
const PATIENCE_MS = 1000;

async function start(seed: string, limits: Partial<Limits> = {}): Promise<World> {
  const cluster = await startCluster({ seed, nodes: 3, buckets: BUCKETS, limits: { intentPatienceMs: PATIENCE_MS, ...limits } });
  await untilLed(cluster);
  const client = cluster.client('c1');
  const home = keyLedBy(cluster, 1);
  const other = keyLedBy(cluster, 2, [home]);
  for (const key of [home, other]) await cluster.settle(client.put(bytes(key), bytes('before')));
  return { cluster, client, home, other };
}

/** A transaction under way. */
interface UnderWay {
  readonly id: RequestId;
  readonly result: Promise<WriteReply>;
  /** What became of it, once it is over. */
  readonly ending: Promise<Ending<WriteReply>>;
  readonly decision: HeldUp;
  readonly participant: Replica;
}

/** Begins a transaction that puts both keys, and stops its coordinator when all is prepared. */
async function prepare({ cluster, client, home, other }: World, more: readonly string[] = []): Promise<UnderWay> {
  const decision = holdUp(leadingReplica(cluster, home), 'decide');
  const id = { session: 4711, born: client.now(), sequence: 1, lowest: 1 };
  const result = client.write([], puts([home, other, ...more], 'after'), { id, timeoutMs: 30_000 });
  const ending = endingOf(result);
  expect(await cluster.loop.runUntil(() => decision.count === 1, 1000), 'all is prepared').to.equal(true);
  const participant = leadingReplica(cluster, other);
  expect(participant.state.participant.count).to.equal(1);
  return { id, result, ending, decision, participant };
}

function preparedOf({ state }: Replica): Prepared {
  const [prepared] = state.participant.prepared();
  return prepared ?? expect.fail('nothing is prepared');
}

/** What a plain put comes to: it has not come to an end before somebody lets it. */
function putAside(client: Router, key: string, value: string): { readonly done: () => boolean; readonly reply: Promise<WriteReply> } {
  let done = false;
  const reply = client.put(bytes(key), bytes(value), { timeoutMs: 30_000 });
  const settled = (): void => {
    done = true;
  };
  reply.then(settled, settled);
  return { done: () => done, reply };
}

/** Puts of so many sessions that home forgets all others. */
async function useSessions({ cluster, client }: World, key: string): Promise<void> {
  for (let n = 1; n <= 10; n += 1) {
    const id = { session: n, born: client.now(), sequence: 1, lowest: 1 };
    await cluster.settle(client.put(bytes(key), bytes('between'), { id }));
  }
}

async function expectBoth({ cluster, client, home, other }: World, value: string): Promise<void> {
  for (const key of [home, other]) expect(await cluster.settle(valueOf(client, key)), key).to.equal(value);
}

async function expectClean({ cluster }: World): Promise<void> {
  await untilSettled(cluster);
  await untilEqual(cluster);
  expect(cluster.fatal).to.deep.equal([]);
}

describe('a transaction over several buckets', () => {
  it('that is prepared stays so under the next leader: locked until it is decided, and then written', async () => {
    const world = await start('leader-change');
    const { cluster, client, other } = world;
    const { result, decision, participant } = await prepare(world);
    const heir = await handOver(cluster, participant.bucket, 3);
    expect(preparedOf(heir)).to.deep.equal(preparedOf(participant));
    const put = putAside(client, other, 'later');
    await cluster.loop.runFor(300);
    expect(put.done(), 'a put waits for the lock').to.equal(false);
    expect(await cluster.settle(valueOf(client, other)), 'what is not decided is not seen').to.equal('before');
    decision.letGo();
    const { timestamp } = await cluster.settle(result);
    expect((await cluster.settle(put.reply)).timestamp).to.be.greaterThan(timestamp);
    expect(await cluster.settle(valueOf(client, other))).to.equal('later');
    expect(await cluster.settle(versionsOf(client, other))).to.equal(3);
    await expectClean(world);
  });

  it('that is prepared ends under the next leader when its coordinator is gone, and what waited for it goes on', async () => {
    const world = await start('leader-change-abort');
    const { cluster, client, home, other } = world;
    const { ending, participant } = await prepare(world);
    await handOver(cluster, participant.bucket, 3);
    const put = putAside(client, other, 'later');
    await cluster.loop.runFor(100);
    cluster.crash(1);
    await cluster.settle(put.reply);
    const { reply, outcome } = await cluster.settle(ending);
    // Its request was tried again at the next leader of home, as a new attempt.
    expect(outcome).to.equal(undefined);
    expect(reply?.applied).to.equal(true);
    expect(await cluster.settle(valueOf(client, home))).to.equal('after');
    await cluster.restart(1);
    await expectClean(world);
  });

  it('is decided in the term in which it began, or never', async () => {
    const world = await start('later-term');
    const { cluster, client, home, other } = world;
    const { ending, decision, participant } = await prepare(world);
    const { bucket } = leadingReplica(cluster, home);
    await handOver(cluster, bucket, 3);
    const isAborted = (): boolean => participant.state.participant.count === 0;
    expect(await cluster.loop.runUntil(isAborted, 2 * PATIENCE_MS), 'the next leader knows nothing of it').to.equal(true);
    const put = putAside(client, other, 'meanwhile');
    await cluster.settle(put.reply);
    await handOver(cluster, bucket, 1);
    decision.letGo();
    const { reply } = await cluster.settle(ending);
    // Another attempt of the same request.
    expect(reply?.timestamp ?? 0).to.be.greaterThan((await put.reply).timestamp);
    await expectBoth(world, 'after');
    expect(await cluster.settle(versionsOf(client, other))).to.equal(3);
    await expectClean(world);
  });

  it('lets its locks go at once when its coordinator finds that another leads home, who does it again', async () => {
    const world = await start('handed-over');
    const { cluster, home } = world;
    const { ending, decision, participant } = await prepare(world);
    await handOver(cluster, leadingReplica(cluster, home).bucket, 3);
    const beganMs = cluster.loop.nowMs;
    decision.letGo();
    expect((await cluster.settle(ending)).reply?.applied).to.equal(true);
    expect(cluster.loop.nowMs - beganMs, 'nobody waits for the patience of a participant').to.be.lessThan(PATIENCE_MS / 4);
    expect(participant.state.participant.endedCount).to.be.greaterThan(0);
    await expectBoth(world, 'after');
    await expectClean(world);
  });

  it('is not begun for a request that home has forgotten', async () => {
    const world = await start('forgotten-before', { sessionsPerBucketMax: 5 });
    const { cluster, client, home, other } = world;
    const id = { session: 4711, born: client.now(), sequence: 1, lowest: 1 };
    await useSessions(world, home);
    const participant = leadingReplica(cluster, other);
    const { lastIndex } = participant.raft;
    const error = await cluster.settle(failure(client.write([], puts([home, other], 'after'), { id })));
    expect(error).to.include({ reason: 'REQUEST_FORGOTTEN', outcome: 'unknown' });
    expect(participant.raft.lastIndex, 'nothing is prepared').to.equal(lastIndex);
    await expectClean(world);
  });

  it('keeps nothing locked when home has forgotten its session meanwhile, and is begun in a new one', async () => {
    const world = await start('forgotten-meanwhile', { sessionsPerBucketMax: 5 });
    const { cluster, client, home, other } = world;
    const decision = holdUp(leadingReplica(cluster, home), 'decide');
    const ending = endingOf(client.write([], puts([home, other], 'after'), { timeoutMs: 30_000 }));
    expect(await cluster.loop.runUntil(() => decision.count === 1, 1000), 'all is prepared').to.equal(true);
    // The client's session, too, was idle for longer than these.
    await useSessions(world, home);
    const beganMs = cluster.loop.nowMs;
    decision.letGo();
    expect((await cluster.settle(ending)).reply?.applied).to.equal(true);
    expect(decision.count, 'its request is begun anew').to.be.greaterThan(1);
    expect(cluster.loop.nowMs - beganMs, 'nobody waits for the patience of a participant').to.be.lessThan(PATIENCE_MS / 4);
    await expectBoth(world, 'after');
    await expectClean(world);
  });

  it('is not aborted while it is alive, however long it takes', async () => {
    const world = await start('alive');
    const { cluster, client, other } = world;
    const { result, decision, participant } = await prepare(world);
    for (let second = 0; second < 5; second += 1) {
      await cluster.loop.runFor(1000);
      expect(await cluster.settle(valueOf(client, other)), 'a reader asks home as well').to.equal('before');
      expect(participant.state.participant.count).to.equal(1);
    }
    decision.letGo();
    await cluster.settle(result);
    await expectBoth(world, 'after');
    await expectClean(world);
  });

  it('is not said to be over by a leader that loses its office while it looks', async () => {
    const { cluster, client, home } = await start('looks-too-long');
    // The participant is beside it, and has its answer at once.
    const other = keyLedBy(cluster, 1, [home]);
    const world = { cluster, client, home, other };
    const { ending, decision, participant } = await prepare(world);
    const asked = leadingReplica(cluster, home);
    const looking = holdUp(asked, 'look');
    expect(await cluster.loop.runUntil(() => looking.count > 0, 2 * PATIENCE_MS), 'the participant asks').to.equal(true);
    // It is known to lead. Before it looks, it decides, which its own disk is slow to write; the others have it, and elect one.
    const release = cluster.disk(1).stall(10_000, 'log');
    decision.letGo();
    await cluster.loop.runFor(5);
    const { index } = asked.state.applied;
    expect(asked.raft.lastIndex, 'it is being decided').to.equal(index + 1);
    asked.transferLeadership(replicasOf(cluster, asked.bucket).find(({ node }) => node === 3)?.replica.id ?? 0);
    expect(await cluster.loop.runUntil(() => !asked.isLeader, 1000)).to.equal(true);
    await cluster.loop.runFor(0.1);
    expect(asked.state.applied.index, 'and it does not know what is decided').to.equal(index);
    looking.letGo();
    await cluster.loop.runFor(1);
    release();
    expect((await cluster.settle(ending)).reply?.applied).to.equal(true);
    await untilSettled(cluster);
    await expectBoth(world, 'after');
    expect(participant.state.participant.count).to.equal(0);
    await expectClean(world);
  });

  it('is over when home has another term, though its coordinator still waits and leads again', async () => {
    const world = await start('later-term-alive');
    const { cluster, home } = world;
    const { ending, decision, participant } = await prepare(world);
    const { bucket } = leadingReplica(cluster, home);
    await handOver(cluster, bucket, 3);
    await handOver(cluster, bucket, 1);
    const isEnded = (): boolean => participant.state.participant.count === 0;
    expect(await cluster.loop.runUntil(isEnded, PATIENCE_MS + 1000), 'it can never be decided').to.equal(true);
    decision.letGo();
    expect((await cluster.settle(ending)).reply?.applied).to.equal(true);
    await expectBoth(world, 'after');
    await expectClean(world);
  });

  it('that nobody will ever come back to is ended, though nobody reads it', async () => {
    const world = await start('orphan');
    const { cluster, home } = world;
    const { participant } = await prepare(world);
    const prepared = preparedOf(participant);
    expect(participant.resolved()).to.be.lessThan(prepared.timestamp);
    // Alive, but its leader gave its office away and with it all that it coordinated.
    await handOver(cluster, leadingReplica(cluster, home).bucket, 3);
    const isEnded = (): boolean => participant.state.participant.count === 0;
    expect(await cluster.loop.runUntil(isEnded, PATIENCE_MS + 1000), 'no intent outlives its time').to.equal(true);
    await cluster.loop.runFor(500);
    for (const { replica } of replicasOf(cluster, participant.bucket)) {
      expect(replica.resolved(), 'the resolved timestamp goes on').to.be.greaterThan(prepared.timestamp);
    }
  });

  it('is not forgotten before every participant has resolved it', async () => {
    const world = await start('record');
    const { cluster, home, other } = world;
    const third = keyLedBy(cluster, 3, [home, other]);
    const { result, decision, participant } = await prepare(world, [third]);
    holdUp(participant, 'resolve');
    decision.letGo();
    await cluster.settle(result);
    const records = leadingReplica(cluster, home).state.home;
    // For as long as it takes its time, in which home forgets what it may more than once,
    for (let ms = 0; ms < 2500; ms += 50) {
      await cluster.loop.runFor(50);
      expect(records.count).to.equal(1);
    }
    // and as nobody leads there, and no request of home can be answered.
    cluster.crash(2);
    const isLed = (): boolean => replicasOf(cluster, participant.bucket).some(({ replica }) => replica.raft.canServe());
    while (!isLed()) {
      await cluster.loop.runFor(50);
      expect(records.count).to.equal(1);
    }
    await untilSettled(cluster);
    await expectBoth(world, 'after');
    expect(await cluster.settle(valueOf(world.client, third))).to.equal('after');
    expect(await cluster.settle(versionsOf(world.client, other))).to.equal(2);
    await cluster.restart(2);
    await expectClean(world);
  });

  it('is not said to be resolved by a leader that has lost its office unawares', async () => {
    const world = await start('unawares');
    const { cluster, client, home, other } = world;
    const deposed = leadingReplica(cluster, other);
    cluster.network.partition('n2', ['n1', 'n3']);
    const isLed = (): boolean => replicasOf(cluster, deposed.bucket).some(({ node, replica }) => node !== 2 && replica.raft.canServe());
    // It may stand in the midst of its lease, and has not had the time to give up.
    cluster.process(2).pause();
    expect(await cluster.loop.runUntil(isLed, 5000)).to.equal(true);
    const forgetting = holdUp(leadingReplica(cluster, home), 'forget');
    const resolving = holdUp(leadingReplica(cluster, other), 'resolve');
    await cluster.settle(client.write([], puts([home, other], 'after')));
    const [record] = leadingReplica(cluster, home).state.home.records();
    const { id, start: began, timestamp: commit } = record ?? expect.fail('home keeps no record');
    cluster.process(2).resume();
    expect(deposed.raft.role).to.equal('leader');
    const word = endingOf(deposed.commands.resolve({ id, start: began, commit }, cluster.clock(2).monotonicMs() + 2000));
    expect((await cluster.settle(word)).outcome, 'it cannot know').to.equal('none');
    resolving.letGo();
    forgetting.letGo();
    cluster.network.heal();
    await untilSettled(cluster);
    await expectBoth(world, 'after');
    await expectClean(world);
  });

  it('is not prepared again once it has ended: not in one bucket while the other still resolves it', async () => {
    const world = await start('again');
    const { cluster, client, home, other } = world;
    const participant = leadingReplica(cluster, other);
    const requests: PrepareRequest[] = [];
    const original = participant.commands.prepare.bind(participant.commands);
    participant.commands.prepare = (request, deadlineMs) => {
      requests.push(request);
      return original(request, deadlineMs);
    };
    const forgetting = holdUp(leadingReplica(cluster, home), 'forget');
    await cluster.settle(client.write([], puts([home, other], 'after')));
    expect(await cluster.loop.runUntil(() => participant.state.participant.count === 0, 1000)).to.equal(true);
    await cluster.settle(client.put(bytes(other), bytes('later')));
    // The network brings the same once more, before home has dropped the record.
    const [request] = requests;
    if (request === undefined) expect.fail('it was not prepared');
    const second = await cluster.settle(participant.commands.prepare(request, cluster.clock(2).monotonicMs() + 1000));
    await cluster.loop.runFor(2 * PATIENCE_MS);
    expect(await cluster.settle(valueOf(client, other)), 'what came later stays').to.equal('later');
    expect(second.kind).to.equal('ended');
    forgetting.letGo();
    await expectClean(world);
  });

  it('that is acknowledged is in every scan that begins then, though a participant has not heard of it', async () => {
    const world = await start('scan');
    const { cluster, other } = world;
    const { participant, ending, decision } = await prepare(world);
    const resolving = holdUp(participant, 'resolve');
    decision.letGo();
    await cluster.settle(ending);
    expect(participant.state.participant.count).to.equal(1);
    const scan = async (): Promise<string[]> => {
      const found: string[] = [];
      // In the only bucket that can hold it.
      for await (const { records } of cluster.node(2).router.scan({ start: bytes(other), end: bytes(`${other}\0`) })) {
        found.push(...records.map(({ value }) => value.toString()));
      }
      return found;
    };
    resolving.letGo();
    expect(await cluster.settle(scan())).to.deep.equal(['after']);
    await expectClean(world);
  });

  it('that is acknowledged is in every diff up to then, though a participant has not heard of it, and the diff stays the same', async () => {
    const world = await start('diff');
    const { cluster, client, other } = world;
    const from = client.now();
    const { participant, result, decision } = await prepare(world);
    const resolving = holdUp(participant, 'resolve');
    decision.letGo();
    const { timestamp: to } = await cluster.settle(result);
    expect(participant.state.participant.count).to.equal(1);
    const diff = async (): Promise<string[]> => {
      const found: string[] = [];
      for await (const { changes } of cluster.node(2).router.diff({ start: bytes(other), end: bytes(`${other}\0`) }, { from, to })) {
        found.push(...changes.map(({ after }) => after?.value.toString() ?? ''));
      }
      return found;
    };
    const first = diff();
    await cluster.loop.runFor(10);
    resolving.letGo();
    expect(await cluster.settle(first)).to.deep.equal(['after']);
    await untilSettled(cluster);
    expect(await cluster.settle(diff())).to.deep.equal(['after']);
    await expectClean(world);
  });

  it('is not overlooked by a leader without followers that learns too late what became of it', async () => {
    // Of the participant on nodes 1, 2 and 3, of home on 4, 5 and 1.
    const cluster = await startCluster({ seed: 'too-late', nodes: 5, buckets: 5 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const [home, other] = [keyLedBy(cluster, 4), keyLedBy(cluster, 1)];
    const world = { cluster, client, home, other };
    for (const key of [home, other]) await cluster.settle(client.put(bytes(key), bytes('before')));
    const { result, decision, participant } = await prepare(world);
    expect(nodesOf(cluster, other)).to.deep.equal([1, 2, 3]);
    const resolving = holdUp(participant, 'resolve');
    decision.letGo();
    await cluster.settle(result);
    // It is acknowledged. Now a read comes to the participant, in its lease, and what it asks of home takes very long.
    for (const node of ['n4', 'n5']) cluster.network.stall('n1', node, 4000);
    const view = participant.reads.openKey(bytes(other), { kind: 'linearizable' }, cluster.clock(1).monotonicMs() + 30_000);
    const value = view.then(async (opened) => (await participant.reads.get(bytes(other), opened, strides))?.value.toString());
    const ending = endingOf(value);
    cluster.network.partition('n1', ['n2', 'n3']);
    resolving.letGo();
    const isForgotten = (): boolean => leadingReplica(cluster, home).state.home.count === 0;
    expect(await cluster.loop.runUntil(isForgotten, 4000), 'others resolve it').to.equal(true);
    expect(participant.state.participant.count, 'unknown to the one that was cut off').to.equal(1);
    const { reply } = await cluster.settle(ending);
    expect(reply, 'the new value, or none').to.be.oneOf([undefined, 'after']);
    cluster.network.heal();
    await expectBoth(world, 'after');
    await untilSettled(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('whose coordinator died keeps no lock for as long as another beside it, whose home has no quorum', async () => {
    const cluster = await startCluster({ seed: 'orphans', nodes: 5, buckets: 5, limits: { intentPatienceMs: PATIENCE_MS } });
    await untilLed(cluster);
    const client = cluster.client('c1');
    const [other, home, lost] = [keyLedBy(cluster, 1), keyLedBy(cluster, 2), keyLedBy(cluster, 3)];
    expect([other, home, lost].map((key) => nodesOf(cluster, key))).to.deep.equal([[1, 2, 3], [2, 3, 4], [3, 4, 5]]);
    const participant = leadingReplica(cluster, other);
    const [stuck, free] = [besideOf(other, 5), other];
    for (const [sequence, key, from] of [[1, stuck, lost], [2, free, home]] as const) {
      const start = participant.hybrid.now();
      const id = { session: 4711, sequence, attempt: sequence };
      const request = { id, home: bucketOf(bytes(from), 5), start, first: start, reservation: 0, conditions: [] };
      const result = await cluster.settle(participant.commands.prepare({ ...request, mutations: puts([key], 'never') }, Infinity));
      expect(result.kind).to.equal('prepared');
    }
    for (const node of [4, 5]) cluster.crash(node);
    const left = (): string[] => [...participant.state.participant.prepared()].flatMap(({ intents }) => intents.map(({ key }) => key.toString()));
    const isFree = (): boolean => leadingReplica(cluster, other) === participant && !left().includes(free);
    expect(await cluster.loop.runUntil(isFree, PATIENCE_MS + 1500), 'before the question to the other is given up').to.equal(true);
    expect(left()).to.deep.equal([stuck]);
    await cluster.settle(client.put(bytes(free), bytes('after')));
    for (const node of [4, 5]) await cluster.restart(node);
    await untilSettled(cluster);
    expect(await cluster.settle(valueOf(client, stuck))).to.equal(undefined);
    expect(cluster.fatal).to.deep.equal([]);
  });

  for (const restarts of [false, true]) {
    const name = restarts ? 'is there after a restart behind a snapshot' : 'comes with a snapshot';
    it(`that is prepared ${name}, intents and locks`, async () => {
      const world = await start(`snapshot-${restarts}`, { logEntriesKept: 5, snapshotChunkBytes: 300 });
      const { cluster, client, other } = world;
      cluster.crash(3);
      const beside = besideOf(other);
      const { result, decision, participant } = await prepare(world);
      for (let n = 0; n < 60; n += 1) {
        await cluster.settle(client.put(bytes(beside), bytes(String(n))));
        await cluster.loop.runFor(50);
      }
      await cluster.restart(3);
      const installed = (): boolean => cluster.log.lines.some((line) => line.includes('installed a snapshot'));
      expect(await cluster.loop.runUntil(installed, 10_000)).to.equal(true);
      await untilEqual(cluster);
      if (restarts) {
        for (let n = 0; n < 30; n += 1) await cluster.settle(client.put(bytes(beside), bytes(String(n))));
        await cluster.loop.runFor(5000);
        cluster.crash(3);
        await cluster.restart(3);
        await untilEqual(cluster);
      }
      // Its leader knows that it has the snapshot, and a node that was restarted may stand again.
      await cluster.loop.runFor(1500);
      const heir = await handOver(cluster, participant.bucket, 3);
      expect(preparedOf(heir)).to.deep.equal(preparedOf(participant));
      expect(heir.resolved(), 'not resolved from the intent on').to.be.lessThan(preparedOf(heir).timestamp);
      const put = putAside(client, other, 'later');
      await cluster.loop.runFor(300);
      expect(put.done(), 'a put waits for the lock').to.equal(false);
      decision.letGo();
      const { timestamp } = await cluster.settle(result);
      expect((await cluster.settle(put.reply)).timestamp).to.be.greaterThan(timestamp);
      expect(await cluster.settle(valueOf(client, other))).to.equal('later');
      expect(await cluster.settle(versionsOf(client, other))).to.equal(3);
      await expectClean(world);
    });
  }
});

/** Which nodes have a replica of the bucket of a key. */
function nodesOf(cluster: SimCluster, key: string): NodeId[] {
  return replicasOf(cluster, bucketOf(bytes(key), cluster.buckets)).map(({ node }) => node);
}

/** Another key of the same bucket. */
function besideOf(key: string, buckets = BUCKETS): string {
  const bucket = bucketOf(bytes(key), buckets);
  for (let n = 0; ; n += 1) if (bucketOf(bytes(`beside${n}`), buckets) === bucket) return `beside${n}`;
}
