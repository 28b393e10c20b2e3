import { expect } from 'chai';
import { comparePositions, endOf, type Change, type Position } from '../../src/changes/change.js';
import { encodeCursor } from '../../src/changes/cursor.js';
import { bucketOf } from '../../src/placement/map.js';
import type { StreamFrom } from '../../src/router/change-stream.js';
import { checkStreams, type Told, type ToldChain } from '../../src/sim/swarm/check-streams.js';
import type { VersionSeen } from '../../src/sim/swarm/record.js';

const BUCKETS = 4;
const CLUSTER = 'test';
const ALL = { start: Buffer.alloc(0), end: Buffer.alloc(0) };

interface Commit {
  readonly timestamp: number;
  /** Key -> value; null deletes. */
  readonly changes: Readonly<Record<string, string | null>>;
}

/** The keys of the second are of several buckets. */
const COMMITS: readonly Commit[] = [
  { timestamp: 10, changes: { a: '1' } },
  { timestamp: 20, changes: { a: '2', b: '2', c: '2', d: '2' } },
  { timestamp: 30, changes: { b: null } },
  { timestamp: 40, changes: { c: '4' } },
];

/** All of it as changes, in their order, as a correct stream tells them. */
function changesOf(commits: readonly Commit[]): Change[] {
  const last = new Map<string, { readonly version: number; readonly value: Buffer }>();
  return commits.flatMap(({ timestamp, changes }) => {
    const own = Object.entries(changes).map(([key, value], position): Change => {
      const at: Position = { timestamp, bucket: bucketOf(Buffer.from(key), BUCKETS), index: timestamp, position };
      const before = last.get(key);
      const bytes = Buffer.from(value ?? '');
      if (value === null) last.delete(key);
      else last.set(key, { version: timestamp, value: bytes });
      return { at, key: Buffer.from(key), deleted: value === null, value: bytes, before, transaction: Buffer.from(`t${timestamp}`) };
    });
    return own.sort((a, b) => comparePositions(a.at, b.at));
  });
}

function finalsOf(commits: readonly Commit[]): Map<string, VersionSeen[]> {
  const finals = new Map<string, VersionSeen[]>();
  for (const { timestamp, changes } of commits) {
    for (const [key, value] of Object.entries(changes)) {
      finals.set(key, [{ version: timestamp, deleted: value === null, value: value ?? '' }, ...(finals.get(key) ?? [])]);
    }
  }
  return finals;
}

const told = (...changes: Change[]): Told => ({ kind: 'changes', changes });
const mark = (timestamp: number): Told => ({ kind: 'mark', timestamp });

