import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT } from '../../../src/cli/exit.js';
import type { TestCluster, Wrap } from '../cluster.js';
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

const { REMOVED } = EXIT;
/** It hears of it at once, or as soon as the other faults of the time are healed. */
const LEAVE_MS_MAX = 90_000;

export class Fleet {
  readonly cluster: TestCluster;
  readonly network: NodeNetwork | undefined;
  readonly disks: NodeDisks | undefined;
  readonly clocks: NodeClocks | undefined;
  /** What nodes did that nobody had asked for. */
  readonly surprises: string[] = [];
  /** Of these nodes an end is no surprise. */
  readonly #mayEnd = new Set<number>();
  /** These may have been told that they are no members any more. */
  readonly #leaving = new Set<number>();
  /** What is being done to the process at a place. */
  readonly #turns = new Map<number, Promise<void>>();

  constructor({ cluster, network, disks, clocks }: Parts) {
    this.cluster = cluster;
    this.network = network;
    this.disks = disks;
    this.clocks = clocks;
  }

  /** Where members are. Nodes are called by their places: see TestCluster. */
  get ids(): readonly number[] {
    return this.cluster.nodeIds;
  }

  get freePlaces(): readonly number[] {
    return this.cluster.places.filter((id) => !this.ids.includes(id));
  }

  /** Those that run, or are no members any more, are let be. */
  async start(...ids: readonly number[]): Promise<void> {
    await Promise.all(ids.map((id) => this.#inTurn(id, () => this.#start(id))));
  }

  /** One thing after the other is done to the process at a place: who starts a node need not know who removes it meanwhile. */
  #inTurn(id: number, act: () => Promise<void>): Promise<void> {
    const turn = (this.#turns.get(id) ?? Promise.resolve()).then(act);
    this.#turns.set(id, turn.catch(() => undefined));
    return turn;
  }

  async #start(id: number): Promise<void> {
    if (!this.ids.includes(id) || this.cluster.isRunning(id)) return;
    this.#mayEnd.delete(id);
    const starting = this.cluster.startNode(id, this.#wrapOf(id));
    this.#watch(id);
    await starting.catch((error: unknown) => {
      // It was told that it is no member any more before it served.
      if (!this.#leaving.has(id)) throw error;
    });
  }

  #wrapOf(id: number): Wrap {
    const before = [...(this.network?.enter(id) ?? []), ...(this.clocks?.enter(id) ?? [])];
    return (args) => {
      const [command = '', ...rest] = [...before, ...args];
      return { command, args: rest };
    };
  }

  #watch(id: number): void {
    void this.cluster.process(id).ended.then(({ code, signal }) => {
      if (this.#mayEnd.has(id) || (code === REMOVED && this.#leaving.has(id))) return;
      this.surprises.push(`node ${id} ended (${signal ?? code}) though nothing was done that allows it:\n${this.#lastLines(id)}`);
    });
  }

  #lastLines(id: number): string {
    return this.cluster.log(id).trim().split('\n').slice(-3).join('\n');
  }

  /** With SIGKILL. Those that have ended already are let be. */
  async kill(...ids: readonly number[]): Promise<void> {
    await Promise.all(ids.map((id) => this.#inTurn(id, () => this.#kill(id))));
  }

  async #kill(id: number): Promise<void> {
    if (!this.cluster.isRunning(id)) return;
    this.#mayEnd.add(id);
    await this.cluster.kill(id);
  }

  /** With SIGTERM. */
  async terminate(id: number): Promise<void> {
    await this.#inTurn(id, async () => {
      if (!this.cluster.isRunning(id)) return;
      this.#mayEnd.add(id);
      const { code, signal } = await this.cluster.terminate(id);
      if (code === 0 || (code === REMOVED && this.#leaving.has(id))) return;
      this.surprises.push(`node ${id} was told to stop and ended with ${signal ?? code}`);
    });
  }

  // --- members

  /**
   * A node with an empty data directory joins at a place where none is. It may be killed after so long, wherever that finds it, and
   * goes on when it is started again. Resolves when it is a member and serves.
   */
  async join(id: number, killAfterMs?: number): Promise<void> {
    await this.#inTurn(id, async () => {
      this.#leaving.delete(id);
      emptyFolder(this.cluster.dataDir(id));
      if (killAfterMs !== undefined) {
        const joining = this.#join(id).catch(() => undefined);
        await sleep(killAfterMs);
        await this.#kill(id);
        await joining;
      }
      while (!this.ids.includes(id)) {
        await this.#join(id).catch((error: unknown) => {
          // While the cluster has no leader nobody can let it in.
          if (!this.#lastLines(id).includes('JOIN_FAILED')) throw error;
        });
      }
      await this.#start(id);
    });
  }

  async #join(id: number): Promise<void> {
    // What goes wrong before it is a member is told by this, not as the end of a node that served.
    this.#mayEnd.add(id);
    await this.cluster.joinNode(id, this.#wrapOf(id));
    if (!this.cluster.isRunning(id)) return;
    this.#mayEnd.delete(id);
    this.#watch(id);
  }

  /** From now on it may be told that it is no member any more. */
  mayLeave(id: number): void {
    this.#leaving.add(id);
  }

  /** It is no member any more, and its place is free when it has ended. */
  async left(id: number): Promise<void> {
    await this.#inTurn(id, async () => {
      if (this.cluster.isRunning(id)) {
        const isLate = sleep(LEAVE_MS_MAX, undefined, { ref: false });
        const ended = await Promise.race([this.cluster.process(id).ended, isLate]);
        if (ended === undefined) this.surprises.push(`node ${id} was removed and still runs ${LEAVE_MS_MAX / 1000} s later`);
        else if (ended.code !== REMOVED) this.surprises.push(`node ${id} was removed and ended with ${ended.signal ?? ended.code}`);
        await this.#kill(id);
      }
      this.cluster.vacate(id);
    });
  }

  /** Whatever runs, also where no member is yet. */
  async close(): Promise<void> {
    const running = this.cluster.places.filter((id) => this.cluster.isRunning(id));
    for (const id of running) this.#mayEnd.add(id);
    await this.cluster.kill(...running);
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
    for (const { bucket } of await this.cluster.bucketsOf(asked)) {
      const place = this.cluster.placeOf(bucket.leader);
      if (place !== undefined) led.set(place, (led.get(place) ?? 0) + 1);
    }
    const [first] = [...led].sort(([, a], [, b]) => b - a);
    return first?.[0] ?? asked;
  }
}

/** The folder itself may be where a disk is mounted. */
function emptyFolder(path: string): void {
  mkdirSync(path, { recursive: true });
  for (const name of readdirSync(path)) rmSync(join(path, name), { recursive: true });
}
