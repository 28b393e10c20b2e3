import { Level } from 'level';
import { assert } from '../../lib/assert.js';
import type { Bytes } from '../../lib/bytes.js';
import { TidemarkError } from '../../lib/errors.js';
import type { Batch, Page, PageOptions, Store, StoreOptions } from '../disk.js';
import { toDiskError, toOpenError, toReadError } from './disk-errors.js';
import { Gate } from './gate.js';

/** `level` promises less than the store that it is in Node. */
type Db = Level<Bytes, Bytes> & { approximateSize(start: Bytes, end: Bytes): Promise<number> };
type NativeBatch = ReturnType<Db['batch']>;

export const PAGE_BYTES_MAX_DEFAULT = 1024 * 1024;

/**
 * Pages that read at the same time. A page holds one of libuv's four threads, so more bring nothing, and a waiting batch
 * waits for all that run.
 */
const PAGES_AT_ONCE_MAX = 8;

/**
 * Once a write or sync failed nothing is known about the disk: every later write of the whole directory rejects with the
 * first failure, until the process ends.
 */
export class FailureLatch {
  #error: TidemarkError | undefined;

  get error(): TidemarkError | undefined {
    return this.#error;
  }

  /** Remembers the first failure and returns it, to be thrown. */
  fail(error: TidemarkError): TidemarkError {
    this.#error ??= error;
    return error;
  }
}

export interface LevelStoreOptions extends StoreOptions {
  /** Off only in the stress test which shows that the gate is needed. */
  readonly gated: boolean;
}

/**
 * A Store over LevelDB. The gate keeps the invariant of the port: no snapshot is open while a batch is issued or in flight.
 * `get` is outside the gate because `getSync`, alone among the reads of classic-level, takes no snapshot.
 *
 * LevelDB's own checksums protect less than they could: its options `paranoid_checks` and `verify_checksums` cannot be reached
 * from here (docs/reliability.md, "Not covered").
 */
export class LevelStore implements Store {
  readonly #db: Db;
  readonly #place: string;
  readonly #latch: FailureLatch;
  readonly #gate: Gate | undefined;
  readonly #onClosed: () => void;
  #closing: Promise<void> | undefined;

  private constructor(db: Db, place: string, latch: FailureLatch, gated: boolean, onClosed: () => void) {
    this.#db = db;
    this.#place = place;
    this.#latch = latch;
    this.#gate = gated ? new Gate(PAGES_AT_ONCE_MAX) : undefined;
    this.#onClosed = onClosed;
  }

  static async open(
    place: string,
    options: LevelStoreOptions,
    latch: FailureLatch,
    onClosed: () => void,
  ): Promise<LevelStore> {
    const db = new Level<Bytes, Bytes>(place, {
      keyEncoding: 'buffer',
      valueEncoding: 'buffer',
      ...(options.writeBufferBytes === undefined ? {} : { writeBufferSize: options.writeBufferBytes }),
      ...(options.cacheBytes === undefined ? {} : { cacheSize: options.cacheBytes }),
    }) as Db;
    try {
      await db.open();
    } catch (error) {
      throw toOpenError(error, place);
    }
    return new LevelStore(db, place, latch, options.gated, onClosed);
  }

  get(key: Bytes): Bytes | undefined {
    this.#assertOpen();
    try {
      return this.#db.getSync(key);
    } catch (error) {
      throw toReadError(error, `reading ${this.#place}`);
    }
  }

