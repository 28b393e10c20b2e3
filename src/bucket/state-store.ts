import type { Batch, Clock, Page, PageOptions, Store, Timers } from '../env/env.js';
import { DEFAULT_LIMITS } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { toMapKey, type Bytes } from '../lib/bytes.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import { RecentVersions } from './recent-versions.js';

/**
 * The `state` store of a node with its overlay. What apply writes is visible here at once and goes to disk later, in one
 * synced batch over all buckets: the state is off the acknowledgement path, for the log already holds everything.
 *
 * Invariants
 * - One batch is in flight at a time, and batches become durable in the order of apply, so the store always holds the state
 *   of each bucket at exactly the applied index that the same batch wrote.
 * - A write leaves the overlay only when the batch that holds it is on disk; point reads look at the overlay first.
 *
 * Example: two puts of one key within one interval reach the disk as two version records and one pointer.
 */
interface Write {
  readonly key: Bytes;
  /** Undefined: deleted. */
  readonly value: Bytes | undefined;
}

type Overlay = Map<string, Write>;

/** Someone whose derived records (a bucket's meta record) are written once a batch, not once an apply. */
export interface BatchMember {
  /** Adds the final records to the batch; called in the turn in which the batch is cut. */
  beforeBatch(): void;
  /** That batch is on disk. */
  afterBatch(): void;
}

export interface StateStoreOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly timers: Timers;
  /** How long applied writes may gather before they are written. */
  readonly gatherMs: number;
  readonly overlayBytesMax: number;
  /** Names of applied records that are kept for those who follow the changes; the default of the limits unless given. */
  readonly recentVersionsMax?: number | undefined;
  /** A batch failed: nothing is known about the store any more, the process must stop. */
  readonly onFatal: (error: unknown) => void;
}

const BATCH_BYTES = 1024 * 1024;

export class StateStore {
  /** The records that were applied last, over all buckets. */
  readonly recent: RecentVersions;
  readonly #options: StateStoreOptions;
  readonly #store: Store;
  #pending: Overlay = new Map();
  #flushing: Overlay = new Map();
  #members = new Set<BatchMember>();
  #pendingBytes = 0;
  #flushingBytes = 0;
  #scheduled = false;
  #startingNow = false;
  #running: Promise<void> | undefined;
  #busySinceMs: number | undefined;
  /** Why a batch failed: nothing reaches the store any more. */
  #failure: Error | undefined;
  /** While a batch is being cut, its members' last records must not start another one. */
  #cutting = false;
  #closed = false;

  constructor(options: StateStoreOptions) {
    this.#options = options;
    this.#store = options.store;
    this.recent = new RecentVersions(options.recentVersionsMax ?? DEFAULT_LIMITS.recentVersionsMax);
  }

  /** True while so much waits for the disk that nothing more should be applied. */
  get full(): boolean {
    return this.#pendingBytes + this.#flushingBytes > this.#options.overlayBytesMax;
  }

  /** Monotonic ms since which a batch is on its way to the disk; undefined while none is. */
  get busySinceMs(): number | undefined {
    return this.#busySinceMs;
  }

  get(key: Bytes): Bytes | undefined {
    if (this.#pending.size > 0 || this.#flushing.size > 0) {
      const mapKey = toMapKey(key);
      const write = this.#pending.get(mapKey) ?? this.#flushing.get(mapKey);
      if (write !== undefined) return write.value;
    }
    return this.#store.get(key);
  }

  put(key: Bytes, value: Bytes): void {
    this.#write({ key, value });
  }

  del(key: Bytes): void {
    this.#write({ key, value: undefined });
  }

  #write(write: Write): void {
    assert(!this.#closed, 'write to a closed state store');
    this.#pending.set(toMapKey(write.key), write);
    this.#pendingBytes += write.key.length + (write.value?.length ?? 0) + 64;
    this.#schedule();
  }

