import { expect } from 'chai';
import { TidemarkError, type Database } from '../../src/client/index.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { methodNamed } from '../../src/env/real/grpc/protos.js';
import { later } from '../../src/mvcc/timestamp.js';
import { TestCluster } from '../faults/cluster.js';
import { tagOf } from '../faults/load.js';
import { Canary } from './canary.js';
import { BareClient } from './wire.js';

const COMMANDS = 'tidemark.v1.Commands';
const QUERIES = 'tidemark.v1.Queries';
const CLUSTER = 'tidemark.v1.Cluster';
const BUCKETS = 8;
const KEY = Buffer.from('key');
const VALUE = Buffer.from('value');
const { keyBytesMax, valueBytesMax, writeMutationsMax, messageBytesMax } = DEFAULT_LIMITS;

interface Case {
  readonly what: string;
  readonly service: string;
  readonly method: string;
  readonly request: object;
  readonly code: string;
  readonly reason: string;
  /** What the message must say. */
  readonly says: RegExp;
}

const id = { session: 7, born: 1, sequence: 1, lowest: 1 };
const one = `{${tagOf(0, BUCKETS)}}`;
const putOf = (key: string | Buffer, value: string | Buffer = VALUE): object => ({
  put: { key: Buffer.from(key), value: Buffer.from(value) },
});
const long = (count: number): Buffer => Buffer.alloc(count, 'x');

function invalid(what: string, service: string, method: string, request: object, reason: string, says: RegExp): Case {
  return { what, service, method, request, code: 'INVALID_ARGUMENT', reason, says };
}

