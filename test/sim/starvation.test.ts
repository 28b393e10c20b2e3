import { expect } from 'chai';
import type { Timestamp } from '../../src/bucket/requests.js';
import { Database } from '../../src/client/database.js';
import type { Transaction } from '../../src/client/transaction.js';
import type { Limits } from '../../src/env/limits.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import type { SimProcess } from '../../src/sim/process.js';
import { SimRandom } from '../../src/sim/random.js';
import { bucketOf } from '../../src/placement/map.js';
import type { TransactionId } from '../../src/txn/transaction.js';
import { bytes, failure, leaderOf, startCluster, untilLed } from './support.js';
import { handOver, keysOf, leadingReplica, puts, stepsOf, untilSettled } from './transaction-support.js';

/**
 * A transaction that takes its time, on keys that others write all the time: it loses at first, and then reserves its keys. Fast
 * ones are transactions over several buckets, of one bucket, and plain puts, so many that in SLOW_MS each key is written often.
 */
const BUCKETS = 4;
const SLOW_MS = 60;
const FAST = 4;
/** Attempts that lose before it reserves. */
const LOST = 3;

interface World {
  readonly cluster: SimCluster;
  readonly keys: readonly string[];
  readonly slow: Database;
  readonly slowProcess: SimProcess;
  readonly fast: readonly Database[];
  readonly sleep: (ms: number) => Promise<void>;
}

async function start(seed: string, limits: Partial<Limits> = {}): Promise<World> {
  const cluster = await startCluster({ seed, nodes: 3, buckets: BUCKETS, limits });
  await untilLed(cluster);
  const client = (name: string): { db: Database; process: SimProcess } => {
    const { env, process } = cluster.machine(name, cluster.loop.clock());
    return { db: new Database(env, { endpoints: cluster.endpoints, limits: cluster.limits }), process };
  };
  const keys = keysOf(3, BUCKETS);
  const { db: slow, process: slowProcess } = client('slow');
  const fast = Array.from({ length: FAST }, (_, at) => client(`fast${at}`).db);
  await cluster.settle(Promise.all([slow, ...fast].map((db) => db.ready())));
  await cluster.settle(Promise.all(keys.map((key) => slow.put(key, '0'))));
  const sleep = (ms: number): Promise<void> => new Promise((resolve) => cluster.loop.timers.after(ms, resolve));
  return { cluster, keys, slow, slowProcess, fast, sleep };
}

interface Hammering {
  /** How many have committed so far, and the longest time that one has taken. */
  readonly count: number;
  longestMs: number;
  stop(): Promise<void>;
}

/** Each fast one goes on by its own choice of what to do next. */
function hammer({ cluster, keys, fast, sleep }: World, seed: string, kinds = ['several', 'one', 'plain']): Hammering {
  let stopped = false;
  let count = 0;
  const hammering: Hammering = {
    get count() {
      return count;
    },
    longestMs: 0,
    stop: async () => {
      stopped = true;
      await running;
    },
  };
  const running = Promise.all(
    fast.map(async (db, at) => {
      const random = new SimRandom(`${seed}/${at}`);
      while (!stopped) {
        const [a = '', b = ''] = random.chance(0.5) ? keys : [...keys].reverse();
        const kind = kinds[random.below(kinds.length)];
        const begunMs = cluster.loop.nowMs;
        if (kind === 'plain') await db.put(a, 'plain');
        else {
          await db.transaction(async (tx) => {
            const { found } = await tx.get(a);
            tx.put(a, String(found));
            if (kind === 'several') tx.put(b, 'x');
          });
        }
        count += 1;
        hammering.longestMs = Math.max(hammering.longestMs, cluster.loop.nowMs - begunMs);
        await sleep(random.below(5));
      }
    }),
  );
  return hammering;
}

/** Reads all keys, thinks, and writes all; answers with how many attempts it took. */
async function takeTime({ keys, sleep }: World, db: Database, ms = SLOW_MS): Promise<number> {
  let attempts = 0;
  await db.transaction(async (tx) => {
    attempts = tx.attempt;
    await readAll(tx, keys);
    await sleep(ms);
    for (const key of keys) tx.put(key, 'slow');
  });
  return attempts;
}

async function readAll(tx: Transaction, keys: readonly string[]): Promise<void> {
  for (const key of keys) expect((await tx.get(key)).found).to.equal(true);
}

