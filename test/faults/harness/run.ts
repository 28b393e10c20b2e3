import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Result } from '../../../src/check/result.js';
import type { Database } from '../../../src/client/index.js';
import { SimRandom } from '../../../src/sim/random.js';
import { TestCluster } from '../cluster.js';
import { tagOf } from '../load.js';
import { checkHistory } from './check.js';
import { NodeClocks } from './clocks.js';
import { NodeDisks } from './disks.js';
import { Fleet } from './fleet.js';
import { missingPart, type Nemesis } from './nemeses.js';
import { NodeNetwork } from './network.js';
import { plot } from './plot.js';
import { Caller, Recorder } from './recorder.js';
import { table } from './table.js';
import { longestSilence, rowsOf, type FaultWindow, type Row } from './windows.js';
import { WORKLOADS, type Workload } from './workloads.js';

/**
 * One run: starts five nodes, lets clients work on them, does one fault after the other, heals each and waits until everybody is
 * served again, and at the end reads everything once more and has the histories checked.
 */
export interface RunOptions {
  readonly seed: string;
  readonly minutes: number;
  /** How long each fault lasts; drawn if missing. */
  readonly holdMs?: number | undefined;
  readonly nemeses: readonly Nemesis[];
  readonly workloads: readonly string[];
  /** Where the histories, the plot and the report go; it exists. */
  readonly out: string;
  /** Nodes in network namespaces, with disks of their own: this process must be in private namespaces. */
  readonly isolated: boolean;
  /** Path of libfaketime. */
  readonly faketime?: string | undefined;
  /** Ends the run early. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

export interface Report {
  readonly seed: string;
  readonly seconds: number;
  readonly windows: readonly FaultWindow[];
  readonly rows: readonly Row[];
  readonly verdicts: ReadonlyMap<string, Result>;
  /** What went wrong beside the histories: a node that ended by itself, a service that did not come back. */
  readonly surprises: readonly string[];
}

const NODES = 5;
const BUCKETS = 8;
const CALLERS_PER_GROUP = 3;
const CLIENTS = 4;
/** A caller's rest after an operation, on average. */
const REST_MS = 70;
const HOLD_MS: readonly [number, number] = [3000, 10_000];
const QUIET_MS: readonly [number, number] = [1000, 3000];
const RECOVERY_MS_MAX = 90_000;
const DRAIN_MS_MAX = 30_000;

interface GroupOfCallers {
  readonly id: number;
  readonly name: string;
  readonly recorder: Recorder;
  readonly workload: Workload;
  readonly callers: readonly Caller[];
}

export class Run {
  readonly #options: RunOptions;
  readonly #random: SimRandom;
  readonly #fleet: Fleet;
  readonly #recorders = new Map<string, Recorder>();
  readonly #groups: GroupOfCallers[] = [];
  readonly #windows: FaultWindow[] = [];
  readonly #surprises: string[];
  readonly #originMs = performance.now();
  readonly #loadOver = new AbortController();

