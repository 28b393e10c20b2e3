import { spawn, type ChildProcess } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ClientsPlan, FromClients, ObjectsOf, ToClients } from './load.js';
import type { Sample } from './recorder.js';

/**
 * The client processes of a run, apart from the process that inflicts faults and keeps the books: what that one is busy with
 * delays no client, and no clock is read late.
 */
const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'scripts', 'faults-clients.ts');
const START_MS_MAX = 60_000;

export class ClientProcesses {
  /** Group -> when the latest operation began that is known to have had its effect. */
  readonly lastOkMs = new Map<number, number>();
  readonly samples: Sample[] = [];
  /** Settles, with why, when a client was told what none should be told, or a client process ended. */
  readonly failed: Promise<string>;
  readonly #processes: readonly ChildProcess[];
  #fail: (why: string) => void = () => {};
  #ending = false;

  private constructor(count: number) {
    this.failed = new Promise((resolve) => (this.#fail = resolve));
    this.#processes = Array.from({ length: count }, () => this.#spawn());
  }

  /** Resolves when all are at work. */
  static async start(count: number, planOf: (index: number) => ClientsPlan): Promise<ClientProcesses> {
    const clients = new ClientProcesses(count);
    const all = clients.#askAll('started', START_MS_MAX, (index) => ({ kind: 'start', plan: planOf(index) }));
    try {
      await all;
      return clients;
    } catch (error) {
      clients.kill();
      throw error;
    }
  }

  #spawn(): ChildProcess {
    const args = ['--import', import.meta.resolve('tsx'), PROGRAM];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    child.on('message', (message) => this.#hear(message as FromClients));
    child.once('error', (error) => this.#fail(`a client process could not be started: ${error.message}`));
    child.once('exit', (code, signal) => {
      if (!this.#ending) this.#fail(`a client process ended (${signal ?? code})`);
    });
    return child;
  }

  #hear(message: FromClients): void {
    if (message.kind === 'failed') this.#fail(message.why);
    if (message.kind !== 'samples') return;
    for (const sample of message.samples) {
      this.samples.push(sample);
      const { group, beginMs, outcome } = sample;
      if (outcome === 'ok') this.lastOkMs.set(group, Math.max(beginMs, this.lastOkMs.get(group) ?? 0));
    }
  }

  /** Resolves with what was worked on when every operation has come to its end. */
  async stop(withinMs: number): Promise<ObjectsOf[]> {
    const answers = await this.#askAll('stopped', withinMs, () => ({ kind: 'stop' }));
    const names = new Map<number, Set<string>>();
    for (const { group, names: own } of answers.flatMap(({ objects }) => objects)) {
      const known = names.get(group) ?? new Set();
      for (const name of own) known.add(name);
      names.set(group, known);
    }
    return [...names].map(([group, own]) => ({ group, names: [...own] }));
  }

  /** Resolves with what could not be read until then. */
  async readAll(objects: readonly ObjectsOf[], untilMs: number, withinMs: number): Promise<readonly string[]> {
    const [first] = this.#processes;
    if (first === undefined) throw new Error('there are no client processes');
    const { unread } = await this.#ask(first, 'read', withinMs, { kind: 'read', objects, untilMs });
    return unread;
  }

  /** Resolves when their histories are complete. */
  async end(): Promise<void> {
    this.#ending = true;
    const ends = this.#processes.map((child) => new Promise((resolve) => child.once('exit', resolve)));
    for (const child of this.#processes) if (child.connected) child.send({ kind: 'end' } satisfies ToClients);
    const alive = ends.filter((_, index) => this.#processes[index]?.exitCode === null && this.#processes[index].signalCode === null);
    await Promise.all(alive);
  }

  kill(): void {
    this.#ending = true;
    for (const child of this.#processes) child.kill('SIGKILL');
  }

  #askAll<K extends FromClients['kind']>(
    kind: K,
    withinMs: number,
    messageOf: (index: number) => ToClients,
  ): Promise<Extract<FromClients, { readonly kind: K }>[]> {
    return Promise.all(this.#processes.map((child, index) => this.#ask(child, kind, withinMs, messageOf(index))));
  }

  /** Sends a message and waits for the answer of that kind; rejects if that does not come in time. */
  #ask<K extends FromClients['kind']>(
    child: ChildProcess,
    kind: K,
    withinMs: number,
    message: ToClients,
  ): Promise<Extract<FromClients, { readonly kind: K }>> {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => done(() => reject(new Error(`a client process did not say '${kind}' within ${withinMs} ms`))), withinMs);
      const hear = (answer: FromClients): void => {
        if (answer.kind === kind) done(() => resolve(answer as Extract<FromClients, { readonly kind: K }>));
      };
      const done = (settle: () => void): void => {
        clearTimeout(late);
        child.off('message', hear);
        settle();
      };
      child.on('message', hear);
      void this.failed.then((why) => done(() => reject(new Error(why))));
      child.send(message);
    });
  }
}
