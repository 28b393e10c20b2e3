import { assert } from '../lib/assert.js';
import { EMPTY, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { Disk, Random, Store, Timers } from '../env/env.js';
import { OrderedMap } from './ordered-map.js';
import { applyOperations, SimStore, type StoreHost } from './store.js';

/**
 * The disk of one simulated machine. It outlives the processes that use it: `open()` gives a process its Disk, `crash()` ends
 * that process's use at once, and the next `open()` finds what was synced.
 *
 * What a crash leaves: every batch whose write() was fulfilled. The batch that was being written is there as a whole or not at
 * all; those behind it are not. That is what the port promises; `faults` may take it away, to show that whoever depends on
 * more than the port promises, or on less than a checksum, is found out:
 *
 * - `lostUnderNewerChance`: batches that were not yet reported survive one by one, an older one perhaps not though a newer one
 *   does (google/leveldb#193), as if callers did not wait for each other's sync.
 * - `tornChance`: of an unsynced batch only the beginning survives, as of a file that is written from front to back; with
 *   `tornStores` of these stores only.
 * - `rotChance`: before a read, one bit of one stored value flips.
 * - `syncFailChance`, `capacityBytes`: DISK_FAILED, DISK_FULL; every later write of that process fails, too.
 *
 * All choices come from `random`, all delays from the timers, so a seed determines them.
 *
 * Example: `const disk = new SimDisk({ timers: loop.timers, random: random.fork('disk'), place: 'n1' })`;
 * `env.disk = await disk.open(process.timers)`; later `process.kill(); disk.crash();` and a new process opens it again.
 */
export interface SimDiskOptions {
  readonly timers: Timers;
  readonly random: Random;
  /** For messages. */
  readonly place: string;
  readonly faults?: DiskFaults;
}

export interface DiskFaults {
  /** How long a synced batch, and a page or file, takes. */
  readonly syncMinMs?: number;
  readonly syncMaxMs?: number;
  readonly readMinMs?: number;
  readonly readMaxMs?: number;
  /** How often a sync takes `stallMs` longer. */
  readonly stallChance?: number;
  readonly stallMs?: number;
  /** How likely an unsynced batch or file survives a crash; default one half. */
  readonly surviveChance?: number;
  readonly lostUnderNewerChance?: number;
  readonly tornChance?: number;
  readonly tornStores?: readonly string[];
  readonly syncFailChance?: number;
  readonly rotChance?: number;
  readonly capacityBytes?: number;
}

/** Of the whole disk, or of the store at one place. */
interface Stall {
  readonly place: string | undefined;
}

/** All of a disk at one moment. */
export interface DiskCopy {
  readonly stores: ReadonlyMap<string, OrderedMap>;
  readonly files: ReadonlyMap<string, Bytes>;
}

export type OpenDisk = Disk & { close(): Promise<void> };

export class SimDisk implements Disk {
  readonly place: string;
  /** May be changed at any time. */
  faults: DiskFaults;
  readonly timers: Timers;
  readonly #random: Random;
  readonly stores = new Map<string, OrderedMap>();
  readonly files = new Map<string, Bytes>();
  readonly corruptStores = new Set<string>();
  #life: Life | undefined;
  #nextWriteFails: 'sync' | 'full' | undefined;
  #onNextSync: (() => void) | undefined;
  readonly #stalls = new Set<Stall>();
  #held: (() => void)[] = [];

  constructor(options: SimDiskOptions) {
    this.timers = options.timers;
    this.#random = options.random;
    this.place = options.place;
    this.faults = options.faults ?? {};
  }

  /** The disk for one life of a process, whose timers these are. Rejects while another one has it. */
  async open(timers: Timers = this.timers): Promise<OpenDisk> {
    return this.openNow(timers);
  }

  /** The same at once. Throws. */
  openNow(timers: Timers): OpenDisk {
    if (this.#life !== undefined) {
      const message = `data directory ${this.place} is in use by another process`;
      throw new TidemarkError('FAILED_PRECONDITION', 'DATA_DIRECTORY_IN_USE', message, { details: { directory: this.place } });
    }
    this.#life = new Life(this, timers, () => {
      this.#life = undefined;
    });
    return this.#life;
  }

  /** Ends the process that has the disk, and decides what of its unfinished work is found later. */
  crash(): void {
    const life = this.#life;
    if (life === undefined) return;
    this.#life = undefined;
    life.alive = false;
    for (const [name, store] of life.stores) {
      const map = this.stores.get(name);
      assert(map !== undefined, 'an open store has content');
      this.#leaveBehind(name, map, store);
    }
    const file = life.fileInFlight;
    if (file !== undefined && this.chance(this.faults.surviveChance ?? 0.5)) this.files.set(file.name, file.data);
  }

  #leaveBehind(name: string, map: OrderedMap, store: SimStore): void {
    const { tornChance = 0, tornStores } = this.faults;
    const mayTear = tornStores?.includes(name) ?? true;
    const { written, waiting } = store.unsynced();
    const anyOrder = this.chance(this.faults.lostUnderNewerChance ?? 0);
    for (const operations of anyOrder ? [...written, ...waiting] : written) {
      if (this.chance(this.faults.surviveChance ?? 0.5)) {
        const torn = mayTear && this.chance(tornChance);
        applyOperations(map, torn ? operations.slice(0, Math.floor(this.#random.float() * operations.length)) : operations);
      } else if (!anyOrder) return;
    }
  }

  /** As if the disk had been replaced by an empty one. */
  wipe(): void {
    this.crash();
    this.stores.clear();
    this.files.clear();
    this.corruptStores.clear();
  }

  /** What is on it now, as a backup or a snapshot of the machine would have it. */
  copy(): DiskCopy {
    const stores = new Map([...this.stores].map(([name, map]) => [name, cloneOf(map)]));
    return { stores, files: new Map(this.files) };
  }

  /** Takes the disk back to where it was when the copy was made; ends the process that has it. */
  restore(copy: DiskCopy): void {
    this.wipe();
    for (const [name, map] of copy.stores) this.stores.set(name, cloneOf(map));
    for (const [name, data] of copy.files) this.files.set(name, data);
  }

  /** The next write or file fails in this way; undefined takes that back. */
  failNextWrite(how: 'sync' | 'full' | undefined): void {
    this.#nextWriteFails = how;
  }

  /** Calls back when the next synced write has begun: the moment for a crash that must hurt. */
  onNextSync(began: () => void): void {
    this.#onNextSync = began;
  }

  /**
   * Nothing is read or written for a while, or only nothing synced in one store. `get` still answers: it reads what is in
   * memory. What is returned ends it earlier.
   */
  stall(durationMs: number, store?: string): () => void {
    const stall = { place: store === undefined ? undefined : `${this.place}/${store}` };
    this.#stalls.add(stall);
    const end = (): void => {
      if (!this.#stalls.delete(stall)) return;
      const held = this.#held;
      this.#held = [];
      for (const later of held) later();
    };
    this.timers.after(durationMs, end);
    return end;
  }

  /** Flips one bit of a value. False if there is none. */
  rot(storeName: string, key?: Bytes): boolean {
    const map = this.stores.get(storeName);
    return map !== undefined && this.rotIn(map, key);
  }

  /** From now on the store cannot be opened: its own structure is damaged. */
  corrupt(storeName: string): void {
    this.corruptStores.add(storeName);
  }

  readFile(name: string): Promise<Bytes | undefined> {
    return this.#whole().readFile(name);
  }

  writeFile(name: string, data: Bytes): Promise<void> {
    return this.#whole().writeFile(name, data);
  }

  openStore(name: string): Promise<Store> {
    return this.#whole().openStore(name);
  }

  /** For a world that does not distinguish the disk from its use: opened by the first use after a crash. */
  #whole(): Life {
    this.#life ??= new Life(this, this.timers, () => {
      this.#life = undefined;
    });
    return this.#life;
  }

  /** @internal */
  chance(probability: number): boolean {
    if (probability <= 0) return false;
    return probability >= 1 || this.#random.float() < probability;
  }

  /** @internal */
  between(minMs: number, maxMs: number): number {
    return minMs + (maxMs - minMs) * this.#random.float();
  }

  /** @internal */
  syncBegins(): void {
    const began = this.#onNextSync;
    this.#onNextSync = undefined;
    began?.();
  }

  /** @internal If the disk, or that store, is stalled: takes what to do when it may no longer be. */
  holdBack(place: string | undefined, later: () => void): boolean {
    for (const stall of this.#stalls) {
      if (stall.place !== undefined && stall.place !== place) continue;
      this.#held.push(later);
      return true;
    }
    return false;
  }

  /** @internal */
  drawFailure(what: string, bytes: number): TidemarkError | undefined {
    const how = this.#nextWriteFails;
    this.#nextWriteFails = undefined;
    const capacity = this.faults.capacityBytes ?? Infinity;
    if (how === 'full' || this.#usedBytes() + bytes > capacity) {
      const message = `${what}: no space left on ${this.place}`;
      return new TidemarkError('RESOURCE_EXHAUSTED', 'DISK_FULL', message, { outcome: 'unknown' });
    }
    if (how === 'sync' || this.chance(this.faults.syncFailChance ?? 0)) {
      const message = `${what}: sync failed on ${this.place}`;
      return new TidemarkError('DATA_LOSS', 'DISK_FAILED', message, { outcome: 'unknown' });
    }
    return undefined;
  }

  #usedBytes(): number {
    let bytes = 0;
    for (const map of this.stores.values()) bytes += map.bytes;
    for (const [name, data] of this.files) bytes += name.length + data.length;
    return bytes;
  }

  /** @internal */
  rotIn(map: OrderedMap, key?: Bytes): boolean {
    const target = key ?? this.#pickKey(map);
    const value = target === undefined ? undefined : map.get(target);
    if (target === undefined || value === undefined || value.length === 0) return false;
    const at = Math.floor(this.#random.float() * value.length);
    value[at] = (value[at] ?? 0) ^ (1 << Math.floor(this.#random.float() * 8));
    map.set(target, value);
    return true;
  }

  #pickKey(map: OrderedMap): Bytes | undefined {
    let left = Math.floor(this.#random.float() * map.size);
    for (const [key] of map.range(Buffer.alloc(0), Buffer.alloc(0))) {
      if (left === 0) return key;
      left -= 1;
    }
    return undefined;
  }
}

/** The disk as one life of one process uses it. After a crash its promises are never settled. */
class Life implements OpenDisk, StoreHost {
  readonly place: string;
  readonly stores = new Map<string, SimStore>();
  alive = true;
  failure: TidemarkError | undefined;
  fileInFlight: { readonly name: string; readonly data: Bytes } | undefined;
  readonly #disk: SimDisk;
  readonly #timers: Timers;
  readonly #onClosed: () => void;
  #files: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  constructor(disk: SimDisk, timers: Timers, onClosed: () => void) {
    this.#disk = disk;
    this.place = disk.place;
    this.#timers = timers;
    this.#onClosed = onClosed;
  }

  async readFile(name: string): Promise<Bytes | undefined> {
    this.#assertOpen();
    await new Promise<void>((resolve) => this.afterRead(resolve));
    const data = this.#disk.files.get(name);
    return data === undefined ? undefined : Buffer.from(data);
  }

  async writeFile(name: string, data: Bytes): Promise<void> {
    this.#assertOpen();
    const copy = Buffer.from(data);
    const turn = this.#files.then(() => this.#replaceFile(name, copy));
    this.#files = turn.catch(() => undefined);
    return turn;
  }

  async #replaceFile(name: string, data: Bytes): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    this.fileInFlight = { name, data };
    await new Promise<void>((resolve) => this.afterSync(resolve));
    const failure = this.failWrite(`writing ${name}`, data.length);
    // A file whose sync failed may still be found after a crash.
    if (failure !== undefined) throw failure;
    this.fileInFlight = undefined;
    this.#disk.files.set(name, data);
  }

  async openStore(name: string): Promise<Store> {
    this.#assertOpen();
    assert(!this.stores.has(name), `store ${name} is open already`);
    if (this.#disk.corruptStores.has(name)) {
      throw new TidemarkError('DATA_LOSS', 'STORE_CORRUPT', `opening ${this.place}/${name}: damaged`, { outcome: 'unknown' });
    }
    let map = this.#disk.stores.get(name);
    if (map === undefined) {
      map = new OrderedMap();
      this.#disk.stores.set(name, map);
    }
    const store = new SimStore(`${this.place}/${name}`, map, this, () => this.stores.delete(name));
    this.stores.set(name, store);
    await new Promise<void>((resolve) => this.afterRead(resolve));
    return store;
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#files;
      for (const store of [...this.stores.values()]) await store.close();
      // A process that crashed while it closed has lost the disk already, perhaps to its successor.
      if (this.alive) this.#onClosed();
    })();
    return this.#closing;
  }

  afterSync(done: () => void, place?: string): void {
    const { syncMinMs, syncMaxMs, stallChance, stallMs } = this.#disk.faults;
    this.#disk.syncBegins();
    const stall = this.#disk.chance(stallChance ?? 0) ? (stallMs ?? 1000) : 0;
    this.#after(this.#disk.between(syncMinMs ?? 0.3, syncMaxMs ?? 1.5) + stall, done, place);
  }

  afterRead(done: () => void): void {
    const { readMinMs, readMaxMs } = this.#disk.faults;
    this.#after(this.#disk.between(readMinMs ?? 0.05, readMaxMs ?? 0.5), done);
  }

  #after(delayMs: number, done: () => void, place?: string): void {
    this.#timers.after(delayMs, () => {
      if (!this.alive || this.#disk.holdBack(place, () => this.#after(0, done, place))) return;
      done();
    });
  }

  failWrite(what: string, bytes: number): TidemarkError | undefined {
    if (this.failure !== undefined) return this.failure;
    this.failure = this.#disk.drawFailure(what, bytes);
    return this.failure;
  }

  beforeRead(map: OrderedMap): void {
    if (this.#disk.chance(this.#disk.faults.rotChance ?? 0)) this.#disk.rotIn(map);
  }

  flip(): boolean {
    return this.#disk.chance(0.5);
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw new TidemarkError('UNAVAILABLE', 'STORE_CLOSED', `${this.place} is closed`);
  }
}

function cloneOf(map: OrderedMap): OrderedMap {
  const clone = new OrderedMap();
  for (const [key, value] of map.range(EMPTY, EMPTY)) clone.set(key, value);
  return clone;
}
