import type { Clock, Gauge, Histogram, Metrics } from '../env/env.js';
import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import type { Replica } from '../bucket/replica.js';
import type { BucketLog, LogStorage } from '../bucket/log-storage.js';
import type { Entry, HardState, LogIndex, Term } from '../raft/types.js';

/**
 * Group commit: everything that the buckets of this node want in the log goes into one synced batch, one batch at a time.
 * While a batch is being synced the next one gathers, so batches grow with the load and one sync serves many commands.
 *
 * Invariant: work is done in the order in which it was added, and `done` of an item is called only when its batch, and so
 * every earlier one, is on disk. A failed batch is fatal: nothing is known about those pages any more.
 */
interface Append {
  readonly replica: Replica;
  readonly entries: readonly Entry[];
  readonly hardState: HardState | undefined;
  readonly done: () => void;
}

interface Reset {
  readonly log: BucketLog;
  /** Where the log begins; undefined: all of it goes, votes included. */
  readonly start: { readonly index: LogIndex; readonly term: Term } | undefined;
  readonly done: () => void;
}

export class LogWriter {
  readonly #logs: LogStorage;
  readonly #clock: Clock;
  readonly #onFatal: (error: unknown) => void;
  readonly #syncSeconds: Histogram;
  readonly #batchEntries: Histogram;
  readonly #bytes: Gauge;
  #appends: Append[] = [];
  #resets: Reset[] = [];
  readonly #compactions = new Map<Replica, LogIndex>();
  #puts: { key: Bytes; value: Bytes; done: () => void }[] = [];
  #running: Promise<void> | undefined;
  #busySinceMs: number | undefined;
  #failed = false;
  #closed = false;

  constructor(logs: LogStorage, clock: Clock, metrics: Metrics, onFatal: (error: unknown) => void) {
    this.#logs = logs;
    this.#clock = clock;
    this.#onFatal = onFatal;
    this.#syncSeconds = metrics.histogram('tidemark_log_sync_seconds', 'Time to write and sync one log batch.', [
      0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1,
    ]);
    this.#batchEntries = metrics.histogram('tidemark_log_batch_entries', 'Entries in one log batch.', [
      1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024,
    ]);
    this.#bytes = metrics.gauge('tidemark_log_bytes', 'Batch records of the log that some bucket needs, in bytes.');
  }

  /** Monotonic ms since which a batch is on its way to the disk; undefined while none is. */
  get busySinceMs(): number | undefined {
    return this.#busySinceMs;
  }

  append(item: Append): void {
    this.#appends.push(item);
  }

  /** A record of the node's own, synced with the next batch. */
  put(key: Bytes, value: Bytes): Promise<void> {
    return new Promise((resolve) => {
      this.#puts.push({ key, value, done: resolve });
      this.flush();
    });
  }

  /** Drops the log of a replica up to `index`, along with the appends. */
  compact(replica: Replica, index: LogIndex): void {
    this.#compactions.set(replica, index);
    this.flush();
  }

  /** Starts a batch if there is something to write and none is under way. */
  flush(): void {
    if (this.#running !== undefined || this.#failed || this.#closed) return;
    const isIdle = this.#appends.length + this.#resets.length + this.#puts.length === 0 && this.#compactions.size === 0;
    if (isIdle && !this.#logs.hasUnused) return;
    void this.#run(this.#write());
  }

  #run(work: Promise<void>): Promise<void> {
    this.#running = work.then(
      () => {
        this.#running = undefined;
        this.flush();
      },
      (error: unknown) => {
        // Stays "running" for ever: no further batch may follow a failed one.
        this.#failed = true;
        this.#onFatal(error);
      },
    );
    return this.#running;
  }

  async #write(): Promise<void> {
    const appends = this.#appends;
    const resets = this.#resets;
    const puts = this.#puts;
    this.#appends = [];
    this.#resets = [];
    this.#puts = [];
    const batch = this.#logs.batch();
    let entries = 0;
    for (const { replica, entries: added, hardState } of appends) {
      batch.append(replica.log, added, hardState);
      entries += added.length;
    }
    for (const { log, start } of resets) {
      if (start === undefined) batch.clear(log);
      else batch.reset(log, start.index, start.term);
    }
    for (const [{ log }, index] of this.#compactions) batch.compact(log, index);
    for (const { key, value } of puts) batch.put(key, value);
    this.#compactions.clear();
    const began = this.#clock.monotonicMs();
    this.#busySinceMs = began;
    await batch.write();
    this.#busySinceMs = undefined;
    this.#syncSeconds.observe((this.#clock.monotonicMs() - began) / 1000);
    this.#batchEntries.observe(entries);
    this.#bytes.set(this.#logs.bytes);
    for (const { done } of appends) done();
    for (const { done } of resets) done();
    for (const { done } of puts) done();
  }

  /** Replaces a log by what follows an installed snapshot; resolves when that is on disk. */
  reset(replica: Replica, index: LogIndex, term: Term): Promise<void> {
    assert(!this.#appends.some((item) => item.replica === replica), 'a log is reset while appends to it wait');
    this.#compactions.delete(replica);
    return this.restart(replica.log, index, term);
  }

  /** The same for a log whose replica does not run yet. */
  restart(log: BucketLog, index: LogIndex, term: Term): Promise<void> {
    return this.#reset(log, { index, term });
  }

  /** Forgets the log of a bucket that has no replica here; resolves when that is on disk. */
  clear(log: BucketLog): Promise<void> {
    return this.#reset(log, undefined);
  }

  #reset(log: BucketLog, start: Reset['start']): Promise<void> {
    return new Promise((resolve) => {
      this.#resets.push({ log, start, done: resolve });
      this.flush();
    });
  }

  /** Finishes what was added and closes the store. */
  async close(): Promise<void> {
    this.flush();
    while (this.#running !== undefined && !this.#failed) await this.#running;
    this.#closed = true;
    await this.#logs.close();
  }
}
