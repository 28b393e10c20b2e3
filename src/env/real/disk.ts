import { mkdir, open, readFile, rename, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { assert } from '../../lib/assert.js';
import type { Bytes } from '../../lib/bytes.js';
import { TidemarkError } from '../../lib/errors.js';
import type { Disk, Store, StoreOptions } from '../disk.js';
import { toDiskError, toOpenError } from './disk-errors.js';
import { FailureLatch, LevelStore } from './level-store.js';

/**
 * A data directory on a real file system:
 *
 *   <path>/lock/      an empty LevelDB, open as long as the process uses the directory; its lock dies with the process
 *   <path>/<store>/   one LevelDB per store
 *   <path>/<name>     small files, replaced as a whole
 *
 * Invariants: at most one process uses the directory. What was reported as written has been synced, and so have the
 * directory entries that lead to it. After the first failed write nothing is written any more.
 */
export async function openDisk(path: string, options: DiskOptions = {}): Promise<Disk & { close(): Promise<void> }> {
  const place = resolve(path);
  try {
    await makeDirectory(place);
  } catch (error) {
    throw toOpenError(error, place);
  }
  return LevelDisk.lock(place, options);
}

export interface DiskOptions {
  /** For the stress test of the gate only: false lets pages overlap batches, and LevelDB return stale values. */
  readonly gated?: boolean;
}

const LOCK = 'lock';
const LOCK_BUFFER_BYTES = 64 * 1024;

class LevelDisk implements Disk {
  readonly place: string;
  readonly #lock: LevelStore;
  readonly #latch: FailureLatch;
  readonly #gated: boolean;
  readonly #stores = new Map<string, LevelStore | 'opening'>();
  /** Ends when the last writeFile that was called has ended; files are replaced one at a time. */
  #files: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(place: string, lock: LevelStore, latch: FailureLatch, gated: boolean) {
    this.place = place;
    this.#lock = lock;
    this.#latch = latch;
    this.#gated = gated;
  }

  static async lock(place: string, options: DiskOptions): Promise<LevelDisk> {
    const latch = new FailureLatch();
    const small = { writeBufferBytes: LOCK_BUFFER_BYTES, cacheBytes: 0, gated: true };
    const lock = await LevelStore.open(join(place, LOCK), small, latch, () => undefined).catch((error: unknown) => {
      throw inDirectory(error, place);
    });
    return new LevelDisk(place, lock, latch, options.gated ?? true);
  }

  async readFile(name: string): Promise<Bytes | undefined> {
    this.#admit(name);
    try {
      return await readFile(join(this.place, name));
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw toDiskError(error, `reading ${join(this.place, name)}`);
    }
  }

  async writeFile(name: string, data: Bytes): Promise<void> {
    this.#admit(name);
    const turn = this.#files.then(() => this.#replaceFile(name, data));
    this.#files = turn.catch(() => undefined);
    return turn;
  }

  async #replaceFile(name: string, data: Bytes): Promise<void> {
    if (this.#latch.error !== undefined) throw this.#latch.error;
    const target = join(this.place, name);
    const draft = `${target}.new`;
    try {
      const file = await open(draft, 'w');
      try {
        await file.writeFile(data);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(draft, target);
      await syncDirectory(this.place);
    } catch (error) {
      throw this.#latch.fail(toDiskError(error, `writing ${target}`));
    }
  }

  async openStore(name: string, options: StoreOptions = {}): Promise<Store> {
    this.#admit(name);
    assert(!this.#stores.has(name), `store ${name} is open already`);
    this.#stores.set(name, 'opening');
    try {
      const closed = (): void => {
        this.#stores.delete(name);
      };
      const where = join(this.place, name);
      const store = await LevelStore.open(where, { ...options, gated: this.#gated }, this.#latch, closed);
      this.#stores.set(name, store);
      await syncDirectory(this.place);
      return store;
    } catch (error) {
      const store = this.#stores.get(name);
      if (store instanceof LevelStore) await store.close();
      this.#stores.delete(name);
      throw inDirectory(toOpenError(error, this.place), this.place);
    }
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#files;
      for (const store of this.#stores.values()) {
        assert(store !== 'opening', 'a disk is not closed while a store opens');
        await store.close();
      }
      await this.#lock.close();
    })();
    return this.#closing;
  }

  #admit(name: string): void {
    assert(/^[a-z][a-z0-9._-]*$/.test(name) && name !== LOCK && !name.endsWith('.new'), `not a name for a file: ${name}`);
    if (this.#closing !== undefined) throw new TidemarkError('UNAVAILABLE', 'STORE_CLOSED', `${this.place} is closed`);
  }
}

/** A lock that is held is reported for the directory as a whole, which is what a user configured. */
function inDirectory(error: unknown, place: string): unknown {
  if (!(error instanceof TidemarkError) || error.reason !== 'DATA_DIRECTORY_IN_USE') return error;
  const message = `data directory ${place} is in use by another process`;
  return new TidemarkError(error.code, error.reason, message, { details: { directory: place }, cause: error.cause });
}

/** Makes the directory and those above it; each is synced into its parent. */
async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    // Not mkdir's own `recursive`: it never returns where the parent exists and still refuses with ENOENT, as /proc does.
    await makeDirectory(dirname(path));
    await mkdir(path);
  }
  await syncDirectory(dirname(path));
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
