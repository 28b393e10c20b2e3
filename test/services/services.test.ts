import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { compose, formatTimestamp, TIMESTAMP_MAX } from '../../src/mvcc/timestamp.js';
import { VERSION } from '../../src/lib/version.js';
import { failureOf } from '../network/support.js';
import { startService, type Service } from './support.js';

/** The public API as a stock client sees it, of one real node with its disk. */
describe('the public services of a node', function () {
  this.timeout(30_000);
  const COMMANDS = 'tidemark.v1.Commands';
  const QUERIES = 'tidemark.v1.Queries';
  const CLUSTER = 'tidemark.v1.Cluster';
  const limits = { ...DEFAULT_LIMITS, keyBytesMax: 100, valueBytesMax: 300_000, pageBytesMax: 400_000 };
  let service: Service;
  let rpc: RpcClient;

  before(async () => {
    service = await startService(limits);
    rpc = service.rpc;
  });

  after(async () => service.close());

  const b = (text: string): Buffer => Buffer.from(text);
  const put = (key: string, value: string | Buffer, more = {}): Promise<{ version: number; header: Header }> =>
    rpc.unary(COMMANDS, 'Put', { key: b(key), value: Buffer.from(value), ...more }, 10_000);
  const get = (key: string, read?: object): Promise<GetReply> => rpc.unary(QUERIES, 'Get', { key: b(key), read }, 10_000);
  const write = (request: object): Promise<WriteReply> => rpc.unary(COMMANDS, 'Write', request, 10_000);
  const stream = async <Reply>(method: string, request: object): Promise<Reply[]> => {
    const replies: Reply[] = [];
    for await (const reply of rpc.stream<Reply>(QUERIES, method, request, 10_000)) replies.push(reply);
    return replies;
  };

  it('write, read and delete a key, and prove what they did', async () => {
    const first = await put('a', 'one');
    expect(first.header).to.deep.equal({
      node: 1,
      timestamp: first.version,
      consistency: 'CONSISTENCY_LINEARIZABLE',
      hops: 1,
    });
    const read = await get('a');
    expect([read.found, String(read.value), read.version]).to.deep.equal([true, 'one', first.version]);
    expect(read.header.timestamp).to.be.at.least(first.version);
    expect(read.header.consistency).to.equal('CONSISTENCY_LINEARIZABLE');
    const gone = await rpc.unary<{ version: number }>(COMMANDS, 'Delete', { key: b('a') });
    expect(gone.version).to.be.above(first.version);
    const nothing = await get('a');
    expect([nothing.found, nothing.value.length, nothing.version]).to.deep.equal([false, 0, 0]);
  });

  it('read at every consistency, and as of every way to write a time', async () => {
    const { version } = await put('times', 'old');
    const later = await put('times', 'new');
    const asOf = async (moment: object): Promise<string> => String((await get('times', { asOf: moment })).value);
    expect(await asOf({ timestamp: version })).to.equal('old');
    expect(await asOf({ timestamp: version - 1 })).to.equal('');
    expect(await asOf({ text: String(version) })).to.equal('old');
    expect(await asOf({ text: formatTimestamp(later.version) })).to.equal('new');
    expect(await asOf({ text: '-1h' })).to.equal('');
    const reply = await get('times', { asOf: { timestamp: version } });
    expect([reply.header.consistency, reply.header.timestamp]).to.deep.equal(['CONSISTENCY_AS_OF', version]);
    const local = await get('times', { consistency: 'CONSISTENCY_LOCAL' });
    expect([String(local.value), local.header.consistency]).to.deep.equal(['new', 'CONSISTENCY_LOCAL']);
    const bounded = await get('times', { consistency: 'CONSISTENCY_BOUNDED', maxStalenessMs: 60_000 });
    expect(bounded.header.consistency).to.equal('CONSISTENCY_BOUNDED');
  });

  it('apply conditional writes at once or not at all', async () => {
    const both = [{ put: { key: b('{w}1'), value: b('x') } }, { put: { key: b('{w}2'), value: b('y') } }];
    const absent = await write({ conditions: [{ key: b('{w}1'), exists: false }], mutations: both });
    expect([absent.applied, absent.failed]).to.deep.equal([true, null]);
    const conditions = [
      { key: b('{w}1'), version: absent.timestamp },
      { key: b('{w}2'), value: b('not y') },
    ];
    const refused = await write({ conditions, mutations: [{ delete: { key: b('{w}1') } }] });
    expect([refused.applied, refused.failed]).to.deep.equal([false, { condition: 1, version: absent.timestamp }]);
    expect((await get('{w}1')).found).to.equal(true);
    const checked = await write({ conditions: [{ key: b('{w}3'), version: 0 }] });
    expect(checked.applied).to.equal(true);
  });

  it('tell whether a range that was read is as it was', async () => {
    await put('{r}1', 'x');
    const [page] = await stream('Scan', { prefix: b('{r}') });
    const since = (page as { header: Header }).header.timestamp;
    const unchanged = { prefix: b('{r}'), since };
    const first = await write({ conditions: [{ unchanged }], mutations: [{ put: { key: b('{r}2'), value: b('y') } }] });
    expect([first.applied, first.failed]).to.deep.equal([true, null]);
    const again = await write({ conditions: [{ unchanged }], mutations: [{ delete: { key: b('{r}2') } }] });
    expect([again.applied, again.failed]).to.deep.equal([false, { condition: 0, version: first.timestamp }]);
    const bounds = { start: b('{r}3'), end: b('{r}4'), since };
    expect((await write({ conditions: [{ unchanged: bounds }] })).applied).to.equal(true);
  });

  it('apply a command that is repeated under its id once', async () => {
    const id = { session: 77, born: (await put('id', 'zero')).version, sequence: 1, lowest: 1 };
    const first = await put('id', 'one', { id });
    await put('id', 'two', { id: { ...id, sequence: 2 } });
    expect((await put('id', 'one', { id })).version).to.equal(first.version);
    expect(String((await get('id')).value)).to.equal('two');
  });

  it('stream many keys, ranges and histories', async () => {
    const versions: number[] = [];
    for (let i = 0; i < 10; i += 1) versions.push((await put(`s/${i}`, Buffer.alloc(100_000, i))).version);
    const keys = ['s/3', 's/none', 's/1'].map(b);
    const many = (await stream<{ entries: Entry[] }>('GetMany', { keys })).flatMap(({ entries }) => entries);
    expect(many.map(({ index, found, record }) => [index, found, record?.key.toString()]).sort()).to.deep.equal([
      [0, true, 's/3'],
      [1, false, undefined],
      [2, true, 's/1'],
    ]);
    const pages = await stream<{ records: RecordReply[]; header: Header }>('Scan', { prefix: b('s/') });
    expect(pages.length).to.be.above(1);
    const records = pages.flatMap((page) => page.records);
    expect(records.map(({ key }) => key.toString())).to.deep.equal(versions.map((_, i) => `s/${i}`));
    expect(records.map(({ version }) => version)).to.deep.equal(versions);
    expect(new Set(pages.map(({ header }) => header.timestamp)).size).to.equal(1);
    const some = { start: b('s/2'), end: b('s/8'), reverse: true, limit: 3, keysOnly: true };
    const [page] = await stream<{ records: RecordReply[] }>('Scan', some);
    expect(page?.records.map(({ key, value }) => [key.toString(), value.length])).to.deep.equal([
      ['s/7', 0],
      ['s/6', 0],
      ['s/5', 0],
    ]);
    const past = await stream<{ records: RecordReply[] }>('Scan', { prefix: b('s/'), read: { asOf: { timestamp: versions[4] } } });
    expect(past.flatMap((each) => each.records)).to.have.lengthOf(5);

    const second = await put('s/0', 'again');
    const history = (await stream<HistoryReply>('History', { key: b('s/0') })).flatMap((reply) => reply.versions);
    expect(history.map(({ version }) => version)).to.deep.equal([second.version, versions[0]]);
    const newest = { timestamp: second.version - 1 };
    const older = await stream<HistoryReply>('History', { key: b('s/0'), newest, limit: 5 });
    expect(older.flatMap((reply) => reply.versions).map(({ version }) => version)).to.deep.equal([versions[0]]);
  });

  it('refuse bad input, saying what and where', async () => {
    const now = (await put('bad', 'x')).version;
    const future = compose(Date.now() + 3_600_000, 0);
    const key = b('bad');
    const cases: [request: Promise<unknown>, code: string, reason: string, words: string[]][] = [
      [put('', 'x'), 'INVALID_ARGUMENT', 'EMPTY_KEY', ['key is empty']],
      [put('k'.repeat(101), 'x'), 'INVALID_ARGUMENT', 'KEY_TOO_LARGE', ['101', '100', 'kkk']],
      [put('!x', 'x'), 'INVALID_ARGUMENT', 'RESERVED_KEY', ['!x']],
      [put('k', Buffer.alloc(300_001)), 'INVALID_ARGUMENT', 'VALUE_TOO_LARGE', ['300001', '300000']],
      [put('k', 'x', { id: { session: 1, sequence: 1, lowest: 1 } }), 'INVALID_ARGUMENT', 'REQUEST_ID_MALFORMED', ['id.born is 0', 'left out']],
      [put('k', 'x', { id: { session: 1, born: 1, sequence: 1, lowest: 2 } }), 'INVALID_ARGUMENT', 'REQUEST_ID_MALFORMED', ['id.lowest']],
      [get('bad', { asOf: { timestamp: future } }), 'INVALID_ARGUMENT', 'CLOCK_TOO_FAR_AHEAD', [String(future)]],
      [get('bad', { asOf: { timestamp: 2 ** 53 } }), 'INVALID_ARGUMENT', 'TIMESTAMP_TOO_LARGE', ['read.as_of.timestamp']],
      [get('bad', { asOf: { text: '-5' } }), 'INVALID_ARGUMENT', 'TIMESTAMP_MALFORMED', ['read.as_of.text', `'-5'`]],
      [get('bad', { asOf: { text: '2019-01-01' } }), 'OUT_OF_RANGE', 'TIMESTAMP_TOO_EARLY', ['2020-01-01', 'earliest']],
      [get('bad', { asOf: {} }), 'INVALID_ARGUMENT', 'TIMESTAMP_MISSING', ['read.as_of']],
      [get('bad', { consistency: 'CONSISTENCY_AS_OF' }), 'INVALID_ARGUMENT', 'TIMESTAMP_MISSING', ['read.as_of']],
      [get('bad', { consistency: 'CONSISTENCY_BOUNDED' }), 'INVALID_ARGUMENT', 'STALENESS_MALFORMED', ['max_staleness_ms']],
      [get('bad', { maxStalenessMs: 5 }), 'INVALID_ARGUMENT', 'READ_OPTIONS_CONFLICT', ['read.max_staleness_ms']],
      [
        get('bad', { consistency: 'CONSISTENCY_LOCAL', asOf: { timestamp: now } }),
        'INVALID_ARGUMENT',
        'READ_OPTIONS_CONFLICT',
        ['read.as_of'],
      ],
      [get('bad', { consistency: 9 }), 'INVALID_ARGUMENT', 'CONSISTENCY_UNKNOWN', ['read.consistency is 9']],
      [write({}), 'INVALID_ARGUMENT', 'EMPTY_WRITE', ['at least one']],
      [write({ conditions: [{ key }] }), 'INVALID_ARGUMENT', 'CONDITION_MISSING', ['conditions[0]']],
      [write({ conditions: [{ key, unchanged: {} }] }), 'INVALID_ARGUMENT', 'CONDITION_CONFLICT', ['conditions[0]']],
      [
        write({ conditions: [{ unchanged: { prefix: key, start: key } }] }),
        'INVALID_ARGUMENT',
        'RANGE_CONFLICT',
        ['conditions[0].unchanged.prefix'],
      ],
      [
        write({ conditions: [{ unchanged: { start: b('{r}b'), end: b('{r}a') } }] }),
        'INVALID_ARGUMENT',
        'RANGE_INVERTED',
        ['conditions[0].unchanged is inverted', `'{r}b'`],
      ],
      [
        write({ conditions: [{ unchanged: { prefix: b('{r}'), since: 2 ** 52 } }] }),
        'INVALID_ARGUMENT',
        'CLOCK_TOO_FAR_AHEAD',
        ['conditions[0].unchanged.since'],
      ],
      [
        write({ conditions: Array.from({ length: 65 }, () => ({ unchanged: { prefix: b('{r}'), since: 1 } })) }),
        'INVALID_ARGUMENT',
        'WRITE_TOO_LARGE',
        ['65 ranges', '64'],
      ],
      [write({ mutations: [{ delete: { key } }, {}] }), 'INVALID_ARGUMENT', 'MUTATION_MISSING', ['mutations[1]']],
      [
        write({ mutations: [{ delete: { key } }, { put: { key } }] }),
        'INVALID_ARGUMENT',
        'DUPLICATE_KEY',
        ['mutations[1].key', 'bad'],
      ],
      [write({ conditions: [{ key, version: 2 ** 53 }] }), 'INVALID_ARGUMENT', 'TIMESTAMP_TOO_LARGE', ['conditions[0].version']],
      [stream('GetMany', { keys: [b('ok'), b('')] }), 'INVALID_ARGUMENT', 'EMPTY_KEY', ['keys[1]']],
      [stream('Scan', { start: b('b'), end: b('a') }), 'INVALID_ARGUMENT', 'RANGE_INVERTED', [`'b'`, `'a'`]],
      [stream('Scan', { start: b('b'), prefix: b('a') }), 'INVALID_ARGUMENT', 'RANGE_CONFLICT', ['prefix']],
      [stream('Scan', { limit: 2 ** 53 }), 'INVALID_ARGUMENT', 'LIMIT_MALFORMED', ['limit']],
      [
        stream('History', { key, newest: { timestamp: 1 }, oldest: { timestamp: 2 } }),
        'INVALID_ARGUMENT',
        'RANGE_INVERTED',
        ['oldest'],
      ],
      [rpc.unary(CLUSTER, 'Buckets', { ids: [8] }), 'INVALID_ARGUMENT', 'UNKNOWN_BUCKET', ['bucket 8', '0 to 7']],
      [rpc.unary(CLUSTER, 'TransferLeader', { bucket: 0, node: 2 }), 'FAILED_PRECONDITION', 'NO_VOTING_REPLICA', ['node 2']],
    ];
    const refusals = await Promise.all(cases.map(([request]) => failureOf(request)));
    for (const [index, [, code, reason, words]] of cases.entries()) {
      const error = refusals[index] ?? never();
      expect([error.code, error.reason, error.outcome], error.message).to.deep.equal([code, reason, 'none']);
      for (const word of words) expect(error.message).to.include(word);
    }
    expect((await get('bad')).version).to.equal(now);
  });

  it('tell about the cluster', async () => {
    const status = await rpc.unary<Record<string, unknown>>(CLUSTER, 'Status', {});
    expect(status).to.deep.include({ clusterId: 'services', node: 1, buckets: 8, version: VERSION });
    expect(status.timestamp).to.be.within(1, TIMESTAMP_MAX);
    expect(status.nodes).to.deep.equal([
      { id: 1, address: '127.0.0.1:1', zone: 'a', host: 'h', reachable: true, replicas: 8, leaders: 8 },
    ]);
    const { buckets } = await rpc.unary<{ buckets: { bucket: { id: number; leader: number }; local: { role: string } }[] }>(
      CLUSTER,
      'Buckets',
      { ids: [3, 5] },
    );
    expect(buckets.map(({ bucket, local }) => [bucket.id, bucket.leader, local.role])).to.deep.equal([
      [3, 1, 'leader'],
      [5, 1, 'leader'],
    ]);
    for await (const placement of rpc.stream<{ epoch: number; map: unknown[] }>(CLUSTER, 'Placement', {})) {
      expect(placement.map).to.have.lengthOf(8);
      expect(placement.epoch).to.be.at.least(1);
      break;
    }
    // One who waits for what comes after an epoch that nobody will ever reach would wait for ever.
    const absurd = await failureOf(rpc.stream(CLUSTER, 'Placement', { knownEpoch: 2 ** 52 }, 10_000)[Symbol.asyncIterator]().next());
    expect(absurd).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_EPOCH' });
    expect(absurd.message).to.contain(`known_epoch says that the placement is at epoch ${2 ** 52}; here it is known at epoch 1`);
    expect(await rpc.unary(CLUSTER, 'TransferLeader', { bucket: 3, node: 1 })).to.deep.equal({ leader: 1 });
    // A new cluster writes its placement down within about a second.
    const asked = (): Promise<{ epoch: number; replicas: number; nodes: { leads: number }[] }> => {
      return rpc.unary(CLUSTER, 'PlacementProgress', {});
    };
    let progress = await asked().catch(() => undefined);
    for (; (progress?.nodes[0]?.leads ?? 0) === 0; progress = await asked().catch(() => undefined)) {
      await new Promise((done) => setTimeout(done, 50));
    }
    expect(progress).to.deep.include({ epoch: 1, replicas: 1, nodes: [{ id: 1, replicas: 9, draining: false, leads: 8 }] });
    for (const [request, code, reason] of [
      [{}, 'INVALID_ARGUMENT', 'CHANGE_MISSING'],
      [{ move: { bucket: 8, from: 1, to: 2 } }, 'INVALID_ARGUMENT', 'UNKNOWN_BUCKET'],
      [{ move: { bucket: 0, from: 1, to: 2 } }, 'FAILED_PRECONDITION', 'UNKNOWN_NODE'],
      [{ move: { bucket: 0, from: 1, to: 1 } }, 'FAILED_PRECONDITION', 'ALREADY_PLACED'],
      [{ drain: 1 }, 'FAILED_PRECONDITION', 'TOO_FEW_NODES'],
      [{ undrain: 9 }, 'FAILED_PRECONDITION', 'UNKNOWN_NODE'],
      [{ remove: 1 }, 'FAILED_PRECONDITION', 'TOO_FEW_NODES'],
      [{ replicas: 2 }, 'INVALID_ARGUMENT', 'REPLICAS_OUT_OF_RANGE'],
      [{ bucketReplicas: { buckets: [7], count: 2 } }, 'INVALID_ARGUMENT', 'REPLICAS_OUT_OF_RANGE'],
      [{ bucketReplicas: { buckets: [7], count: 0 } }, 'INVALID_ARGUMENT', 'REPLICAS_OUT_OF_RANGE'],
      [{ bucketReplicas: { buckets: [7, 8], count: 1 } }, 'INVALID_ARGUMENT', 'UNKNOWN_BUCKET'],
      [{ bucketReplicas: { count: 1 } }, 'INVALID_ARGUMENT', 'BUCKET_MISSING'],
    ] as const) {
      expect(await failureOf(rpc.unary(CLUSTER, 'ChangePlacement', request)), JSON.stringify(request)).to.include({ code, reason });
    }
    expect(await rpc.unary(CLUSTER, 'ChangePlacement', { rebalance: true })).to.include({ epoch: 2 });
    const own = async (bucketReplicas: object): Promise<unknown> => {
      const reply = await rpc.unary<{ bucketReplicas: unknown }>(CLUSTER, 'ChangePlacement', { bucketReplicas });
      return reply.bucketReplicas;
    };
    const one = { buckets: [3, 5], count: 1, _count: 'count' };
    expect(await own({ buckets: [5, 3], count: 1 })).to.deep.equal([one]);
    expect(await own({ buckets: [3] })).to.deep.equal([{ ...one, buckets: [5] }]);
  });
});

interface Header {
  readonly node: number;
  readonly timestamp: number;
  readonly consistency: string;
  readonly hops: number;
}

interface GetReply {
  readonly found: boolean;
  readonly value: Buffer;
  readonly version: number;
  readonly header: Header;
}

interface WriteReply {
  readonly applied: boolean;
  readonly timestamp: number;
  readonly failed: unknown;
}

interface RecordReply {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly version: number;
}

interface Entry {
  readonly index: number;
  readonly found: boolean;
  readonly record: RecordReply | null;
}

interface HistoryReply {
  readonly versions: readonly { readonly version: number }[];
}

function never(): never {
  throw new Error('not reached');
}
