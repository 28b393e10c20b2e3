import type { BucketId } from '../placement/map.js';
import type { LogIndex, Term } from '../raft/types.js';
import { corrupt, type LogStart } from './log-format.js';

/** Counts how many segments, of all buckets, are in a batch record. */
export interface RecordUse {
  hold(sequence: number): void;
  release(sequence: number): void;
}

/**
 * Where the entries of one bucket's log stand: segments in the order of the log, each a part of a section of a batch record.
 *
 *     start.index |  first .. last  |  first .. last  |  first .. last
 *                 |  record 5       |  record 5       |  record 9
 *
 * It is changed by nothing but add() and restart(), with what a batch has made durable, and is rebuilt after a restart by the
 * same two: the start record first, then every section that is still on disk, in the order of the sequence.
 *
 * Why that gives the same log, though records that nobody needs were deleted in any order. Let entry p of a section in record x
 * be dead. It must not come back; and it can only come back if it is neither below the start, nor in a record before `since`,
 * nor replaced by a section that is still there. What killed it was
 * - a restart() that passed it: it is below the start; or that emptied the log: x < since, as `since` is the coming record then.
 * - a later section in record z > x with a first index f <= p. If record z is on disk, it replaces p again. If z was deleted,
 *   entry f of it was dead, too. It was replaced by a still later section, from an index <= f on: go on with that one; or a
 *   restart() killed it. If that emptied the log, x < z < since. Else it passed f, and set `since` to the record of the first
 *   entry that it left, or to the coming record if it left none. What stands behind f when f is in record z was written after
 *   z, or with it: z has replaced everything from f on. So x < z <= since.
 * `since` never falls, as records of consecutive segments never do. And no record is deleted before the batch that killed its
 * last entry, with its start records, is durable (log-storage.ts).
 *
 * So an index alone does not do as a start. Record 5 holds 10 to 20; record 9 replaces all of that by 10 alone; the log is
 * compacted to 10, and record 9 goes while another bucket needs record 5: without `since`, 11 to 20 would be back.
 */
export class LogSegments {
  readonly #bucket: BucketId;
  readonly #use: RecordUse;
  #start: LogStart;
  readonly #rows = new Rows();
  /** Where each term begins. */
  readonly #runStarts: LogIndex[] = [];
  readonly #runTerms: Term[] = [];

  constructor(bucket: BucketId, start: LogStart, use: RecordUse) {
    this.#bucket = bucket;
    this.#start = start;
    this.#use = use;
  }

  get start(): LogStart {
    return this.#start;
  }

  get last(): LogIndex {
    return this.#rows.length === 0 ? this.#start.index : this.#rows.last(this.#rows.length - 1);
  }

