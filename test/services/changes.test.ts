import { expect } from 'chai';
import { connect } from '../../src/client/index.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { later } from '../../src/mvcc/timestamp.js';
import { failureOf, TestNetwork } from '../network/support.js';
import { startService, type Service } from './support.js';

interface Reply {
  readonly event: 'entries' | 'changes' | 'mark';
  readonly entries?: { readonly timestamp: number; readonly entries: readonly { readonly key: Buffer; readonly value: Buffer }[] };
  readonly changes?: { readonly changes: readonly ChangeReply[] };
  readonly mark?: { readonly timestamp: number };
  readonly cursor: string;
}

interface ChangeReply {
  readonly kind: string;
  readonly key: Buffer;
  readonly value: Buffer;
  readonly before: { readonly version: number; readonly value: Buffer } | null;
  readonly timestamp: number;
  readonly transaction: Buffer;
}

/** Change streams as a stock client sees them, and the client library, of one real node with its disk. */
describe('the change streams of a node', function () {
  this.timeout(60_000);
  const limits = { ...DEFAULT_LIMITS, changeStreamsMax: 8, consumerStallMsMax: 1000 };
  let service: Service;
  let rpc: RpcClient;
  let address = '';

  before(async () => {
    service = await startService(limits);
    ({ rpc, address } = service);
  });

  after(() => service.close());

  const b = (text: string): Buffer => Buffer.from(text);
  const subscribe = (request: object, by: RpcClient = rpc): AsyncIterable<Reply> =>
    by.stream<Reply>('tidemark.v1.Changes', 'Subscribe', request, 30_000);
  const put = (key: string, value: string): Promise<{ version: number }> =>
    rpc.unary('tidemark.v1.Commands', 'Put', { key: b(key), value: b(value) }, 10_000);

  /** Replies until one marks the timestamp. */
  async function read(request: object, until: number): Promise<Reply[]> {
    const replies: Reply[] = [];
    for await (const reply of subscribe(request)) {
      replies.push(reply);
      if ((reply.mark?.timestamp ?? 0) >= until) break;
    }
    return replies;
  }

  const changesOf = (replies: readonly Reply[]): ChangeReply[] => replies.flatMap(({ changes }) => changes?.changes ?? []);
  const shown = ({ kind, key, value, before }: ChangeReply): string =>
    `${kind} ${key.toString()} ${value.toString()} (${before?.value.toString() ?? ''})`;

  it('tell a snapshot, then what changes, and go on from any cursor', async () => {
    await put('s/a', '1');
    const first = await put('s/b', '1');
    const opened = await read({ prefix: b('s/'), beginning: {} }, first.version);
    const entries = opened.flatMap((reply) => reply.entries?.entries ?? []);
    expect(entries.map(({ key, value }) => `${key.toString()}=${value.toString()}`)).to.deep.equal(['s/a=1', 's/b=1']);
    await put('s/a', '2');
    await put('other', 'x');
    const write = await rpc.unary<{ timestamp: number }>(
      'tidemark.v1.Commands',
      'Write',
      { mutations: [{ put: { key: b('s/{g}1'), value: b('x') } }, { put: { key: b('s/{g}2'), value: b('y') } }] },
      10_000,
    );
    const { version: last } = await rpc.unary<{ version: number }>('tidemark.v1.Commands', 'Delete', { key: b('s/b') }, 10_000);
    const cursor = opened.at(-1)?.cursor ?? '';
    const replies = await read({ prefix: b('s/'), cursor, before: true }, last);
    const changes = changesOf(replies);
    const expected = ['KIND_PUT s/a 2 (1)', 'KIND_PUT s/{g}1 x ()', 'KIND_PUT s/{g}2 y ()', 'KIND_DELETE s/b  (1)'];
    expect(changes.map(shown)).to.deep.equal(expected);
    const ids = changes.map(({ transaction }) => transaction.toString());
    expect(ids[1]).to.equal(ids[2]);
    expect(new Set(ids).size).to.equal(3);
    expect(changes[1]?.timestamp).to.equal(write.timestamp);
    const again = await read({ prefix: b('s/'), after: { timestamp: write.timestamp }, before: true }, last);
    expect(changesOf(again).map(shown)).to.deep.equal(expected.slice(3));
    const end = replies.at(-1)?.cursor ?? '';
    const after = await put('s/c', '1');
    expect(changesOf(await read({ prefix: b('s/'), cursor: end }, after.version)).map(shown)).to.deep.equal(['KIND_PUT s/c 1 ()']);
  });

  it('go on within a commit, at the cursor of each change, by the client library', async () => {
    await using db = await connect({ endpoints: [address] });
    const from = db.now();
    const start = await db.put('w/0', '0');
    const keys = ['w/{h}1', 'w/{h}2', 'w/{h}3'];
    const written = await db.write({ mutations: keys.map((key) => ({ kind: 'put', key, value: 'v' })) });
    const found: string[] = [];
    let cursor: string | number = Math.min(from, start.version - 1);
    while (found.length < 4) {
      await using changes = db.changes({ prefix: 'w/', from: cursor });
      for await (const event of changes) {
        ({ cursor } = event);
        if (event.kind === 'mark') continue;
        found.push(event.key.toString());
        break;
      }
    }
    expect(found).to.deep.equal(['w/0', ...keys]);
    await using rest = db.changes({ prefix: 'w/', from: cursor });
    for await (const event of rest) {
      expect(event.kind).to.equal('mark');
      if (event.timestamp >= written.version) break;
    }
  });

  it('refuse what is no cursor, or no time to begin at', async () => {
    const refused = async (request: object): Promise<object> => {
      const { code, reason } = await failureOf(
        (async () => {
          for await (const reply of subscribe(request)) throw new Error(`it began with ${reply.cursor}`);
        })(),
      );
      return { code, reason };
    };
    const { version } = await put('r', '1');
    const [good] = await read({}, 0);
    const cursor = good?.cursor ?? '';
    const malformed = { code: 'INVALID_ARGUMENT', reason: 'CURSOR_MALFORMED' };
    for (const text of ['', 'x', 'c1.', 'c9.AAAA', 'c1.%%%', 'c1.AAAAAAAA', cursor.slice(0, -2), `${cursor}AA`, 'c1.'.padEnd(20_000, 'A')]) {
      expect(await refused({ cursor: text }), text.slice(0, 30)).to.deep.equal(malformed);
    }
    const future = { code: 'INVALID_ARGUMENT', reason: 'CLOCK_TOO_FAR_AHEAD' };
    expect(await refused({ after: { timestamp: later(version, 3_600_000) } })).to.deep.equal(future);
    expect(await refused({ prefix: b('a'), end: b('b') })).to.deep.equal({ code: 'INVALID_ARGUMENT', reason: 'RANGE_CONFLICT' });
  });

  it('are limited in number; a thousand who come on top of that are refused, and the others served', async () => {
    // They read all the while: who does not is cut off, which is another matter.
    let until = Infinity;
    const follow = async (stream: AsyncIterator<Reply>): Promise<void> => {
      for (let mark = 0; mark < until; ) {
        const { value, done } = (await stream.next()) as IteratorResult<Reply, undefined>;
        if (done === true) throw new Error('the stream ended');
        mark = value.mark?.timestamp ?? mark;
      }
      await stream.return?.();
    };
    const open = Array.from({ length: limits.changeStreamsMax }, () => subscribe({})[Symbol.asyncIterator]());
    await Promise.all(open.map((stream) => stream.next()));
    const followed = Promise.all(open.map(follow));
    const reasons = new Map<string, number>();
    const one = async (client: RpcClient): Promise<void> => {
      const { reason } = await failureOf(subscribe({}, client)[Symbol.asyncIterator]().next());
      reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
    };
    // By several connections: HTTP/2 ends one on which a thousand calls are reset at once, which is another limit. Forty at a time:
    // all of them together would keep this process, which is the consumers' too, from reading.
    const clients = Array.from({ length: 5 }, () => new TestNetwork().network.rpcClient(address));
    const some = async (client: RpcClient): Promise<void> => {
      for (let n = 0; n < 25; n += 1) await one(client);
    };
    await Promise.all(clients.flatMap((client) => Array.from({ length: 8 }, () => some(client))));
    for (const client of clients) client.close();
    expect([...reasons]).to.deep.equal([['TOO_MANY_STREAMS', 1000]]);
    until = (await put('served', '1')).version;
    await followed;
  });

  it('cut off who does not read, with the cursor to go on from', async () => {
    const value = 'x'.repeat(200_000);
    const start = await put('slow/0', value);
    for (let n = 1; n < 60; n += 1) await put(`slow/${n}`, value);
    const stream = subscribe({ prefix: b('slow/'), after: { timestamp: start.version } })[Symbol.asyncIterator]();
    const keys: string[] = [];
    let cursor = '';
    const take = ({ changes, cursor: reached }: Reply): void => {
      keys.push(...(changes?.changes ?? []).map(({ key }) => key.toString()));
      cursor = reached;
    };
    const first = (await stream.next()) as IteratorResult<Reply, undefined>;
    if (first.done !== true) take(first.value);
    // Two stalls are a cut; one and a half are a status behind what was sent.
    await new Promise((resolve) => setTimeout(resolve, limits.consumerStallMsMax * 1.6));
    const error = await failureOf(
      (async () => {
        for (;;) {
          const next = (await stream.next()) as IteratorResult<Reply, undefined>;
          if (next.done === true) throw new Error('the stream ended');
          take(next.value);
        }
      })(),
    );
    expect(error).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'SLOW_CONSUMER' });
    expect(error.details['cursor'], 'behind the last reply').to.equal(cursor);
    const { version } = await put('slow/end', 'x');
    for (const { key } of changesOf(await read({ prefix: b('slow/'), cursor }, version))) keys.push(key.toString());
    expect(keys).to.deep.equal([...Array.from({ length: 59 }, (_, n) => `slow/${n + 1}`), 'slow/end']);
  });
});
