import type { Env, Network, StreamHandlers } from '../env/env.js';
import { DEFAULT_LIMITS, type Limits } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { isTidemarkError, messageOf } from '../lib/errors.js';
import type { Timing } from '../bucket/replica.js';
import { joinCluster } from '../node/join.js';
import { startNode, type Node, type NodeConfig } from '../node/node.js';
import type { NodeId, NodeInfo } from '../placement/map.js';
import type { RouterOptions } from '../router/options.js';
import { Router } from '../router/router.js';
import type { SimClock } from './clock.js';
import { SimDisk, type DiskFaults, type OpenDisk } from './disk.js';
import { SimLoop } from './loop.js';
import { ServiceLine, type ServiceTimes } from './service-line.js';
import { SimWorldNetwork } from './network.js';
import type { SimProcess } from './process.js';
import { NO_METRICS, SimLog } from './telemetry.js';

/**
 * A whole cluster in one process: the production code of node, bucket, raft, mvcc and router, unchanged, on simulated clock,
 * timers, randomness, network and disks. Everything that happens follows from the seed.
 *
 * Example:
 *
 *   const cluster = new SimCluster({ seed: 7, nodes: 3, buckets: 4 });
 *   await cluster.start();
 *   const client = cluster.client('c1');
 *   await cluster.settle(client.put(key, value));
 *   cluster.crash(2);                       // loses what was not synced
 *   await cluster.restart(2);
 */
export interface SimClusterOptions {
  readonly seed: string | number;
  readonly nodes: number;
  readonly buckets: number;
  readonly replicas?: number;
  readonly timing?: Partial<Timing>;
  readonly limits?: Partial<Limits>;
  readonly diskFaults?: DiskFaults;
  /** How long a node works on what comes; if not given it takes no time. */
  readonly service?: ServiceTimes | undefined;
  /** Told of every node that is up, before anything else happens to it. */
  readonly onUp?: (id: NodeId, node: Node) => void;
}

/** Where a cluster is given no other. */
export const SIM_TIMING: Timing = {
  heartbeatMs: 100,
  electionTimeoutMs: 500,
  electionJitterMs: 300,
  driftBound: 0.1,
  leaseReads: true,
};
export const CLUSTER = 'simulated';
const START_TIMEOUT_MS = 30_000;

/** One machine: its clock and disk outlive the processes that run on it. */
interface Machine {
  readonly id: NodeId;
  readonly name: string;
  readonly clock: SimClock;
  readonly disk: SimDisk;
  life: Life | undefined;
  lives: number;
}

interface Life {
  readonly process: SimProcess;
  readonly disk: OpenDisk;
  node: Node | undefined;
}

export class SimCluster {
  readonly loop: SimLoop;
  readonly network: SimWorldNetwork;
  readonly log: SimLog;
  readonly limits: Limits;
  /** Errors that ended a node, in order; a fault may explain one, a bug must. */
  readonly fatal: { readonly node: NodeId; readonly error: unknown }[] = [];
  readonly #options: SimClusterOptions;
  readonly #machines = new Map<NodeId, Machine>();
  readonly #discarded = new Set<NodeId>();
  /** Whose nodes have been up: they have it on their disks who they are. */
  readonly #beenUp = new Set<NodeId>();
  readonly #infos: readonly NodeInfo[];

  constructor(options: SimClusterOptions) {
    this.#options = options;
    this.loop = new SimLoop(options.seed);
    const { random, timers } = this.loop;
    this.network = new SimWorldNetwork({ timers, random: random.fork('network') });
    this.log = new SimLog(() => this.loop.nowMs);
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    const ids = Array.from({ length: options.nodes }, (_, at) => at + 1);
    this.#infos = ids.map((id) => ({ id, address: addressOf(id), zone: '', host: '' }));
    for (const id of ids) this.#addMachine(id);
  }

