import { toMapKey, type Bytes } from '../lib/bytes.js';
import { lowerBound } from '../lib/sorted-set.js';
import { transactionKey, type LockRange, type TransactionId, type TransactionKey } from './transaction.js';

/**
 * Who has locked what in one bucket, as its leader sees it: by what is prepared, and by what it has proposed to prepare. It is
 * derived from the replicated state when a term begins, and dies with the term.
 *
 * Written keys are locked exclusively, keys and ranges that were read are shared. Who meets a lock waits if it is *older* than
 * all that it would wait for, and dies if it is younger (wait-die): whoever waits for somebody is older, so no circle of waiting
 * can close. A plain write holds nothing while it waits, so it may always wait.
 */
export interface Holder {
  readonly id: TransactionId;
  readonly first: number;
}

/** What somebody wants to do. */
export interface Claim {
  readonly writes: readonly Bytes[];
  readonly reads: readonly Bytes[];
  readonly ranges: readonly LockRange[];
}

interface Held {
  readonly holder: Holder;
  readonly claim: Claim;
  readonly keys: ClaimKeys;
}

/** A range by the map keys of its ends. */
interface KeyRange {
  readonly start: string;
  /** Exclusive; undefined: no upper bound. */
  readonly end: string | undefined;
}

/** A claim by map keys. Each list is made once, and only when it is asked for: most claims have no ranges and meet none. */
export class ClaimKeys {
  readonly #claim: Claim;
  #writes: readonly string[] | undefined;
  #reads: readonly string[] | undefined;
  #ranges: readonly KeyRange[] | undefined;
  #sorted: SortedWrites | undefined;

  constructor(claim: Claim) {
    this.#claim = claim;
  }

  get writes(): readonly string[] {
    this.#writes ??= this.#claim.writes.map(toMapKey);
    return this.#writes;
  }

  get reads(): readonly string[] {
    this.#reads ??= this.#claim.reads.map(toMapKey);
    return this.#reads;
  }

  get ranges(): readonly KeyRange[] {
    this.#ranges ??= this.#claim.ranges.map(({ start, end }) => {
      return { start: toMapKey(start), end: end.length === 0 ? undefined : toMapKey(end) };
    });
    return this.#ranges;
  }

  /** By key, to be looked up by ranges. */
  get sorted(): SortedWrites {
    this.#sorted ??= new SortedWrites(this.writes);
    return this.#sorted;
  }
}

/** The writes of a claim in the order of their keys. */
class SortedWrites {
  readonly #keys: readonly string[];
  /** At each height h and at each key: the lowest place in the claim of that key and the 2^h - 1 behind it. */
  readonly #lowest: number[][];

  constructor(writes: readonly string[]) {
    const places = writes.map((_, place) => place).sort((a, b) => compare(writes[a] ?? '', writes[b] ?? ''));
    this.#keys = places.map((place) => writes[place] ?? '');
    this.#lowest = [places];
  }

  hasIn({ start, end }: KeyRange): boolean {
    const keys = this.#keys;
    const [first, last] = [keys[0], keys[keys.length - 1]];
    // Most ranges are looked up among keys that are all on one side of them.
    if (first === undefined || last === undefined || last < start || (end !== undefined && first >= end)) return false;
    return end === undefined || (keys[lowerBound(keys, start)] ?? last) < end;
  }

  /** The lowest place in the claim of a write in the range; Infinity if there is none. */
  placeIn({ start, end }: KeyRange): number {
    const from = lowerBound(this.#keys, start);
    const count = (end === undefined ? this.#keys.length : lowerBound(this.#keys, end)) - from;
    if (count <= 0) return Infinity;
    // Two stretches that overlap cover the range, however many writes are in it.
    const height = 31 - Math.clz32(count);
    const lowest = this.#lowestAt(height);
    return Math.min(lowest[from] ?? Infinity, lowest[from + count - 2 ** height] ?? Infinity);
  }

  #lowestAt(height: number): readonly number[] {
    const known = this.#lowest[height];
    if (known !== undefined) return known;
    const half = this.#lowestAt(height - 1);
    const made = half.map((place, at) => Math.min(place, half[at + 2 ** (height - 1)] ?? Infinity));
    this.#lowest.push(made);
    return made;
  }
}

export class Locks {
  readonly #held = new Map<TransactionKey, Held>();
  readonly #exclusive = new Map<string, Holder>();
  readonly #shared = new Map<string, Set<Holder>>();
  readonly #ranges = new Map<TransactionKey, Held>();

  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  has(id: TransactionId): boolean {
    return this.#held.has(transactionKey(id));
  }

