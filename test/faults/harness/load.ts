import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type Database } from '../../../src/client/index.js';
import { SimRandom } from '../../../src/sim/random.js';
import { sharedNowMs } from './clock.js';
import type { Workload } from './group.js';
import { Caller, Numbers, Recorder, type Sample } from './recorder.js';
import { WORKLOADS } from './workloads.js';

/**
 * A client process: its share of the callers of every group, working through a few connected databases, and its part of every
 * history. It does what the harness tells it over its IPC channel, and ends when that is gone.
 */
const CALLERS_PER_GROUP = 2;
const DATABASES = 2;
/** Operations have deadlines of their own. */
const CONNECT_MS_MAX = 60_000;
/** A caller's rest after an operation, on average. */
const REST_MS = 90;
/** How often the harness hears what was done. */
const REPORT_MS = 25;
const POLL_MS = 20;

/** Some clients that work on the same objects, spread over all client processes. */
export interface GroupPlan {
  readonly id: number;
  readonly workload: string;
  /** Partition keys, each of another bucket, the group's own first. */
  readonly tags: readonly string[];
}

export interface ClientsPlan {
  /** Of this process, from 0, among so many. */
  readonly index: number;
  readonly processes: number;
  readonly seed: string;
  readonly endpoints: readonly string[];
  readonly clusterId: string;
  readonly groups: readonly GroupPlan[];
  /** On the clock that all processes share: what times in histories count from. */
  readonly originMs: number;
  /** Where its part of each history goes: `<folder>/<workload>-<index>.jsonl`. */
  readonly folder: string;
}

export type ToClients =
  | { readonly kind: 'start'; readonly plan: ClientsPlan }
  /** No new operations; those under way come to their end. */
  | { readonly kind: 'stop' }
  /** Read all objects of each group once more, before that moment. */
  | { readonly kind: 'read'; readonly objects: readonly ObjectsOf[]; readonly untilMs: number }
  /** Write out what there is, and exit. */
  | { readonly kind: 'end' };

export type FromClients =
  | { readonly kind: 'started' }
  | { readonly kind: 'samples'; readonly samples: readonly Sample[] }
  /** The objects that were worked on. */
  | { readonly kind: 'stopped'; readonly objects: readonly ObjectsOf[] }
  /** `unread`: what could not be read in time, for people. */
  | { readonly kind: 'read'; readonly unread: readonly string[] }
  /** A client was told what no client should be told. */
  | { readonly kind: 'failed'; readonly why: string };

export interface ObjectsOf {
  readonly group: number;
  readonly names: readonly string[];
}

interface OwnGroup {
  readonly plan: GroupPlan;
  readonly workload: Workload;
  readonly callers: readonly Caller[];
}

export class Load {
  readonly #plan: ClientsPlan;
  readonly #tell: (message: FromClients) => void;
  readonly #random: SimRandom;
  readonly #numbers: Numbers;
  readonly #databases: readonly Database[];
  readonly #recorders = new Map<string, Recorder>();
  readonly #groups: OwnGroup[] = [];
  readonly #report: NodeJS.Timeout;
  #samples: Sample[] = [];
  readonly #stopped = new AbortController();
  #work: Promise<unknown> = Promise.resolve();

  private constructor(plan: ClientsPlan, databases: readonly Database[], tell: (message: FromClients) => void) {
    this.#plan = plan;
    this.#tell = tell;
    this.#databases = databases;
    this.#random = new SimRandom(plan.seed).fork(`clients ${plan.index}`);
    this.#numbers = new Numbers(plan.index, plan.processes);
    for (const group of plan.groups) this.#groups.push(this.#groupOf(group));
    this.#report = setInterval(() => this.#reportSamples(), REPORT_MS);
  }

  static async start(plan: ClientsPlan, tell: (message: FromClients) => void): Promise<Load> {
    const { endpoints, clusterId } = plan;
    const databases = await Promise.all(Array.from({ length: DATABASES }, () => connect({ endpoints, clusterId, timeoutMs: CONNECT_MS_MAX })));
    const load = new Load(plan, databases, tell);
    load.#begin();
    return load;
  }

