import { expect } from 'chai';
import fc from 'fast-check';
import type { Consistency, Record } from '../../src/bucket/requests.js';
import { bucketOf } from '../../src/placement/map.js';
import { bucketsOfRange } from '../../src/placement/range.js';
import type { Answer, Operation } from '../../src/router/operations.js';
import type { Router } from '../../src/router/router.js';
import { mergePages } from '../../src/router/scan.js';
import { BUCKETS, FakeCluster, bytes, collect, failureOf, refuse, type FakeNode } from './support.js';

const ALL = { start: bytes(''), end: bytes('') };
const keysOf = (pages: readonly { readonly records: readonly Record[] }[]): string[] =>
  pages.flatMap(({ records }) => records.map(({ key }) => key.toString()));

/** A node that serves these keys from the buckets it is asked for; it refuses buckets that it does not lead, if it is to. */
function serve(node: FakeNode, keys: readonly string[], timestamp: number, leads: (bucket: number) => boolean = () => true): void {
  node.behave = (operation, { hops }): Answer => {
    const answer = node.answer(operation, hops, timestamp);
    if (operation.kind !== 'scan' && operation.kind !== 'readTimestamp') return answer;
    const elsewhere = operation.buckets.filter((bucket) => !leads(bucket));
    const { kind } = operation;
    const anywhere = kind === 'scan' && ['bounded', 'local'].includes(operation.consistency.kind);
    if (elsewhere.length > 0 && !anywhere) {
      throw refuse('NOT_LEADER', { leaders: elsewhere.map((bucket) => `${bucket}=${(bucket % 3) + 1}`).join(',') });
    }
    return kind === 'scan' ? { ...answer, ...page(node, operation, keys, timestamp, hops) } : answer;
  };
}

function page(
  node: FakeNode,
  { buckets, range, reverse, limit, consistency }: Extract<Operation, { kind: 'scan' }>,
  keys: readonly string[],
  timestamp: number,
  hops: number,
): Answer<'scan'> {
  const mine = keys
    .filter((key) => buckets.includes(bucketOf(bytes(key), BUCKETS)))
    .filter((key) => bytes(key).compare(range.start) >= 0)
    .filter((key) => range.end.length === 0 || bytes(key).compare(range.end) < 0)
    .sort();
  if (reverse) mine.reverse();
  const records = mine.slice(0, limit).map((key) => ({ key: bytes(key), value: bytes(node.name), version: 1 }));
  const at = consistency.kind === 'asOf' ? consistency.timestamp : timestamp;
  const served = { node: node.id, timestamp: at, consistency: consistency.kind, hops: hops + 1 };
  return { result: { records, more: mine.length > limit }, served };
}

describe('scan: merging pages', () => {
  it('gives all that is known to be complete, in order', () => {
    const one = (text: string, more: boolean): { records: Record[]; more: boolean } => {
      return { more, records: text.split('').map((key) => ({ key: bytes(key), value: bytes(''), version: 1 })) };
    };
    const merge = (limit: number, reverse: boolean, ...pages: { records: Record[]; more: boolean }[]): string => {
      const { records, more } = mergePages(pages, reverse, limit);
      return records.map(({ key }) => key.toString()).join('') + (more ? '+' : '');
    };
    expect(merge(6, false, one('adg', true), one('bce', true), one('fhi', true))).to.equal('abcde+');
    expect(merge(3, false, one('adg', true), one('bce', true), one('fhi', true))).to.equal('abc+');
    expect(merge(9, false, one('adg', false), one('bce', false), one('', false))).to.equal('abcdeg');
    expect(merge(9, false, one('adg', true), one('bce', false))).to.equal('abcdeg+');
    expect(merge(6, true, one('gda', true), one('ecb', true))).to.equal('gedcb+');
    expect(merge(3, false, one('abc', false))).to.equal('abc');
    expect(merge(3, false)).to.equal('');
  });

  it('stops where a page was left, also an empty one, and says so', () => {
    const one = (text: string, resume?: string): Parameters<typeof mergePages>[0][number] => {
      const records = text.split('').map((key) => ({ key: bytes(key), value: bytes(''), version: 1 }));
      return { records, more: resume !== undefined, resume: resume === undefined ? undefined : bytes(resume) };
    };
    const merge = (limit: number, reverse: boolean, ...pages: Parameters<typeof mergePages>[0][number][]): string => {
      const { records, more, resume } = mergePages(pages, reverse, limit);
      return records.map(({ key }) => key.toString()).join('') + (more ? '+' : '') + (resume?.toString() ?? '');
    };
    expect(merge(6, false, one('', 'd'), one('bdf'))).to.equal('b+d');
    expect(merge(6, false, one('', 'd'), one(''))).to.equal('+d');
    expect(merge(6, false, one('a', 'd'), one('', 'c'))).to.equal('a+c');
    expect(merge(1, false, one('a', 'd'), one('b', 'c'))).to.equal('a+');
    expect(merge(2, false, one('a', 'd'), one('b', 'c'))).to.equal('ab+c');
    expect(merge(6, true, one('', 'd'), one('fdb'))).to.equal('fd+');
    expect(merge(6, true, one('', 'c'), one('fdb'))).to.equal('fd+c');
    expect(merge(6, true, one('', 'd'), one('', 'e'))).to.equal('+e');
  });
});

