import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Result } from '../../../src/check/result.js';
import { SimRandom } from '../../../src/sim/random.js';
import { TestCluster } from '../cluster.js';
import { tagOf } from '../load.js';
import { checkHistory } from './check.js';
import { ClientProcesses } from './clients.js';
import { sharedNowMs } from './clock.js';
import { NodeClocks } from './clocks.js';
import { NodeDisks } from './disks.js';
import { Fleet } from './fleet.js';
import { HOT_LIMITS } from './hot.js';
import { mergeHistories, type FaultNote } from './histories.js';
import type { GroupPlan } from './load.js';
import { missingPart, type Nemesis } from './nemeses.js';
import { NodeNetwork } from './network.js';
import { plot } from './plot.js';
import type { Sample } from './recorder.js';
import { table } from './table.js';
import { longestSilence, rowsOf, type FaultWindow, type Row } from './windows.js';

/**
 * One run: starts five nodes, lets clients work on them, does one fault after the other, heals each and waits until everybody is
 * served again, and at the end reads everything once more and has the histories checked.
 */
export interface RunOptions {
  readonly seed: string;
  readonly commit: string;
  /** No fault begins after so many minutes ... */
  readonly minutes: number;
  /** ... or when each nemesis had so many turns. */
  readonly rounds: number;
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
  /** Of the code that ran: see commit.ts. */
  readonly commit: string;
  readonly seconds: number;
  readonly windows: readonly FaultWindow[];
  readonly rows: readonly Row[];
  readonly verdicts: ReadonlyMap<string, Result>;
  /** What went wrong beside the histories: a node that ended by itself, a service that did not come back. */
  readonly surprises: readonly string[];
}

const NODES = 5;
/** Where nodes may join. */
const SPARES = 2;
const BUCKETS = 8;
const CLIENT_PROCESSES = 2;
const HOLD_MS: readonly [number, number] = [3000, 10_000];
const QUIET_MS: readonly [number, number] = [1000, 3000];
/** Of the time for which a fault lasts, if that was given: short faults come after short rests. */
const QUIET_PART = 0.3;
const RECOVERY_MS_MAX = 90_000;
const DRAIN_MS_MAX = 30_000;

export class Run {
  readonly #options: RunOptions;
  readonly #random: SimRandom;
  readonly #fleet: Fleet;
  readonly #groups: readonly GroupPlan[];
  readonly #clients: ClientProcesses;
  readonly #originMs: number;
  readonly #windows: FaultWindow[] = [];
  readonly #notes: FaultNote[] = [];
  readonly #surprises: string[];
  readonly #loadOver = new AbortController();

  private constructor(options: RunOptions, fleet: Fleet, groups: readonly GroupPlan[], clients: ClientProcesses, originMs: number) {
    this.#options = options;
    this.#fleet = fleet;
    this.#groups = groups;
    this.#clients = clients;
    this.#originMs = originMs;
    this.#surprises = fleet.surprises;
    this.#random = new SimRandom(options.seed);
    // A caller that was told what no caller should be told ends everything.
    void clients.failed.then((why) => {
      this.#surprises.push(why);
      this.#loadOver.abort();
    });
  }

  static async execute(options: RunOptions): Promise<Report> {
    const places = Array.from({ length: NODES + SPARES }, (_, index) => index + 1);
    const network = options.isolated ? await NodeNetwork.create(places) : undefined;
    const hostOf = (id: number): string => network?.hostOf(id) ?? '127.0.0.1';
    const size = { nodes: NODES, spares: SPARES, replicas: NODES, buckets: BUCKETS };
    const cluster = await TestCluster.prepare({ ...size, hostOf, limits: HOT_LIMITS });
    const dataDirs = new Map(places.map((id) => [id, cluster.dataDir(id)]));
    const disks = options.isolated ? await NodeDisks.create(cluster.folder, dataDirs) : undefined;
    const clocks = options.faketime === undefined ? undefined : new NodeClocks(options.faketime, cluster.folder, places);
    const fleet = new Fleet({ cluster, network, disks, clocks });
    const chosen = { ...options, nemeses: possible(options, fleet) };
    let clients: ClientProcesses | undefined;
    try {
      await fleet.start(...cluster.founders);
      await cluster.settled();
      const { seed, workloads, out } = options;
      const groups = Array.from({ length: BUCKETS }, (_, id): GroupPlan => {
        const tags = Array.from({ length: BUCKETS }, (_, next) => tagOf((id + next) % BUCKETS, BUCKETS));
        return { id, workload: workloads[id % workloads.length] ?? '', tags };
      });
      const folder = join(out, PARTS);
      mkdirSync(folder);
      const endpoints = cluster.founders.map((id) => cluster.address(id));
      const originMs = sharedNowMs();
      const common = { processes: CLIENT_PROCESSES, seed, endpoints, clusterId: cluster.id, groups, originMs, folder };
      clients = await ClientProcesses.start(CLIENT_PROCESSES, (index) => ({ ...common, index }));
      return await new Run(chosen, fleet, groups, clients, originMs).#execute();
    } finally {
      clients?.kill();
      await fleet.close();
      cpSync(join(cluster.folder, 'logs'), join(options.out, 'logs'), { recursive: true });
      await disks?.close();
      await cluster.close();
    }
  }

