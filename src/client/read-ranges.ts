import type { Bytes } from '../lib/bytes.js';
import { keyAfter } from '../lib/ordered.js';
import type { KeyRange } from '../bucket/requests.js';
import { liesInOnePartition } from '../placement/range.js';

/**
 * How much of a range a scan has read. A scan that was broken off has read up to the last entry that it gave, and nothing behind
 * it: a key that appears there later is no phantom.
 *
 * Example: of [a, z) the entries b and f were taken: [a, f\0) is read. Backward, y and t: [t, z).
 */
export class ReadRange {
  readonly #range: KeyRange;
  readonly #reverse: boolean;
  #last: Bytes | undefined;
  #isWhole = false;

  constructor(range: KeyRange, reverse: boolean) {
    this.#range = range;
    this.#reverse = reverse;
  }

  reached(key: Bytes): void {
    this.#last = key;
  }

  finished(): void {
    this.#isWhole = true;
  }

  /** Undefined if nothing was read yet. */
  covered(): KeyRange | undefined {
    const { start, end } = this.#range;
    if (this.#isWhole) return { start, end };
    if (this.#last === undefined) return undefined;
    return this.#reverse ? { start: this.#last, end } : { start, end: keyAfter(this.#last) };
  }
}

/**
 * The same keys in few ranges, in order of their starts. An empty end is the end of all keys. Ranges that touch become one,
 * unless that would lie in all buckets where one of them lies in a single one.
 */
export function mergeRanges(ranges: readonly KeyRange[]): KeyRange[] {
  const sorted = ranges.filter(({ start, end }) => end.length === 0 || start.compare(end) < 0);
  sorted.sort((a, b) => a.start.compare(b.start) || -compareEnds(a.end, b.end));
  const merged: KeyRange[] = [];
  for (const range of sorted) {
    const before = merged.at(-1);
    const touches = before !== undefined && (before.end.length === 0 || range.start.compare(before.end) <= 0);
    if (!touches) {
      merged.push(range);
    } else if (compareEnds(range.end, before.end) > 0) {
      const both = { start: before.start, end: range.end };
      if (isSpread(both) && !(isSpread(before) && isSpread(range))) merged.push(range);
      else merged[merged.length - 1] = both;
    }
  }
  return merged;
}

function isSpread({ start, end }: KeyRange): boolean {
  return !liesInOnePartition(start, end);
}

function compareEnds(a: Bytes, b: Bytes): number {
  if (a.length === 0 || b.length === 0) return b.length - a.length === 0 ? 0 : a.length === 0 ? 1 : -1;
  return a.compare(b);
}
