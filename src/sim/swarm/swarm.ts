import { createHash } from 'node:crypto';
import { messageOf } from '../../lib/errors.js';
import { MUTANTS, plantMutant, type Mutant } from '../../lib/mutants.js';
import type { NodeId } from '../../placement/map.js';
import type { PlacementRecord } from '../../placement/record.js';
import { readersOf } from '../../placement/replicas.js';
import type { Router } from '../../router/router.js';
import { CLUSTER, SimCluster } from '../cluster.js';
import { SimRandom } from '../random.js';
import { readable } from '../readable.js';
import { Archive } from './archive.js';
import { check } from './check.js';
import { noticesDamage } from './damage.js';
import { checkStreams, type Committed } from './check-streams.js';
import { Consumers } from './consumers.js';
import { isExcused } from './excuses.js';
import { Inspector } from './inspect.js';
import { Mover } from './mover.js';
import { Nemesis } from './nemesis.js';
import { collectsHistory, describePlan, drawPlan, hasWildClocks, type SwarmPlan } from './plan.js';
import { firstProblem } from './problems.js';
import { Renewal } from './renewal.js';
import { Recorder, type Command, type VersionSeen } from './record.js';
import { Pinners } from './pins.js';
import { transactionsOf, type TransactionLoad } from './transactions.js';
import { Witness } from './witness.js';
import { Waves } from './waves.js';
import { Workload } from './workload.js';

/**
 * One run of the swarm: a cluster, clients, and faults, all drawn from a seed.
 *
 *   safety     clients and faults for some time; whatever is answered is written down
 *   liveness   everything is healed; within a bounded time every key can be written and read
 *   verdict    the final history of every key is read and every answer is held against it; all replicas are equal
 *
 * The same seed is the same run: `trace` is a hash of everything that was logged and answered.
 */
export interface SwarmResult {
  readonly seed: string;
  readonly plan: SwarmPlan;
  readonly problems: readonly string[];
  readonly trace: string;
  readonly log: readonly string[];
  readonly simulatedMs: number;
  readonly events: number;
  readonly counts: Readonly<Record<string, number>>;
}

const START_MS = 30_000;
/** How long a cluster with a healed quorum may take until every key can be written again, and read. */
const LIVENESS_MS = 40_000;
/** ... and until all replicas are the same, or some have come further: those too that get a snapshot at 30 kB a second. */
const SETTLE_MS = 45_000;
/** Replicas that are sent one snapshot after the other in tiny pieces come further a few times. */
const SETTLE_ROUNDS = 4;

export interface SwarmOptions {
  /** Instead of the one that the seed draws; the seed decides the rest. */
  readonly plan?: SwarmPlan | undefined;
  /** A bug to plant for the length of the run. */
  readonly mutant?: Mutant | undefined;
  /** Is shown the world before anything happens in it. It may look, at any time, and must leave all as it is. */
  readonly observe?: ((cluster: SimCluster, recorder: Recorder) => void) | undefined;
}

export const MUTANT_NAMES: readonly Mutant[] = MUTANTS;

/** What a seed draws. */
export function planOfSeed(seed: string | number): SwarmPlan {
  return drawPlan(new SimRandom(`swarm/${seed}`).fork('plan'));
}

/** One run at a time in a process. */
export async function runSwarm(seed: string | number, options: SwarmOptions = {}): Promise<SwarmResult> {
  const plan = options.plan ?? planOfSeed(seed);
  const run = new SwarmRun(seed, plan, new SimRandom(`swarm/${seed}`));
  options.observe?.(run.cluster, run.recorder);
  plantMutant(options.mutant);
  try {
    await run.play();
  } finally {
    plantMutant(undefined);
  }
  return run.result(String(seed));
}

class SwarmRun {
  readonly cluster: SimCluster;
  readonly #plan: SwarmPlan;
  readonly recorder: Recorder;
  readonly #nemesis: Nemesis;
  readonly #mover: Mover | undefined;
  readonly #renewal: Renewal | undefined;
  readonly #waves: Waves;
  readonly #workload: Workload;
  readonly #consumers: Consumers;
  readonly #pinners: Pinners;
  readonly #archive = new Archive();
  readonly #witness: Witness;
  readonly #inspector: Inspector;
  readonly #prober: Router;
  readonly #transactions: TransactionLoad | undefined;
  readonly #problems: string[] = [];
  /** Read replicas that a placement has named, by bucket and id. */
  readonly #readers = new Set<string>();