  #groupOf(plan: GroupPlan): OwnGroup {
    const { folder, index, processes, originMs } = this.#plan;
    const { id, workload: name, tags } = plan;
    const create = WORKLOADS[name];
    if (create === undefined) throw new RangeError(`no workload '${name}'`);
    let recorder = this.#recorders.get(name);
    if (recorder === undefined) {
      recorder = new Recorder(join(folder, `${name}-${index}.jsonl`), originMs, (sample) => void this.#samples.push(sample));
      this.#recorders.set(name, recorder);
    }
    const nowMs = (): number => sharedNowMs() - originMs;
    const random = this.#random.fork(`group ${id}`);
    const workload = create({ id, tags, recorder, random, nowMs, values: new Numbers(index + 1, processes) });
    const callers = Array.from({ length: CALLERS_PER_GROUP }, () => new Caller(id, this.#numbers));
    return { plan, workload, callers };
  }

  #begin(): void {
    const steps = this.#groups.flatMap((group) => group.callers.map((caller, n) => this.#call(group, caller, n)));
    this.#work = Promise.all([...steps, ...this.#groups.map((group) => this.#accompany(group))]);
    this.#work.catch((error: unknown) => this.#tell({ kind: 'failed', why: String((error as Error).stack ?? error) }));
  }

  #accompany({ plan: { id }, workload }: OwnGroup): Promise<unknown> | undefined {
    const newCaller = (): Caller => new Caller(id, this.#numbers);
    const { signal: stopped } = this.#stopped;
    return workload.accompany?.({ databases: this.#databases, endpoints: this.#plan.endpoints, newCaller, stopped });
  }

  async #call({ plan, workload }: OwnGroup, caller: Caller, n: number): Promise<void> {
    const random = this.#random.fork(`caller ${plan.id} ${n}`);
    while (!this.#stopped.signal.aborted) {
      await workload.step(caller, random.pick(this.#databases));
      await sleep(random.between(0, 2 * REST_MS));
    }
  }

  async take(message: Exclude<ToClients, { readonly kind: 'start' }>): Promise<void> {
    switch (message.kind) {
      case 'stop': {
        this.#stopped.abort();
        await this.#work;
        this.#reportSamples();
        const objects = this.#groups.map(({ plan, workload }): ObjectsOf => ({ group: plan.id, names: workload.objects }));
        return this.#tell({ kind: 'stopped', objects });
      }
      case 'read': {
        const groups = message.objects.map(({ group, names }) => this.#readAll(group, names, message.untilMs));
        const unread = await Promise.all(groups);
        this.#reportSamples();
        return this.#tell({ kind: 'read', unread: unread.flat() });
      }
      case 'end':
        return this.#end();
    }
  }

  /** Every object, in the order of their names, until there is an answer: what was healed must serve. */
  async #readAll(id: number, names: readonly string[], untilMs: number): Promise<string[]> {
    const [database] = this.#databases;
    const group = this.#groups.find(({ plan }) => plan.id === id);
    if (database === undefined || group === undefined) throw new RangeError(`no group ${id} here`);
    const caller = new Caller(id, this.#numbers);
    for (const name of names.toSorted()) {
      while (!(await group.workload.read(caller, database, name))) {
        if (sharedNowMs() > untilMs) return [`${group.plan.workload} on bucket ${id}: ${name} could not be read when all was over`];
        await sleep(POLL_MS);
      }
    }
    return [];
  }

  #reportSamples(): void {
    if (this.#samples.length === 0) return;
    const samples = this.#samples;
    this.#samples = [];
    this.#tell({ kind: 'samples', samples });
  }

  async #end(): Promise<void> {
    clearInterval(this.#report);
    for (const recorder of this.#recorders.values()) recorder.close();
    await Promise.all(this.#databases.map((database) => database.close()));
  }
}
