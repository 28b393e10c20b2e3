import { closeSync, mkdirSync, openSync, rmSync, statfsSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './command.js';

/**
 * A small disk for each node: an ext4 file system in a file, mounted over the node's data directory. Its faults are those of
 * the kernel, not of a wrapper:
 *
 * - full: all free blocks are given to a file of ballast, and the next block that the node needs is ENOSPC;
 * - stalled: the file system is frozen, and whatever writes or syncs waits until it is thawed;
 * - failed: ext4 aborts, as when its journal cannot be written: every write and fsync from now on is an error, and what was not
 *   synced is gone. It takes a repair and a new mount.
 *
 * Where no block device can be had (a user namespace) it is a file system in memory, which can only be full.
 */
const DISK_BYTES = 256 * 1024 * 1024;
const BALLAST = 'ballast';
const REST_BYTES = 1024 * 1024;

export class NodeDisks {
  readonly isBlock: boolean;
  readonly #paths: ReadonlyMap<number, string>;
  readonly #folder: string;

  private constructor(folder: string, paths: ReadonlyMap<number, string>, isBlock: boolean) {
    this.#folder = folder;
    this.#paths = paths;
    this.isBlock = isBlock;
  }

  /** `dataDirs`: node -> its data directory, which does not exist yet. */
  static async create(folder: string, dataDirs: ReadonlyMap<number, string>): Promise<NodeDisks> {
    for (const path of dataDirs.values()) mkdirSync(path);
    const disks = new NodeDisks(folder, dataDirs, true);
    try {
      for (const id of dataDirs.keys()) await disks.#format(id);
      return disks;
    } catch {
      for (const path of dataDirs.values()) await run('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES}`, 'tmpfs', path]);
      return new NodeDisks(folder, dataDirs, false);
    }
  }

  async #format(id: number): Promise<void> {
    closeSync(openSync(this.#imageOf(id), 'w'));
    truncateSync(this.#imageOf(id), DISK_BYTES);
    // No blocks are reserved for root: full is full.
    await run('mkfs.ext4', ['-q', '-F', '-m', '0', this.#imageOf(id)]);
    await this.#mount(id);
  }

  async #mount(id: number): Promise<void> {
    await run('mount', ['-o', 'loop,noatime', this.#imageOf(id), this.#pathOf(id)]);
  }

  /** Most of it at once, the last MiB byte by byte, until there is no more. */
  async fill(id: number): Promise<void> {
    const path = this.#pathOf(id);
    const { bavail, bsize } = statfsSync(path);
    await run('fallocate', ['--length', String(bavail * bsize - REST_BYTES), join(path, BALLAST)]);
    await run('sh', ['-c', '! cat /dev/zero > "$1"', 'sh', join(path, `${BALLAST}-rest`)]);
  }

  drain(id: number): void {
    for (const name of [BALLAST, `${BALLAST}-rest`]) rmSync(join(this.#pathOf(id), name), { force: true });
  }

  /** Whoever started this run hears of it, to thaw the disk should this process be killed: see scripts/faults.mjs. */
  async freeze(id: number): Promise<void> {
    process.send?.({ path: this.#pathOf(id), isFrozen: true });
    await run('fsfreeze', ['--freeze', this.#pathOf(id)]);
  }

  async thaw(id: number): Promise<void> {
    await run('fsfreeze', ['--unfreeze', this.#pathOf(id)]);
    process.send?.({ path: this.#pathOf(id), isFrozen: false });
  }

  async abort(id: number): Promise<void> {
    await run('mount', ['-o', 'remount,abort', this.#pathOf(id)]);
  }

  /** After `abort`, when the node has ended. */
  async repair(id: number): Promise<void> {
    await run('umount', [this.#pathOf(id)]);
    // Exit code 1: errors were found and corrected.
    await run('sh', ['-c', 'e2fsck -fy "$1" || [ $? -eq 1 ]', 'sh', this.#imageOf(id)]);
    await this.#mount(id);
  }

  /** When no node runs any more. */
  async close(): Promise<void> {
    for (const path of this.#paths.values()) await run('umount', [path]);
  }

  #pathOf(id: number): string {
    const path = this.#paths.get(id);
    if (path === undefined) throw new Error(`node ${id} has no disk of its own`);
    return path;
  }

  #imageOf(id: number): string {
    return join(this.#folder, `disk-${id}.ext4`);
  }
}