  private constructor(options: RunOptions, fleet: Fleet) {
    this.#options = options;
    this.#fleet = fleet;
    this.#surprises = fleet.surprises;
    this.#random = new SimRandom(options.seed);
    const { workloads, out } = options;
    for (const name of workloads) this.#recorders.set(name, new Recorder(join(out, `${name}.jsonl`), this.#originMs));
    for (let id = 0; id < BUCKETS; id += 1) {
      const name = workloads[id % workloads.length] ?? '';
      const recorder = this.#recorders.get(name);
      const create = WORKLOADS[name];
      if (recorder === undefined || create === undefined) throw new RangeError(`no workload '${name}'`);
      const workload = create({ tag: tagOf(id, BUCKETS), recorder, random: this.#random.fork(`group ${id}`) });
      const callers = Array.from({ length: CALLERS_PER_GROUP }, () => new Caller(id));
      this.#groups.push({ id, name, recorder, workload, callers });
    }
  }

  static async execute(options: RunOptions): Promise<Report> {
    const ids = Array.from({ length: NODES }, (_, index) => index + 1);
    const network = options.isolated ? await NodeNetwork.create(ids) : undefined;
    const hostOf = (id: number): string => network?.hostOf(id) ?? '127.0.0.1';
    const cluster = await TestCluster.prepare({ nodes: NODES, replicas: NODES, buckets: BUCKETS, hostOf });
    const dataDirs = new Map(ids.map((id) => [id, cluster.dataDir(id)]));
    const disks = options.isolated ? await NodeDisks.create(cluster.folder, dataDirs) : undefined;
    const clocks = options.faketime === undefined ? undefined : new NodeClocks(options.faketime, cluster.folder, ids);
    const fleet = new Fleet({ cluster, network, disks, clocks });
    try {
      await fleet.start(...ids);
      await cluster.settled();
      return await new Run({ ...options, nemeses: possible(options, fleet) }, fleet).#execute();
    } finally {
      await fleet.kill(...ids);
      cpSync(join(cluster.folder, 'logs'), join(options.out, 'logs'), { recursive: true });
      await disks?.close();
      await cluster.close();
    }
  }

  async #execute(): Promise<Report> {
    const { cluster } = this.#fleet;
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => cluster.connect()));
    const work = Promise.all(this.#groups.flatMap((group) => group.callers.map((caller, n) => this.#call(group, caller, clients, n))));
    // A caller that was told what no caller should be told ends everything.
    const failed = work.then(
      () => undefined,
      (error: unknown) => {
        this.#loadOver.abort();
        throw error;
      },
    );
    failed.catch(() => undefined);
    await this.#faults();
    this.#loadOver.abort();
    await Promise.race([failed, sleep(DRAIN_MS_MAX, undefined, { ref: false }).then(() => fail('callers did not come to an end'))]);
    const seconds = this.#nowMs / 1000;
    if (this.#surprises.length === 0 && !this.#options.signal.aborted) {
      await cluster.converged();
      const [reader] = clients;
      if (reader !== undefined) await this.#readAll(reader);
    }
    return this.#report(seconds);
  }

