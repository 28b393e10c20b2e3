import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, renameSync, rmSync } from 'node:fs';

/**
 * A disk that is soon full, under the data directory of a node that does not run: a small file system in memory where this user
 * may mount one, else a limit on the size of the files that the node writes.
 */
const mounted = new Set<string>();

process.once('exit', () => {
  for (const path of mounted) execFileSync('umount', ['--lazy', path], { stdio: 'ignore' });
});

export class SmallDisk implements Disposable {
  readonly #path: string;
  readonly #bytes: number;
  readonly #isMount: boolean;

  private constructor(path: string, bytes: number, isMount: boolean) {
    this.#path = path;
    this.#bytes = bytes;
    this.#isMount = isMount;
  }

  /** Keeps what the directory holds. */
  static under(path: string, bytes: number): SmallDisk {
    const aside = `${path}.aside`;
    renameSync(path, aside);
    mkdirSync(path);
    const isMount = mount(path, `size=${bytes}`);
    cpSync(aside, path, { recursive: true });
    rmSync(aside, { recursive: true });
    return new SmallDisk(path, bytes, isMount);
  }

  /** The command that runs another one on this disk. */
  wrap(args: readonly string[]): { command: string; args: string[] } {
    return this.#isMount ? limited(args) : limited(args, Math.floor(this.#bytes / 4));
  }

  grow(bytes: number): void {
    if (this.#isMount) execFileSync('mount', ['-o', `remount,size=${bytes}`, this.#path]);
  }

  [Symbol.dispose](): void {
    if (mounted.delete(this.#path)) execFileSync('umount', [this.#path]);
  }
}

/** Runs a command that may write files of so many bytes at most. */
export function limited(args: readonly string[], fileBytesMax?: number): { command: string; args: string[] } {
  // POSIX counts in blocks of 512 bytes; shells that count in KiB allow twice as much, which is as good.
  const limit = fileBytesMax === undefined ? '' : `ulimit -f ${Math.ceil(fileBytesMax / 512)}; `;
  return { command: 'sh', args: ['-c', `${limit}exec "$@"`, 'sh', ...args] };
}

function mount(path: string, options: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], { stdio: 'ignore' });
  } catch {
    return false;
  }
  mounted.add(path);
  return true;
}
