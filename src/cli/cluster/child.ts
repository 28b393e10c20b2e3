import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync, renameSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

/**
 * One process of a local cluster, kept alive: started, waited for until it says that it is ready, started again when it dies,
 * stopped in order.
 *
 * The child and its parent are tied by an IPC channel. The child sends `{ ready: true }` when it serves, and stops by itself
 * when the channel closes, so that it never outlives its parent, however that one died. The child has a process group of its
 * own: Ctrl-C in a terminal reaches the parent alone, which decides the order in which children stop. Children are only ever
 * signalled by the pid that this parent was given when it started them.
 */
export interface ChildOptions {
  readonly name: string;
  /** Arguments of this Node: the script and its own. */
  readonly args: readonly string[];
  /** Takes what the child prints; one older file is kept beside it. */
  readonly logPath: string;
  /** A death that nobody asked for, once the child had been ready; it will be started again after `delayMs`. */
  readonly died: (child: Child, how: string, delayMs: number) => void;
  /** It has ended with this code for good, and is not started again. */
  readonly finalCode: number;
  readonly left: (child: Child) => void;
  /** It is ready again after such a death. */
  readonly revived: (child: Child) => void;
  readonly restartDelayMsMin?: number;
  readonly restartDelayMsMax?: number;
}

/** A child that ran this long before it died is started again without a longer delay than the first time. */
const STEADY_MS = 60_000;
const LOG_BYTES_MAX = 16 * 1024 * 1024;
const LOG_TAIL_LINES = 12;

export class Child {
  readonly name: string;
  readonly logPath: string;
  readonly #options: ChildOptions;
  #process: ChildProcess | undefined;
  #exited: Promise<string> = Promise.resolve('never started');
  #hasLeft = false;
  #restart: NodeJS.Timeout | undefined;
  #delayMs: number;
  #stopping = false;
  #logOffset = 0;

  constructor(options: ChildOptions) {
    this.name = options.name;
    this.logPath = options.logPath;
    this.#options = options;
    this.#delayMs = options.restartDelayMsMin ?? 1000;
  }

  /** 0 while it does not run. */
  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Resolves when the child says that it is ready, or has left; rejects with the end of its log if it ends before. */
  async start(): Promise<void> {
    const exited = await this.#launch();
    if (exited !== undefined && !this.#hasLeft) throw new Error(`${this.name} ${exited} before it was ready.\n${this.logTail()}`);
  }

  /** SIGTERM, and SIGKILL if it still runs after the grace. Never rejects. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#restart);
    const child = this.#process;
    if (child === undefined) return;
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    await this.#exited;
    clearTimeout(timer);
  }

  /** The last lines that it printed since it was started last. */
  logTail(): string {
    const text = readFileSync(this.logPath).subarray(this.#logOffset).toString('utf8').trimEnd();
    const lines = text.split('\n').slice(-LOG_TAIL_LINES);
    return [`The end of ${this.logPath}:`, ...lines.map((line) => `  ${line}`)].join('\n');
  }

  /** Undefined once it is ready; how it ended if it ended first. */
  #launch(): Promise<string | undefined> {
    const log = openLog(this.logPath);
    this.#logOffset = fstatSync(log).size;
    const child = spawn(process.execPath, this.#options.args, { detached: true, stdio: ['ignore', log, log, 'ipc'] });
    closeSync(log);
    const startedMs = performance.now();
    this.#process = child;
    this.#exited = new Promise((done) => {
      child.once('error', (error) => done(`could not be started: ${error.message}`));
      child.once('exit', (code, signal) => {
        this.#hasLeft = code === this.#options.finalCode;
        done(signal === null ? `ended with exit code ${code ?? 0}` : `was killed by ${signal}`);
      });
    });
    return new Promise((done) => {
      let ready = false;
      child.once('message', () => {
        ready = true;
        done(undefined);
      });
      void this.#exited.then((how) => {
        this.#process = undefined;
        done(how);
        if (this.#hasLeft) this.#options.left(this);
        else if (ready && !this.#stopping) this.#scheduleRestart(how, performance.now() - startedMs);
      });
    });
  }

  #scheduleRestart(how: string, ranMs: number): void {
    const { restartDelayMsMin = 1000, restartDelayMsMax = 30_000 } = this.#options;
    if (ranMs >= STEADY_MS) this.#delayMs = restartDelayMsMin;
    const delayMs = this.#delayMs;
    this.#delayMs = Math.min(restartDelayMsMax, this.#delayMs * 2);
    this.#options.died(this, how, delayMs);
    this.#restart = setTimeout(() => {
      void this.#launch().then((exited) => {
        if (exited === undefined) this.#options.revived(this);
        else if (!this.#stopping && !this.#hasLeft) this.#scheduleRestart(exited, 0);
      });
    }, delayMs);
  }
}

/** Resolves when all of them are ready; rejects with the first failure, or with the names of those that are late. */
export async function startAll(children: readonly Child[], withinMs: number): Promise<void> {
  const waiting = new Set(children);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, fail) => {
    timer = setTimeout(() => {
      const names = [...waiting].map(({ name }) => name).join(', ');
      const logs = [...waiting].map(({ logPath }) => logPath).join(', ');
      fail(new Error(`not ready within ${withinMs / 1000} s: ${names}; see ${logs}`));
    }, withinMs);
  });
  const start = async (child: Child): Promise<void> => {
    await child.start();
    waiting.delete(child);
  };
  try {
    await Promise.race([Promise.all(children.map(start)), late]);
  } finally {
    clearTimeout(timer);
  }
}

function openLog(path: string): number {
  mkdirSync(dirname(path), { recursive: true });
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size > LOG_BYTES_MAX) renameSync(path, `${path}.old`);
  return openSync(path, 'a');
}