  /** The term at an index from that of the start to the last one. */
  term(index: LogIndex): Term {
    if (index === this.#start.index) return this.#start.term;
    for (let run = this.#runStarts.length - 1; run >= 0; run -= 1) {
      if ((this.#runStarts[run] ?? 0) <= index) return this.#runTerms[run] ?? 0;
    }
    return this.#start.term;
  }

  /** The segment that holds an index of the log. */
  at(index: LogIndex): { readonly last: LogIndex; readonly sequence: number } {
    const rows = this.#rows;
    const row = rows.countWhile((at) => rows.first(at) <= index) - 1;
    if (row < 0 || index > rows.last(row)) throw corrupt(`log entry ${index} of bucket ${this.#bucket} is missing`);
    return { last: rows.last(row), sequence: rows.sequence(row) };
  }

  /** The record of the first entry behind `index`; undefined if there is none. */
  sequenceBehind(index: LogIndex): number | undefined {
    return index < this.last ? this.at(Math.max(index, this.#start.index) + 1).sequence : undefined;
  }

  /** The last index that stands in a record before `sequence`; that of the start if there is none. */
  lastIndexBefore(sequence: number): LogIndex {
    const older = this.#rows.countWhile((at) => this.#rows.sequence(at) < sequence);
    return older === 0 ? this.#start.index : this.#rows.last(older - 1);
  }

  /** A section: it replaces everything from its first index on. */
  add(sequence: number, first: LogIndex, count: number, term: Term): void {
    if (sequence < this.#start.since) return;
    this.#cutFrom(first);
    const last = first + count - 1;
    if (last <= this.#start.index) return;
    this.#rows.push(first, last, sequence);
    this.#use.hold(sequence);
    if (this.#runTerms.at(-1) !== term) {
      this.#runStarts.push(first);
      this.#runTerms.push(term);
    }
  }

  #cutFrom(index: LogIndex): void {
    const rows = this.#rows;
    while (rows.length > 0 && rows.first(rows.length - 1) >= index) {
      this.#use.release(rows.sequence(rows.length - 1));
      rows.pop();
    }
    if (rows.length > 0 && this.last >= index) rows.endLast(index - 1);
    while ((this.#runStarts.at(-1) ?? -1) >= index) {
      this.#runStarts.pop();
      this.#runTerms.pop();
    }
  }

  /** The log begins behind another entry, and nothing in records before `start.since` counts any more. */
  restart(start: LogStart): void {
    this.#start = start;
    const rows = this.#rows;
    const dropped = rows.countWhile((at) => rows.last(at) <= start.index || rows.sequence(at) < start.since);
    for (let at = 0; at < dropped; at += 1) this.#use.release(rows.sequence(at));
    rows.dropFirst(dropped);
    while (this.#runStarts.length > 0 && (rows.length === 0 || (this.#runStarts[1] ?? Infinity) <= start.index + 1)) {
      this.#runStarts.shift();
      this.#runTerms.shift();
    }
  }

  /**
   * When all sections were added after a restart: is it a log? In between it need not be: a section may stand there whose
   * predecessor was deleted, both having been replaced.
   */
  verify(): void {
    let next = this.#start.index + 1;
    for (let at = 0; at < this.#rows.length; at += 1) {
      const first = this.#rows.first(at);
      if (first > next) throw corrupt(`log entries ${next} to ${first - 1} of bucket ${this.#bucket} are missing`);
      next = this.#rows.last(at) + 1;
    }
    let { term } = this.#start;
    for (const runTerm of this.#runTerms) {
      if (runTerm < term) throw corrupt(`the terms of the log of bucket ${this.#bucket} fall from ${term} to ${runTerm}`);
      term = runTerm;
    }
  }
}

const COLUMNS = 3;

/**
 * A queue of (first index, last index, sequence), each of which grows along it. A node may have half a million of them: here they
 * take 24 bytes each, and the garbage collector need not visit them.
 */
class Rows {
  #data = new Float64Array(8 * COLUMNS);
  #begin = 0;
  #end = 0;

  get length(): number {
    return this.#end - this.#begin;
  }

  first(row: number): LogIndex {
    return this.#at(row, 0);
  }

  last(row: number): LogIndex {
    return this.#at(row, 1);
  }

  sequence(row: number): number {
    return this.#at(row, 2);
  }

  #at(row: number, column: number): number {
    return this.#data[(this.#begin + row) * COLUMNS + column] ?? NaN;
  }

  push(first: LogIndex, last: LogIndex, sequence: number): void {
    const at = this.#end * COLUMNS;
    if (at === this.#data.length) {
      this.#move();
      this.push(first, last, sequence);
      return;
    }
    this.#data[at] = first;
    this.#data[at + 1] = last;
    this.#data[at + 2] = sequence;
    this.#end += 1;
  }

  /** Makes room behind the last row: by half of what there is, or in what was dropped. */
  #move(): void {
    const { length } = this;
    const rows = this.#data.subarray(this.#begin * COLUMNS, this.#end * COLUMNS);
    const room = Math.max(8, Math.ceil(length * 1.5));
    this.#data = new Float64Array(room * COLUMNS);
    this.#data.set(rows);
    this.#begin = 0;
    this.#end = length;
  }

  endLast(last: LogIndex): void {
    this.#data[(this.#end - 1) * COLUMNS + 1] = last;
  }

  pop(): void {
    this.#end -= 1;
  }

  dropFirst(count: number): void {
    this.#begin += count;
    if (count > 0 && this.length * 4 < this.#data.length / COLUMNS) this.#move();
  }

  /** How many rows are at the front for which `holds` is true; it must be false for all behind the first for which it is. */
  countWhile(holds: (row: number) => boolean): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (holds(middle)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