describe('what judges change streams', () => {
  const changes = changesOf(COMMITS);
  const chain = (events: readonly Told[], from: StreamFrom = { kind: 'timestamp', timestamp: 0 }): ToldChain => {
    return { name: 'x', range: ALL, before: true, from, told: events };
  };

  function judge(...chains: readonly ToldChain[]): string[] {
    const commits = COMMITS.map(({ timestamp, changes: own }) => ({ timestamp, keys: Object.keys(own) }));
    return checkStreams({ chains, finals: finalsOf(COMMITS), commits, buckets: BUCKETS, clusterId: CLUSTER });
  }

  /** Everything, but the changes are given by a function. */
  function judgeWith(alter: (all: Change[]) => Change[]): string {
    return judge(chain([told(...alter([...changes])), mark(50)])).join('\n');
  }

  it('accepts all there is, over any connections, from any cursor, and a snapshot with its tail', () => {
    expect(new Set(changes.filter(({ at }) => at.timestamp === 20).map(({ at }) => at.bucket)).size).to.be.above(1);
    expect(judge(chain([told(...changes), mark(50)]))).to.deep.equal([]);
    for (const [place, { at }] of changes.entries()) {
      const cursor = encodeCursor({ kind: 'tail', position: at }, CLUSTER);
      const rest = chain([told(...changes.slice(place + 1)), mark(50)], { kind: 'cursor', cursor });
      expect(judge(chain([told(...changes), mark(50)]), rest), `behind change ${place}`).to.deep.equal([]);
    }
    const state = [['a', '2'], ['b', '2'], ['c', '2'], ['d', '2']] as const;
    const entries = state.map(([key, value]) => ({ key: Buffer.from(key), value: Buffer.from(value), version: 20 }));
    const snapshot: Told = { kind: 'entries', timestamp: 20, entries };
    const tail = told(...changes.filter(({ at }) => at.timestamp > 20));
    expect(judge(chain([snapshot, mark(20), tail, mark(50)], { kind: 'beginning' }))).to.deep.equal([]);
    const short: Told = { ...snapshot, entries: entries.slice(1) };
    expect(judge(chain([short, mark(20), tail, mark(50)], { kind: 'beginning' })).join()).to.include('missing: a@20=2');
  });

  it('finds what is missing, told twice, late, or in another order', () => {
    for (const place of changes.keys()) expect(judgeWith((all) => all.toSpliced(place, 1)), `without ${place}`).to.include('is missing');
    for (const [place, change] of changes.entries()) {
      expect(judgeWith((all) => all.toSpliced(place, 0, change)), `${place} twice`).to.include('again, or late');
    }
    expect(judgeWith((all) => all.reverse())).to.include('again, or late');
    const [first, ...others] = changes;
    expect(first).not.to.equal(undefined);
    if (first === undefined) return;
    expect(judge(chain([mark(15), told(first), told(...others), mark(50)])).join()).to.include('comes behind the mark 15');
    expect(judge(chain([told(first), mark(20), told(...others), mark(50)])).join()).to.include('comes behind the mark 20');
    expect(judge(chain([told(...changes), mark(50), mark(45)])).join()).to.include('the mark goes back');
  });

  it('finds what is missing behind a cursor within a commit', () => {
    const [, second, ...others] = changes;
    const cursor = encodeCursor({ kind: 'tail', position: second?.at ?? endOf(0) }, CLUSTER);
    const rest = chain([told(...others.slice(1)), mark(50)], { kind: 'cursor', cursor });
    expect(judge(chain([told(...changes), mark(50)]), rest).join()).to.include('is missing, behind 20');
  });

  it('finds a transaction that is split, merged with another, or elsewhere for another stream', () => {
    const renamed = (place: number, id: string) => (all: Change[]) => {
      return all.map((change, at) => (at === place ? { ...change, transaction: Buffer.from(id) } : change));
    };
    expect(judgeWith(renamed(2, 'other'))).to.include('has several transaction ids');
    expect(judgeWith(renamed(5, 't20'))).to.include('has the transaction id of a commit at 20');
    const moved = changes.map((change) => (change.at.timestamp === 30 ? { ...change, at: { ...change.at, index: 31 } } : change));
    expect(judge(chain([told(...changes), mark(50)]), chain([told(...moved), mark(50)])).join()).to.include('stands elsewhere');
  });

  it('finds wrong values, wrong before-images, and versions that never were', () => {
    const altered = (key: string, timestamp: number, fields: Partial<Change>) => (all: Change[]) => {
      return all.map((change) => (change.key.toString() === key && change.at.timestamp === timestamp ? { ...change, ...fields } : change));
    };
    expect(judgeWith(altered('c', 40, { value: Buffer.from('5') }))).to.include('told with another value');
    expect(judgeWith(altered('b', 30, { deleted: false }))).to.include('told with another value');
    expect(judgeWith(altered('b', 30, { before: undefined }))).to.include('the before-image undefined, which was 20');
    expect(judgeWith(altered('a', 20, { before: { version: 10, value: Buffer.from('x') } }))).to.include('the before-image 10');
    expect(judgeWith(altered('c', 40, { key: Buffer.from('a') }))).to.include('a at 40 is no version of its key');
  });
});
