import { expect } from 'chai';
import { RaftLog } from '../../src/raft/log.js';
import { Allowance } from '../../src/raft/reading.js';
import type { Entry, LogReader } from '../../src/raft/types.js';

class Stored implements LogReader {
  reads = 0;
  termReads = 0;
  readonly before: number;
  terms: readonly number[];

  /** Entries after index `before`, of these terms; the term at `before` itself comes first. */
  constructor(before: number, terms: readonly number[]) {
    this.before = before;
    this.terms = terms;
  }

  firstIndex(): number {
    return this.before + 1;
  }

  lastIndex(): number {
    return this.before + this.terms.length - 1;
  }

  term(index: number): number {
    this.termReads += 1;
    return this.terms[index - this.before] ?? NaN;
  }

  entries(from: number, to: number): Entry[] {
    this.reads += 1;
    return Array.from({ length: to - from }, (_, at) => entry(from + at, this.terms[from + at - this.before] ?? NaN));
  }
}

function entry(index: number, term: number): Entry {
  return { index, term, kind: 'data', data: Buffer.alloc(10) };
}

const all = (): Allowance => new Allowance(Infinity, Infinity);

describe('the raft log', () => {
  it('knows every term after some reads', () => {
    const terms = [2, ...Array<number>(700).fill(2), ...Array<number>(500).fill(5), 6, 6, 9];
    const stored = new Stored(40, terms);
    const log = new RaftLog(stored, 1000);
    expect(stored.termReads).to.be.lessThan(60);
    stored.termReads = 0;
    terms.forEach((term, at) => expect(log.term(40 + at)).to.equal(term));
    expect(log.term(39)).to.equal(-1);
    expect(log.term(40 + terms.length)).to.equal(-1);
    expect(stored.termReads).to.equal(0);
  });

  it('finds where terms end', () => {
    const log = new RaftLog(new Stored(10, [1, 1, 1, 3, 3, 6]), 1000);
    expect(log.lastIndexUpTo(99, 9)).to.equal(15);
    expect(log.lastIndexUpTo(15, 5)).to.equal(14);
    expect(log.lastIndexUpTo(13, 3)).to.equal(13);
    expect(log.lastIndexUpTo(14, 2)).to.equal(12);
    expect(log.lastIndexUpTo(14, 0)).to.equal(9);
    expect(log.lastIndexUpTo(3, 9)).to.equal(9);
    log.truncateFrom(13);
    expect(log.lastTerm).to.equal(1);
    log.append(entry(13, 7));
    expect(log.term(13)).to.equal(7);
  });

  it('keeps what is not durable in memory, and little of the rest', () => {
    const stored = new Stored(0, [0]);
    const log = new RaftLog(stored, 300);
    stored.terms = Array<number>(21).fill(1);
    for (let index = 1; index <= 20; index += 1) log.append(entry(index, 1));
    expect(log.takeUnwritten()).to.have.length(20);
    expect(log.slice(1, 21, 1e6, all())).to.have.length(20);
    expect(stored.reads).to.equal(0);
    expect(log.persisted(20, 1)).to.equal(true);
    log.slice(20, 21, 1e6, all());
    expect(stored.reads).to.equal(0);
    log.slice(1, 5, 1e6, all());
    expect(stored.reads).to.equal(1);
  });

  it('gives at least one entry, then as many as fit', () => {
    const log = new RaftLog(new Stored(0, [0]), 1e6);
    for (let index = 1; index <= 9; index += 1) log.append(entry(index, 1));
    expect(log.slice(3, 10, 1, all())).to.have.length(1);
    expect(log.slice(3, 10, 58 * 3, all())).to.have.length(3);
    expect(log.slice(3, 5, 1e6, all())).to.have.length(2);
  });

  it('reads no more of what is stored than is allowed, and gives what is in memory anyway', () => {
    const stored = new Stored(0, [0, ...Array<number>(20).fill(1)]);
    const log = new RaftLog(stored, 1e6);
    for (const index of [21, 22]) log.append(entry(index, 1));
    const few = new Allowance(5, 1e6);
    expect(log.slice(1, 21, 1e6, few)).to.have.length(5);
    expect(few.isShort).to.equal(false);
    expect(log.slice(6, 21, 1e6, few)).to.have.length(0);
    expect([few.isShort, few.hasGivenNothing, stored.reads]).to.deep.equal([true, false, 1]);
    expect(log.slice(21, 23, 1e6, few)).to.have.length(2);
    few.next();
    expect([few.isShort, few.hasGivenNothing]).to.deep.equal([false, false]);
    expect(log.slice(6, 21, 1e6, few)).to.have.length(0);
    expect([few.isShort, few.hasGivenNothing, stored.reads]).to.deep.equal([true, true, 1]);
    const small = new Allowance(50, 1);
    expect(log.slice(1, 2, 1e6, small)).to.have.length(1);
    expect(log.slice(2, 3, 1e6, small)).to.have.length(0);
  });

  it('does not take a batch for durable whose entries were replaced, even when the same ones came back', () => {
    const log = new RaftLog(new Stored(0, [0]), 1e6);
    for (const index of [1, 2, 3]) log.append(entry(index, 1));
    log.takeUnwritten();
    log.truncateFrom(2);
    log.append(entry(2, 2));
    log.takeUnwritten();
    log.truncateFrom(2);
    // A leader of term 3 whose log has the entries of term 1.
    for (const index of [2, 3]) log.append(entry(index, 1));
    log.takeUnwritten();
    log.persisted(3, 1);
    expect(log.durableIndex).to.equal(1);
    expect(log.persisted(2, 2)).to.equal(false);
    expect(log.durableIndex).to.equal(1);
    log.persisted(3, 1);
    expect(log.durableIndex).to.equal(3);
    expect(log.persisted(3, 1)).to.equal(false);
  });

  it('restarts behind a snapshot, with the suffix that follows it, which is written again', () => {
    const log = new RaftLog(new Stored(0, [0]), 1e6);
    for (const index of [1, 2, 3]) log.append(entry(index, 1));
    log.takeUnwritten();
    log.persisted(3, 1);
    for (const index of [4, 5]) log.append(entry(index, 2));
    log.takeUnwritten();
    expect(log.restart(4, 2)).to.equal(true);
    expect([log.firstIndex, log.lastIndex, log.durableIndex]).to.deep.equal([5, 5, 4]);
    expect(log.takeUnwritten().map(({ index }) => index)).to.deep.equal([5]);
    expect(log.restart(9, 3)).to.equal(false);
    expect([log.firstIndex, log.lastIndex, log.durableIndex, log.term(9)]).to.deep.equal([10, 9, 9, 3]);
    expect(log.hasUnwritten).to.equal(false);
  });
});
