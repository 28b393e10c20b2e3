import type { Clock, Fields, Timers } from '../../env/env.js';
import type { Database } from '../../client/database.js';
import { bucketOf, SYSTEM_BUCKET, type NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';
import type { Latency } from '../network.js';
import type { SimRandom } from '../random.js';
import { WALL_START_MS } from '../clock.js';
import { checkLatency, checkStep } from './check-options.js';
import { insistentRandom, Machine, networkName, watchedTimers } from './machine.js';
import type { ConnectOptions, MachineHost, MachineOptions } from './machine.js';
import { Watch } from './watch.js';

/** A node by its number, a machine, or either by its name (`n1`, `c1`). */
export type Who = NodeId | Machine | string;

/** How often it is looked whether a cluster serves again, and how long that may take. */
const LOOK_MS = 20;
export const HEAL_MS = 60_000;

/**
 * The simulated world as a test has it: a cluster of nodes 1, 2, ... on which the production code runs, a network, machines for
 * the program under test, and time, which passes only while everybody waits.
 *
 * Faults that a test causes itself last until it undoes them or `heal` does.
 */
export class World {
  readonly seed: string;
  /** True time; a machine may have a clock of its own. */
  readonly clock: Clock;
  readonly timers: Timers;
  /** Follows from the seed, as everything does; for the choices of the test. */
  readonly random: SimRandom;
  /** @internal */
  readonly watch: Watch;
  readonly #host: MachineHost;
  readonly #cluster: SimCluster;
  readonly #calm: () => void;
  readonly #machines: Machine[] = [];

  /** @internal */
  constructor(seed: string, host: MachineHost, calm: () => void) {
    const { cluster, strays } = host;
    this.seed = seed;
    this.watch = new Watch((what) => strays.insist(what));
    this.clock = { wallMs: () => WALL_START_MS + this.nowMs, monotonicMs: () => this.nowMs };
    this.timers = watchedTimers(cluster.loop.timers, this.watch, strays);
    this.random = insistentRandom(cluster.loop.random.fork('test'), strays);
    this.#host = host;
    this.#cluster = cluster;
    this.#calm = calm;
  }

  /** Simulated milliseconds since the run began. */
  get nowMs(): number {
    return this.#cluster.loop.nowMs;
  }

  get nodes(): readonly NodeId[] {
    return this.#cluster.ids;
  }

  /** What the program has under way. @internal */
  get pending(): number {
    return this.#machines.reduce((sum, { watch }) => sum + watch.pending, this.watch.pending);
  }

  // --- the program under test

  /** A machine of its own for a part of the program; the first is called c1. */
  machine(options: MachineOptions & { readonly name?: string } = {}): Machine {
    this.#insist('machine()');
    const { name = `c${this.#machines.length + 1}`, ...clocks } = options;
    if (this.#machines.some((machine) => machine.name === name && machine.alive) || /^n\d+$/.test(name)) {
      throw new RangeError(`machine(): the name ${name} is taken`);
    }
    const { skewMs = 0, rate = 1 } = clocks;
    checkStep('skewMs', skewMs);
    if (!(rate > 0)) throw new RangeError(`rate: expected a number above 0, not ${rate}`);
    const machine = new Machine(this.#host, name, clocks);
    this.#machines.push(machine);
    return machine;
  }

  /** A client of the cluster, on a machine of its own. */
  async connect(options?: ConnectOptions): Promise<Database> {
    return this.machine().connect(options);
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.timers.after(ms, resolve);
    });
  }

  /** A line in the log of the run, which a failure shows the end of. */
  log(message: string, fields: Fields = {}): void {
    this.#insist('log()');
    this.#cluster.log.logger({}).info(message, fields);
  }

  // --- what may befall nodes

  /**
   * As by SIGKILL or a power cut: what was not synced may be lost. It stays down until `restart` or `heal`; where there are
   * random faults, it is started after a while as others are.
   */
  crash(node: NodeId): void {
    this.#fault('crash', node);
    this.#cluster.crash(node);
  }

  /** As by SIGTERM. Fulfilled when it is down. */
  async stop(node: NodeId): Promise<void> {
    this.#fault('stop', node);
    await this.watch.promise(this.#cluster.stop(node));
  }

  /** Fulfilled when the node is up, which says nothing of its peers; does nothing to one that runs. */
  async restart(node: NodeId): Promise<void> {
    this.#fault('restart', node);
    if (this.#cluster.isDown(node)) await this.watch.promise(this.#cluster.boot(node));
  }

  /** As by SIGSTOP. */
  pause(node: NodeId): void {
    this.#fault('pause', node);
    if (!this.#cluster.isDown(node)) this.#cluster.process(node).pause();
  }

  resume(node: NodeId): void {
    this.#fault('resume', node);
    if (!this.#cluster.isDown(node)) this.#cluster.process(node).resume();
  }

  /** Steps the wall clock of a node. More than `maxClockOffsetMs` (500) apart, nodes may refuse requests. */
  jumpClock(node: NodeId, byMs: number): void {
    this.#fault('jumpClock', node);
    checkStep('jumpClock()', byMs);
    this.#cluster.clock(node).jumpWall(byMs);
  }

  /** Nothing on this node's disk is read or written for a while. */
  stallDisk(node: NodeId, forMs: number): void {
    this.#fault('stallDisk', node);
    this.#cluster.disk(node).stall(forMs);
  }

  // --- what may befall the network

  /** Nothing goes between any of one and any of the other side. */
  partition(one: Who | readonly Who[], other: Who | readonly Who[]): void {
    const [left, right] = [this.#names(one), this.#names(other)];
    this.#note('partition', { one: left.join(' '), other: right.join(' ') });
    this.#cluster.network.partition(left, right);
  }

  /** Nothing from the one reaches the other; the way back is open. */
  cut(from: Who, to: Who): void {
    const [sender, receiver] = [this.#name(from), this.#name(to)];
    this.#note('cut', { from: sender, to: receiver });
    this.#cluster.network.cut(sender, receiver);
  }

  /** Nobody reaches it, nor it anybody. */
  isolate(who: Who): void {
    const name = this.#name(who);
    this.#note('isolate', { who: name });
    this.#cluster.network.isolate(name);
  }

  /** Undoes every partition, cut and isolation, and nothing else. */
  reconnect(): void {
    this.#note('reconnect', {});
    this.#cluster.network.heal();
  }

  /** From now on each message takes between `minMs` and `maxMs`. */
  setLatency(latency: Latency): void {
    checkLatency('setLatency()', latency);
    this.#note('latency', { minMs: latency.minMs, maxMs: latency.maxMs });
    this.#cluster.network.setLatency(latency);
  }

  // --- the cluster

  /** The node that leads the bucket of this key and can serve it, if there is one at present. */
  leaderOf(key: string | Uint8Array): NodeId | undefined {
    this.#insist('leaderOf()');
    const bucket = bucketOf(Buffer.from(key), this.#buckets());
    return this.#leader(bucket);
  }

  /**
   * Ends the random faults, undoes all others, starts nodes that are down, and waits until every bucket is served. Rejects if
   * that takes more than a minute, which is a bug of Tidemark's.
   */
  async heal(): Promise<void> {
    this.#note('heal', {});
    this.#calm();
    const { cluster } = this.#host;
    cluster.network.heal();
    for (const id of cluster.ids) {
      if (!cluster.isDown(id) && cluster.process(id).paused) cluster.process(id).resume();
    }
    const untilMs = this.nowMs + HEAL_MS;
    while (!this.isServing()) {
      for (const id of cluster.ids) if (cluster.isDown(id)) cluster.boot(id).catch(() => undefined);
      if (this.nowMs > untilMs) {
        throw new Error(`the cluster does not serve every bucket ${HEAL_MS / 1000} s after it was healed`);
      }
      await this.sleep(LOOK_MS);
    }
  }

  /** All nodes are up, and every bucket has a leader that serves. @internal */
  isServing(): boolean {
    if (this.#cluster.ids.some((id) => !this.#cluster.running(id))) return false;
    const buckets = [SYSTEM_BUCKET, ...Array.from({ length: this.#buckets() }, (_, bucket) => bucket)];
    return buckets.every((bucket) => this.#leader(bucket) !== undefined);
  }

  /** The program ends. @internal */
  end(): void {
    for (const machine of this.#machines) machine.end();
  }

  #leader(bucket: number): NodeId | undefined {
    return this.#cluster.ids.find((id) => {
      if (!this.#cluster.running(id) || this.#cluster.process(id).paused) return false;
      const replica = this.#cluster.node(id).hosting.replicas.get(bucket);
      return replica?.isLeader === true && replica.raft.canServe();
    });
  }

  #buckets(): number {
    return this.#cluster.buckets;
  }

  #names(who: Who | readonly Who[]): string[] {
    return (Array.isArray(who) ? (who as readonly Who[]) : [who as Who]).map((each) => this.#name(each));
  }

  #name(who: Who): string {
    if (typeof who === 'string') this.#insistOnName(who);
    return networkName(who, this.#cluster);
  }

  /** A partition from nobody would be none. */
  #insistOnName(name: string): void {
    const names = [...this.nodes.map((node) => `n${node}`), ...this.#machines.map((machine) => machine.name)];
    if (!names.includes(name)) throw new RangeError(`there is no '${name}'; there are ${[...new Set(names)].join(', ')}`);
  }

  #fault(fault: string, node: NodeId): void {
    networkName(node, this.#cluster);
    this.#note(fault, { node });
  }

  #note(fault: string, fields: Fields): void {
    this.#insist(`${fault}()`);
    this.#cluster.log.logger({}).info('fault', { fault, by: 'the test', ...fields });
  }

  #insist(what: string): void {
    this.#host.strays.insist(`world.${what}`);
  }
}