const CASES: readonly Case[] = [
  invalid('an empty key', COMMANDS, 'Put', { key: Buffer.alloc(0), value: VALUE }, 'EMPTY_KEY', /key is empty/),
  invalid('no key at all', COMMANDS, 'Delete', {}, 'EMPTY_KEY', /key is empty/),
  invalid('an empty key to read', QUERIES, 'Get', {}, 'EMPTY_KEY', /key is empty/),
  invalid('an empty key among many', QUERIES, 'GetMany', { keys: [KEY, Buffer.alloc(0)] }, 'EMPTY_KEY', /keys\[1\] is empty/),
  invalid('an empty key for history', QUERIES, 'History', {}, 'EMPTY_KEY', /key is empty/),
  invalid('a key over the limit', COMMANDS, 'Put', { key: long(keyBytesMax + 1) }, 'KEY_TOO_LARGE', /4097 bytes; at most 4096/),
  invalid('a reserved key', COMMANDS, 'Put', { key: Buffer.from('!system') }, 'RESERVED_KEY', /'!system'.*belong to Tidemark/),
  invalid('a reserved key to read', QUERIES, 'Get', { key: Buffer.from('!system') }, 'RESERVED_KEY', /belong to Tidemark/),
  invalid('a value over the limit', COMMANDS, 'Put', { key: KEY, value: long(valueBytesMax + 1) }, 'VALUE_TOO_LARGE', /1048577 bytes; at most 1048576/),
  invalid('a write of nothing', COMMANDS, 'Write', {}, 'EMPTY_WRITE', /at least one condition or mutation/),
  invalid('a write with an empty key', COMMANDS, 'Write', { mutations: [putOf('')] }, 'EMPTY_KEY', /mutations\[0\]\.key is empty/),
  invalid('a mutation of nothing', COMMANDS, 'Write', { mutations: [{}] }, 'MUTATION_MISSING', /mutations\[0\] is empty/),
  invalid('a condition without a test', COMMANDS, 'Write', { conditions: [{ key: KEY }] }, 'CONDITION_MISSING', /conditions\[0\] tests nothing/),
  invalid('a key mutated twice', COMMANDS, 'Write', { mutations: [putOf('a'), putOf('a')] }, 'DUPLICATE_KEY', /mutations\[1\]\.key 'a'.*twice/),
  invalid(
    'too many mutations',
    COMMANDS,
    'Write',
    { mutations: Array.from({ length: writeMutationsMax + 1 }, (_, n) => putOf(`${one}${n}`)) },
    'WRITE_TOO_LARGE',
    /1025 conditions and mutations; at most 1024/,
  ),
  invalid(
    'a write over its bytes',
    COMMANDS,
    'Write',
    { mutations: Array.from({ length: 9 }, (_, n) => putOf(`${one}${n}`, long(valueBytesMax))) },
    'WRITE_TOO_LARGE',
    /bytes; at most 8388608/,
  ),
  invalid(
    'a condition on a version of 2^53',
    COMMANDS,
    'Write',
    { conditions: [{ key: KEY, version: 2 ** 53 }] },
    'TIMESTAMP_TOO_LARGE',
    /conditions\[0\]\.version.*below 2\^53/,
  ),
  invalid('a request id without a session', COMMANDS, 'Put', { key: KEY, id: { ...id, session: 0 } }, 'REQUEST_ID_MALFORMED', /id\.session is 0/),
  invalid('a request id without a birth', COMMANDS, 'Put', { key: KEY, id: { ...id, born: 0 } }, 'REQUEST_ID_MALFORMED', /id\.born is 0/),
  invalid('a request id out of order', COMMANDS, 'Put', { key: KEY, id: { ...id, lowest: 2 } }, 'REQUEST_ID_MALFORMED', /id\.lowest is 2, above id\.sequence 1/),
  invalid('a request id of 2^60', COMMANDS, 'Put', { key: KEY, id: { ...id, sequence: 2 ** 60 } }, 'REQUEST_ID_MALFORMED', /id\.sequence.*below 2\^53/),
  invalid('an inverted range', QUERIES, 'Scan', { start: Buffer.from('b'), end: Buffer.from('a') }, 'RANGE_INVERTED', /start 'b' is above end 'a'/),
  invalid('a prefix and a bound', QUERIES, 'Scan', { prefix: KEY, end: KEY }, 'RANGE_CONFLICT', /prefix is set beside start or end/),
  invalid('a bound over the limit', QUERIES, 'Scan', { start: long(keyBytesMax + 2) }, 'KEY_TOO_LARGE', /start has 4098 bytes/),
  invalid('a limit of 2^60', QUERIES, 'Scan', { limit: 2 ** 60 }, 'LIMIT_MALFORMED', /below 2\^53/),
  invalid(
    'inverted moments',
    QUERIES,
    'History',
    { key: KEY, newest: { timestamp: 1 }, oldest: { timestamp: 2 } },
    'RANGE_INVERTED',
    /oldest 2 is above newest 1/,
  ),
  invalid('a negative timestamp', QUERIES, 'Get', asOf({ text: '-5' }), 'TIMESTAMP_MALFORMED', /read\.as_of\.text is '-5': expected/),
  invalid('-1 as an unsigned number', QUERIES, 'Get', asOf({ timestamp: 2 ** 64 }), 'TIMESTAMP_TOO_LARGE', /read\.as_of.*below 2\^53/),
  invalid('a timestamp of 2^53', QUERIES, 'Get', asOf({ timestamp: 2 ** 53 }), 'TIMESTAMP_TOO_LARGE', /read\.as_of.*below 2\^53/),
  invalid('a moment that is nothing', QUERIES, 'Get', asOf({}), 'TIMESTAMP_MISSING', /read\.as_of needs/),
  invalid('a moment in words', QUERIES, 'Get', asOf({ text: 'yesterday' }), 'TIMESTAMP_MALFORMED', /'yesterday': expected a number, an ISO/),
  invalid('a moment in the future', QUERIES, 'Get', asOf({ text: '2080-01-01' }), 'CLOCK_TOO_FAR_AHEAD', /2080-01-01.*ahead of the cluster's clock/),
  invalid('a future scan', QUERIES, 'Scan', asOf({ text: '2080-01-01' }), 'CLOCK_TOO_FAR_AHEAD', /ahead of the cluster's clock/),
  {
    what: 'a moment before history begins',
    service: QUERIES,
    method: 'Get',
    request: asOf({ text: '2019-12-31' }),
    code: 'OUT_OF_RANGE',
    reason: 'TIMESTAMP_TOO_EARLY',
    says: /the timeline begins at 2020-01-01/,
  },
  invalid(
    'staleness that no replica can have',
    QUERIES,
    'Get',
    { key: KEY, read: { consistency: 'CONSISTENCY_BOUNDED' } },
    'STALENESS_MALFORMED',
    /max_staleness_ms is 0/,
  ),
  invalid(
    'options that contradict each other',
    QUERIES,
    'Get',
    { key: KEY, read: { consistency: 'CONSISTENCY_LOCAL', asOf: { timestamp: 1 } } },
    'READ_OPTIONS_CONFLICT',
    /as_of is set/,
  ),
  invalid('a consistency from the future', QUERIES, 'Get', { key: KEY, read: { consistency: 99 } }, 'CONSISTENCY_UNKNOWN', /consistency is 99/),
  invalid('a bucket that does not exist', CLUSTER, 'Buckets', { ids: [BUCKETS] }, 'UNKNOWN_BUCKET', /bucket 8 does not exist/),
  invalid('a transfer in no bucket', CLUSTER, 'TransferLeader', { bucket: BUCKETS, node: 1 }, 'UNKNOWN_BUCKET', /bucket 8 does not exist/),
  {
    what: 'a transfer to nobody',
    service: CLUSTER,
    method: 'TransferLeader',
    request: { bucket: 0, node: 9 },
    code: 'FAILED_PRECONDITION',
    reason: 'NO_VOTING_REPLICA',
    says: /node 9 has no voting replica of bucket 0/,
  },
];

function asOf(moment: object): object {
  return { key: KEY, read: { asOf: moment } };
}

describe('bad requests', function () {
  this.timeout(30_000);
  let cluster: TestCluster;
  let database: Database;
  let bare: BareClient;
  let canary: Canary;

  before(async () => {
    cluster = await TestCluster.start({ nodes: 1, buckets: BUCKETS });
    database = await cluster.connect();
    await database.put(KEY, 'kept');
    bare = new BareClient(cluster.address(1));
    canary = new Canary(await cluster.connect());
  });

  after(async () => {
    try {
      await canary.stop();
      expect((await database.get(KEY)).text()).to.equal('kept');
      const keys: string[] = [];
      for await (const { key } of database.scan()) keys.push(key.toString());
      expect(keys.filter((key) => !key.startsWith('canary/'))).to.deep.equal(['key']);
      expect(cluster.log(1)).not.to.match(/"level":"error"/);
    } finally {
      bare.close();
      await cluster.close();
    }
  });

  for (const { what, service, method, request, code, reason, says } of CASES) {
    it(`${what}: ${code}`, async () => {
      const refusal = await bare.refusalOf(service, method, request);
      expect(refusal).to.include({ code, reason }, refusal.message);
      expect(refusal.message).to.match(says);
    });
  }

  it('a request over the message limit: RESOURCE_EXHAUSTED', async () => {
    const refusal = await bare.refusalOf(COMMANDS, 'Put', { key: KEY, value: long(messageBytesMax) });
    expect(refusal.code).to.equal('RESOURCE_EXHAUSTED');
    expect(refusal.message).to.match(new RegExp(`larger than .*${messageBytesMax}`));
  });

  it('an unknown field, on any level: INVALID_ARGUMENT', async () => {
    const known = methodNamed(COMMANDS, 'Put').requestSerialize({ key: KEY, value: VALUE });
    const outer = await bare.refusal(COMMANDS, 'Put', Buffer.concat([known, field(99, Buffer.from('what'))]));
    expect(outer).to.include({ code: 'INVALID_ARGUMENT', reason: 'UNKNOWN_FIELD' });
    expect(outer.message).to.match(/PutRequest has a field number 99/);
    const inner = await bare.refusal(COMMANDS, 'Put', Buffer.concat([known, field(3, field(9, Buffer.alloc(1)))]));
    expect(inner).to.include({ code: 'INVALID_ARGUMENT', reason: 'UNKNOWN_FIELD' });
    expect(inner.message).to.match(/PutRequest\.id has a field number 9/);
  });

  it('bytes that are no message: INVALID_ARGUMENT', async () => {
    for (const bytes of [Buffer.from([0xff]), Buffer.from([0x0a, 0x7f, 0x00]), long(300), Buffer.from([0x08, 0x01])]) {
      for (const [service, method] of [[COMMANDS, 'Put'], [QUERIES, 'Scan']] as const) {
        const refusal = await bare.refusal(service, method, bytes);
        expect(refusal.code, `${method} ${bytes.toString('hex', 0, 8)}: ${refusal.message}`).to.equal('INVALID_ARGUMENT');
      }
    }
  });

  it('a method that does not exist: UNIMPLEMENTED', async () => {
    const refusal = await bare.unary('/tidemark.v1.Commands/Nothing', Buffer.alloc(0));
    expect(refusal.code).to.equal('UNIMPLEMENTED');
    expect(refusal.message).to.match(/Commands\/Nothing/);
  });

  it('is refused by the client library before it is sent, in the same words', async () => {
    const future = later(database.now(), 60_000);
    const attempts: readonly [() => Promise<unknown>, string, RegExp][] = [
      [() => database.put('', 'x'), 'EMPTY_KEY', /key is empty/],
      [() => database.put('!x', 'x'), 'RESERVED_KEY', /belong to Tidemark/],
      [() => database.put(long(keyBytesMax + 1), 'x'), 'KEY_TOO_LARGE', /at most 4096/],
      [() => database.put('x', long(valueBytesMax + 1)), 'VALUE_TOO_LARGE', /at most 1048576/],
      [() => database.write({}), 'EMPTY_WRITE', /at least one/],
      [() => database.get('x', { asOf: -1 }), 'TIMESTAMP_MALFORMED', /asOf is '-1'/],
      [() => database.get('x', { asOf: 2 ** 53 }), 'TIMESTAMP_TOO_LARGE', /below 2\^53/],
      [() => database.get('x', { asOf: 1.5 }), 'TIMESTAMP_MALFORMED', /asOf is '1\.5'/],
      [() => database.get('x', { asOf: future }), 'CLOCK_TOO_FAR_AHEAD', /ahead of the cluster's clock/],
      [() => database.get('x', { asOf: '2001-01-01' }), 'TIMESTAMP_TOO_EARLY', /the timeline begins/],
      [() => first(database.scan({ start: 'b', end: 'a' })), 'RANGE_INVERTED', /above end/],
      [() => first(database.scan({ limit: -1 })), 'LIMIT_MALFORMED', /limit is -1/],
      [() => first(database.history('x', { newest: 1, oldest: 2 })), 'RANGE_INVERTED', /oldest 2 is above newest 1/],
    ];
    for (const [attempt, reason, says] of attempts) {
      const error: unknown = await attempt().then(() => undefined, (thrown: unknown) => thrown);
      expect(error, reason).to.be.instanceOf(TidemarkError);
      expect(error).to.include({ reason, outcome: 'none' });
      expect((error as TidemarkError).message).to.match(says);
    }
  });
});

/** A length-delimited field of a message. */
function field(number: number, content: Buffer): Buffer {
  const tag = number * 8 + 2;
  const head = tag < 0x80 ? [tag] : [(tag % 0x80) + 0x80, Math.floor(tag / 0x80)];
  return Buffer.concat([Buffer.from([...head, content.length]), content]);
}

async function first(items: AsyncIterable<unknown>): Promise<void> {
  for await (const item of items) {
    if (item !== undefined) return;
  }
}
