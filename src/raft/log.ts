import { assert } from '../lib/assert.js';
import { mutant } from '../lib/mutants.js';
import type { Allowance } from './reading.js';
import type { Entry, LogIndex, LogReader, Term } from './types.js';

/** What an entry costs in memory and on the wire beside its data, roughly. */
const ENTRY_OVERHEAD_BYTES = 48;

export function entryBytes(entry: Entry): number {
  return entry.data.length + ENTRY_OVERHEAD_BYTES;
}

/** A batch of entries given out for writing and not yet reported as durable. */
interface Write {
  readonly index: LogIndex;
  readonly term: Term;
  /** What this batch will prove to be durable: `index`, or less if the log was truncated since. */
  proves: LogIndex;
}

/**
 * The log of one replica: a tail in memory over what the store holds.
 *
 *     1 .. firstIndex-1 | firstIndex .. durableIndex | .. writtenIndex | .. lastIndex
 *        compacted           on disk                   being written     to be given out
 *
 * Invariants
 * - Everything above durableIndex is in memory; below it the memory is a cache, and the reader holds the truth. The reader
 *   is never asked above durableIndex: what it has there may be about to be replaced.
 * - The term of every index in [firstIndex - 1, lastIndex] is known without a read: terms never fall along a log, so a
 *   short list of runs (first index, term) holds them all.
 * - A batch that is still being written proves nothing about entries that were truncated after it was given out, even if
 *   the very same entries came back meanwhile: the batch that removes them may be on its way to the disk.
 */
export class RaftLog {
  private readonly reader: LogReader;
  private readonly cacheBytesMax: number;
  private cache: Entry[] = [];
  private cacheFirst: LogIndex;
  private cacheBytes = 0;
  private readonly runStarts: LogIndex[] = [];
  private readonly runTerms: Term[] = [];
  private writes: Write[] = [];
  private writtenIndex: LogIndex;
  private first: LogIndex;
  private last: LogIndex;
  private durable: LogIndex;

  constructor(reader: LogReader, cacheBytesMax: number) {
    this.reader = reader;
    this.cacheBytesMax = cacheBytesMax;
    this.first = reader.firstIndex();
    this.last = reader.lastIndex();
    assert(this.first >= 1 && this.last >= this.first - 1, 'the stored log is a range');
    this.durable = this.last;
    this.writtenIndex = this.last;
    this.cacheFirst = this.last + 1;
    this.loadTerms();
  }

  get firstIndex(): LogIndex {
    return this.first;
  }

  get lastIndex(): LogIndex {
    return this.last;
  }

  get durableIndex(): LogIndex {
    return this.durable;
  }

  get lastTerm(): Term {
    return this.runTerms[this.runTerms.length - 1] ?? 0;
  }

  /** The term at `index`; -1 if it is compacted or beyond the end. */
  term(index: LogIndex): Term {
    if (index > this.last || index < this.first - 1) return -1;
    for (let run = this.runStarts.length - 1; run >= 0; run -= 1) {
      if ((this.runStarts[run] ?? 0) <= index) return this.runTerms[run] ?? 0;
    }
    return -1;
  }

  /** Is a log that ends with (index, term) at least as complete as this one? (Raft 5.4.1) */
  isUpToDate(index: LogIndex, term: Term): boolean {
    if (mutant('vote-by-log-length')) return index >= this.last;
    return term > this.lastTerm || (term === this.lastTerm && index >= this.last);
  }

  /** The highest index at or below `index` whose term is at most `term`; firstIndex - 2 if there is none left to see. */
  lastIndexUpTo(index: LogIndex, term: Term): LogIndex {
    let end = Math.min(index, this.last);
    for (let run = this.runStarts.length - 1; run >= 0; run -= 1) {
      const start = Math.max(this.runStarts[run] ?? 0, this.first - 1);
      if (start > end) continue;
      if ((this.runTerms[run] ?? 0) <= term) return end;
      end = start - 1;
    }
    return this.first - 2;
  }

  append(entry: Entry): void {
    assert(entry.index === this.last + 1, 'the log has no gaps');
    assert(entry.term >= this.lastTerm, 'terms never fall along a log');
    if (entry.term > this.lastTerm) this.addRun(entry.index, entry.term);
    this.cache.push(entry);
    this.cacheBytes += entryBytes(entry);
    this.last = entry.index;
  }

  /** Removes every entry from `index` on. The caller knows that none of them is committed. */
  truncateFrom(index: LogIndex): void {
    assert(index >= this.first && index <= this.last, 'only entries of the log can be removed');
    this.last = index - 1;
    this.durable = Math.min(this.durable, this.last);
    this.writtenIndex = Math.min(this.writtenIndex, this.last);
    if (!mutant('truncated-write-proves')) for (const write of this.writes) write.proves = Math.min(write.proves, this.last);
    while (this.runStarts.length > 1 && (this.runStarts[this.runStarts.length - 1] ?? 0) >= index) {
      this.runStarts.pop();
      this.runTerms.pop();
    }
    if (index <= this.cacheFirst) {
      this.cacheFirst = index;
      this.cache = [];
      this.cacheBytes = 0;
    } else {
      for (const entry of this.cache.splice(index - this.cacheFirst)) this.cacheBytes -= entryBytes(entry);
    }
  }

