import { lstat, open, realpath, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { messageOf } from '../lib/errors.js';
import { UsageError } from './exit.js';

/**
 * A file that has its name only when all of it is there. Until then it lies beside, under a name of its own, and whatever was
 * there before stays as it was. What is no regular file, a device or a pipe, is written directly.
 */
export class OutputFile {
  readonly stream: Writable;
  /** What becomes of it if it is given up, to be told; empty if it is written directly. */
  readonly otherwise: string;
  readonly #handle: FileHandle;
  readonly #place: Place;

  private constructor(handle: FileHandle, path: string, place: Place) {
    this.#handle = handle;
    this.#place = place;
    const state = place.mode === undefined ? 'was not written' : 'is as it was';
    this.otherwise = place.partial === undefined ? '' : `${path} ${state}`;
    this.stream = handle.createWriteStream({ autoClose: false });
    // Whoever writes, or ends it, is told.
    this.stream.on('error', () => undefined);
  }

  static async open(path: string): Promise<OutputFile> {
    try {
      const place = await placeOf(path);
      return new OutputFile(await open(place.partial ?? place.final, 'w', place.mode), path, place);
    } catch (error) {
      throw new UsageError(`the file cannot be opened: ${messageOf(error)}`);
    }
  }

  /** All is written: from now on it has its name. */
  async keep(): Promise<void> {
    const { partial, final } = this.#place;
    await finished(this.stream.end());
    if (partial !== undefined) await this.#handle.sync();
    await this.#close();
    if (partial !== undefined) await rename(partial, final);
  }

  async giveUp(): Promise<void> {
    const { partial } = this.#place;
    await this.#close();
    if (partial !== undefined) await rm(partial, { force: true });
  }

  /** A handle is closed when its streams are, and one that has failed is not by itself. */
  async #close(): Promise<void> {
    this.stream.destroy();
    await this.#handle.close();
  }
}

interface Place {
  readonly final: string;
  /** Where it lies until it is whole; undefined if it is written directly. */
  readonly partial?: string;
  /** That of the file which was there before; undefined if there was none. */
  readonly mode?: number;
}

/** With the number of the process, so that two that write the same file do not write into one. */
async function placeOf(path: string): Promise<Place> {
  const partialOf = (final: string): string => `${final}.${process.pid}.partial`;
  const there = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });
  if (there === undefined) return { final: path, partial: partialOf(path) };
  if (!there.isFile() || (await isDescriptor(path))) return { final: path };
  const final = await realpath(path);
  return { final, partial: partialOf(final), mode: there.mode };
}

/** Links such as /dev/stdout and /proc/self/fd/3 stand for what is open already, be it a file. */
async function isDescriptor(path: string): Promise<boolean> {
  return /^\/(?:dev|proc)\//.test(resolve(path)) && (await lstat(path)).isSymbolicLink();
}
