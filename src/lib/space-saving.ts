/**
 * Which items come most often in a stream, in bounded memory: Space-Saving (Metwally, Agrawal, El Abbadi: Efficient computation
 * of frequent and top-k elements in data streams, 2005). There are so many counters; an item that has none takes over the one
 * with the lowest count, and inherits that count as its possible error.
 *
 * With n items counted by m counters
 * - no count is too low, and none is too high by more than its error: `count - error <= truth <= count`
 * - no error is above n / m, and every item that came more often than that has a counter
 *
 * All counts may be multiplied by a factor below one now and then, so that what was long ago weighs less: what is said above
 * then holds of the weighted stream, but for items that weigh less than FORGOTTEN, which lose their counters.
 *
 * Example: of 3 counters, after `a a a b b c`, `d` takes that of `c`: a 3, b 2, d 2 with an error of 1.
 */
export interface Frequent {
  readonly item: string;
  readonly count: number;
  readonly error: number;
}

const FORGOTTEN = 0.5;

export class SpaceSaving {
  readonly #items: string[] = [];
  readonly #counts: Float64Array;
  readonly #errors: Float64Array;
  readonly #places = new Map<string, number>();
  /** No count is below it. */
  #least = 0;
  /** Where the search for a counter with the lowest count goes on: mostly it ends where it begins. */
  #hand = 0;

  constructor(counters: number) {
    this.#counts = new Float64Array(counters);
    this.#errors = new Float64Array(counters);
  }

  /** Counters that are in use. */
  get size(): number {
    return this.#items.length;
  }

  add(item: string): void {
    const known = this.#places.get(item);
    if (known !== undefined) {
      this.#counts[known] = this.#countAt(known) + 1;
      return;
    }
    const isFree = this.#items.length < this.#counts.length;
    const place = isFree ? this.#items.length : this.#lowest();
    const inherited = isFree ? 0 : this.#countAt(place);
    if (isFree) this.#least = 0;
    else this.#places.delete(this.#items[place] ?? '');
    this.#items[place] = item;
    this.#places.set(item, place);
    this.#counts[place] = inherited + 1;
    this.#errors[place] = inherited;
  }

  /** From now on all that was counted so far weighs less, by this factor. */
  decay(factor: number): void {
    const kept: Frequent[] = [];
    for (const { item, count, error } of this.#all()) {
      if (count * factor >= FORGOTTEN) kept.push({ item, count: count * factor, error: error * factor });
    }
    this.#items.length = 0;
    this.#places.clear();
    for (const [place, { item, count, error }] of kept.entries()) {
      this.#items[place] = item;
      this.#places.set(item, place);
      this.#counts[place] = count;
      this.#errors[place] = error;
    }
    this.#least = 0;
    this.#hand = 0;
  }

  /** Those that came most often for certain, by what is certain of their counts. */
  top(most: number): Frequent[] {
    return [...this.#all()].sort((a, b) => b.count - b.error - (a.count - a.error)).slice(0, most);
  }

  *#all(): Generator<Frequent> {
    for (const [place, item] of this.#items.entries()) {
      yield { item, count: this.#countAt(place), error: this.#errors[place] ?? 0 };
    }
  }

  #countAt(place: number): number {
    return this.#counts[place] ?? 0;
  }

  /** Once around at most, and then once more with the lowest count that was met. */
  #lowest(): number {
    const size = this.#items.length;
    let next = Infinity;
    for (let steps = 0; steps <= 2 * size; steps += 1) {
      const place = this.#hand;
      const count = this.#countAt(place);
      if (count <= this.#least) return place;
      next = Math.min(next, count);
      this.#hand = (place + 1) % size;
      if (steps === size - 1) this.#least = next;
    }
    return this.#hand;
  }
}
