import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { later } from '../../src/mvcc/timestamp.js';
import type { TidemarkError } from '../../src/lib/errors.js';
import { failureOf } from '../network/support.js';
import { startService, type Service } from './support.js';

/** What a stock client in any language can do with the past. */
describe('time travel by the public services of a node', function () {
  this.timeout(30_000);
  const COMMANDS = 'tidemark.v1.Commands';
  const QUERIES = 'tidemark.v1.Queries';
  const CLUSTER = 'tidemark.v1.Cluster';
  const RETENTION_MS = 1500;
  let service: Service;
  let rpc: RpcClient;

  before(async () => {
    service = await startService({ ...DEFAULT_LIMITS, retentionMs: RETENTION_MS, pinsMax: 2, pageEntriesMax: 2 });
    rpc = service.rpc;
  });

  after(async () => service.close());

  const b = (text: string): Buffer => Buffer.from(text);
  const put = async (key: string, value: string): Promise<number> =>
    (await rpc.unary<{ version: number }>(COMMANDS, 'Put', { key: b(key), value: b(value) }, 10_000)).version;
  const remove = async (key: string): Promise<number> =>
    (await rpc.unary<{ version: number }>(COMMANDS, 'Delete', { key: b(key) }, 10_000)).version;
  const get = (key: string, read: object): Promise<GetReply> => rpc.unary(QUERIES, 'Get', { key: b(key), read }, 10_000);
  const pins = (method: string, request: object): Promise<PinsReply> => rpc.unary(CLUSTER, method, request, 10_000);
  const stream = async <Reply>(method: string, request: object): Promise<Reply[]> => {
    const replies: Reply[] = [];
    for await (const reply of rpc.stream<Reply>(QUERIES, method, request, 10_000)) replies.push(reply);
    return replies;
  };
  const diff = async (request: object): Promise<string[]> =>
    (await stream<{ changes: ChangeReply[] }>('Diff', request)).flatMap(({ changes }) =>
      changes.map(({ key, before, after }) => `${String(key)}: ${shown(before)} > ${shown(after)}`),
    );
  const shown = (side: ChangeReply['before']): string => (side === null ? '-' : `${String(side.value)}@${side.version}`);
  /** Until the node has given up what is older. */
  const untilGone = async (moment: number): Promise<TidemarkError> => {
    for (;;) {
      try {
        await get('gone', { asOf: { timestamp: moment } });
      } catch {
        return failureOf(get('gone', { asOf: { timestamp: moment } }));
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };

  it('tells what changed between two moments, however they are written', async () => {
    const [a, removed] = [await put('d/a', 'one'), await put('d/removed', 'x')];
    const from = await put('d/same', 's');
    const [changed, added] = [await put('d/a', 'two'), await put('d/b', 'new')];
    await put('d/passing', 'came');
    await remove('d/passing');
    const to = await remove('d/removed');
    const all = [`d/a: one@${a} > two@${changed}`, `d/b: - > new@${added}`, `d/removed: x@${removed} > -`];
    const prefix = b('d/');
    expect(await diff({ prefix, from: { timestamp: from }, to: { timestamp: to } })).to.deep.equal(all);
    expect(await diff({ prefix, from: { text: String(from) } }), 'up to now').to.deep.equal(all);
    expect(await diff({ prefix, from: { timestamp: to } })).to.deep.equal([]);
    expect(await diff({ start: b('d/b'), end: b('d/r'), from: { timestamp: from } })).to.deep.equal(all.slice(1, 2));
    expect(await diff({ prefix, from: { timestamp: from }, to: { timestamp: added - 1 } })).to.deep.equal(all.slice(0, 1));
    const [page] = await stream<{ header: Header }>('Diff', { prefix, from: { timestamp: from }, to: { timestamp: to } });
    expect(page?.header).to.deep.equal({ node: 1, timestamp: to, consistency: 'CONSISTENCY_AS_OF', hops: 1 });
    const inverted = await failureOf(diff({ prefix, from: { timestamp: to }, to: { timestamp: from } }));
    expect(inverted).to.include({ code: 'INVALID_ARGUMENT', reason: 'RANGE_INVERTED' });
    expect(await failureOf(diff({ prefix }))).to.include({ code: 'INVALID_ARGUMENT', reason: 'TIMESTAMP_MISSING' });
  });

  it('reads as of the token of a session or later, and refuses a token from the future', async () => {
    const first = await put('t', 'one');
    const second = await put('t', 'two');
    const reply = await get('t', { atLeast: second });
    expect([String(reply.value), reply.header.consistency]).to.deep.equal(['two', 'CONSISTENCY_BOUNDED']);
    expect(reply.header.timestamp).to.be.at.least(second);
    expect(String((await get('t', { atLeast: first })).value), 'or later').to.equal('two');
    const [scanned] = await stream<{ header: Header }>('Scan', { prefix: b('t'), read: { atLeast: second } });
    expect(scanned?.header.timestamp).to.be.at.least(second);
    const [entry] = await stream<{ header: Header }>('GetMany', { keys: [b('t')], read: { atLeast: second } });
    expect(entry?.header.timestamp).to.be.at.least(second);
    const future = await failureOf(get('t', { atLeast: later(second, 3_600_000) }));
    expect(future).to.include({ code: 'INVALID_ARGUMENT', reason: 'CLOCK_TOO_FAR_AHEAD' });
    const conflict = await failureOf(get('t', { atLeast: second, asOf: { timestamp: second } }));
    expect(conflict).to.include({ code: 'INVALID_ARGUMENT', reason: 'READ_OPTIONS_CONFLICT' });
  });

  it('commits above the token of a session, and refuses a token from the future', async () => {
    // Ahead of this node's clock, as what a session has seen of another node may be.
    let token = await put('t', 'one');
    const requests = [
      ['Put', { key: b('t'), value: b('two') }],
      ['Delete', { key: b('t') }],
      ['Write', { mutations: [{ put: { key: b('t'), value: b('three') } }] }],
      ['Write', { conditions: [{ key: b('t'), exists: false }] }],
    ] as const;
    for (const [method, request] of requests) {
      token = later(token, 100);
      const reply = await rpc.unary<{ header: Header }>(COMMANDS, method, { ...request, atLeast: token }, 10_000);
      expect(reply.header.timestamp, method).to.be.above(token);
    }
    for (const [method, request] of requests) {
      const future = await failureOf(rpc.unary(COMMANDS, method, { ...request, atLeast: later(token, 3_600_000) }, 10_000));
      expect(future).to.include({ code: 'INVALID_ARGUMENT', reason: 'CLOCK_TOO_FAR_AHEAD' });
      expect(future.details['field']).to.equal('at_least');
    }
    expect(String((await get('t', { atLeast: token })).value)).to.equal('three');
  });

  it('lists the versions of a key as of a moment, those behind the first page too', async () => {
    const versions = [await put('h', 'one'), await remove('h'), await put('h', 'three')];
    const history = async (more: object): Promise<[string, string | undefined][]> => {
      const replies = await stream<{ versions: VersionReply[]; header: Header }>('History', { key: b('h'), ...more });
      const shownOf = ({ version, deleted, value }: VersionReply): string => `${version} ${deleted ? 'deleted' : String(value)}`;
      return replies.flatMap((reply) => reply.versions.map((each) => [shownOf(each), reply.header.consistency] as [string, string]));
    };
    const lines = [`${versions[2]} three`, `${versions[1]} deleted`, `${versions[0]} one`];
    expect((await history({})).map(([line]) => line)).to.deep.equal(lines);
    const asOf = await history({ asOf: { timestamp: versions[1] } });
    expect(asOf).to.deep.equal(lines.slice(1).map((line) => [line, 'CONSISTENCY_AS_OF']));
    const limited = await history({ asOf: { text: String(versions[2]) }, newest: { timestamp: versions[1] }, limit: 1 });
    expect(limited.map(([line]) => line)).to.deep.equal(lines.slice(1, 2));
    expect(await history({ asOf: { timestamp: (versions[0] ?? 0) - 1 } })).to.deep.equal([]);
  });

  it('keeps a pinned moment readable, and refuses all that is older with the earliest moment that can be read', async () => {
    const early = await put('gone', 'early');
    const pinned = await put('p', 'pinned');
    const { pins: [pin] } = await pins('AddPin', { name: 'release-1', moment: { timestamp: pinned } });
    expect(pin).to.deep.equal({ name: 'release-1', timestamp: pinned, expires: 0, lost: false, complete: true });
    await put('p', 'later');
    const error = await untilGone(early);
    expect(error).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    expect(Number(error.details['earliestReadable'])).to.be.within(early + 1, pinned);
    expect(error.message).to.include(error.details['earliestReadable']);
    const tooOld = [
      stream('Scan', { prefix: b('p'), read: { asOf: { timestamp: early } } }),
      stream('History', { key: b('gone'), asOf: { timestamp: early } }),
      diff({ prefix: b('p'), from: { timestamp: early } }),
      pins('AddPin', { name: 'too-old', moment: { timestamp: early } }),
      rpc.unary(COMMANDS, 'Write', { conditions: [{ unchanged: { prefix: b('p'), since: early } }] }, 10_000),
    ];
    for (const each of await Promise.all(tooOld.map((request) => failureOf(request)))) {
      expect(each).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
      expect(Number(each.details['earliestReadable'])).to.be.above(early);
    }
    for (const read of [{ asOf: { text: '2001-01-01' } }, { asOf: { text: '-30000d' } }]) {
      const before = await failureOf(get('p', read));
      expect(before).to.include({ code: 'OUT_OF_RANGE', reason: 'TIMESTAMP_TOO_EARLY' });
      expect(before.details).to.include({ earliestReadable: '0' });
    }
    expect(String((await get('p', { asOf: { timestamp: pinned } })).value)).to.equal('pinned');
    expect(await diff({ prefix: b('p'), from: { timestamp: pinned } })).to.have.lengthOf(1);

    // The same again, with an end; another moment under that name, or one name too many, is refused.
    const expires = later(pinned, 3_600_000);
    const again = await pins('AddPin', { name: 'release-1', moment: { timestamp: pinned }, expires: { timestamp: expires } });
    expect(again.pins).to.deep.equal([{ ...pin, expires }]);
    const other = await failureOf(pins('AddPin', { name: 'release-1', moment: { text: 'now' } }));
    expect(other).to.include({ code: 'ALREADY_EXISTS', reason: 'PIN_EXISTS' });
    expect(other.details).to.include({ timestamp: String(pinned) });
    await pins('AddPin', { name: 'second', moment: { text: '-100ms' } });
    const third = await failureOf(pins('AddPin', { name: 'third', moment: { text: 'now' } }));
    expect(third).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'TOO_MANY_PINS' });
    const unnamed = await failureOf(pins('AddPin', { name: 'no name', moment: { text: 'now' } }));
    expect(unnamed).to.include({ code: 'INVALID_ARGUMENT', reason: 'PIN_NAME_MALFORMED' });
    const listed = await pins('ListPins', {});
    expect(listed.pins.map(({ name }) => name).sort()).to.deep.equal(['release-1', 'second']);
    expect(listed.horizon).to.be.within(early + 1, pinned);

    expect((await pins('RemovePin', { name: 'release-1' })).pins.map(({ name }) => name)).to.deep.equal(['second']);
    expect((await pins('RemovePin', { name: 'never-there' })).pins).to.have.lengthOf(1);
    expect(await untilGone(pinned)).to.include({ reason: 'BEFORE_HORIZON' });
  });
});

interface Header {
  readonly node: number;
  readonly timestamp: number;
  readonly consistency: string;
  readonly hops: number;
}

interface GetReply {
  readonly value: Buffer;
  readonly header: Header;
}

interface VersionReply {
  readonly version: number;
  readonly deleted: boolean;
  readonly value: Buffer;
}

interface ChangeReply {
  readonly key: Buffer;
  readonly before: { readonly value: Buffer; readonly version: number } | null;
  readonly after: { readonly value: Buffer; readonly version: number } | null;
}

interface PinsReply {
  readonly pins: readonly { readonly name: string; readonly timestamp: number }[];
  readonly horizon: number;
}
