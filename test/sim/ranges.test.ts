import { expect } from 'chai';
import type {
  Condition,
  Mutation,
  PlacedCondition,
  PrepareRequest,
  PrepareResult,
  RequestId,
  Timestamp,
  WriteResult,
} from '../../src/bucket/requests.js';
import type { Replica } from '../../src/bucket/replica.js';
import type { Limits } from '../../src/env/limits.js';
import { prefixEnd } from '../../src/lib/ordered.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { SimRandom } from '../../src/sim/random.js';
import { bytes, failure, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

interface World {
  readonly cluster: SimCluster;
  readonly client: Router;
  /** The leader of the only bucket. */
  readonly leader: Replica;
}

async function start(seed: string, limits: Partial<Limits> = {}): Promise<World> {
  const cluster = await startCluster({ seed, nodes: 3, buckets: 1, limits });
  await untilLed(cluster);
  const client = cluster.client('c1');
  await cluster.settle(client.ready());
  const node = leaderOf(cluster, 'k', 1);
  const leader = replicasOf(cluster, 0).find((each) => each.node === node)?.replica;
  if (leader === undefined) throw new Error('nobody leads');
  return { cluster, client, leader };
}

function unchanged(prefix: string, since: Timestamp): Condition {
  return { kind: 'unchanged', range: { start: bytes(prefix), end: prefixEnd(bytes(prefix)) }, since };
}

function put(key: string, value = 'v'): Mutation {
  return { kind: 'put', key: bytes(key), value: bytes(value) };
}

let sequence = 0;

function nextId({ client }: World): RequestId {
  sequence += 1;
  return { session: 77, born: client.now(), sequence, lowest: 1 };
}

function write(world: World, conditions: readonly Condition[], mutations: readonly Mutation[]): Promise<WriteResult> {
  return world.leader.commands.write({ id: nextId(world), conditions, mutations });
}

/** A participant's part of a transaction; who began first is the older one. */
function attempt({ client }: World, first: Timestamp, part: Partial<PrepareRequest>): PrepareRequest {
  sequence += 1;
  const id = { session: 78, sequence, attempt: sequence };
  return { id, home: 0, start: client.now(), first, reservation: 0, conditions: [], mutations: [], ...part };
}

const placed = (condition: Condition): PlacedCondition => ({ position: 0, condition });

function prepare({ cluster, leader }: World, request: PrepareRequest): Promise<PrepareResult & { timestamp?: Timestamp }> {
  return cluster.settle(leader.commands.prepare(request, Infinity));
}

/** One put after another; answers with the timestamp of the last. */
async function fill(world: World, keys: readonly string[]): Promise<Timestamp> {
  let last = 0;
  for (const key of keys) last = (await world.cluster.settle(world.client.write([], [put(key)]))).timestamp;
  return last;
}

const numbered = (prefix: string, count: number): string[] => Array.from({ length: count }, (_, n) => `${prefix}${100 + n}`);

describe('the condition that a range is unchanged', () => {
  it('holds while nothing in it is written, and sees puts, new keys and deletes', async () => {
    const world = await start('unchanged');
    const { cluster, client } = world;
    const since = await fill(world, ['a/1', 'a/2', 'b/1']);
    const guarded = (): Promise<WriteResult> => cluster.settle(client.write([unchanged('a/', since)], [put('c')]));
    expect(await guarded()).to.include({ applied: true });
    await fill(world, ['b/2', 'a', 'a0']);
    expect(await guarded()).to.include({ applied: true });
    const added = await fill(world, ['a/15']);
    expect(await guarded()).to.include({ applied: false, failedCondition: 0, failedVersion: added });
    const again = await cluster.settle(client.write([unchanged('a/', added), unchanged('b/', since)], [put('c')]));
    expect(again).to.include({ applied: false, failedCondition: 1 });
  });

  it('counts a delete as a change, also of a key that was never there', async () => {
    const world = await start('deletes');
    const { cluster, client } = world;
    for (const [key, filler] of [['a/1', 'b/1'], ['a/none', '{x}']] as const) {
      const since = await fill(world, ['a/1', filler]);
      const { timestamp } = await cluster.settle(client.delete(bytes(key)));
      for (const condition of [unchanged('a/', since), { kind: 'unchanged', range: rangeOf(key), since } as const]) {
        const result = await cluster.settle(client.write([condition], [put('c')]));
        expect(result).to.include({ applied: false, failedVersion: timestamp });
      }
    }
  });

  it('sees what was proposed before it and is still in flight', async () => {
    const world = await start('in-flight');
    const since = await fill(world, ['a/1']);
    const [first, second] = [write(world, [], [put('a/2')]), write(world, [unchanged('a/', since)], [put('c')])];
    const { timestamp } = await world.cluster.settle(first);
    expect(await world.cluster.settle(second)).to.include({ applied: false, failedVersion: timestamp });
  });

  it('sees what overtakes it while its range is looked at', async () => {
    const world = await start('overtaken');
    const since = await fill(world, ['a/1']);
    // Something was written since, so that pages have to be read.
    await fill(world, ['b/1']);
    const slow = write(world, [unchanged('a/', since)], [put('c')]);
    const fast = write(world, [], [put('a/2')]);
    const { timestamp } = await world.cluster.settle(fast);
    expect(await world.cluster.settle(slow)).to.include({ applied: false, failedVersion: timestamp });
    const free = write(world, [unchanged('a/', timestamp)], [put('c')]);
    const beside = write(world, [], [put('b/2')]);
    await world.cluster.settle(beside);
    expect(await world.cluster.settle(free)).to.include({ applied: true });
  });

  it('sees what a transaction over several buckets commits there that is resolved while it waits for its lock, at that timestamp', async () => {
    const world = await start('resolved');
    const { cluster, leader } = world;
    for (const [round, isLater] of [true, false].entries()) {
      const before = await fill(world, [`${round}a/1`]);
      const writer = attempt(world, before, { mutations: [put(`${round}a/2`)] });
      const { timestamp: prepared } = await prepare(world, writer);
      const beside = await fill(world, [`${round}b/1`]);
      // The same moment is before the commit, or after it, though what is committed is stored only later.
      const since = isLater ? before : beside;
      const commit = isLater ? world.client.now() : (prepared ?? 0);
      const settled: boolean[] = [];
      const waiting = [0, 1].map(() => write(world, [unchanged(`${round}a/`, since)], [put('c')]).finally(() => settled.push(true)));
      await cluster.loop.runFor(200);
      expect(settled, 'who looks at a range waits for what is locked in it').to.deep.equal([]);
      await cluster.settle(leader.commands.resolve({ id: writer.id, start: writer.start, commit }, Infinity));
      const expected = isLater ? { applied: false, failedVersion: commit } : { applied: true };
      for (const result of await cluster.settle(Promise.all(waiting))) expect(result).to.include(expected);
      // Who comes afterwards finds it stored, under its commit timestamp.
      expect(await cluster.settle(write(world, [unchanged(`${round}a/`, since)], [put('c')]))).to.include(expected);
      const upTo = attempt(world, before, { conditions: [placed(unchanged(`${round}a/`, since))] });
      expect((await prepare(world, upTo)).kind).to.equal(isLater ? 'refused' : 'prepared');
      await cluster.settle(leader.commands.resolve({ id: upTo.id, start: upTo.start, commit: 0 }, Infinity));
    }
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('keeps writers out of a range that a transaction over several buckets has looked at, until that is resolved', async () => {
    const world = await start('range-lock');
    const { cluster, leader } = world;
    const since = await fill(world, ['a/1']);
    const conditions = [placed(unchanged('a/', since))];
    const reader = attempt(world, since, { conditions });
    expect((await prepare(world, reader)).kind).to.equal('prepared');
    let written: Timestamp | undefined;
    const plain = write(world, [], [put('a/2')]).then(({ timestamp }) => (written = timestamp));
    await cluster.loop.runFor(200);
    expect(written).to.equal(undefined);
    const younger = attempt(world, reader.first + 1, { mutations: [put('a/3')] });
    expect((await prepare(world, younger)).kind).to.equal('locked');
    const beside = attempt(world, since, { conditions });
    expect((await prepare(world, beside)).kind, 'two may look at the same').to.equal('prepared');
    await cluster.settle(leader.commands.resolve({ id: beside.id, start: beside.start, commit: 0 }, Infinity));
    const commit = world.client.now();
    await cluster.settle(leader.commands.resolve({ id: reader.id, start: reader.start, commit }, Infinity));
    expect(await cluster.settle(plain)).to.be.above(commit);
    // The other way round: an intent keeps a younger one from looking, and an older one waits and finds what became of it.
    const now = written ?? 0;
    const writer = attempt(world, now, { mutations: [{ kind: 'delete', key: bytes('a/none') }] });
    expect((await prepare(world, writer)).kind).to.equal('prepared');
    const look = { conditions: [placed(unchanged('a/', now))] };
    expect((await prepare(world, attempt(world, writer.first + 1, look))).kind).to.equal('locked');
    const older = leader.commands.prepare(attempt(world, writer.first - 1, look), Infinity);
    const deleted = world.client.now();
    await cluster.settle(leader.commands.resolve({ id: writer.id, start: writer.start, commit: deleted }, Infinity));
    const refused = await cluster.settle(older);
    expect(refused).to.deep.include({ kind: 'refused' });
    if (refused.kind === 'refused') expect(refused.result).to.include({ applied: false, failedVersion: deleted });
  });

  it('is decided once, whoever repeats it', async () => {
    const world = await start('repeated');
    const { cluster, client, leader } = world;
    const since = await fill(world, ['a/1']);
    await fill(world, ['b/1']);
    const request = { id: nextId(world), conditions: [unchanged('a/', since)], mutations: [put('a/2')] };
    const [one, two] = [leader.commands.write(request), leader.commands.write(request)];
    const { timestamp } = await cluster.settle(one);
    expect(await cluster.settle(two)).to.include({ applied: true, timestamp });
    const later = await cluster.settle(client.write(request.conditions, request.mutations, { id: request.id }));
    expect(later).to.include({ applied: true, timestamp });
  });

  it('is not looked at again for what has a result, when that is asked for again', async () => {
    const world = await start('answered');
    const { cluster, client, leader } = world;
    const since = await fill(world, ['a/1']);
    const request = { id: nextId(world), conditions: [unchanged('a/', since)], mutations: [put('a/2')] };
    const { timestamp } = await cluster.settle(leader.commands.write(request));
    Object.defineProperty(leader.state, 'horizon', { get: () => timestamp });
    expect(await cluster.settle(leader.commands.write(request))).to.include({ applied: true, timestamp });
    const later = await cluster.settle(client.write(request.conditions, request.mutations, { id: request.id }));
    expect(later).to.include({ applied: true, timestamp });
    const forgotten = { ...request, id: { ...request.id, session: 79, born: 0 } };
    expect(await cluster.settle(failure(leader.commands.write(forgotten)))).to.include({ reason: 'REQUEST_FORGOTTEN', outcome: 'unknown' });
  });

  it('fails below the horizon, and when that rises while the range is looked at', async () => {
    const world = await start('horizon');
    const since = await fill(world, ['a/1']);
    const later = await fill(world, ['b/1']);
    let horizon = 0;
    Object.defineProperty(world.leader.state, 'horizon', { get: () => horizon });
    const slow = failure(write(world, [unchanged('a/', since)], [put('c')]));
    horizon = later;
    for (const attempt of [slow, failure(write(world, [unchanged('a/', since)], [put('c')]))]) {
      const error = await world.cluster.settle(attempt);
      expect(error).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON', outcome: 'none' });
      expect(error.details).to.deep.equal({ earliestReadable: String(later) });
    }
    expect(await world.cluster.settle(write(world, [unchanged('a/', later)], [put('c')]))).to.include({ applied: true });
  });

  it('looks at no more than it may: few keys since long ago, or many keys since a moment, are few enough', async () => {
    const world = await start('bounded', { rangeEntriesMax: 40 });
    const { cluster, client } = world;
    const early = await fill(world, ['{few}/1']);
    const middle = await fill(world, numbered('many/', 60));
    await fill(world, numbered('more/', 60));
    const late = await fill(world, ['{few}/2']);
    await fill(world, ['other']);
    const ask = (condition: Condition): Promise<WriteResult> => cluster.settle(client.write([condition], [put('c')]));
    expect(await ask(unchanged('{few}/1', early))).to.include({ applied: true });
    expect(await ask(unchanged('many/', late))).to.include({ applied: true });
    expect(await ask(unchanged('', late))).to.include({ applied: false });
    const error = await failure(ask(unchanged('many/', middle)));
    expect(error).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'RANGE_TOO_LARGE', outcome: 'none' });
    expect(error.message).to.include('more than 40 keys or changes');
  });

  it('over few keys looks at few, though much else was written since', async () => {
    const world = await start('few-keys');
    const since = world.client.now();
    for (let n = 0; n < 1000; n += 100) {
      const keys = Array.from({ length: 100 }, (_, at) => `other/${n + at}`);
      await world.cluster.settle(Promise.all(keys.map((key) => world.client.put(bytes(key), bytes('v')))));
    }
    const { store } = world.leader.state;
    const page = store.page.bind(store);
    let entries = 0;
    store.page = async (options) => {
      const found = await page(options);
      entries += found.entries.length;
      return found;
    };
    const result = await world.cluster.settle(write(world, [unchanged('none/', since)], [put('k')]));
    expect(result.applied).to.equal(true);
    expect(entries).to.be.at.most(1);
  });

  it('leaves nothing behind when its bucket has too much to do', async () => {
    const world = await start('overloaded', { proposalsPerBucketMax: 1, rangesPerBucketMax: 3 });
    const { cluster, leader } = world;
    const since = await fill(world, ['a/1']);
    await fill(world, ['b/1']);
    Object.defineProperty(leader.state, 'horizon', { value: since });
    for (let round = 0; round < 10; round += 1) {
      const before = write(world, [], [put('b/2')]);
      // The second one fails as soon as its range is looked at.
      const refused = [since, 1].map((from) => failure(write(world, [unchanged('a/', from)], [put('c')])));
      for (const error of await cluster.settle(Promise.all(refused))) {
        expect(error).to.include({ reason: 'BUCKET_OVERLOADED', outcome: 'none' });
        expect(error.message).to.include('commands (');
      }
      await cluster.settle(before);
    }
    expect(await cluster.settle(write(world, [unchanged('a/', since)], [put('c')]))).to.include({ applied: true });
  });

  it('passes to the next leader when its own is lost', async () => {
    const world = await start('leader-lost');
    const { cluster, client, leader } = world;
    const since = await fill(world, ['a/1']);
    await fill(world, ['b/1']);
    const node = leaderOf(cluster, 'k', 1);
    const direct = write(world, [unchanged('a/', since)], [put('c')]);
    leader.close();
    expect(await failure(cluster.settle(direct))).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
    cluster.crash(node);
    const result = await cluster.settle(client.write([unchanged('a/', since)], [put('c')], { timeoutMs: 20_000 }));
    expect(result).to.include({ applied: true });
  });

  it('agrees with what is there, for any keys, bounds and moments', async () => {
    const world = await start('random', { rangeEntriesMax: 100_000 });
    const { cluster, client } = world;
    const random = new SimRandom('ranges');
    const keys = ['{p}a', '{p}b', '{p}c', 'a', 'b', 'c', 'd'];
    const changes: { readonly key: string; readonly timestamp: Timestamp }[] = [];
    const bound = (): string => random.pick(['', 'a', 'b', 'c\0', '{p}', '{p}b', '{p~', '{q']);
    for (let round = 0; round < 300; round += 1) {
      const key = random.pick(keys);
      const mutation: Mutation = random.chance(0.3) ? { kind: 'delete', key: bytes(key) } : put(key, String(round));
      const since = changes.length === 0 ? 1 : random.pick(changes.slice(-20)).timestamp;
      const [start, end] = [bound(), bound()].sort() as [string, string];
      const range = start === '' ? { start: bytes(''), end: bytes(end) } : { start: bytes(start), end: bytes(random.chance(0.2) ? '' : end) };
      const isIn = (name: string): boolean => name >= range.start.toString() && (range.end.length === 0 || name < range.end.toString());
      const before = changes.filter((change) => isIn(change.key) && change.timestamp > since);
      const result = await cluster.settle(client.write([{ kind: 'unchanged', range, since }], [mutation]));
      expect(result.applied, `${start} to ${end} since ${since}`).to.equal(before.length === 0);
      if (result.applied) changes.push({ key, timestamp: result.timestamp });
      else expect(before.map(({ timestamp }) => timestamp)).to.include(result.failedVersion);
    }
    await untilEqual(cluster);
    expect(cluster.fatal).to.deep.equal([]);
  });
});

/** One key and no other. */
function rangeOf(key: string): { start: Buffer; end: Buffer } {
  return { start: bytes(key), end: bytes(`${key}\0`) };
}
