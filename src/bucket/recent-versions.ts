import { compareVersions, type VersionId } from '../mvcc/records.js';
import type { Timestamp } from '../mvcc/timestamp.js';

/**
 * The names of the records that this node has applied last, in memory, so that who follows the changes of many buckets need not
 * look for new records in the store: there they lie in a place of their own for each bucket (mvcc/records.ts), and to look into
 * 256 places ten times a second would cost more than to write.
 *
 * Shared by all buckets of a node, bounded in number; what was applied first is forgotten first.
 *
 * Invariant, for each bucket: every applied record with a timestamp above `from` is named here.
 */
export class RecentVersions {
  readonly #max: number;
  /** A ring: of whom each name is, in the order in which they came. */
  readonly #arrivals: RecentOfBucket[] = [];
  #next = 0;

  constructor(max: number) {
    this.#max = max;
  }

  bucket(from: Timestamp): RecentOfBucket {
    return new RecentOfBucket(from, (recent) => this.#arrived(recent));
  }

  #arrived(recent: RecentOfBucket): void {
    this.#arrivals[this.#next]?.forgetOldest();
    this.#arrivals[this.#next] = recent;
    this.#next = (this.#next + 1) % this.#max;
  }
}

/** Timestamp, index, position. */
const FIELDS = 3;
const CAPACITY_MIN = 8;
/** Room for so many times as many names as there are is too much. */
const SHRINK = 4;

export class RecentOfBucket {
  readonly #arrived: (recent: RecentOfBucket) => void;
  /**
   * The names in order, those numbered #first to #end - 1, as plain numbers: as objects, which live until many others have
   * come, they were a good part of what the garbage collector had to move.
   */
  #names = new Float64Array(0);
  #first = 0;
  #end = 0;
  #from: Timestamp;

  constructor(from: Timestamp, arrived: (recent: RecentOfBucket) => void) {
    this.#from = from;
    this.#arrived = arrived;
  }

  get from(): Timestamp {
    return this.#from;
  }

  /** How many names there is room for. */
  get capacity(): number {
    return this.#names.length / FIELDS;
  }

  add(id: VersionId): void {
    const place = this.#end > this.#first && this.#compare(this.#end - 1, id) >= 0 ? this.#place(id) : this.#end;
    const at = this.#makeRoom(place) * FIELDS;
    this.#names[at] = id.timestamp;
    this.#names[at + 1] = id.index;
    this.#names[at + 2] = id.position;
    this.#end += 1;
    this.#arrived(this);
  }

  /** The names with timestamps in [low, high], in order. */
  *between(low: Timestamp, high: Timestamp): Generator<VersionId> {
    for (let at = this.#place({ timestamp: low, index: 0, position: 0 }); at < this.#end; at += 1) {
      const id = this.#nameAt(at);
      if (id.timestamp > high) return;
      yield id;
    }
  }

  /** Another state has taken the place of the one whose records these were; it has nothing above `from`. */
  reset(from: Timestamp): void {
    this.#from = from;
    this.#names = new Float64Array(0);
    this.#first = 0;
    this.#end = 0;
  }

  forgetOldest(): void {
    // Names that a reset has dropped still count as arrivals.
    if (this.#first === this.#end) return;
    this.#from = Math.max(this.#from, this.#nameAt(this.#first).timestamp);
    this.#first += 1;
    const count = this.#end - this.#first;
    // A bucket that is not written to any more keeps no room for what it has forgotten.
    if (this.capacity > CAPACITY_MIN && count * SHRINK <= this.capacity) this.#resize(count);
  }

  /** Makes room for one more name in front of the one at `place`, and says where it is. */
  #makeRoom(place: number): number {
    if (this.#end < this.capacity) {
      this.#names.copyWithin((place + 1) * FIELDS, place * FIELDS, this.#end * FIELDS);
      return place;
    }
    const moved = place - this.#first;
    this.#resize(this.#end - this.#first);
    this.#names.copyWithin((moved + 1) * FIELDS, moved * FIELDS, this.#end * FIELDS);
    return moved;
  }

  /** Room for twice as many names as there are. */
  #resize(count: number): void {
    const names = new Float64Array(Math.max(CAPACITY_MIN, 2 * count) * FIELDS);
    names.set(this.#names.subarray(this.#first * FIELDS, this.#end * FIELDS));
    this.#names = names;
    this.#first = 0;
    this.#end = count;
  }

  /** The number of the first name at or above this one. */
  #place(id: VersionId): number {
    let low = this.#first;
    let high = this.#end;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.#compare(middle, id) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #compare(at: number, id: VersionId): number {
    return compareVersions(this.#nameAt(at), id);
  }

  #nameAt(number: number): VersionId {
    const at = number * FIELDS;
    return { timestamp: this.#names[at] ?? 0, index: this.#names[at + 1] ?? 0, position: this.#names[at + 2] ?? 0 };
  }
}
