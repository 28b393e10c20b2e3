import type { Page, PageOptions } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { keyAfter } from '../lib/ordered.js';
import { sectionBefore, sectionBehind, sectionOf, slotOfVersionKey, versionBounds, type Slot } from '../mvcc/records.js';
import { TIMESTAMP_MAX, type Timestamp } from '../mvcc/timestamp.js';
import type { PageReader } from './pages.js';

export interface VersionScanOptions {
  /** Lowest and highest timestamp, both included; everything unless said. */
  readonly from?: Timestamp;
  readonly to?: Timestamp;
  /** Newest first. */
  readonly reverse?: boolean;
}

/** What a probe may read for nothing. */
const PROBE_ENTRIES = 32;
const PROBE_BYTES = 64 * 1024;

/**
 * The version records of one slot in a range of time, page by page, in version order or backward.
 *
 * In the store they lie in one section for each period in which the slot was written, between the sections of other slots
 * (mvcc/records.ts). Two kinds of page take turns:
 *
 * - a *probe* is short and has no regard to slots. Its last record, if another slot's, tells where the next section of this one
 *   may begin. So periods without a record cost nothing, nor does it cost one seek each where all slots together are sparse.
 * - inside a section, behind a record of this slot, a page ends where the section does, so that nothing foreign is read.
 *
 * Example: slot 5, of which periods 2 and 9 hold records, among others in periods 1 to 20. The probe from the beginning ends in
 * period 1, slot 8; the next one goes on at (2, 5) and finds some; pages read the rest of that section; probes lead from (3, 5),
 * if need be over (4, 5) and so on, to (9, 5).
 *
 * Cost: each call is one page of the store. There are at most two per section of the slot, one per period in which others only
 * wrote, and one per full page.
 */
export class VersionScan {
  readonly #reader: PageReader;
  readonly #slot: Slot;
  readonly #reverse: boolean;
  /** What is left of the range. */
  #gte: Bytes;
  #lt: Bytes;
  /** The section that the last record was in, if it was this slot's. */
  #section: { readonly gte: Bytes; readonly lt: Bytes } | undefined;
  #more = true;

  constructor(reader: PageReader, slot: Slot, options: VersionScanOptions = {}) {
    const { from = 0, to = TIMESTAMP_MAX, reverse = false } = options;
    const { gte, lt } = versionBounds(slot, from, to);
    this.#reader = reader;
    this.#slot = slot;
    this.#reverse = reverse;
    this.#gte = gte;
    this.#lt = lt;
  }

  /**
   * Keys and records, at most `limit`, none behind the one that reaches `bytesMax`; perhaps none at all though `more` is true.
   * `more` is false if the range is at its end.
   */
  async next({ limit, bytesMax }: Required<Pick<PageOptions, 'limit' | 'bytesMax'>>): Promise<Page> {
    if (!this.#more) return { entries: [], more: false };
    const inside = this.#section;
    const page = await this.#reader.page({
      gte: inside === undefined ? this.#gte : highest(this.#gte, inside.gte),
      lt: inside === undefined ? this.#lt : lowest(this.#lt, inside.lt),
      reverse: this.#reverse,
      limit: inside === undefined ? Math.min(limit, PROBE_ENTRIES) : limit,
      bytesMax: inside === undefined ? Math.min(bytesMax, PROBE_BYTES) : bytesMax,
    });
    const last = page.entries.at(-1)?.[0];
    if (page.more && last !== undefined) this.#goOnBehind(last);
    else if (inside !== undefined) this.#goOnOutside(inside.gte);
    else this.#more = false;
    if (Buffer.compare(this.#gte, this.#lt) >= 0) this.#more = false;
    return { entries: page.entries.filter(([key]) => slotOfVersionKey(key) === this.#slot), more: this.#more };
  }

  #goOnBehind(last: Bytes): void {
    if (slotOfVersionKey(last) !== this.#slot) {
      this.#goOnOutside(last);
      return;
    }
    this.#section = sectionOf(last);
    if (this.#reverse) this.#lt = last;
    else this.#gte = keyAfter(last);
  }

  /** Nothing more is to be found in the section that this key is in, nor from there to the next one of this slot. */
  #goOnOutside(key: Bytes): void {
    this.#section = undefined;
    if (this.#reverse) this.#lt = lowest(this.#lt, sectionBefore(this.#slot, key));
    else this.#gte = highest(this.#gte, sectionBehind(this.#slot, key));
  }
}

function highest(a: Bytes, b: Bytes): Bytes {
  return Buffer.compare(a, b) > 0 ? a : b;
}

function lowest(a: Bytes, b: Bytes): Bytes {
  return Buffer.compare(a, b) < 0 ? a : b;
}