  get hasUnwritten(): boolean {
    return this.writtenIndex < this.last;
  }

  /** The entries that are not yet given out for writing. */
  takeUnwritten(): Entry[] {
    const entries = this.cache.slice(this.writtenIndex + 1 - this.cacheFirst);
    assert(entries.length === this.last - this.writtenIndex, 'entries that are not durable stay in memory');
    this.writes.push({ index: this.last, term: this.lastTerm, proves: this.last });
    this.writtenIndex = this.last;
    return entries;
  }

  /** The batch that ended with (index, term), and all before it, are on disk. True if more of this log is durable now. */
  persisted(index: LogIndex, term: Term): boolean {
    const at = this.writes.findIndex((write) => write.index === index && write.term === term);
    if (at < 0) return false;
    let proven = this.durable;
    for (let i = 0; i <= at; i += 1) proven = Math.max(proven, this.writes[i]?.proves ?? 0);
    this.writes.splice(0, at + 1);
    if (proven === this.durable) return false;
    this.durable = proven;
    this.evict();
    return true;
  }

  /**
   * Entries of [from, to): at least one, then as many as fit into `bytesMax`. Of what is not in memory no more than is allowed,
   * so maybe none.
   */
  slice(from: LogIndex, to: LogIndex, bytesMax: number, allowed: Allowance): readonly Entry[] {
    assert(from >= this.first && from < to && to <= this.last + 1, 'a slice lies within the log');
    if (from < this.cacheFirst) {
      const { entries: count, bytes } = allowed.ask();
      if (count === 0) return [];
      const entries = this.reader.entries(from, Math.min(to, this.cacheFirst, from + count), Math.min(bytesMax, bytes));
      assert(entries[0]?.index === from, 'the reader returns what it was asked for');
      let read = 0;
      for (const entry of entries) {
        assert(entry.term === this.term(entry.index), 'the entries of the stored log belong together');
        read += entryBytes(entry);
      }
      allowed.take(entries.length, read);
      return entries;
    }
    let end = from - this.cacheFirst;
    const limit = to - this.cacheFirst;
    for (let bytes = 0; end < limit; end += 1) {
      const entry = this.cache[end];
      assert(entry !== undefined, 'the cache has no gaps');
      bytes += entryBytes(entry);
      if (bytes > bytesMax && end > from - this.cacheFirst) break;
    }
    return this.cache.slice(from - this.cacheFirst, end);
  }

  /** Forgets the log up to and including `index`. */
  compact(index: LogIndex): void {
    if (index < this.first) return;
    assert(index <= this.durable, 'only durable entries are compacted');
    this.first = index + 1;
    this.dropCacheBelow(this.first);
    while (this.runStarts.length > 1 && (this.runStarts[1] ?? Infinity) <= index) {
      this.runStarts.shift();
      this.runTerms.shift();
    }
  }

  /**
   * The log restarts behind a snapshot. A suffix that follows the same (index, term) stays; what of it was not durable is
   * given out for writing again, for the store may have been emptied after the batch. True if there is such a suffix.
   */
  restart(index: LogIndex, term: Term): boolean {
    const keep = this.term(index) === term;
    this.writes = [];
    if (keep) {
      this.durable = Math.max(this.durable, index);
      this.writtenIndex = this.durable;
      this.compact(index);
      return this.last > index;
    }
    this.first = index + 1;
    this.last = this.durable = this.writtenIndex = index;
    this.cache = [];
    this.cacheFirst = this.first;
    this.cacheBytes = 0;
    this.runStarts.length = this.runTerms.length = 0;
    this.addRun(index, term);
    return false;
  }

  private evict(): void {
    if (this.cacheBytes <= this.cacheBytesMax) return;
    // Down to three quarters at a time: dropping the head of an array costs its whole length.
    const target = (this.cacheBytesMax * 3) / 4;
    let below = this.cacheFirst;
    let bytes = this.cacheBytes;
    for (const entry of this.cache) {
      if (bytes <= target || entry.index > this.durable) break;
      bytes -= entryBytes(entry);
      below = entry.index + 1;
    }
    this.dropCacheBelow(below);
  }

  private dropCacheBelow(index: LogIndex): void {
    if (index <= this.cacheFirst) return;
    for (const entry of this.cache.splice(0, index - this.cacheFirst)) this.cacheBytes -= entryBytes(entry);
    this.cacheFirst = index;
  }

  private addRun(start: LogIndex, term: Term): void {
    this.runStarts.push(start);
    this.runTerms.push(term);
  }

  /** Finds the runs by bisection: some reads for each term in the log, not one for each entry. */
  private loadTerms(): void {
    const lastTerm = this.reader.term(this.last);
    for (let start = this.first - 1; ; ) {
      const term = this.reader.term(start);
      this.addRun(start, term);
      if (term === lastTerm) return;
      let low = start;
      let high = this.last;
      while (high - low > 1) {
        const middle = Math.floor((low + high) / 2);
        if (this.reader.term(middle) === term) low = middle;
        else high = middle;
      }
      start = high;
    }
  }
}
