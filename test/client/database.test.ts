import { expect } from 'chai';
import { connect, formatTimestamp, type Database, type Entry, type Missing } from '../../src/client/index.js';
import { collect, failureOf } from '../router/support.js';
import { MemoryCluster } from './support.js';

describe('client library, over real streams', () => {
  let cluster: MemoryCluster;
  let db: Database;

  beforeEach(async () => {
    cluster = await MemoryCluster.start();
    db = await connect({ endpoints: cluster.endpoints.slice(0, 1) });
  });

  afterEach(async () => {
    await db.close();
    await cluster.close();
    expect(cluster.bugs).to.deep.equal([]);
  });

  const texts = (entries: readonly (Entry | Missing)[]): (string | undefined)[] => entries.map((entry) => entry.text());

  it('puts, gets and deletes; strings and bytes are the same', async () => {
    const put = await db.put('k', 'value');
    expect(put.served).to.include({ hops: 1, consistency: 'linearizable' });
    const found = await db.get(new Uint8Array(Buffer.from('k')));
    if (!found.found) throw new Error('it is missing');
    expect(found.text()).to.equal('value');
    expect(found.version).to.equal(put.version);
    await db.delete('k');
    const missing = await db.get('k');
    expect(missing.found).to.equal(false);
    expect(missing.value).to.equal(undefined);
    expect(missing.served.timestamp).to.be.greaterThan(put.version);
    await db.delete('never there');
  });

  it('keeps bytes as they are', async () => {
    const key = Buffer.from([0, 1, 255, 123, 125]);
    const value = Buffer.alloc(1024 * 1024, 0xa5);
    await db.put(key, value);
    expect((await db.get(key)).value?.equals(value)).to.equal(true);
    await db.put(key, '');
    expect((await db.get(key)).value?.length).to.equal(0);
  });

  it('reads JSON', async () => {
    await db.put('user/1', JSON.stringify({ name: 'Ada' }));
    const user = await db.get('user/1');
    expect(user.json()).to.deep.equal({ name: 'Ada' });
    expect((await db.get('user/2')).json()).to.equal(undefined);
  });

  it('writes under conditions', async () => {
    const key = 'account';
    const first = await db.write({
      conditions: [{ kind: 'absent', key }],
      mutations: [{ kind: 'put', key, value: '1' }],
    });
    expect(first.applied).to.equal(true);
    const second = await db.write({
      conditions: [
        { kind: 'exists', key },
        { kind: 'absent', key },
      ],
      mutations: [{ kind: 'put', key, value: '2' }],
    });
    expect(second).to.deep.include({ applied: false, failed: { condition: 1, version: first.version } });
    const third = await db.write({
      conditions: [{ kind: 'version', key, version: first.version }],
      mutations: [{ kind: 'delete', key }],
    });
    expect(third.applied).to.equal(true);
    expect((await db.get(key)).found).to.equal(false);
  });

  it('scans ranges, prefixes, backwards, limited, keys only', async () => {
    const keys = Array.from({ length: 50 }, (_, index) => `item/${String(index).padStart(2, '0')}`);
    await Promise.all([...keys, 'other'].map((key) => db.put(key, `of ${key}`)));
    const scan = async (options: Parameters<Database['scan']>[0]): Promise<string[]> =>
      (await collect(db.scan(options))).map((entry) => entry.key.toString());
    expect(await scan({ prefix: 'item/' })).to.deep.equal(keys);
    expect(await scan({ prefix: 'item/', reverse: true, limit: 3 })).to.deep.equal(['item/49', 'item/48', 'item/47']);
    expect(await scan({ start: 'item/45', end: 'item/47' })).to.deep.equal(['item/45', 'item/46']);
    expect(await scan({})).to.deep.equal([...keys, 'other']);
    expect(await scan({ limit: 0 })).to.deep.equal([]);
    const [only] = await collect(db.scan({ start: 'other', keysOnly: true }));
    expect(only?.value.length).to.equal(0);
    expect(await failureOf(collect(db.scan({ start: 'b', end: 'a' })))).to.include({ reason: 'RANGE_INVERTED' });
    expect(await failureOf(collect(db.scan({ prefix: 'b', end: 'a' })))).to.include({ reason: 'OPTIONS_CONTRADICT' });
  });

  it('says of a range without keys as of when, and what rests on it holds until one comes', async () => {
    const taken = db.scan({ prefix: 'room/' });
    expect(taken.served).to.equal(undefined);
    expect(await collect(taken)).to.deep.equal([]);
    const since = taken.served?.timestamp ?? 0;
    expect(since).to.be.greaterThan(0);
    const book = { conditions: [{ kind: 'unchanged', prefix: 'room/', since }], mutations: [{ kind: 'put', key: 'room/1', value: '' }] } as const;
    expect((await db.write(book)).applied).to.equal(true);
    expect((await db.write(book)).applied).to.equal(false);
    const past = db.asOf(since).scan({ prefix: 'room/' });
    expect(await collect(past)).to.deep.equal([]);
    expect(past.served).to.include({ timestamp: since, consistency: 'asOf' });
    const booked = db.scan({ prefix: 'room/' });
    for await (const { served } of booked) {
      expect(booked.served).to.equal(served);
      break;
    }
    expect(await booked.next(), 'it was left').to.deep.equal({ done: true, value: undefined });
  });

  it('gets many keys in their order', async () => {
    const keys = Array.from({ length: 600 }, (_, index) => `k${index}`);
    await Promise.all(keys.filter((_, index) => index % 2 === 0).map((key) => db.put(key, key)));
    const entries = await collect(db.getMany(keys));
    expect(texts(entries)).to.deep.equal(keys.map((key, index) => (index % 2 === 0 ? key : undefined)));
    expect(entries.map(({ key }) => key.toString())).to.deep.equal(keys);
  });

  it('reads the past: as of a timestamp, a time, a span', async () => {
    const { version } = await db.put('k', 'old');
    await db.put('k', 'new');
    const past = db.asOf(version);
    expect(texts([await past.get('k')])).to.deep.equal(['old']);
    expect(texts(await collect(past.scan({ prefix: 'k' })))).to.deep.equal(['old']);
    expect(texts(await collect(past.getMany(['k'])))).to.deep.equal(['old']);
    expect(texts([await db.get('k', { asOf: formatTimestamp(version) })])).to.deep.equal(['old']);
    expect((await db.asOf('-1h').get('k')).found).to.equal(false);
    const history = await collect(db.history('k'));
    expect(history.map((each) => each.text())).to.deep.equal(['new', 'old']);
    expect((await collect(db.history('k', { newest: version }))).map((each) => each.text())).to.deep.equal(['old']);
    expect((await collect(db.history('k', { limit: 1 }))).map((each) => each.text())).to.deep.equal(['new']);
    expect(await failureOf(db.get('k', { asOf: 'yesterday' }))).to.include({ code: 'INVALID_ARGUMENT' });
  });

  it('says which consistency an answer has', async () => {
    await db.put('k', 'v');
    expect((await db.get('k', { consistency: 'local' })).served.consistency).to.equal('local');
    expect((await db.get('k', { maxStalenessMs: 100 })).served.consistency).to.equal('bounded');
    expect(await failureOf(db.get('k', { consistency: 'bounded' }))).to.include({ reason: 'STALENESS_MISSING' });
    expect(await failureOf(db.get('k', { maxStalenessMs: 0 }))).to.include({ reason: 'STALENESS_MALFORMED' });
    expect(await failureOf(db.get('k', { asOf: 1, consistency: 'local' }))).to.include({ reason: 'OPTIONS_CONTRADICT' });
  });

  it('is closed by `await using`, and refuses work afterwards', async () => {
    let escaped: Database;
    {
      await using inner = await connect({ endpoints: cluster.endpoints });
      await inner.put('k', 'v');
      escaped = inner;
    }
    expect(await failureOf(escaped.get('k'))).to.include({ code: 'CANCELLED', reason: 'CLOSED', outcome: 'none' });
  });

  it('stops for a signal that is aborted already', async () => {
    const failure = await failureOf(db.get('k', { signal: AbortSignal.abort() }));
    expect(failure.code).to.equal('CANCELLED');
  });

  it('says what was tried when nobody answers', async () => {
    const failure = await failureOf(connect({ endpoints: ['127.0.0.1:1'], timeoutMs: 500 }));
    expect(failure).to.include({ code: 'UNAVAILABLE', reason: 'NO_NODE_REACHED' });
    expect(failure.message).to.include('127.0.0.1:1');
    const choices = [{ nearCache: { keysMax: 0 } }, { nearCache: { keysMax: 8, bytesMax: NaN } }, { hedging: { share: 5 } }];
    for (const choice of choices) {
      const refusal = await failureOf(connect({ endpoints: cluster.endpoints, ...choice }));
      expect(refusal).to.include({ code: 'INVALID_ARGUMENT', reason: 'OPTION_MALFORMED' });
    }
    expect(await failureOf(connect({ endpoints: [] }))).to.include({ code: 'INVALID_ARGUMENT', reason: 'NO_ENDPOINTS' });
    const other = await failureOf(connect({ endpoints: cluster.endpoints, clusterId: 'another' }));
    expect(other).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_CLUSTER' });
  });
});