  async #execute(): Promise<Report> {
    const { cluster } = this.#fleet;
    await this.#faults();
    this.#loadOver.abort();
    const seconds = this.#nowMs / 1000;
    if (this.#surprises.length === 0) {
      const objects = await this.#clients.stop(DRAIN_MS_MAX);
      if (!this.#options.signal.aborted) {
        await cluster.converged();
        const untilMs = sharedNowMs() + RECOVERY_MS_MAX;
        this.#surprises.push(...(await this.#clients.readAll(objects, untilMs, RECOVERY_MS_MAX + DRAIN_MS_MAX)));
      }
    }
    await this.#clients.end();
    return this.#report(seconds);
  }

  get #nowMs(): number {
    return sharedNowMs() - this.#originMs;
  }

  /** Of the groups of one workload, or of all. */
  #samplesOf(workload?: string): Sample[] {
    if (workload === undefined) return this.#clients.samples;
    const ids = new Set(this.#groups.filter((group) => group.workload === workload).map(({ id }) => id));
    return this.#clients.samples.filter(({ group }) => ids.has(group));
  }

  // --- faults

  async #faults(): Promise<void> {
    const { minutes, rounds, holdMs = Infinity, nemeses, signal } = this.#options;
    const random = this.#random.fork('faults');
    const endMs = minutes * 60_000;
    const faults = rounds * nemeses.length;
    let bag: Nemesis[] = [];
    await this.#recovered(0);
    while (this.#nowMs < endMs && this.#windows.length < faults && !this.#isOver) {
      await this.#pass(Math.min(random.between(...QUIET_MS), holdMs * QUIET_PART));
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
    const span = { beginMs, endMs: this.#nowMs };
    const unavailableMs = longestSilence(this.#samplesOf(), [span]);
    const window = { nemesis: nemesis.name, what: fault.what, ...span, healMs, unavailableMs };
    this.#windows.push(window);
    const times = `${seconds(beginMs)}-${seconds(healMs)} s, served again ${Math.round(window.endMs - healMs)} ms later`;
    say(`${nemesis.name}: ${window.what}; ${times}; longest silence ${Math.round(unavailableMs)} ms`);
  }

  #note(what: string): void {
    this.#notes.push({ timeMs: this.#nowMs, what });
  }

  /** Until every group was served an operation that it began after that moment. */
  async #recovered(sinceMs: number): Promise<void> {
    const late = (): GroupPlan[] => this.#groups.filter(({ id }) => (this.#clients.lastOkMs.get(id) ?? -1) < sinceMs);
    const untilMs = performance.now() + RECOVERY_MS_MAX;
    while (late().length > 0 && !this.#isOver) {
      if (performance.now() > untilMs) {
        const names = late().map(({ id, workload }) => `${workload} on bucket ${id}`).join(', ');
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
    const { seed, commit, out, say, workloads } = this.#options;
    const verdicts = new Map<string, Result>();
    const rows: Row[] = [];
    const samples = new Map(workloads.map((name) => [name, this.#samplesOf(name)]));
    for (const [name, own] of samples) {
      const parts = Array.from({ length: CLIENT_PROCESSES }, (_, index) => join(out, PARTS, `${name}-${index}.jsonl`));
      const path = join(out, `${name}.jsonl`);
      await mergeHistories(parts, this.#notes, path);
      rows.push(...rowsOf(name, own, this.#windows));
      say(`checking ${path}`);
      verdicts.set(name, await checkHistory(name, path));
    }
    writeFileSync(join(out, 'latency.svg'), plot(`seed ${seed}`, samples, this.#windows));
    writeFileSync(join(out, 'table.md'), `${table(rows)}\n`);
    const report = { seed, commit, seconds: duration, windows: this.#windows, rows, verdicts, surprises: this.#surprises };
    writeFileSync(join(out, 'report.json'), `${JSON.stringify({ ...report, verdicts: Object.fromEntries(verdicts) }, null, 2)}\n`);
    return report;
  }
}

const POLL_MS = 20;
/** The folder of what each client process wrote. */
const PARTS = 'parts';

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
