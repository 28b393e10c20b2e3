import { assert } from '../lib/assert.js';
import { Heap } from '../lib/heap.js';
import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import { bytesOfChange, comparePositions, wholeTimestamp, type Change, type Position } from './change.js';

/**
 * Merges the feeds of many buckets into one stream, ordered by (timestamp, bucket, n). Pure: no I/O, no clock.
 *
 * Of each bucket it knows up to where its feed is complete. What all of them have passed, the *least* of these positions, can be
 * given out; what lies behind waits in its bucket's queue. A feed tells only resolved records, which are the same on every
 * replica and for ever. So it does not matter which replica told what: a bucket may be read on elsewhere from where it is, and
 * what is told twice is dropped here.
 *
 * Invariants: what is taken is in strict order of positions; `position` is at or above everything taken and below everything
 * that is not; nothing at or below `mark` will be taken any more.
 *
 * Example, buckets 1 and 2, both complete up to 10. `add([1], [12, 15], 20)`: nothing can be taken, since bucket 2 may have an
 * 11. `add([2], [13], 14)`: 12 and 13 can, and the mark is 14; 15 waits for bucket 2.
 */
export class Merge {
  readonly #feeds = new Map<BucketId, Feed>();
  /** Feeds with something in their queue, the one with the lowest record first. */
  readonly #heads = new Heap<Feed>((a, b) => comparePositions(a.head.at, b.head.at) < 0);
  #least: Position;
  #position: Position;
  #bytes = 0;

  constructor(buckets: readonly BucketId[], after: Position) {
    this.#least = after;
    this.#position = after;
    for (const bucket of buckets) this.#feeds.set(bucket, new Feed(bucket, after));
  }

  /** All buckets are known up to here. */
  get least(): Position {
    return this.#least;
  }

  /** Everything up to here was taken. */
  get position(): Position {
    return this.#position;
  }

  /** Everything at or below was taken, and nothing at or below will come. */
  get mark(): Timestamp {
    return wholeTimestamp(this.#position);
  }

  /** Memory of what waits. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Up to where the feed of a bucket is known. */
  known(bucket: BucketId): Position {
    return this.#feed(bucket).known;
  }

  /** All that these buckets have up to `upTo`, in order, is what was told before and `changes`. */
  add(buckets: readonly BucketId[], changes: readonly Change[], upTo: Position): void {
    for (const change of changes) {
      const feed = this.#feed(change.at.bucket);
      assert(comparePositions(change.at, upTo) <= 0, 'a page holds nothing behind its end');
      if (comparePositions(change.at, feed.known) <= 0 && !mutant('stream-takes-twice')) continue;
      feed.push(change);
      this.#bytes += bytesOfChange(change);
      if (feed.size === 1) this.#heads.push(feed);
    }
    for (const bucket of buckets) this.#feed(bucket).learn(upTo);
    this.#findLeast();
    this.#pass();
  }

  /** The next changes in order, as many as can be given out within these limits, but one at least if there is one. */
  take(countMax: number, bytesMax: number): Change[] {
    const taken: Change[] = [];
    let bytes = 0;
    while (taken.length < countMax && bytes < bytesMax) {
      const change = this.#shift();
      if (change === undefined) break;
      taken.push(change);
      bytes += bytesOfChange(change);
    }
    this.#bytes -= bytes;
    this.#pass();
    return taken;
  }

  #shift(): Change | undefined {
    const feed = this.#heads.top;
    if (feed === undefined || comparePositions(feed.head.at, this.#least) > 0) return undefined;
    this.#heads.pop();
    const change = feed.shift();
    if (feed.size > 0) this.#heads.push(feed);
    this.#position = change.at;
    return change;
  }

  /** If nothing is left to take, all up to the least position is passed. */
  #pass(): void {
    const next = this.#heads.top;
    if (next === undefined || comparePositions(next.head.at, this.#least) > 0) this.#position = this.#least;
  }

  #findLeast(): void {
    let least: Position | undefined;
    for (const { known } of this.#feeds.values()) {
      const isLess = least === undefined || (comparePositions(known, least) < 0) !== mutant('stream-mark-of-fastest');
      if (isLess) least = known;
    }
    if (least !== undefined && comparePositions(least, this.#least) > 0) this.#least = least;
  }

  #feed(bucket: BucketId): Feed {
    const feed = this.#feeds.get(bucket);
    assert(feed !== undefined, `bucket ${bucket} is not part of the stream`);
    return feed;
  }
}

/** What is known of one bucket. */
class Feed {
  readonly bucket: BucketId;
  known: Position;
  /** From #first on; what was taken before it is let go of. A feed that is always ahead never empties it. */
  #queue: (Change | undefined)[] = [];
  #first = 0;

  constructor(bucket: BucketId, known: Position) {
    this.bucket = bucket;
    this.known = known;
  }

  get size(): number {
    return this.#queue.length - this.#first;
  }

  get head(): Change {
    const head = this.#queue[this.#first];
    assert(head !== undefined, 'a feed among the heads has a record');
    return head;
  }

  push(change: Change): void {
    this.#queue.push(change);
  }

  shift(): Change {
    const { head } = this;
    this.#queue[this.#first] = undefined;
    this.#first += 1;
    // At half: moving the rest costs no more than the taking of what was before it.
    if (2 * this.#first >= this.#queue.length) {
      this.#queue = this.#queue.slice(this.#first);
      this.#first = 0;
    }
    return head;
  }

  learn(upTo: Position): void {
    if (comparePositions(upTo, this.known) > 0) this.known = upTo;
  }
}
