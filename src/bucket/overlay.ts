import type { PageOptions } from '../env/env.js';
import { toMapKey, type Bytes } from '../lib/bytes.js';
import { SortedSet } from '../lib/sorted-set.js';

export interface Write {
  readonly key: Bytes;
  /** Undefined: deleted. */
  readonly value: Bytes | undefined;
}

/** The beginning of a range, in the direction in which it is read. */
export interface Run {
  readonly writes: readonly Write[];
  /** True if the range may hold more behind the last of them. */
  readonly more: boolean;
}

/**
 * Writes that wait for the disk; of each key, the last. Nothing is ever taken out.
 *
 * A put must cost no more than the map does, so keys are brought into order when somebody asks for a range, in pieces that are
 * short enough for a turn. A range then costs what is taken of it, however much waits.
 */
export class Overlay {
  readonly #writes = new Map<string, Write>();
  readonly #sorted = new SortedSet();
  #sortedCount = 0;
  /** Behind the keys that are sorted: a map keeps the order in which its keys came, and the iterator sees later ones, too. */
  #unsorted: Iterator<string> | undefined;
  #bytes = 0;

  /** Of all that was written, about. */
  get bytes(): number {
    return this.#bytes;
  }

  get isEmpty(): boolean {
    return this.#writes.size === 0;
  }

  get(mapKey: string): Write | undefined {
    return this.#writes.get(mapKey);
  }

  set(write: Write): void {
    this.#writes.set(toMapKey(write.key), write);
    this.#bytes += write.key.length + (write.value?.length ?? 0) + 64;
  }

  writes(): Iterable<Write> {
    return this.#writes.values();
  }

  /** Sorts up to `most` of the keys that are not sorted yet; true if there are no more. */
  sort(most: number): boolean {
    const count = Math.min(this.#writes.size, this.#sortedCount + most);
    for (; this.#sortedCount < count; this.#sortedCount += 1) {
      this.#unsorted ??= this.#writes.keys();
      // Never asked when there is none: an iterator that has come to the end once stays there.
      this.#sorted.add(this.#unsorted.next().value as string);
    }
    return this.#sortedCount === this.#writes.size;
  }

  /** The first writes of the range, at most `limit`, deletions included, of the keys that are sorted. */
  run({ gte, lt, reverse, limit }: PageOptions): Run {
    const writes: Write[] = [];
    for (const mapKey of this.#sorted.range(toMapKey(gte), lt.length === 0 ? undefined : toMapKey(lt), reverse)) {
      if (writes.length === limit) return { writes, more: true };
      const write = this.#writes.get(mapKey);
      if (write !== undefined) writes.push(write);
    }
    return { writes, more: false };
  }
}

/** One run of two over the same range. Where both have a key, the newer one counts. Ends where the first of them does. */
export function merge(older: Run, newer: Run, reverse = false): Run {
  const direction = reverse ? -1 : 1;
  const writes: Write[] = [];
  for (let [oldAt, newAt] = [0, 0]; ; ) {
    const oldWrite = older.writes[oldAt];
    const newWrite = newer.writes[newAt];
    // Behind the last write of a run that goes on there may be keys that were not read.
    if ((oldWrite === undefined && older.more) || (newWrite === undefined && newer.more)) return { writes, more: true };
    const ofOne = oldWrite === undefined ? 1 : -1;
    const order = oldWrite && newWrite ? direction * Buffer.compare(oldWrite.key, newWrite.key) : ofOne;
    const next = order < 0 ? oldWrite : newWrite;
    if (next === undefined) return { writes, more: false };
    writes.push(next);
    if (order <= 0) oldAt += 1;
    if (order >= 0) newAt += 1;
  }
}
