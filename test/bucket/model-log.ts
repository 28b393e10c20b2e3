import type { Entry } from '../../src/raft/types.js';

/** What a log is: one entry per index, behind a start. */
export class ModelLog {
  start = 0;
  startTerm = 0;
  entries: Entry[] = [];
  /** The lowest index that the present batch writes. */
  firstReplaced = Infinity;

  copy(): ModelLog {
    const other = new ModelLog();
    other.start = this.start;
    other.startTerm = this.startTerm;
    other.entries = [...this.entries];
    return other;
  }

  get last(): number {
    return this.start + this.entries.length;
  }

  /** The highest term that it holds. */
  get topTerm(): number {
    return this.term(this.last);
  }

  entry(index: number): Entry {
    const entry = this.entries[index - this.start - 1];
    if (entry === undefined) throw new RangeError(`the model has no entry ${index}`);
    return entry;
  }

  term(index: number): number {
    return index === this.start ? this.startTerm : this.entry(index).term;
  }

  append(entries: readonly Entry[]): void {
    const first = entries[0]?.index ?? 0;
    this.firstReplaced = Math.min(this.firstReplaced, first);
    this.entries.splice(first - this.start - 1, Infinity, ...entries);
  }

  compact(index: number): void {
    if (index > this.start) this.#restart(index, this.term(index), this.entries.slice(index - this.start));
  }

  reset(index: number, term: number): void {
    const isHeld = index >= this.start && index <= this.last && this.term(index) === term;
    this.#restart(index, term, isHeld ? this.entries.slice(index - this.start) : []);
  }

  #restart(index: number, term: number, entries: Entry[]): void {
    this.start = index;
    this.startTerm = term;
    this.entries = entries;
  }
}
