import { messageOf } from '../../lib/errors.js';
import { SimCluster } from '../cluster.js';
import { SimRandom } from '../random.js';
import { Inspector } from '../swarm/inspect.js';
import { Nemesis } from '../swarm/nemesis.js';
import { Witness } from '../swarm/witness.js';
import { WALL_START_MS } from '../clock.js';
import { planOf, type ClusterOptions, type Seed } from './options.js';
import { Strays } from './strays.js';
import { Tape } from './tape.js';
import { HEAL_MS, World } from './world.js';

/** What a run came to. */
export interface Simulation {
  readonly seed: string;
  /** A hash of all that was logged and of every byte between the program and the cluster: the same seed, the same hash. */
  readonly trace: string;
  readonly simulatedMs: number;
  readonly events: number;
  readonly log: readonly string[];
}

/** What went wrong, if something did. `by` says whose fault it is. */
export interface Verdict extends Simulation {
  readonly failure: { readonly by: 'the test' | 'Tidemark'; readonly error: unknown } | undefined;
}

export type Body = (world: World) => Promise<unknown>;

const START_MS = 30_000;
const SETTLE_MS = 30_000;
const TIMEOUT_MS = 600_000;
const FAULTS_MS = 30_000;
/** A program with nothing to wait for in all this time waits for something else. Longer than any request takes by default. */
const STUCK_MS = 30_000;

type Ending = { readonly error: unknown } | 'ended';

/** One test in one simulated world. */
export class Run {
  readonly #seed: string;
  readonly #options: ClusterOptions;
  readonly #cluster: SimCluster;
  readonly #tape: Tape;
  readonly #strays: Strays;
  readonly #nemesis: Nemesis;
  readonly #witness: Witness;
  readonly #inspector: Inspector;
  readonly #world: World;
  /** What the replicas were found to differ in at the end. */
  readonly #differences: string[] = [];
  #calmed = false;

