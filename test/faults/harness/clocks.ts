import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * The wall clocks of nodes, through libfaketime: each node reads the offset of its clock from a file, which may change at any
 * time; it looks once a second.
 *
 * Monotonic clocks stay true. They are what Node's timers and every lease run on; faking them in a process would also stretch
 * the time-outs that libuv computes from them against those of the kernel, and the fault would be one that no machine has.
 * Monotonic clocks of different rates are the simulator's.
 */
const FOLDERS = ['/usr/lib', '/usr/lib64', '/usr/local/lib'];
const LIBRARY = 'libfaketime.so.1';

/** Where the library is; undefined if it is not installed. */
export function findFaketime(): string | undefined {
  for (const folder of FOLDERS.filter((each) => existsSync(each))) {
    const inside = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name);
    for (const name of ['', ...inside]) {
      for (const path of [join(folder, name, LIBRARY), join(folder, name, 'faketime', LIBRARY)]) if (existsSync(path)) return path;
    }
  }
  return undefined;
}

export class NodeClocks {
  readonly #library: string;
  readonly #folder: string;

  constructor(library: string, folder: string, ids: readonly number[]) {
    this.#library = library;
    this.#folder = folder;
    for (const id of ids) this.set(id, 0);
  }

  /** The beginning of a command line that runs on the clock of the node. */
  enter(id: number): string[] {
    const settings = {
      LD_PRELOAD: this.#library,
      FAKETIME_TIMESTAMP_FILE: this.#pathOf(id),
      FAKETIME_CACHE_DURATION: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      DONT_FAKE_MONOTONIC: '1',
      // Shared memory would be left behind by a process that is killed.
      FAKETIME_DISABLE_SHM: '1',
      NO_FAKE_STAT: '1',
    };
    return ['env', ...Object.entries(settings).map(([name, value]) => `${name}=${value}`)];
  }

  /** Against the true time. */
  set(id: number, offsetMs: number): void {
    const path = this.#pathOf(id);
    writeFileSync(`${path}.new`, `${offsetMs < 0 ? '-' : '+'}${(Math.abs(offsetMs) / 1000).toFixed(3)}`);
    renameSync(`${path}.new`, path);
  }

  #pathOf(id: number): string {
    return join(this.#folder, `clock-${id}`);
  }
}
