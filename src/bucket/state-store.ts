import type { Batch, Clock, Page, PageOptions, Store, Timers } from '../env/env.js';
import { DEFAULT_LIMITS } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import { merge, Overlay, type Run, type Write } from './overlay.js';
import { RecentVersions } from './recent-versions.js';

/**
 * The `state` store of a node with its overlay. What apply writes is visible here at once and goes to disk later, in one
 * synced batch over all buckets: the state is off the acknowledgement path, for the log already holds everything.
 *
 * Invariants
 * - One batch is in flight at a time, and batches become durable in the order of apply, so the store always holds the state
 *   of each bucket at exactly the applied index that the same batch wrote.
 * - A write leaves the overlay only when the batch that holds it is on disk; point reads look at the overlay first.
 * - However much waits for a slow disk, no turn works through all of it: it is sorted, and put into its batch, in pieces.
 *
 * Example: two puts of one key within one interval reach the disk as two version records and one pointer.
 */
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
/** What is sorted, or put into a batch, in one turn: some two milliseconds. */
const WRITES_PER_TURN = 1000;
const BYTES_PER_TURN = 4 * 1024 * 1024;
/** Deletions in the overlay fill no page; so many of them at least are passed with each page of the store. */
const DELETIONS_PER_PAGE = 256;

export class StateStore {
  /** The records that were applied last, over all buckets. */
  readonly recent: RecentVersions;
  readonly #options: StateStoreOptions;
  readonly #store: Store;
  #pending = new Overlay();
  #flushing = new Overlay();
  /** Settles when the last page that was asked for may be read: they sort one after another, so one piece a turn is all. */
  #sorting: Promise<void> = Promise.resolve();
  #members = new Set<BatchMember>();
  #scheduled = false;
  #startingNow = false;
  #running: Promise<void> | undefined;
  #busySinceMs: number | undefined;
  /** Why a batch failed: nothing reaches the store any more. */
  #failure: Error | undefined;
  /** While a batch is being cut, its members' last records must not start another one. */
  #cutting = false;
  /** No other batch begins than those that are needed to close it. */
  #closing = false;
  #closed = false;

  constructor(options: StateStoreOptions) {
    this.#options = options;
    this.#store = options.store;
    this.recent = new RecentVersions(options.recentVersionsMax ?? DEFAULT_LIMITS.recentVersionsMax);
  }

  /** True while so much waits for the disk that nothing more should be applied. */
  get full(): boolean {
    return this.#pending.bytes + this.#flushing.bytes > this.#options.overlayBytesMax;
  }

  /** Monotonic ms since which a batch is on its way to the disk; undefined while none is. */
  get busySinceMs(): number | undefined {
    return this.#busySinceMs;
  }

  get(key: Bytes): Bytes | undefined {
    if (!this.#pending.isEmpty || !this.#flushing.isEmpty) {
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
    this.#pending.set(write);
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
    } else if (this.#pending.bytes >= BATCH_BYTES && !this.#startingNow) {
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
    if (this.#pending.isEmpty && this.#members.size === 0) return;
    this.#running = this.#writeBatch().then(
      () => {
        this.#running = undefined;
        if (!this.#pending.isEmpty || this.#members.size > 0) this.#schedule();
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
    const cut = this.#pending;
    this.#flushing = cut;
    this.#pending = new Overlay();
    if (mutant('overlay-dropped-early')) this.#flushing = new Overlay();
    const batch = this.#store.batch();
    await this.#fill(batch, cut);
    this.#busySinceMs = this.#options.clock.monotonicMs();
    await batch.write();
    this.#busySinceMs = undefined;
    this.#flushing = new Overlay();
    for (const member of members) member.afterBatch();
  }

  /** What the batch holds was settled when it was cut: what is applied between two pieces goes into the next one. */
  async #fill(batch: Batch, cut: Overlay): Promise<void> {
    let [length, bytes] = [0, 0];
    for (const { key, value } of cut.writes()) {
      if (batch.length - length >= WRITES_PER_TURN || batch.bytes - bytes >= BYTES_PER_TURN) {
        await this.#turnEnd();
        ({ length, bytes } = batch);
      }
      if (value === undefined) batch.del(key);
      else batch.put(key, value);
    }
  }

  #turnEnd(): Promise<void> {
    return new Promise((resolve) => {
      this.#options.timers.turnEnd(resolve);
    });
  }

  /**
   * Resolves when everything written before the call is on disk; rejects, as every later call does, if a batch failed, and with
   * UNAVAILABLE / STORE_CLOSED once it is to be closed: a slot that is still being swept is swept at the next start.
   */
  async flush(): Promise<void> {
    await this.#running;
    if (this.#closing && this.#failure === undefined) {
      throw new TidemarkError('UNAVAILABLE', 'STORE_CLOSED', 'the state store is closed');
    }
    await this.#flush();
  }

  async #flush(): Promise<void> {
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
    await this.#sorted();
    const { reverse, limit } = options;
    for (let rest = options; ; ) {
      // The overlay must be captured before the store is read: a batch may land in between, and then the store has it too.
      let overlay = this.#overlayRun(rest);
      const page = await this.#store.page(rest);
      if (mutant('page-misses-overlay')) overlay = this.#overlayRun(rest);
      if (overlay.writes.length === 0) return page;
      const onDisk = { writes: page.entries.map(([key, value]) => ({ key, value })), more: page.more };
      const { writes, more } = merge(onDisk, overlay, reverse);
      const entries = entriesOf(writes);
      const last = writes.at(-1)?.key;
      if (entries.length > limit) return { entries: entries.slice(0, limit), more: true };
      if (entries.length > 0 || !more || last === undefined) return { entries, more };
      // Everything on this page is deleted by the overlay: an empty page would leave the caller without a place to go on.
      rest = reverse === true ? { ...rest, lt: last } : { ...rest, gte: keyAfter(last) };
    }
  }

  #overlayRun(range: PageOptions): Run {
    const most = { ...range, limit: range.limit + DELETIONS_PER_PAGE };
    return merge(this.#flushing.run(most), this.#pending.run(most), range.reverse);
  }

  /** Resolves when everything written before the call is on disk or sorted. */
  #sorted(): Promise<void> {
    this.#sorting = this.#sorting.then(async () => {
      for (const overlay of [this.#flushing, this.#pending]) {
        while (!overlay.sort(WRITES_PER_TURN)) await this.#turnEnd();
      }
    });
    return this.#sorting;
  }

  /** A page without the overlay: at least everything written before the last `flush()` that was fulfilled. */
  pageOnDisk(options: PageOptions): Promise<Page> {
    return this.#store.page(options);
  }

  /** How many bytes a range takes on disk, about. */
  approximateBytes(gte: Bytes, lt: Bytes): Promise<number> {
    return this.#store.approximateBytes(gte, lt);
  }

  /** Writes what is pending and closes the store. Rejects, leaving the store open, if that could not be written. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.#flush();
    this.#closed = true;
    await this.#store.close();
  }
}

function entriesOf(writes: readonly Write[]): (readonly [Bytes, Bytes])[] {
  const entries: (readonly [Bytes, Bytes])[] = [];
  for (const { key, value } of writes) {
    if (value !== undefined) entries.push([key, value]);
  }
  return entries;
}