  #addMachine(id: NodeId): Machine {
    const { random, timers } = this.loop;
    const name = `n${id}`;
    const { diskFaults: faults = {} } = this.#options;
    const disk = new SimDisk({ timers, random: random.fork(`${name}/disk`), place: name, faults });
    const machine = { id, name, clock: this.loop.clock(), disk, life: undefined, lives: 0 };
    this.#machines.set(id, machine);
    return machine;
  }

  /**
   * Starts a new machine, with an empty disk, whose node joins the running cluster. It is to be the next one that does: nodes
   * and machines have the same numbers. Settles when it is up; never, if it is crashed before.
   */
  join(id: NodeId): Promise<void> {
    assert(!this.#machines.has(id), `there is a machine ${id}`);
    return this.#boot(this.#addMachine(id), this.#founders);
  }

  /** A machine that left its cluster is switched off for good. */
  discard(id: NodeId): void {
    if (!this.isDown(id)) this.crash(id);
    this.#discarded.add(id);
  }

  get #founders(): readonly NodeId[] {
    return this.#infos.map(({ id }) => id);
  }

  get ids(): readonly NodeId[] {
    return [...this.#machines.keys()].filter((id) => !this.#discarded.has(id));
  }

  get buckets(): number {
    return this.#options.buckets;
  }

  /** Starts every node. */
  async start(): Promise<void> {
    await this.settle(Promise.all(this.ids.map((id) => this.boot(id))), START_TIMEOUT_MS);
  }

  /** The running node of that id. */
  node(id: NodeId): Node {
    const node = this.#machine(id).life?.node;
    assert(node !== undefined, `node ${id} is not running`);
    return node;
  }

  running(id: NodeId): boolean {
    return this.#machine(id).life?.node !== undefined;
  }

  /** Counts how often it was started. */
  life(id: NodeId): number {
    return this.#machine(id).lives;
  }

  process(id: NodeId): SimProcess {
    const life = this.#machine(id).life;
    assert(life !== undefined, `node ${id} is not running`);
    return life.process;
  }

  disk(id: NodeId): SimDisk {
    return this.#machine(id).disk;
  }

  clock(id: NodeId): SimClock {
    return this.#machine(id).clock;
  }

  /** As by SIGKILL or a power cut: what was not synced may be lost. */
  crash(id: NodeId): void {
    const machine = this.#machine(id);
    machine.life?.process.kill();
    machine.life = undefined;
    machine.disk.crash();
    this.network.kill(machine.name);
  }

  /** As by SIGTERM: the node ends in order. Rejects or never settles if it is crashed before it has. */
  async stop(id: NodeId): Promise<void> {
    const machine = this.#machine(id);
    const { life } = machine;
    assert(life?.node !== undefined, `node ${id} is not running`);
    await life.node.close();
    await life.disk.close();
    assert(machine.life === life, `node ${id} was crashed while it stopped`);
    life.process.kill();
    machine.life = undefined;
    this.network.kill(machine.name);
  }

  async restart(id: NodeId): Promise<void> {
    await this.settle(this.boot(id), START_TIMEOUT_MS);
  }

  /**
   * The same for a world that is already running. Never settles if the node is crashed before it is up. `founders` are the
   * nodes that its configuration names.
   */
  boot(id: NodeId, founders: readonly NodeId[] = this.#founders): Promise<void> {
    return this.#boot(this.#machine(id), founders);
  }

  /** No process runs on that machine, nor is one starting. */
  isDown(id: NodeId): boolean {
    return this.#machine(id).life === undefined;
  }

  /** Where the nodes listen. */
  get endpoints(): readonly string[] {
    return this.#infos.map(({ address }) => address);
  }

  /** A smart client on a machine of its own. */
  client(name: string, clock: SimClock = this.loop.clock(), options: Partial<RouterOptions> = {}): Router {
    const env = this.machine(name, clock).env;
    return new Router({ env, limits: this.limits, role: 'client', seeds: this.endpoints, ...options });
  }

  /** A machine beside the cluster, with a process on it that knows the network but nobody yet. */
  machine(name: string, clock: SimClock): { readonly process: SimProcess; readonly env: Env } {
    const process = this.loop.process(name, clock);
    const disk = new SimDisk({ timers: process.timers, random: this.loop.random, place: name });
    return { process, env: this.#env(name, process, disk, 0) };
  }

  /** Lets the world run until a promise of the code under test is settled, and answers as it does. */
  settle<T>(promise: Promise<T>, timeoutMs = 60_000): Promise<T> {
    return this.loop.runUntilSettled(promise, timeoutMs);
  }

  #machine(id: NodeId): Machine {
    const machine = this.#machines.get(id);
    assert(machine !== undefined, `there is no node ${id}`);
    return machine;
  }

  async #boot(machine: Machine, founders: readonly NodeId[]): Promise<void> {
    assert(machine.life === undefined, `node ${machine.id} is running`);
    assert(!this.#discarded.has(machine.id), `machine ${machine.id} was discarded`);
    const process = this.loop.process(machine.name, machine.clock);
    const life: Life = { process, disk: machine.disk.openNow(process.timers), node: undefined };
    machine.life = life;
    machine.lives += 1;
    const { buckets, nodes, replicas = Math.min(3, nodes), timing } = this.#options;
    const config = {
      clusterId: CLUSTER,
      nodeId: machine.id,
      nodes: this.#infos.filter(({ id }) => founders.includes(id)),
      buckets,
      replicas,
      listen: addressOf(machine.id),
      timing: { ...SIM_TIMING, ...timing },
      limits: this.limits,
    };
    const onFatal = (error: unknown): void => {
      this.fatal.push({ node: machine.id, error });
      this.log.logger({ node: machine.id }).error('fatal', { error: messageOf(error) });
      if (machine.life === life) this.crash(machine.id);
    };
    const env = this.#env(machine.name, process, life.disk, machine.lives);
    try {
      life.node = await startNode(env, await this.#admit(env, config), { onFatal });
      this.#beenUp.add(machine.id);
      this.#options.onUp?.(machine.id, life.node);
    } catch (error) {
      onFatal(error);
      throw error;
    }
  }

  /** Its machine knows that it is a member, and will when it starts again. */
  knowsItIsMember(id: NodeId): boolean {
    return this.#founders.includes(id) || this.#beenUp.has(id);
  }

  /** A node that the cluster was not founded with asks to be let in, or finds that it was. */
  async #admit(env: Env, config: NodeConfig): Promise<NodeConfig> {
    const { nodeId, listen } = config;
    if (this.#founders.includes(nodeId)) return config;
    const options = { seeds: this.endpoints, clusterId: CLUSTER, address: listen, zone: '', host: '', deadlineMs: Infinity };
    const { nodeId: given, founding, record } = await joinCluster(env, options);
    assert(given === nodeId, `machine ${nodeId} has become node ${given}`);
    return { ...config, nodes: [], joined: { members: founding.members, record } };
  }

  #env(name: string, process: SimProcess, disk: OpenDisk | SimDisk, life: number): Env {
    const { service } = this.#options;
    // Those who ask are never what is short.
    const line = service === undefined || life === 0 ? undefined : new ServiceLine(this.loop, service);
    return {
      clock: process.clock,
      timers: process.timers,
      random: this.loop.random.fork(`${name}/${life}`),
      disk,
      network: enterThrough(process, this.network.networkFor(name), line),
      log: this.log.logger({ process: name }),
      metrics: NO_METRICS,
    };
  }
}