  take(holder: Holder, claim: Claim): void {
    const key = transactionKey(holder.id);
    const keys = new ClaimKeys(claim);
    const held = { holder, claim, keys };
    this.#held.set(key, held);
    for (const write of keys.writes) this.#exclusive.set(write, holder);
    for (const read of keys.reads) {
      const holders = this.#shared.get(read) ?? new Set();
      this.#shared.set(read, holders.add(holder));
    }
    if (claim.ranges.length > 0) this.#ranges.set(key, held);
  }

  /** Answers with the keys that were locked for writing. */
  release(id: TransactionId): readonly Bytes[] {
    const key = transactionKey(id);
    const held = this.#held.get(key);
    if (held === undefined) return [];
    const { holder, claim, keys } = held;
    this.#held.delete(key);
    this.#ranges.delete(key);
    for (const write of keys.writes) this.#exclusive.delete(write);
    for (const read of keys.reads) {
      const holders = this.#shared.get(read);
      holders?.delete(holder);
      if (holders?.size === 0) this.#shared.delete(read);
    }
    return claim.writes;
  }

  /**
   * All that stand in the way of a claim: those that its writes meet, in their order, then those that its reads meet, then those
   * that write in its ranges. `keys` saves who holds the claim against several locks from working them out anew.
   */
  conflicts(claim: Claim, keys = new ClaimKeys(claim)): Holder[] {
    if (this.isEmpty) return [];
    const found = new Set<Holder>();
    const byPlace = this.#ranges.size === 0 ? undefined : this.#rangesOver(keys);
    let place = 0;
    for (const write of keys.writes) {
      const writer = this.#exclusive.get(write);
      if (writer !== undefined) found.add(writer);
      this.#shared.get(write)?.forEach((reader) => found.add(reader));
      byPlace?.get(place)?.forEach((holder) => found.add(holder));
      place += 1;
    }
    for (const read of keys.reads) {
      const writer = this.#exclusive.get(read);
      if (writer !== undefined) found.add(writer);
    }
    if (claim.ranges.length > 0) for (const writer of this.#writersIn(keys)) found.add(writer);
    return found.size === 0 ? [] : [...found];
  }

  /** The holders of ranges that a claim writes in, by the place of the first write that is in one. */
  #rangesOver(claim: ClaimKeys): ReadonlyMap<number, readonly Holder[]> {
    const byPlace = new Map<number, Holder[]>();
    for (const { holder, keys } of this.#ranges.values()) {
      const place = keys.ranges.reduce((lowest, range) => Math.min(lowest, claim.sorted.placeIn(range)), Infinity);
      const holders = byPlace.get(place);
      if (holders === undefined) byPlace.set(place, [holder]);
      else holders.push(holder);
    }
    return byPlace;
  }

  /** Those that write in the ranges of a claim, in the order of the first range in which each does. */
  #writersIn({ ranges }: ClaimKeys): Holder[] {
    const met: { readonly holder: Holder; readonly place: number }[] = [];
    for (const { holder, keys } of this.#held.values()) {
      const { sorted } = keys;
      const place = ranges.findIndex((range) => sorted.hasIn(range));
      if (place >= 0) met.push({ holder, place });
    }
    return met.sort((a, b) => a.place - b.place).map(({ holder }) => holder);
  }
}

/** Whether `a` began before `b`; two that began in the same moment are told apart by their request. */
export function isOlder(a: Holder, b: Holder): boolean {
  return (a.first - b.first || a.id.session - b.id.session || a.id.sequence - b.id.sequence) < 0;
}

function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