describe('a transaction that takes its time while others write its keys all the time', () => {
  it('commits at its fourth attempt: it loses three times, and then nobody who began later is in its way', async () => {
    for (let seed = 1; seed <= 6; seed += 1) {
      const world = await start(`starving-${seed}`);
      const slow = takeTime(world, world.slow);
      const hammering = hammer(world, `starving-${seed}`);
      expect(await world.cluster.settle(slow), `seed ${seed}`).to.equal(LOST + 1);
      expect(hammering.count, 'while others were at work').to.be.greaterThan(20);
      await world.cluster.settle(hammering.stop());
      await untilSettled(world.cluster);
      expect(world.cluster.fatal).to.deep.equal([]);
    }
  });

  it('does so too if it has scanned all keys of all buckets, and others put new ones among them', async () => {
    const world = await start('starving-range');
    const hammering = hammer(world, 'starving-range');
    let attempts = 0;
    const count = world.slow.transaction(async (tx) => {
      attempts = tx.attempt;
      let found = 0;
      for await (const { key } of tx.scan({ prefix: 'k' })) if (key.length > 0) found += 1;
      await world.sleep(SLOW_MS);
      tx.put('total', String(found));
    });
    await world.cluster.settle(count);
    expect(attempts).to.equal(LOST + 1);
    await world.cluster.settle(hammering.stop());
    expect(world.cluster.fatal).to.deep.equal([]);
  });

  it('does so within few attempts if there are several such, in each other’s way: the oldest first', async () => {
    for (let seed = 1; seed <= 4; seed += 1) {
      const world = await start(`starving-many-${seed}`);
      const hammering = hammer(world, `starving-many-${seed}`, ['several', 'plain']);
      const slow = [world.slow, ...world.fast.slice(0, 3)].map(async (db, at) => takeTime(world, db, SLOW_MS + 10 * at));
      for (const attempts of await world.cluster.settle(Promise.all(slow))) expect(attempts).to.be.within(LOST + 1, LOST + 4);
      await world.cluster.settle(hammering.stop());
      await untilSettled(world.cluster);
      expect(world.cluster.fatal).to.deep.equal([]);
    }
  });

  it('needs at most one attempt more for each leader that changes meanwhile', async () => {
    for (let moment = 0; moment < 6; moment += 1) {
      const world = await start(`starving-leaders-${moment}`);
      const { cluster, keys } = world;
      const hammering = hammer(world, `starving-leaders-${moment}`);
      let attempts = 0;
      const slow = takeTime(world, world.slow, 4 * SLOW_MS).then((took) => (attempts = took));
      // From the beginning of the attempt that will have its keys reserved, on to its commit.
      await cluster.loop.runFor(LOST * 4 * SLOW_MS + (moment * 4 * SLOW_MS) / 5);
      const [key = ''] = keys;
      const leader = leaderOf(cluster, key, BUCKETS);
      await handOver(cluster, bucketOf(bytes(key), BUCKETS), (leader % 3) + 1);
      await cluster.settle(slow);
      expect(attempts).to.be.within(LOST + 1, LOST + 2);
      await cluster.settle(hammering.stop());
      expect(cluster.fatal).to.deep.equal([]);
    }
  });

  it('has its keys reserved only when what was under way before it is over: a put, and another that is prepared', async () => {
    const { cluster, keys } = await start('starving-in-flight');
    const [home = '', key = ''] = keys;
    const leader = leadingReplica(cluster, key);
    const [client, owner] = [cluster.client('c'), { reservation: 1, first: 1 }];
    const claim = { writes: [], reads: [bytes(key)], ranges: [] };
    const version = (): number => leader.state.pointer(bytes(key))?.timestamp ?? 0;
    const put = leader.commands.write({ id: client.newRequestId(), conditions: [], mutations: puts([key], 'put') });
    const reserved = leader.commands.reserve({ owner, claim, forMs: 1000 }, Infinity).then((timestamp) => [timestamp, version()]);
    const [{ timestamp }, [asOf = 0, seen]] = await cluster.settle(Promise.all([put, reserved]));
    expect(seen).to.equal(timestamp);
    expect(asOf).to.be.at.least(timestamp);
    await cluster.settle(leader.commands.reserve({ owner, claim, forMs: 0 }, Infinity));
    const several = client.write([], puts([home, key], 'several'));
    expect(await cluster.loop.runUntil(() => leader.state.participant.count > 0, 1000)).to.equal(true);
    const after = leader.commands.reserve({ owner, claim, forMs: 1000 }, Infinity).then((at) => [at, version()]);
    const [reply, [later = 0, now]] = await cluster.settle(Promise.all([several, after]));
    expect(now).to.equal(reply.timestamp);
    expect(later).to.be.at.least(reply.timestamp);
  });

  it('that lets go while its keys are still locked has nothing reserved when they are free', async () => {
    const { cluster, keys } = await start('starving-gives-up');
    const [home = '', key = ''] = keys;
    const leader = leadingReplica(cluster, key);
    const [client, owner] = [cluster.client('c'), { reservation: 1, first: 1 }];
    const claim = { writes: [], reads: [bytes(key)], ranges: [] };
    const several = client.write([], puts([home, key], 'several'));
    expect(await cluster.loop.runUntil(() => leader.state.participant.count > 0, 1000)).to.equal(true);
    const waiting = failure(leader.commands.reserve({ owner, claim, forMs: 10_000 }, Infinity));
    await cluster.settle(leader.commands.reserve({ owner, claim, forMs: 0 }, Infinity));
    await cluster.settle(several);
    expect(await cluster.settle(waiting)).to.include({ code: 'CANCELLED' });
    const beganMs = cluster.loop.nowMs;
    await cluster.settle(client.put(bytes(key), bytes('later')));
    expect(cluster.loop.nowMs - beganMs).to.be.lessThan(1000);
  });

  it('whose claim has grown too large for what an older one leaves keeps nobody waiting', async () => {
    const { cluster, keys } = await start('starving-no-room', { reservationBytesPerBucketMax: 2000 });
    const [key = ''] = keys;
    const leader = leadingReplica(cluster, key);
    const claimOf = (names: readonly string[]) => ({ writes: [], reads: names.map(bytes), ranges: [] });
    const reserve = (first: number, names: readonly string[]): Promise<Timestamp> =>
      leader.commands.reserve({ owner: { reservation: first, first }, claim: claimOf(names), forMs: 10_000 }, Infinity);
    await cluster.settle(Promise.all([reserve(1, ['other']), reserve(2, [key])]));
    const put = cluster.client('c').put(bytes(key), bytes('later'));
    await cluster.loop.runFor(200);
    const beganMs = cluster.loop.nowMs;
    const larger = failure(reserve(2, [key, 'a', 'b', 'c', 'd', 'e', 'f']));
    expect(await cluster.settle(larger)).to.include({ reason: 'BUCKET_OVERLOADED' });
    await cluster.settle(put);
    expect(cluster.loop.nowMs - beganMs).to.be.lessThan(100);
  });

  it('lets go when it is over: what waited for it goes on at once', async () => {
    const world = await start('starving-release');
    const { cluster } = world;
    const hammering = hammer(world, 'starving-release');
    await cluster.settle(takeTime(world, world.slow));
    await cluster.settle(hammering.stop());
    expect(hammering.longestMs).to.be.lessThan(10 * SLOW_MS);
  });

  it('lets go also if its function throws at last', async () => {
    const world = await start('starving-throws');
    const { cluster, keys, slow } = world;
    const hammering = hammer(world, 'starving-throws');
    const thrown = slow.transaction(async (tx) => {
      await readAll(tx, keys);
      await world.sleep(SLOW_MS);
      for (const key of keys) tx.put(key, 'never');
      if (tx.attempt > LOST) throw new RangeError('enough');
    });
    const how = thrown.then(() => 'committed', (error: unknown) => String(error));
    expect(await cluster.settle(how)).to.equal('RangeError: enough');
    await cluster.settle(hammering.stop());
    expect(hammering.longestMs).to.be.lessThan(10 * SLOW_MS);
  });

  it('whose process dies, at whatever step behind its third attempt, keeps others waiting for little more than a second', async () => {
    let died = 0;
    for (let step = 1; ; step += 1) {
      const world = await start('starving-dies');
      const { cluster, keys, slowProcess } = world;
      const other = world.fast[0] ?? expect.fail('no other client');
      let attempt = 0;
      let over = false;
      const slow = world.slow.transaction(async (tx) => {
        attempt = tx.attempt;
        await readAll(tx, keys);
        if (attempt <= LOST) await other.put(keys[attempt % 3] ?? '', 'faster');
        for (const key of keys) tx.put(key, 'slow');
      });
      void slow.then(() => (over = true));
      await cluster.loop.runUntil(() => attempt === LOST, 10_000);
      const steps = stepsOf(slowProcess);
      await cluster.loop.runUntil(() => steps() >= step || over, 10_000);
      if (over) break;
      slowProcess.kill();
      died += 1;
      const diedMs = cluster.loop.nowMs;
      await cluster.settle(Promise.all(keys.map(async (key) => other.put(key, 'after'))));
      expect(cluster.loop.nowMs - diedMs, `dead behind step ${step}`).to.be.lessThan(1200);
      await untilSettled(cluster);
      expect(cluster.fatal).to.deep.equal([]);
    }
    expect(died).to.be.greaterThan(10);
  });
});

