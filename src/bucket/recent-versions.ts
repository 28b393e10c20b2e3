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
  /** Of whom each name is, in the order in which they came; from #first on. */
  #arrivals: RecentOfBucket[] = [];
  #first = 0;

  constructor(max: number) {
    this.#max = max;
  }

  bucket(from: Timestamp): RecentOfBucket {
    return new RecentOfBucket(from, (recent) => this.#arrived(recent));
  }

  #arrived(recent: RecentOfBucket): void {
    this.#arrivals.push(recent);
    if (this.#arrivals.length - this.#first <= this.#max) return;
    this.#arrivals[this.#first]?.forgetOldest();
    this.#first += 1;
    if (this.#first < this.#max) return;
    this.#arrivals = this.#arrivals.slice(this.#first);
    this.#first = 0;
  }
}

export class RecentOfBucket {
  readonly #arrived: (recent: RecentOfBucket) => void;
  /** In order; from #first on. */
  #ids: VersionId[] = [];
  #first = 0;
  #from: Timestamp;

  constructor(from: Timestamp, arrived: (recent: RecentOfBucket) => void) {
    this.#from = from;
    this.#arrived = arrived;
  }

  get from(): Timestamp {
    return this.#from;
  }

  add(id: VersionId): void {
    const last = this.#ids.at(-1);
    if (last === undefined || compareVersions(last, id) < 0) this.#ids.push(id);
    else this.#ids.splice(this.#place(id), 0, id);
    this.#arrived(this);
  }

  /** The names with timestamps in [low, high], in order. */
  *between(low: Timestamp, high: Timestamp): Generator<VersionId> {
    for (let at = this.#place({ timestamp: low, index: 0, position: 0 }); at < this.#ids.length; at += 1) {
      const id = this.#ids[at];
      if (id === undefined || id.timestamp > high) return;
      yield id;
    }
  }

  /** Another state has taken the place of the one whose records these were; it has nothing above `from`. */
  reset(from: Timestamp): void {
    this.#from = from;
    this.#ids = [];
    this.#first = 0;
  }

  forgetOldest(): void {
    const oldest = this.#ids[this.#first];
    // Names that a reset has dropped still count as arrivals.
    if (oldest === undefined) return;
    this.#from = Math.max(this.#from, oldest.timestamp);
    this.#first += 1;
    if (this.#first * 2 < this.#ids.length) return;
    this.#ids = this.#ids.slice(this.#first);
    this.#first = 0;
  }

  /** Where the first name at or above this one is. */
  #place(id: VersionId): number {
    let low = this.#first;
    let high = this.#ids.length;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const found = this.#ids[middle];
      if (found !== undefined && compareVersions(found, id) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
