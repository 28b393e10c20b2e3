import type { Bytes } from '../lib/bytes.js';

/**
 * The data directory of one process. Opening it locks it; a directory that another process holds is
 * FAILED_PRECONDITION / DATA_DIRECTORY_IN_USE. Every rejected write or sync is DATA_LOSS / DISK_FAILED, or
 * RESOURCE_EXHAUSTED / DISK_FULL: the caller must stop the process, for nothing is known about those pages any more.
 */
export interface Disk {
  /** A human-readable place for messages: the path of the directory. */
  readonly place: string;
  /** A small file, whole, or undefined if there is none. */
  readFile(name: string): Promise<Bytes | undefined>;
  /** Replaces a small file durably and atomically: after a crash it holds the old content or the new, never a mixture. */
  writeFile(name: string, data: Bytes): Promise<void>;
  openStore(name: string, options?: StoreOptions): Promise<Store>;
}

export interface StoreOptions {
  /** Memory for unflushed writes and for cached blocks, in bytes. */
  readonly writeBufferBytes?: number;
  readonly cacheBytes?: number;
}

/**
 * An ordered map from bytes to bytes on disk.
 *
 * Invariant of every implementation over LevelDB, for the whole life of the directory: no snapshot (visible or hidden in an
 * iterator or an asynchronous get) is open while a write is issued or in flight (google/leveldb#320 returns stale values
 * otherwise). Hence this narrow port: synchronous point reads, which take no snapshot; short pages, which wait behind a fair
 * gate; no iterators, no snapshots, no range deletes.
 */
export interface Store {
  /** The value, at once, on this thread: about 10 µs. Sees every batch whose `write()` was fulfilled. */
  get(key: Bytes): Bytes | undefined;
  /** Up to `limit` entries of a range in key order, from one moment between the call and the answer. */
  page(options: PageOptions): Promise<Page>;
  /** How many bytes a range takes on disk, about; what was written lately may not be counted yet. */
  approximateBytes(gte: Bytes, lt: Bytes): Promise<number>;
  /** An empty batch. */
  batch(): Batch;
  /** Waits for writes and pages under way. Later calls reject. */
  close(): Promise<void>;
}

export interface PageOptions {
  /** Inclusive lower bound. */
  readonly gte: Bytes;
  /** Exclusive upper bound; EMPTY, which `prefixEnd` answers when there is none, is the end of the store. */
  readonly lt: Bytes;
  readonly reverse?: boolean;
  /** At most this many entries, at least 1. */
  readonly limit: number;
  /** Stop after the entry that reaches this many bytes of keys and values (default 1 MiB). */
  readonly bytesMax?: number;
}

export interface Page {
  readonly entries: readonly (readonly [key: Bytes, value: Bytes])[];
  /** True if the range may hold more entries beyond the last one. */
  readonly more: boolean;
}

export interface Batch {
  put(key: Bytes, value: Bytes): void;
  del(key: Bytes): void;
  readonly length: number;
  /** Bytes of keys and values so far. */
  readonly bytes: number;
  /**
   * Writes all of it atomically and syncs it to stable storage; call it once. Batches become durable in the order in which
   * write() was called. An empty batch writes nothing.
   */
  write(): Promise<void>;
}