describe('a plain put of a key that transactions read, the next one always before the last one is over', () => {
  it('waits for those that were there, and not for those that come', async () => {
    const { cluster, keys } = await start('starving-put');
    const [home = '', key = ''] = keys;
    const leader = leadingReplica(cluster, key);
    const id = (session: number): TransactionId => ({ session, sequence: 1, attempt: 1 });
    const prepare = async (session: number): Promise<string> => {
      const conditions = [{ position: 0, condition: { kind: 'exists', key: bytes(key) } }] as const;
      const first = leader.clock.latest + session;
      const request = { id: id(session), home: bucketOf(bytes(home), BUCKETS), start: first, first, reservation: 0 };
      const { kind } = await cluster.settle(leader.commands.prepare({ ...request, conditions, mutations: [] }, Infinity));
      return kind;
    };
    const found = [await prepare(1)];
    let over = false;
    const put = cluster.client('c').write([], puts([key], 'plain')).finally(() => (over = true));
    await cluster.loop.runFor(20);
    for (let session = 2; session <= 6 && !over; session += 1) {
      found.push(await prepare(session));
      await cluster.settle(leader.commands.resolve({ id: id(session - 1), start: 0, commit: 0 }, Infinity));
      await cluster.loop.runFor(20);
    }
    expect(found).to.deep.equal(['prepared', 'prepared', 'prepared', 'locked']);
    await cluster.settle(put);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