  page(options: PageOptions): Promise<Page> {
    assert(Number.isSafeInteger(options.limit) && options.limit >= 1, 'a page has a limit of at least 1');
    if (this.#closing !== undefined) return Promise.reject(this.#closedError());
    const read = (): Promise<Page> => this.#readPage(options);
    return this.#gate === undefined ? read() : this.#gate.shared(read);
  }

  async #readPage(options: PageOptions): Promise<Page> {
    const bytesMax = Math.max(1, options.bytesMax ?? PAGE_BYTES_MAX_DEFAULT);
    const range = {
      gte: options.gte,
      ...(options.lt.length === 0 ? {} : { lt: options.lt }),
      reverse: options.reverse ?? false,
      limit: options.limit,
      // classic-level stops behind the entry that exceeds the mark; the port, behind the one that reaches bytesMax.
      highWaterMarkBytes: bytesMax - 1,
    };
    const iterator = this.#db.iterator(range);
    try {
      const entries = await iterator.nextv(options.limit);
      return { entries, more: entries.length === options.limit || bytesOf(entries) >= bytesMax };
    } catch (error) {
      throw toReadError(error, `reading ${this.#place}`);
    } finally {
      // Ends the snapshot; the gate opens only after that.
      await iterator.close();
    }
  }

  /** Takes no snapshot: it looks at the sizes of files. */
  async approximateBytes(gte: Bytes, lt: Bytes): Promise<number> {
    if (this.#closing !== undefined) throw this.#closedError();
    const ask = (): Promise<number> => this.#db.approximateSize(gte, lt);
    try {
      // Within the gate, so that closing waits for it.
      return await (this.#gate === undefined ? ask() : this.#gate.shared(ask));
    } catch (error) {
      throw toReadError(error, `measuring ${this.#place}`);
    }
  }

  batch(): Batch {
    this.#assertOpen();
    return new LevelBatch(
      () => this.#db.batch(),
      (native) => this.#write(native),
      () => this.#assertOpen(),
    );
  }

  #write(native: NativeBatch): Promise<void> {
    const write = async (): Promise<void> => {
      // Checked when the turn comes: a batch queued behind one that failed must not be written either.
      if (this.#latch.error !== undefined) {
        await native.close();
        throw this.#latch.error;
      }
      try {
        await native.write({ sync: true });
      } catch (error) {
        throw this.#latch.fail(toDiskError(error, `writing ${this.#place}`));
      }
    };
    if (this.#closing !== undefined) return Promise.reject(this.#closedError());
    return this.#gate === undefined ? write() : this.#gate.exclusive(write);
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#gate?.idle();
      await this.#db.close();
      this.#onClosed();
    })();
    return this.#closing;
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw this.#closedError();
  }

  #closedError(): TidemarkError {
    return new TidemarkError('UNAVAILABLE', 'STORE_CLOSED', `store ${this.#place} is closed`);
  }
}

/** Operations go to native memory at once: that costs the loop a tenth of an array batch at write(). */
class LevelBatch implements Batch {
  readonly #open: () => NativeBatch;
  readonly #write: (native: NativeBatch) => Promise<void>;
  readonly #assertOpen: () => void;
  /** Made by the first operation: classic-level keeps track of every batch that was not written or closed. */
  #native: NativeBatch | undefined;
  #written = false;
  #length = 0;
  #bytes = 0;

  constructor(open: () => NativeBatch, write: (native: NativeBatch) => Promise<void>, assertOpen: () => void) {
    this.#open = open;
    this.#write = write;
    this.#assertOpen = assertOpen;
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  put(key: Bytes, value: Bytes): void {
    this.#admit(key).put(key, value);
    this.#length += 1;
    this.#bytes += key.length + value.length;
  }

  del(key: Bytes): void {
    this.#admit(key).del(key);
    this.#length += 1;
    this.#bytes += key.length;
  }

  #admit(key: Bytes): NativeBatch {
    assert(!this.#written, 'a batch takes nothing after write()');
    assert(key.length > 0, 'a store has no empty key');
    this.#assertOpen();
    this.#native ??= this.#open();
    return this.#native;
  }

  write(): Promise<void> {
    assert(!this.#written, 'a batch is written once');
    this.#written = true;
    return this.#native === undefined ? Promise.resolve() : this.#write(this.#native);
  }
}

function bytesOf(entries: readonly (readonly [Bytes, Bytes])[]): number {
  let bytes = 0;
  for (const [key, value] of entries) bytes += key.length + value.length;
  return bytes;
}