function addressOf(id: NodeId): string {
  return `10.0.0.${id}:7100`;
}

/** What arrives from the network is an event of the process: held back while it is paused, lost when it is dead. */
function enterThrough(process: SimProcess, network: Network, line: ServiceLine | undefined): Network {
  const guard = (handlers: StreamHandlers): StreamHandlers => ({
    frame: (frame) => process.enter(() => handlers.frame(frame)),
    drained: () => process.enter(() => handlers.drained?.()),
    closed: (error) => process.enter(() => handlers.closed(error)),
  });
  const inLine = (channel: string, handlers: StreamHandlers): StreamHandlers => line?.before(channel, handlers) ?? handlers;
  return {
    serve: (options) => {
      const accept: typeof options.accept = (channel, hello, stream) => {
        if (!process.paused) return inLine(channel, guard(options.accept(channel, hello, stream)));
        // The kernel takes the connection; the process sees it when it goes on.
        let handlers: StreamHandlers | undefined;
        process.enter(() => {
          try {
            handlers = options.accept(channel, hello, stream);
          } catch (error) {
            if (!isTidemarkError(error)) throw error;
            stream.close(error);
          }
        });
        return guard({
          frame: (frame) => handlers?.frame(frame),
          drained: () => handlers?.drained?.(),
          closed: (error) => handlers?.closed(error),
        });
      };
      return network.serve({ ...options, accept });
    },
    connect: (address, channel, hello, handlers) => {
      // What comes back to a router that asked is no work.
      const guarded = guard(handlers);
      return network.connect(address, channel, hello, channel === 'pipeline' ? guarded : inLine(channel, guarded));
    },
    serveHttp: (address, get) => network.serveHttp(address, get),
  };
}
