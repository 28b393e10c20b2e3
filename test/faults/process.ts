import { once } from 'node:events';
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * One `tidemark` process under test. It is signalled by the pid that it was started with, and by nothing else. Its log is
 * appended to one file over all of its lives.
 *
 * Nothing outlives the tests: a process ends when the IPC channel to this one closes, and what still runs (stopped, say) when
 * this process exits is killed then.
 */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const BUILT = join(ROOT, 'dist', 'cli', 'main.js');
const running = new Set<ChildProcess>();

process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** The arguments of Node that run the command line. */
export function tidemark(...args: readonly string[]): string[] {
  return existsSync(BUILT) ? [BUILT, ...args] : ['--import', 'tsx', join(ROOT, 'src', 'cli', 'main.ts'), ...args];
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ProcessOptions {
  readonly name: string;
  /** Of this Node, or of `command`. */
  readonly args: readonly string[];
  readonly logPath: string;
  /** Runs it; it must become the process (`exec`), so that signals reach that. */
  readonly command?: string;
}

export class TestProcess {
  readonly #options: ProcessOptions;
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  readonly #ready: Promise<void>;

  constructor(options: ProcessOptions) {
    this.#options = options;
    const log = openSync(options.logPath, 'a');
    const child = spawn(options.command ?? process.execPath, options.args, { stdio: ['ignore', log, log, 'ipc'] });
    closeSync(log);
    this.#child = child;
    running.add(child);
    this.ended = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        running.delete(child);
        resolve({ code, signal });
      });
    });
    this.#ready = new Promise((resolve, reject) => {
      child.once('message', () => resolve());
      this.ended.then(
        ({ code, signal }) => reject(new Error(`${options.name} ended (${signal ?? code}) before it served\n${this.log()}`)),
        reject,
      );
    });
    this.#ready.catch(() => undefined);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get isRunning(): boolean {
    return running.has(this.#child);
  }

  /** Resolves when it says that it serves; rejects with its log if it ends before. */
  ready(): Promise<void> {
    return this.#ready;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.ended;
  }

  log(): string {
    return readFileSync(this.#options.logPath, 'utf8');
  }
}

const RUN_MS_MAX = 15_000;

/** Runs a command line to its end, which is forced if it does not come. */
export async function run(
  args: readonly string[],
  timeout = RUN_MS_MAX,
): Promise<Ended & { readonly stdout: string; readonly stderr: string }> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout, killSignal: 'SIGKILL' });
  running.add(child);
  const out = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => void (out.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => void (out.stderr += text));
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  running.delete(child);
  return { code, signal, ...out };
}
