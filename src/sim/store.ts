import { assert } from '../lib/assert.js';
import { toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { Batch, Page, PageOptions, Store } from '../env/env.js';
import type { OrderedMap } from './ordered-map.js';

const PAGE_BYTES_MAX_DEFAULT = 1024 * 1024;

/** The key as a map knows it, and a value that belongs to the operation. */
export type Operation = readonly [mapKey: string, value: Bytes | undefined];

/** What a store asks of the simulated disk below it, during one life of the process that uses it. */
export interface StoreHost {
  /** False once the process was killed: from then on nothing is answered. */
  readonly alive: boolean;
  /** Runs `done` when the disk has worked for as long as a sync (of the store at that place), or a read, takes. */
  afterSync(done: () => void, place: string): void;
  afterRead(done: () => void): void;
  /** The first failed write; every later one fails with it. */
  readonly failure: TidemarkError | undefined;
  /** Decides whether this write fails, and remembers that it did. */
  failWrite(what: string, bytes: number): TidemarkError | undefined;
  /** Called before a value is read: a sector may have gone bad. */
  beforeRead(map: OrderedMap): void;
  /** Half of the time true. */
  flip(): boolean;
}

interface QueuedBatch {
  readonly operations: readonly Operation[];
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** A store of a simulated disk, opened by one life of one process. Its content outlives it in `map`. */
export class SimStore implements Store {
  readonly #name: string;
  readonly #map: OrderedMap;
  readonly #host: StoreHost;
  readonly #onClosed: () => void;
  /** The first is being written, the rest waits. */
  readonly #queue: QueuedBatch[] = [];
  /** Failed, and yet perhaps on disk. */
  readonly #uncertain: QueuedBatch[] = [];
  #pagesRunning = 0;
  #closing: Promise<void> | undefined;
  #whenIdle: (() => void) | undefined;

  constructor(name: string, map: OrderedMap, host: StoreHost, onClosed: () => void) {
    this.#name = name;
    this.#map = map;
    this.#host = host;
    this.#onClosed = onClosed;
  }

  /** Batches, oldest first, that a crash now may leave on disk: `written` ones without their sync, and those that wait. */
  unsynced(): { written: (readonly Operation[])[]; waiting: (readonly Operation[])[] } {
    const [first, ...rest] = this.#queue;
    const written = first === undefined ? this.#uncertain : [...this.#uncertain, first];
    return { written: written.map((batch) => batch.operations), waiting: rest.map((batch) => batch.operations) };
  }

  get(key: Bytes): Bytes | undefined {
    this.#assertOpen();
    this.#host.beforeRead(this.#map);
    return this.#map.get(key);
  }

  page(options: PageOptions): Promise<Page> {
    assert(Number.isSafeInteger(options.limit) && options.limit >= 1, 'a page has a limit of at least 1');
    if (this.#closing !== undefined) return Promise.reject(this.#closedError());
    this.#pagesRunning += 1;
    // The answer may be from any moment of the call; callers must bear the first as well as the last.
    const early = this.#host.flip() ? this.#readPage(options) : undefined;
    return new Promise((resolve) => {
      this.#host.afterRead(() => {
        if (!this.#host.alive) return;
        this.#pagesRunning -= 1;
        resolve(early ?? this.#readPage(options));
        this.#settleIdle();
      });
    });
  }

  #readPage(options: PageOptions): Page {
    this.#host.beforeRead(this.#map);
    const bytesMax = Math.max(1, options.bytesMax ?? PAGE_BYTES_MAX_DEFAULT);
    const entries: [Bytes, Bytes][] = [];
    let bytes = 0;
    for (const [key, value] of this.#map.range(options.gte, options.lt, options.reverse)) {
      entries.push([key, value]);
      bytes += key.length + value.length;
      if (entries.length === options.limit || bytes >= bytesMax) return { entries, more: true };
    }
    return { entries, more: false };
  }

  approximateBytes(gte: Bytes, lt: Bytes): Promise<number> {
    if (this.#closing !== undefined) return Promise.reject(this.#closedError());
    let bytes = 0;
    for (const [key, value] of this.#map.range(gte, lt)) bytes += key.length + value.length;
    return Promise.resolve(bytes);
  }

  batch(): Batch {
    this.#assertOpen();
    return new SimBatch(
      (operations, bytes) => this.#write(operations, bytes),
      () => this.#assertOpen(),
    );
  }

  #write(operations: readonly Operation[], bytes: number): Promise<void> {
    if (this.#closing !== undefined) return Promise.reject(this.#closedError());
    return new Promise((resolve, reject) => {
      this.#queue.push({ operations, bytes, resolve, reject });
      if (this.#queue.length === 1) this.#writeNext();
    });
  }

  #writeNext(): void {
    const batch = this.#queue[0];
    if (batch === undefined) {
      this.#settleIdle();
      return;
    }
    if (this.#host.failure !== undefined) {
      this.#queue.shift();
      batch.reject(this.#host.failure);
      this.#writeNext();
      return;
    }
    this.#host.afterSync(() => {
      if (!this.#host.alive) return;
      this.#queue.shift();
      const failure = this.#host.failWrite(`writing ${this.#name}`, batch.bytes);
      if (failure === undefined) {
        applyOperations(this.#map, batch.operations);
        batch.resolve();
      } else {
        this.#uncertain.push(batch);
        batch.reject(failure);
      }
      this.#writeNext();
    }, this.#name);
  }

  close(): Promise<void> {
    this.#closing ??= new Promise<void>((resolve) => {
      this.#whenIdle = () => {
        this.#onClosed();
        resolve();
      };
      this.#settleIdle();
    });
    return this.#closing;
  }

  #settleIdle(): void {
    if (this.#queue.length > 0 || this.#pagesRunning > 0) return;
    const whenIdle = this.#whenIdle;
    this.#whenIdle = undefined;
    whenIdle?.();
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw this.#closedError();
  }

  #closedError(): TidemarkError {
    return new TidemarkError('UNAVAILABLE', 'STORE_CLOSED', `store ${this.#name} is closed`);
  }
}

export function applyOperations(map: OrderedMap, operations: readonly Operation[]): void {
  for (const [mapKey, value] of operations) {
    if (value === undefined) map.remove(mapKey);
    else map.put(mapKey, value);
  }
}

class SimBatch implements Batch {
  readonly #write: (operations: readonly Operation[], bytes: number) => Promise<void>;
  readonly #assertOpen: () => void;
  readonly #operations: Operation[] = [];
  #bytes = 0;
  #written = false;

  constructor(write: (operations: readonly Operation[], bytes: number) => Promise<void>, assertOpen: () => void) {
    this.#write = write;
    this.#assertOpen = assertOpen;
  }

  get length(): number {
    return this.#operations.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  put(key: Bytes, value: Bytes): void {
    this.#admit(key);
    this.#operations.push([toMapKey(key), Buffer.from(value)]);
    this.#bytes += key.length + value.length;
  }

  del(key: Bytes): void {
    this.#admit(key);
    this.#operations.push([toMapKey(key), undefined]);
    this.#bytes += key.length;
  }

  #admit(key: Bytes): void {
    assert(!this.#written, 'a batch takes nothing after write()');
    assert(key.length > 0, 'a store has no empty key');
    this.#assertOpen();
  }

  write(): Promise<void> {
    assert(!this.#written, 'a batch is written once');
    this.#written = true;
    return this.#operations.length === 0 ? Promise.resolve() : this.#write(this.#operations, this.#bytes);
  }
}