describe('scan: which buckets a range touches', () => {
  it('is one bucket for one key and for ranges within one partition key, else all', () => {
    const touched = (start: string, end: string): number => bucketsOfRange(bytes(start), bytes(end), 64).length;
    expect(touched('a', 'a\0')).to.equal(1);
    expect(touched('a', 'b')).to.equal(64);
    expect(touched('x{p}', 'x{p~')).to.equal(1);
    expect(touched('x{p}a', 'x{p}b')).to.equal(1);
    expect(touched('x{p}a', 'x{q}b')).to.equal(64);
    expect(touched('x{p', 'x{q')).to.equal(64);
    expect(touched('x{}a', 'x{}b')).to.equal(64);
    expect(touched('x{p}a', '')).to.equal(64);
    expect(touched('', '')).to.equal(64);
  });

  it('covers the bucket of every key in the range', () => {
    const key = fc.string({ unit: fc.constantFrom('{', '}', 'a', 'b', '\0', '\xff'), maxLength: 8 }).map((text) =>
      Buffer.from(text, 'latin1'),
    );
    fc.assert(
      fc.property(key, key, key, (start, inside, end) => {
        fc.pre(start.compare(inside) <= 0 && (end.length === 0 || inside.compare(end) < 0));
        expect(bucketsOfRange(start, end, 64)).to.include(bucketOf(inside, 64));
      }),
      { numRuns: 5000 },
    );
  });
});