  constructor(seed: Seed, options: ClusterOptions) {
    const random = new SimRandom(`testing/${seed}`);
    const plan = planOf(options, random.fork('plan'));
    const { nodes, buckets, replicas, timing, limits, disk } = plan;
    const cluster = new SimCluster({
      seed: `testing/${seed}/world`,
      nodes,
      buckets,
      replicas,
      timing,
      limits,
      diskFaults: disk,
      onUp: (id) => {
        this.#witness.attach(id);
        this.#inspector.checkStart(id);
      },
    });
    const { loop, log, network } = cluster;
    this.#seed = String(seed);
    this.#options = options;
    this.#cluster = cluster;
    this.#tape = new Tape(() => loop.nowMs);
    log.onLine = (line) => this.#tape.note(line);
    this.#nemesis = new Nemesis(cluster, plan, random.fork('nemesis'));
    this.#inspector = new Inspector(cluster);
    this.#witness = new Witness({
      cluster,
      isDamaged: () => false,
      isAwake: (id) => !cluster.process(id).paused && !this.#nemesis.isDrowsy(id),
    });
    network.setLatency(plan.latency);
    const clocks = random.fork('clocks');
    for (const id of cluster.ids) cluster.clock(id).jumpWall(plan.clockSkewMs * (2 * clocks.float() - 1));
    this.#strays = new Strays({
      wallMs: () => WALL_START_MS + loop.nowMs,
      nowMs: () => loop.nowMs,
      after: (delayMs, callback) => this.#world.timers.after(delayMs, callback),
      random: loop.random.fork('globals'),
    });
    this.#world = new World(this.#seed, { cluster, strays: this.#strays, tape: this.#tape }, () => this.#calm());
    loop.surroundings = this.#strays;
  }

  async play(body: Body): Promise<Verdict> {
    try {
      return this.#verdict(await this.#play(body));
    } finally {
      this.#strays.end();
    }
  }

  async #play(body: Body): Promise<Verdict['failure']> {
    const { loop } = this.#cluster;
    try {
      await loop.runUntilSettled(Promise.all(this.#cluster.ids.map((id) => this.#cluster.boot(id))), START_MS);
      if (!(await loop.runUntil(() => this.#world.isServing(), START_MS))) throw new Error('the cluster did not come up');
      const ending = await this.#runBody(body);
      if (ending !== 'ended') return this.#blame(ending.error);
      await this.#settle();
    } catch (error) {
      return { by: 'Tidemark', error };
    }
    const problems = this.#problems();
    return problems.length === 0 ? undefined : { by: 'Tidemark', error: new Error(problems.join('\n')) };
  }

  async #runBody(body: Body): Promise<Ending> {
    const { loop } = this.#cluster;
    const { faults = 'none', forMs = FAULTS_MS, timeoutMs = TIMEOUT_MS } = this.#options;
    let ending: Ending | undefined;
    const settled = (result: Ending): void => {
      ending ??= result;
    };
    // As an event of the world: what it does before it first waits belongs to the world as well.
    loop.timers.after(0, () => {
      const failed = (error: unknown): void => settled({ error });
      if (faults !== 'none') {
        this.#nemesis.run().catch(failed);
        loop.timers.after(forMs, () => this.#calm());
      }
      const test = async (): Promise<void> => {
        await body(this.#world);
        this.#strays.insist('the end of the test');
        settled('ended');
      };
      test().catch(failed);
    });
    let busyMs = loop.nowMs;
    const isStuck = (): boolean => {
      if (this.#world.pending > 0) busyMs = loop.nowMs;
      return loop.nowMs - busyMs > STUCK_MS;
    };
    let done: boolean;
    try {
      done = await loop.runUntil(() => ending !== undefined || isStuck(), timeoutMs);
    } catch (error) {
      // Thrown by a callback of somebody's timer; nobody but the test has such.
      return { error };
    }
    if (ending !== undefined) return ending;
    return { error: new Error(done ? STUCK : `the test has not ended after ${timeoutMs} simulated ms (timeoutMs)`) };
  }

  /** The program is over; the cluster must come to rest, with equal replicas. */
  async #settle(): Promise<void> {
    const { loop } = this.#cluster;
    this.#world.end();
    this.#strays.enter();
    const healed = this.#world.heal();
    await loop.runUntilSettled(healed, HEAL_MS + START_MS);
    await loop.runUntil(() => this.#inspector.compareReplicas(() => true).length === 0, SETTLE_MS);
    this.#differences.push(...this.#inspector.compareReplicas(() => true));
  }

  #problems(): string[] {
    const problems = [...this.#witness.problems, ...this.#inspector.problems, ...this.#differences];
    for (const { node, error } of this.#cluster.fatal) {
      if (this.#nemesis.excuses(node) && isDiskFailure(error)) continue;
      problems.push(`node ${node} stopped: ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}`);
    }
    return problems;
  }

  /** An error of the test; what Tidemark's own assertions found explains it better. */
  #blame(error: unknown): Verdict['failure'] {
    const problems = this.#problems();
    if (problems.length === 0) return { by: 'the test', error };
    const message = [...problems, `and the test failed: ${messageOf(error)}`].join('\n');
    return { by: 'Tidemark', error: new Error(message, { cause: error }) };
  }

  #calm(): void {
    if (this.#calmed) return;
    this.#calmed = true;
    this.#nemesis.heal();
  }

  #verdict(failure: Verdict['failure']): Verdict {
    const { loop, log } = this.#cluster;
    this.#tape.note(`${loop.eventsRun} ${failure === undefined ? 'passed' : messageOf(failure.error)}`);
    const { nowMs: simulatedMs, eventsRun: events } = loop;
    return { seed: this.#seed, trace: this.#tape.digest(), simulatedMs, events, log: log.lines, failure };
  }
}

const STUCK =
  `the test waits for something that is not part of the simulated world: for ${STUCK_MS / 1000} simulated seconds it had no ` +
  'request, no timer and no sleep under way. It may be a promise that nobody settles, or something real such as a file, ' +
  'a socket or a process';

function isDiskFailure(error: unknown): boolean {
  const reason = (error as { readonly reason?: unknown }).reason;
  return reason === 'DISK_FAILED' || reason === 'DISK_FULL';
}