  constructor(seed: string | number, plan: SwarmPlan, random: SimRandom) {
    const cluster = new SimCluster({
      seed: `swarm/${seed}/world`,
      nodes: plan.nodes,
      buckets: plan.buckets,
      replicas: plan.replicas,
      timing: plan.timing,
      limits: plan.limits,
      diskFaults: plan.disk,
      onUp: (id, node) => {
        this.#witness.attach(id);
        this.#archive.attach(node);
        node.view.watch(() => {
          this.#noteReaders(node.keeper.record);
          this.#renewal?.heard(node.keeper.record);
        });
        if (!this.#nemesis.atlas.isDamaged(id)) this.#inspector.checkStart(id);
      },
    });
    this.cluster = cluster;
    this.#plan = plan;
    const { loop } = cluster;
    this.recorder = new Recorder(() => loop.nowMs);
    this.#nemesis = new Nemesis(cluster, plan, random.fork('nemesis'));
    const { moveEveryMs, renewEveryMs } = plan;
    this.#mover = moveEveryMs > 0 ? new Mover(cluster, moveEveryMs, random.fork('mover')) : undefined;
    this.#inspector = new Inspector(cluster);
    this.#witness = new Witness({
      cluster,
      isDamaged: (id) => this.#nemesis.atlas.isDamaged(id),
      isAwake: (id) => this.#isAwake(id) && !this.#nemesis.isDrowsy(id),
    });
    const clocks = random.fork('clocks');
    const skew = (most: number): number => most * (2 * clocks.float() - 1);
    const routers = Array.from({ length: plan.clients }, (_, at) => {
      const clock = loop.clock({ rate: 1 + skew(plan.wallRateMax) });
      clock.jumpWall(skew(plan.clockSkewMs));
      return cluster.client(`c${at}`, clock, {
        linearizableAnywhere: plan.replicaReads ? 'always' : 'hot',
        nearCache: plan.nearCache ? { keysMax: 4, readsPerSecondMin: 1 } : undefined,
      });
    });
    this.#prober = cluster.client('prober');
    const { waveMs, restMs, transactions } = plan;
    const waves = new Waves({ loop, random: random.fork('waves'), waveMs, restMs });
    this.#waves = waves;
    this.#transactions = transactions > 0 ? transactionsOf(cluster, plan, random.fork('transactions'), waves) : undefined;
    this.#workload = new Workload({
      loop,
      plan,
      random: random.fork('work'),
      recorder: this.recorder,
      waves,
      routers,
      gateways: () => cluster.ids.flatMap((id) => (this.#isAwake(id) ? [cluster.node(id).router] : [])),
    });
    this.#consumers = new Consumers({
      loop,
      random: random.fork('streams'),
      count: plan.streams,
      keys: plan.keys,
      routers,
      gateways: () => cluster.ids.flatMap((id) => (this.#isAwake(id) ? [cluster.node(id).router] : [])),
      excuses: (error) => isExcused(plan, error),
      horizon: () => (collectsHistory(plan) ? this.#witness.horizon : 0),
    });
    this.#pinners = new Pinners({
      loop,
      random: random.fork('pins'),
      count: plan.pinners,
      keys: plan.keys,
      routers,
      recorder: this.recorder,
      gateways: () => cluster.ids.flatMap((id) => (this.#isAwake(id) ? [cluster.node(id).router] : [])),
      excuses: (error) => isExcused(plan, error),
    });
    this.#renewal = renewEveryMs === 0 ? undefined : new Renewal({
      cluster,
      everyMs: renewEveryMs,
      random: random.fork('renewal'),
      nodes: plan.nodes,
      replicas: plan.replicas,
      onMachine: (id) => cluster.clock(id).jumpWall(skew(plan.clockSkewMs)),
      spare: (id) => this.#nemesis.atlas.spareToLeave(id),
    });
    cluster.network.setLatency(plan.latency);
    for (const id of cluster.ids) cluster.clock(id).jumpWall(skew(plan.clockSkewMs));
  }

  #isAwake(id: NodeId): boolean {
    return this.cluster.running(id) && !this.cluster.process(id).paused;
  }

  async play(): Promise<void> {
    try {
      await this.#play();
    } catch (error) {
      this.#problems.push(`the run ended: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    }
  }

  async #play(): Promise<void> {
    const { loop } = this.cluster;
    await loop.runUntilSettled(Promise.all(this.cluster.ids.map((id) => this.cluster.boot(id))), START_MS);
    this.#workload.start();
    this.#transactions?.start();
    this.#consumers.start();
    this.#pinners.start();
    const nemesis = Promise.all([this.#nemesis.run(), this.#mover?.run(), this.#renewal?.run()]);
    await loop.runFor(this.#plan.durationMs);
    this.#mover?.stop();
    this.#renewal?.stop();
    this.#nemesis.healQuorum();
    this.#waves.stop();
    const clients = [this.#workload.stop(), this.#transactions?.stop(), this.#pinners.stop()];
    await loop.runUntilSettled(Promise.all([nemesis, ...clients]), LIVENESS_MS);
    // Until no clock is behind what the wildest one had said.
    if (hasWildClocks(this.#plan)) await loop.runFor(2 * this.#plan.clockSkewMs);
    await this.#becomeUsable();
    this.#nemesis.healAll();
    await this.#settle(() => this.#inspector.unresolved().length === 0);
    this.#problems.push(...this.#inspector.unresolved());
    const written = await this.#readFinals();
    if (this.#transactions !== undefined) {
      this.#problems.push(...(await loop.runUntilSettled(this.#transactions.finish(), LIVENESS_MS)));
    }
    await this.#streamsCatchUp(written);
    // What was held up on its way, and whose caller has given up, may have been carried out, and told, since.
    const read = await this.#readFinals();
    const finals = collectsHistory(this.#plan) ? this.#archive.complete(read, this.#inspector.horizon) : read;
    await this.#settle(() => this.#compareReplicas().length === 0);
    this.#problems.push(...this.#witness.problems, ...this.#inspector.problems, ...this.#archive.problems);
    this.#problems.push(...this.#compareReplicas());
    for (const { node, error } of this.cluster.fatal) {
      const isExcused = this.#nemesis.excuses(node) && isDiskFailure(error);
      const hasLeft = this.#renewal?.hasLeft(node) === true && (error as { readonly reason?: unknown }).reason === 'NODE_REMOVED';
      if (!isExcused && !hasLeft && !(this.#nemesis.atlas.isDamaged(node) && noticesDamage(error))) {
        this.#problems.push(`node ${node} stopped: ${error instanceof Error ? error.stack : messageOf(error)}`);
      }
    }
    const { buckets, clockSkewMs, wallRateMax, limits } = this.#plan;
    const skewMs = clockSkewMs + wallRateMax * loop.nowMs;
    const { retentionMs } = limits;
    this.#problems.push(...check({ recorder: this.recorder, finals, buckets, clockSkewMs: skewMs, retentionMs }));
    const { chains, broken } = this.#consumers;
    // The keys of transactions are not among those whose history was read.
    const versions = new Map([...this.#archive.all(), ...finals]);
    const commits = committedOf(this.recorder.commands);
    this.#problems.push(...broken, ...checkStreams({ chains, finals: versions, commits, buckets, clusterId: CLUSTER }));
  }

  #noteReaders({ map }: PlacementRecord): void {
    for (const { id, replicas } of map) for (const reader of readersOf(replicas)) this.#readers.add(`${id}/${reader.id}`);
  }

  async #settle(holds: () => boolean): Promise<void> {
    for (let round = 1; round <= SETTLE_ROUNDS; round += 1) {
      const before = this.#inspector.lowestApplied();
      if ((await this.cluster.loop.runUntil(holds, SETTLE_MS)) || this.#inspector.lowestApplied() === before) return;
    }
  }

  #compareReplicas(): string[] {
    return this.#inspector.compareReplicas((id) => !this.#nemesis.atlas.isDamaged(id) || this.cluster.running(id));
  }

  /** Every stream has told all that was ever written. */
  async #streamsCatchUp(written: ReadonlyMap<string, readonly VersionSeen[]>): Promise<void> {
    const last = Math.max(0, ...[...written.values()].map(([newest]) => newest?.version ?? 0));
    const reached = await this.cluster.loop.runUntil(() => this.#consumers.hasReached(last), LIVENESS_MS);
    if (!reached) this.#problems.push(`streams do not catch up with ${last}: ${this.#consumers.describe()}`);
    await this.cluster.loop.runUntilSettled(this.#consumers.stop(), LIVENESS_MS);
  }

  /** Every key can be written; read it is by the verdict. */
  async #becomeUsable(): Promise<void> {
    let trouble = 'no answer';
    const probe = async (): Promise<void> => {
      for (const key of this.#plan.keys) {
        for (;;) {
          const error = await this.#workload.put(key, this.#prober, 'prober');
          if (error === undefined) break;
          trouble = `${key} cannot be written after all was healed: ${error}`;
        }
      }
    };
    try {
      await this.cluster.loop.runUntilSettled(probe(), LIVENESS_MS);
    } catch (cause) {
      throw new Error(trouble, { cause });
    }
  }

  async #readFinals(): Promise<Map<string, readonly VersionSeen[]>> {
    const finals = new Map<string, readonly VersionSeen[]>();
    for (const key of this.#plan.keys) {
      const found: VersionSeen[] = [];
      const pages = this.#prober.history(Buffer.from(key))[Symbol.asyncIterator]();
      // Each page in time: a plan may let a page have one version only, and there may be a thousand.
      for (;;) {
        const page = await this.cluster.loop.runUntilSettled(pages.next(), LIVENESS_MS);
        if (page.done === true) break;
        for (const { version, deleted, value } of page.value.versions) found.push({ version, deleted, value: value.toString() });
      }
      finals.set(key, found);
    }
    return finals;
  }

  result(seed: string): SwarmResult {
    const { log, loop } = this.cluster;
    const hash = createHash('sha256');
    for (const line of log.lines) hash.update(line);
    const told = [...(this.#transactions?.counts ?? []), ...this.#pinners.counts];
    const { commands, reads } = this.recorder;
    // One by one: all of them may be longer than a string can be.
    for (const entry of [...commands, ...reads]) hash.update(JSON.stringify(entry));
    for (const line of this.#consumers.lines()) hash.update(line);
    hash.update(JSON.stringify([told, loop.eventsRun, this.#problems]));
    const streamEvents = this.#consumers.chains.reduce((sum, { told }) => sum + told.length, 0);
    const counts: Record<string, number> = { commands: commands.length, reads: reads.length, streamEvents };
    for (const { attempts } of commands) {
      for (const { outcome } of attempts) counts[outcome] = (counts[outcome] ?? 0) + 1;
    }
    if (this.#archive.collected > 0) counts['collected'] = this.#archive.collected;
    if (this.#mover !== undefined) counts['moves'] = this.#mover.count;
    if (this.#renewal !== undefined) Object.assign(counts, this.#renewal.counts);
    if (this.#readers.size > 0) counts['readReplicas'] = this.#readers.size;
    for (const [reason, count] of this.recorder.failures) counts[reason] = count;
    for (const [what, count] of told) counts[what] = count;
    return {
      seed,
      plan: this.#plan,
      problems: this.#problems,
      trace: hash.digest('hex'),
      log: log.lines,
      simulatedMs: loop.nowMs,
      events: loop.eventsRun,
      counts,
    };
  }
}

/** What clients were told to have committed as one. */
function committedOf(commands: readonly Command[]): Committed[] {
  return commands.flatMap(({ changes, attempts }) => {
    const keys = [...new Set(changes.map(({ key }) => key))];
    const results = attempts.flatMap(({ result }) => (result?.applied === true ? [result] : []));
    return results.map(({ timestamp }) => ({ timestamp, keys }));
  });
}

function isDiskFailure(error: unknown): boolean {
  const reason = (error as { readonly reason?: unknown }).reason;
  return reason === 'DISK_FAILED' || reason === 'DISK_FULL';
}

const LINES_SHOWN = 20;

/** What somebody who looks for the cause needs. */
export function explain({ seed, plan, problems, log }: SwarmResult, replay = `tidemark sim --seed ${seed}`): string {
  const shown = problems.slice(0, 10).map((problem) => `  - ${problem}`);
  const more = problems.length > 10 ? [`  - and ${problems.length - 10} more`] : [];
  const lastFrom = Math.max(0, log.length - LINES_SHOWN);
  const noticed = firstProblem(log) + 1;
  const before = noticed === 0 || noticed > lastFrom ? [] : log.slice(Math.max(0, noticed - LINES_SHOWN), noticed);
  const lines = (of: readonly string[]): string[] => of.map((line) => `  ${readable(line)}`);
  return [
    `seed ${seed} fails:`,
    ...shown,
    ...more,
    `plan ${describePlan(plan)}`,
    `replay: ${replay}`,
    ...(before.length === 0 ? [] : ['what it logged until the first problem was noticed:', ...lines(before)]),
    'the last it logged:',
    ...lines(log.slice(lastFrom)),
  ].join('\n');
}
