import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { runCommand } from '../../src/cli/program.js';

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a command line in this process, with its input given and its output kept. */
export async function tidemark(args: readonly string[], input: string | Buffer = ''): Promise<Outcome> {
  const stdout = new Sink();
  const stderr = new Sink();
  const code = await runCommand(args, { stdin: Readable.from([Buffer.from(input)]), stdout, stderr });
  return { code, out: stdout.text(), err: stderr.text() };
}

class Sink extends Writable {
  readonly #chunks: Buffer[] = [];

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#chunks.push(chunk);
    done();
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}

/** A process that runs the command line from its source. */
export class Running {
  readonly process: ChildProcess;
  readonly exited: Promise<number | null>;
  #text = '';
  #changed: () => void = () => undefined;

  constructor(args: readonly string[]) {
    const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
    this.process = spawn(process.execPath, [...process.execArgv, main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.exited = once(this.process, 'close').then(([code]) => code as number | null);
    void this.exited.then(() => this.#changed());
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#text += chunk.toString('utf8');
        this.#changed();
      });
    }
  }

  get text(): string {
    return this.#text;
  }

  /** Resolves when its output matches; rejects, showing the output, if it ends before. */
  async printed(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match !== null) return match;
      if (this.process.exitCode !== null) throw new Error(`it ended without printing ${pattern}:\n${this.#text}`);
      await new Promise<void>((changed) => {
        this.#changed = changed;
      });
    }
  }

  async stop(signal: NodeJS.Signals = 'SIGINT'): Promise<number | null> {
    this.process.kill(signal);
    return this.exited;
  }
}

const BASE_MIN = 15_000;
const BASE_MAX = 31_000;

/** A base port whose whole layout (see cluster/local.ts) is free now. Below the range that systems give out by themselves. */
export async function freeBasePort(nodes: number): Promise<number> {
  for (;;) {
    const base = BASE_MIN + Math.floor(Math.random() * (BASE_MAX - BASE_MIN));
    const offsets = Array.from({ length: nodes + 1 }, (_, offset) => offset);
    const ports = offsets.flatMap((offset) => [base + offset, base + 100 + offset]);
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) return base;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const free = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => resolve(true));
  });
  if (free) await new Promise((resolve) => server.close(resolve));
  return free;
}