describe('scan: through the router', () => {
  const keys = Array.from({ length: 300 }, (_, index) => `k${String(index).padStart(4, '0')}`);
  let cluster: FakeCluster;
  let router: Router;

  beforeEach(async () => {
    cluster = new FakeCluster(3, { pageEntriesMax: 40 });
    await cluster.startAll(1);
    for (const node of cluster.nodes) serve(node, keys, 100 + node.id, (bucket) => (bucket % 3) + 1 === node.id);
    router = cluster.router();
    await cluster.time.run(router.ready());
  });

  afterEach(() => router.close());

  const scan = async (options: Parameters<Router['scan']>[1] = {}, range = ALL) =>
    cluster.time.run(collect(router.scan(range, options)));

  it('takes T from all leaders, finds them by redirects, and reads every page as of T', async () => {
    const pages = await scan();
    expect(keysOf(pages)).to.deep.equal(keys);
    for (const { served } of pages) expect(served).to.include({ timestamp: 103, consistency: 'asOf', hops: 1 });
    const consistencies = new Set(
      cluster.nodes.flatMap((node) => node.asked).flatMap(({ operation }) =>
        operation.kind === 'scan' ? [JSON.stringify(operation.consistency)] : [],
      ),
    );
    expect([...consistencies]).to.deep.equal([JSON.stringify({ kind: 'asOf', timestamp: 103 })]);
  });

  it('goes backwards, stops at the limit, and keeps to its bounds', async () => {
    expect(keysOf(await scan({ reverse: true }))).to.deep.equal(keys.toReversed());
    expect(keysOf(await scan({ limit: 57 }))).to.deep.equal(keys.slice(0, 57));
    expect(keysOf(await scan({ limit: 57, reverse: true }))).to.deep.equal(keys.toReversed().slice(0, 57));
    const range = { start: bytes('k0100'), end: bytes('k0110') };
    expect(keysOf(await scan({}, range))).to.deep.equal(keys.slice(100, 110));
    expect(keysOf(await scan({ reverse: true }, range))).to.deep.equal(keys.slice(100, 110).toReversed());
    expect(keysOf(await scan({}, { start: bytes('x'), end: bytes('x') }))).to.deep.equal([]);
  });

  it('yields one page, with proof, of a range without keys', async () => {
    const pages = await scan({}, { start: bytes('x'), end: bytes('y') });
    expect(pages).to.have.length(1);
    expect(pages[0]?.served.timestamp).to.equal(103);
  });

  it('asks one bucket only for a range within one partition key, and is linearizable there', async () => {
    const pages = await scan({}, { start: bytes('{p}a'), end: bytes('{p}b') });
    expect(pages[0]?.served.consistency).to.equal('linearizable');
    const buckets = cluster.nodes.flatMap((node) => node.asked).map(({ operation }) =>
      'buckets' in operation ? operation.buckets.length : 0,
    );
    expect(Math.max(...buckets)).to.equal(1);
  });

  it('survives a change of leaders between pages', async () => {
    const pages = router.scan(ALL);
    const first = await cluster.time.run(pages.next());
    // All leaders move one node on.
    for (const node of cluster.nodes) serve(node, keys, 200, (bucket) => ((bucket + 1) % 3) + 1 === node.id);
    const moved = Array.from({ length: BUCKETS }, (_, bucket) => ({ bucket, leader: ((bucket + 1) % 3) + 1, term: 9 }));
    cluster.node(2).pipelines?.pushLeaders(moved);
    const rest = await cluster.time.run(collect(pages));
    expect([...keysOf(first.done === true ? [] : [first.value]), ...keysOf(rest)]).to.deep.equal(keys);
    for (const { served } of rest) expect(served.timestamp).to.equal(103);
  });

  it('reads bounded pages at one moment: the lowest of its replicas, and then as of it', async () => {
    const bounded: Consistency = { kind: 'bounded', maxStalenessMs: 1000 };
    const pages = await scan({ consistency: bounded });
    expect(keysOf(pages)).to.deep.equal(keys);
    const moments = new Set(pages.map(({ served }) => `${served.consistency} ${served.timestamp}`));
    expect(moments.size).to.equal(1);
    expect([...moments][0]).to.match(/^bounded 10[123]$/);
  });

  it('reads local pages from one node that has all buckets', async () => {
    const pages = await scan({ consistency: { kind: 'local' } });
    expect(keysOf(pages)).to.deep.equal(keys);
    for (const { served } of pages) expect(served.consistency).to.equal('local');
  });

  it('fails with UNAVAILABLE when some buckets have no leader, and names them', async () => {
    for (const node of cluster.nodes) {
      node.behave = () => {
        throw refuse('NOT_LEADER', { leaders: Array.from({ length: BUCKETS }, (_, bucket) => `${bucket}=0`).join(',') });
      };
    }
    const failure = await cluster.time.run(failureOf(collect(router.scan(ALL, { timeoutMs: 2000 }))));
    expect(failure).to.include({ code: 'UNAVAILABLE', outcome: 'none' });
    expect(failure.message).to.match(/^buckets 0, 1, 2/);
  });

  it('goes on behind pages without records, in both directions', async () => {
    const kept = keys.filter((_, at) => at % 60 === 7);
    for (const node of cluster.nodes) {
      serve(node, kept, 100 + node.id, (bucket) => (bucket % 3) + 1 === node.id);
      const { behave } = node;
      // Nodes look at seven keys for a page, most of which are deleted.
      node.behave = async (operation, context) => {
        const answer = await behave(operation, context);
        if (operation.kind !== 'scan') return answer;
        const { range, reverse } = operation;
        const isIn = (key: Buffer): boolean => key.compare(range.start) >= 0 && (range.end.length === 0 || key.compare(range.end) < 0);
        const looked = keys.map(bytes).filter(isIn);
        const resume = reverse ? looked.at(-7) : looked[7];
        if (resume === undefined) return answer;
        const { records } = answer.result as Answer<'scan'>['result'];
        const known = records.filter(({ key }) => (reverse ? key.compare(resume) >= 0 : key.compare(resume) < 0));
        return { ...answer, result: { records: known, more: true, resume } };
      };
    }
    const pages = await scan();
    expect(keysOf(pages)).to.deep.equal(kept);
    expect(pages.filter(({ records }) => records.length === 0).length).to.be.above(20);
    expect(keysOf(await scan({ reverse: true }))).to.deep.equal(kept.toReversed());
    expect(keysOf(await scan({ limit: 2 }))).to.deep.equal(kept.slice(0, 2));
    expect(keysOf(await scan({ limit: 2, reverse: true }))).to.deep.equal(kept.toReversed().slice(0, 2));
  });

  it('refuses an answer that claims more and gives nothing', async () => {
    for (const result of [{ records: [], more: true }, { records: [], more: true, resume: bytes('') }]) {
      for (const node of cluster.nodes) {
        node.behave = (operation, { hops }) => {
          const answer = node.answer(operation, hops);
          return operation.kind === 'scan' ? { ...answer, result } : answer;
        };
      }
      const failure = await cluster.time.run(failureOf(collect(router.scan(ALL))));
      expect(failure).to.include({ code: 'INTERNAL', reason: 'MALFORMED_ANSWER' });
    }
  });

  it('gives a history in pages, newest first', async () => {
    const versions = Array.from({ length: 100 }, (_, index) => ({ version: 100 - index, deleted: false, value: bytes('v') }));
    for (const node of cluster.nodes) {
      node.behave = (operation, { hops }) => {
        const answer = node.answer(operation, hops);
        if (operation.kind !== 'history') return answer;
        const mine = versions.filter(({ version }) => version <= operation.from && version >= operation.to);
        return { ...answer, result: { versions: mine.slice(0, operation.limit), more: mine.length > operation.limit } };
      };
    }
    const history = async (options: Parameters<Router['history']>[1]) => {
      const pages = await cluster.time.run(collect(router.history(bytes('k'), options)));
      return pages.flatMap((each) => each.versions.map(({ version }) => version));
    };
    expect(await history({})).to.deep.equal(versions.map(({ version }) => version));
    expect(await history({ newest: 50, oldest: 20, limit: 11 })).to.deep.equal([50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40]);
    expect(await history({ oldest: 99 })).to.deep.equal([100, 99]);
  });
});
