import { expect } from 'chai';
import { TableLoader, TablePieces, tableLimitsOf, Tables } from '../../src/bucket/tables.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { Bytes } from '../../src/lib/bytes.js';
import { later } from '../../src/mvcc/timestamp.js';
import type { CommittedRecord, Prepared } from '../../src/txn/transaction.js';

const LIMITS = tableLimitsOf(DEFAULT_LIMITS);
const AT = later(0, 1_000_000);
const b = (text: string): Buffer => Buffer.from(text);
const idOf = (n: number): Prepared['id'] => ({ session: 2 ** 52 + n, sequence: n, attempt: 2 ** 53 - n });

function preparedOf(n: number, valueBytes: number): Prepared {
  const intents = [
    { key: b(`put ${n}`), deleted: false, value: Buffer.alloc(valueBytes, n), previous: { timestamp: AT - n, index: n, position: 3 } },
    { key: b(`deleted ${n}`), deleted: true, value: b(''), previous: { timestamp: 0, index: 0, position: 0 } },
  ];
  const [reads, ranges] = [[b(`read ${n}`)], [{ start: b(`from ${n}`), end: b('') }, { start: b(''), end: b(`to ${n}`) }]];
  return { id: idOf(n), home: n % 7, start: AT + n - 5, first: AT - 100, timestamp: AT + n, intents, reads, ranges };
}

function recordOf(n: number): CommittedRecord {
  return { id: idOf(n), start: AT + n - 2, timestamp: AT + n, participants: [n, n + 1, 2 ** 32 - 2] };
}

/** Tables with so many of everything. */
function tablesOf(count: number, valueBytes = 10): Tables {
  const tables = new Tables(LIMITS);
  const { sessions, participant, home } = tables;
  for (let n = 1; n <= count; n += 1) {
    const result = { applied: n % 2 === 0, timestamp: AT + n, failedCondition: n % 2 === 0 ? -1 : 1, failedVersion: 0 };
    sessions.record({ session: n, born: AT - n, sequence: 1, lowest: 1 }, result, AT + n);
    participant.prepare(preparedOf(n, valueBytes));
    participant.resolve(idOf(count + n), AT + n, AT + 2 * count);
    home.commit(recordOf(n));
  }
  return tables;
}

function piecesOf(tables: Tables, bytesMax?: number): Bytes[] {
  const pieces = new TablePieces(tables);
  const list: Bytes[] = [];
  for (let piece = pieces.next(bytesMax); piece !== undefined; piece = pieces.next(bytesMax)) list.push(piece);
  expect(pieces.count).to.equal(list.length);
  return list;
}

function load(pieces: readonly Bytes[]): TableLoader {
  const loader = new TableLoader(new Tables(LIMITS));
  for (const piece of pieces) loader.add(piece);
  return loader;
}

describe('the tables of a bucket', () => {
  for (const [count, bytesMax] of [
    [0, undefined],
    [1, undefined],
    [50, 1],
    [50, 700],
    [300, undefined],
  ] as const) {
    it(`with ${count} of each are the same when their pieces of ${bytesMax ?? 'the usual'} bytes are put together`, () => {
      const tables = tablesOf(count);
      const pieces = piecesOf(tables, bytesMax);
      if (bytesMax === 1) expect(pieces.length, 'one piece an item, about').to.be.greaterThan(3 * count);
      const { tables: loaded, complete, count: loadedCount } = load(pieces);
      expect([complete, loadedCount]).to.deep.equal([true, pieces.length]);
      expect(loaded.participant.freeze()).to.deep.equal(tables.participant.freeze());
      expect(loaded.home.freeze()).to.deep.equal(tables.home.freeze());
      expect(loaded.sessions.freeze()).to.deep.equal(tables.sessions.freeze());
      expect(loaded.bytes).to.equal(tables.bytes);
      // And as good for everything that is looked up in them.
      expect(loaded.participant.lowestIntent()).to.equal(count === 0 ? undefined : AT + 1);
      expect(loaded.participant.intentOn(b('put 1'))?.id).to.deep.equal(count === 0 ? undefined : idOf(1));
      expect(piecesOf(loaded, bytesMax)).to.deep.equal(pieces);
    });
  }

  it('are as of the moment at which their pieces began, whatever is resolved meanwhile', () => {
    const tables = tablesOf(20);
    const [then, records] = [tables.participant.freeze(), tables.home.freeze()];
    const pieces = new TablePieces(tables);
    const list = [pieces.next(1)];
    for (let n = 1; n <= 20; n += 1) {
      tables.participant.resolve(idOf(n), AT + n - 5, AT + 100);
      tables.home.forget([idOf(n)]);
    }
    tables.participant.prepare(preparedOf(99, 10));
    while (!pieces.done) list.push(pieces.next(1));
    const { tables: loaded } = load(list.filter((piece) => piece !== undefined));
    expect(loaded.participant.freeze()).to.deep.equal(then);
    expect(loaded.home.freeze()).to.deep.equal(records);
  });

  it('are not put together from pieces that are broken, missing, doubled or too many', () => {
    const pieces = piecesOf(tablesOf(5, 100), 300);
    const first = pieces.findIndex((piece) => piece[0] === 1);
    expect(first).to.be.within(1, pieces.length - 3);
    const broken = (list: readonly Bytes[]): void => {
      expect(() => load(list)).to.throw().that.includes({ code: 'DATA_LOSS', reason: 'STATE_CORRUPT' });
    };
    for (let at = 1; at < (pieces[first]?.length ?? 0); at += 7) {
      broken(pieces.map((piece, index) => (index === first ? flipped(piece, at) : piece)));
    }
    broken(pieces.filter((_, index) => index !== first));
    broken(pieces.flatMap((piece, index) => (index === first ? [piece, piece] : [piece])));
    broken([...pieces, pieces.at(-1) ?? Buffer.alloc(0)]);
    broken(pieces.slice(first));
    broken([Buffer.from([7, 1, 2, 3])]);
    expect(load(pieces.slice(0, -1)).complete, 'the last is missing').to.equal(false);
  });
});

function flipped(piece: Bytes, at: number): Bytes {
  const copy = Buffer.from(piece);
  copy[at] = (copy[at] ?? 0) ^ 4;
  return copy;
}