  /** Enrols a member for the batch that is being gathered. */
  enrol(member: BatchMember): void {
    this.#members.add(member);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#running !== undefined || this.#cutting || this.#closed) return;
    const { timers, gatherMs } = this.#options;
    if (mutant('torn-state-batch')) {
      this.#start();
    } else if (this.#pendingBytes >= BATCH_BYTES && !this.#startingNow) {
      // Not in the midst of an apply: what belongs together goes into one batch.
      this.#startingNow = true;
      timers.turnEnd(() => {
        this.#startingNow = false;
        if (this.#running === undefined && !this.#closed) this.#start();
      });
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      timers.after(gatherMs, () => {
        this.#scheduled = false;
        if (this.#running === undefined && !this.#closed) this.#start();
      });
    }
  }

  #start(): void {
    if (this.#pending.size === 0 && this.#members.size === 0) return;
    this.#running = this.#writeBatch().then(
      () => {
        this.#running = undefined;
        if (this.#pending.size > 0 || this.#members.size > 0) this.#schedule();
      },
      (error: unknown) => {
        // Stays "running" for ever: no further batch may follow a failed one.
        this.#failure = error instanceof Error ? error : new Error(String(error));
        this.#options.onFatal(error);
      },
    );
  }

  async #writeBatch(): Promise<void> {
    const members = this.#members;
    this.#members = new Set();
    this.#cutting = true;
    for (const member of members) member.beforeBatch();
    this.#cutting = false;
    const batch: Batch = this.#store.batch();
    for (const { key, value } of this.#pending.values()) {
      if (value === undefined) batch.del(key);
      else batch.put(key, value);
    }
    this.#flushing = this.#pending;
    this.#flushingBytes = this.#pendingBytes;
    this.#pending = new Map();
    this.#pendingBytes = 0;
    this.#busySinceMs = this.#options.clock.monotonicMs();
    if (mutant('overlay-dropped-early')) this.#flushing = new Map();
    await batch.write();
    this.#busySinceMs = undefined;
    this.#flushing = new Map();
    this.#flushingBytes = 0;
    for (const member of members) member.afterBatch();
  }

  /** Resolves when everything written before the call is on disk; rejects, as every later call does, if a batch failed. */
  async flush(): Promise<void> {
    await this.#running;
    if (this.#running === undefined) this.#start();
    await this.#running;
    if (this.#failure !== undefined) throw this.#failure;
  }

  /**
   * A page of the range that holds at least everything applied before the call. Writes applied while it is read may appear;
   * readers tell them apart by their versions.
   */
  async page(options: PageOptions): Promise<Page> {
    // The overlay must be captured before the store is read: a batch may land in between, and then the store has it too.
    let overlay = this.#overlayRange(options);
    let rest = options;
    for (;;) {
      const page = await this.#store.page(rest);
      if (mutant('page-misses-overlay')) overlay = this.#overlayRange(options);
      if (overlay.length === 0) return page;
      const merged = merge(page, overlay, options);
      const last = page.entries.at(-1)?.[0];
      if (merged.entries.length > 0 || !merged.more || last === undefined) return merged;
      // Everything on this page is deleted by the overlay: an empty page would leave the caller without a place to go on.
      rest = options.reverse === true ? { ...options, lt: last } : { ...options, gte: keyAfter(last) };
    }
  }

  /** A page without the overlay: at least everything written before the last `flush()` that was fulfilled. */
  pageOnDisk(options: PageOptions): Promise<Page> {
    return this.#store.page(options);
  }

  /** How many bytes a range takes on disk, about. */
  approximateBytes(gte: Bytes, lt: Bytes): Promise<number> {
    return this.#store.approximateBytes(gte, lt);
  }

  #overlayRange({ gte, lt, reverse }: PageOptions): Write[] {
    const low = toMapKey(gte);
    const high = toMapKey(lt);
    const found = new Map<string, Write>();
    for (const overlay of [this.#flushing, this.#pending]) {
      for (const [mapKey, write] of overlay) {
        if (mapKey >= low && mapKey < high) found.set(mapKey, write);
      }
    }
    const direction = reverse === true ? -1 : 1;
    return [...found.values()].sort((a, b) => direction * Buffer.compare(a.key, b.key));
  }

  /** Writes what is pending and closes the store. Rejects, leaving the store open, if that could not be written. */
  async close(): Promise<void> {
    await this.flush();
    this.#closed = true;
    await this.#store.close();
  }
}

/** Both inputs are sorted; where both have a key, the overlay wins. Nothing beyond the page's own end is claimed. */
function merge(page: Page, overlay: readonly Write[], { limit, reverse }: PageOptions): Page {
  const direction = reverse === true ? -1 : 1;
  const entries: (readonly [Bytes, Bytes])[] = [];
  const last = page.entries.at(-1)?.[0];
  let at = 0;
  const take = ({ key, value }: Write): void => {
    if (value !== undefined) entries.push([key, value]);
  };
  for (const entry of page.entries) {
    for (let write = overlay[at]; write !== undefined; write = overlay[++at]) {
      const order = direction * Buffer.compare(write.key, entry[0]);
      if (order > 0) break;
      take(write);
      if (order === 0) {
        at += 1;
        break;
      }
    }
    const shadowed = at > 0 && overlay[at - 1]?.key.equals(entry[0]) === true;
    if (!shadowed) entries.push(entry);
  }
  for (let write = overlay[at]; write !== undefined; write = overlay[++at]) {
    // Behind the last entry of an incomplete page the store may hold keys that were not read.
    if (page.more && (last === undefined || direction * Buffer.compare(write.key, last) > 0)) break;
    take(write);
  }
  const more = page.more || entries.length > limit;
  return { entries: entries.length > limit ? entries.slice(0, limit) : entries, more };
}