  get #nowMs(): number {
    return performance.now() - this.#originMs;
  }

  // --- load

  async #call({ id, workload }: GroupOfCallers, caller: Caller, clients: readonly Database[], n: number): Promise<void> {
    const random = this.#random.fork(`caller ${id} ${n}`);
    while (!this.#loadOver.signal.aborted) {
      await workload.step(caller, random.pick(clients));
      await sleep(random.between(0, 2 * REST_MS));
    }
  }

  /** Every object, until there is an answer: what was healed must serve. */
  async #readAll(reader: Database): Promise<void> {
    const untilMs = performance.now() + RECOVERY_MS_MAX;
    const readGroup = async ({ id, name, workload }: GroupOfCallers): Promise<void> => {
      const caller = new Caller(id);
      for (const object of workload.objects) {
        while (!(await workload.read(caller, reader, object))) {
          if (performance.now() > untilMs) {
            this.#surprises.push(`${name} on bucket ${id}: ${object} could not be read when all was over`);
            return;
          }
          await sleep(POLL_MS);
        }
      }
    };
    await Promise.all(this.#groups.map(readGroup));
  }

  // --- faults

  async #faults(): Promise<void> {
    const { minutes, nemeses, signal } = this.#options;
    const random = this.#random.fork('faults');
    const endMs = minutes * 60_000;
    let bag: Nemesis[] = [];
    await this.#recovered(0);
    while (this.#nowMs < endMs && !this.#isOver) {
      await this.#pass(random.between(...QUIET_MS));
      // Each comes once before any comes again.
      if (bag.length === 0) bag = [...nemeses].map((each) => ({ each, luck: random.float() })).sort((a, b) => a.luck - b.luck).map(({ each }) => each);
      const nemesis = bag.pop();
      if (nemesis !== undefined && !this.#isOver) await this.#fault(nemesis, random.fork(`fault ${this.#windows.length}`));
    }
    if (signal.aborted) this.#surprises.push('the run was ended before its time');
  }

  get #isOver(): boolean {
    return this.#options.signal.aborted || this.#loadOver.signal.aborted || this.#surprises.length > 0;
  }

  async #fault(nemesis: Nemesis, random: SimRandom): Promise<void> {
    const { say, holdMs = random.between(...HOLD_MS) } = this.#options;
    const beginMs = this.#nowMs;
    const fault = await nemesis.begin(this.#fleet, random);
    this.#note(`${nemesis.name} begins`);
    try {
      await this.#pass(holdMs);
    } finally {
      await fault.heal();
    }
    const healMs = this.#nowMs;
    this.#note(`${nemesis.name} is healed`);
    await this.#recovered(healMs);
    const window = { nemesis: nemesis.name, what: fault.what, beginMs, healMs, endMs: this.#nowMs };
    this.#windows.push(window);
    const silenceMs = Math.max(...[...this.#recorders.values()].map(({ samples }) => longestSilence(samples, [window])));
    const times = `${seconds(beginMs)}-${seconds(healMs)} s, served again ${Math.round(window.endMs - healMs)} ms later`;
    say(`${nemesis.name}: ${window.what}; ${times}; longest silence ${Math.round(silenceMs)} ms`);
  }

  #note(what: string): void {
    for (const recorder of this.#recorders.values()) recorder.nemesis(what);
  }

  /** Until every group was served an operation that it began after that moment. */
  async #recovered(sinceMs: number): Promise<void> {
    const late = (): GroupOfCallers[] => this.#groups.filter(({ id, recorder }) => (recorder.lastOkMs.get(id) ?? -1) < sinceMs);
    const untilMs = performance.now() + RECOVERY_MS_MAX;
    while (late().length > 0 && !this.#isOver) {
      if (performance.now() > untilMs) {
        const names = late().map(({ id, name }) => `${name} on bucket ${id}`).join(', ');
        this.#surprises.push(`${RECOVERY_MS_MAX / 1000} s after everything was healed there was no service for ${names}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Returns early if the run is over. */
  async #pass(ms: number): Promise<void> {
    const signal = AbortSignal.any([this.#options.signal, this.#loadOver.signal]);
    await sleep(ms, undefined, { signal }).catch(() => undefined);
  }

  // --- the end

  async #report(duration: number): Promise<Report> {
    const { seed, out, say } = this.#options;
    const verdicts = new Map<string, Result>();
    const rows: Row[] = [];
    for (const [name, recorder] of this.#recorders) {
      recorder.close();
      rows.push(...rowsOf(name, recorder.samples, this.#windows));
      say(`checking ${recorder.path}`);
      verdicts.set(name, await checkHistory(name, recorder.path));
    }
    const samples = new Map([...this.#recorders].map(([name, recorder]) => [name, recorder.samples]));
    writeFileSync(join(out, 'latency.svg'), plot(`seed ${seed}`, samples, this.#windows));
    writeFileSync(join(out, 'table.md'), `${table(rows)}\n`);
    const report = { seed, seconds: duration, windows: this.#windows, rows, verdicts, surprises: this.#surprises };
    writeFileSync(join(out, 'report.json'), `${JSON.stringify({ ...report, verdicts: Object.fromEntries(verdicts) }, null, 2)}\n`);
    return report;
  }
}

const POLL_MS = 20;

/** Says loudly what cannot be done here. */
function possible({ nemeses, say }: RunOptions, fleet: Fleet): Nemesis[] {
  const can = nemeses.filter(({ name, needs }) => {
    const missing = missingPart(fleet, needs);
    if (missing !== undefined) say(`NOT DONE HERE: ${name}, which needs ${missing}`);
    return missing === undefined;
  });
  if (can.length === 0) throw new Error('none of the chosen nemeses can be done here');
  return can;
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}

function fail(message: string): never {
  throw new Error(message);
}
