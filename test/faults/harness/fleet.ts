import type { TestCluster } from '../cluster.js';
import type { NodeClocks } from './clocks.js';
import type { NodeDisks } from './disks.js';
import type { NodeNetwork } from './network.js';

/**
 * The nodes of a run, each in its own part of the world, and what may be done to them. A node that ends though nothing was done
 * that allows it is a failure of the run, whatever the histories say.
 */
export interface Parts {
  readonly cluster: TestCluster;
  /** Missing on loopback. */
  readonly network?: NodeNetwork | undefined;
  readonly disks?: NodeDisks | undefined;
  /** Missing without libfaketime. */
  readonly clocks?: NodeClocks | undefined;
}

export class Fleet {
  readonly cluster: TestCluster;
  readonly network: NodeNetwork | undefined;
  readonly disks: NodeDisks | undefined;
  readonly clocks: NodeClocks | undefined;
  /** What nodes did that nobody had asked for. */
  readonly surprises: string[] = [];
  /** Of these nodes an end is no surprise. */
  readonly #mayEnd = new Set<number>();

  constructor({ cluster, network, disks, clocks }: Parts) {
    this.cluster = cluster;
    this.network = network;
    this.disks = disks;
    this.clocks = clocks;
  }

  get ids(): readonly number[] {
    return this.cluster.nodeIds;
  }

  async start(...ids: readonly number[]): Promise<void> {
    await Promise.all(ids.map((id) => this.#start(id)));
  }

  async #start(id: number): Promise<void> {
    const before = [...(this.network?.enter(id) ?? []), ...(this.clocks?.enter(id) ?? [])];
    this.#mayEnd.delete(id);
    const starting = this.cluster.startNode(id, (args) => {
      const [command = '', ...rest] = [...before, ...args];
      return { command, args: rest };
    });
    const { ended } = this.cluster.process(id);
    void ended.then(({ code, signal }) => {
      if (this.#mayEnd.has(id)) return;
      const last = this.cluster.log(id).trim().split('\n').slice(-3).join('\n');
      this.surprises.push(`node ${id} ended (${signal ?? code}) though nothing was done that allows it:\n${last}`);
    });
    await starting;
  }

  /** Those that do not run are started. */
  async startMissing(...ids: readonly number[]): Promise<void> {
    await this.start(...ids.filter((id) => !this.cluster.runningIds.includes(id)));
  }

  /** With SIGKILL. Those that have ended already are let be. */
  async kill(...ids: readonly number[]): Promise<void> {
    const running = ids.filter((id) => this.cluster.runningIds.includes(id));
    for (const id of running) this.#mayEnd.add(id);
    await this.cluster.kill(...running);
  }

  /** With SIGTERM. */
  async terminate(id: number): Promise<void> {
    this.#mayEnd.add(id);
    const { code, signal } = await this.cluster.terminate(id);
    if (code !== 0) this.surprises.push(`node ${id} was told to stop and ended with ${signal ?? code}`);
  }

  /** Until it is started again. */
  allowEnd(id: number): void {
    this.#mayEnd.add(id);
  }

  signal(signal: NodeJS.Signals, ids: readonly number[]): void {
    for (const id of ids) this.cluster.signal(id, signal);
  }

  /** The node that leads most buckets, as one of the others knows. */
  async leader(): Promise<number> {
    const [asked = 0] = this.cluster.runningIds;
    const led = new Map<number, number>();
    for (const { bucket } of await this.cluster.bucketsOf(asked)) led.set(bucket.leader, (led.get(bucket.leader) ?? 0) + 1);
    led.delete(0);
    const [first] = [...led].sort(([, a], [, b]) => b - a);
    return first?.[0] ?? asked;
  }
}
