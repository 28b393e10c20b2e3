import { isTidemarkError } from '../../lib/errors.js';
import type { NodeId } from '../../placement/map.js';
import { replicasOn, wasRemoved, type PlacementChange, type PlacementRecord } from '../../placement/record.js';
import type { SimCluster } from '../cluster.js';
import type { SimRandom } from '../random.js';
import { leaderOfSystem } from './mover.js';

/** More members than there were in the beginning. */
const MORE_MAX = 2;
/** How often somebody looks whether a node that leaves is empty. */
const LOOK_MS = 500;
/** A machine stays on for up to so long when its node is no member any more. */
const LINGER_MS = 3000;

export interface RenewalOptions {
  readonly cluster: SimCluster;
  readonly everyMs: number;
  readonly random: SimRandom;
  readonly nodes: number;
  readonly replicas: number;
  /** A new machine was switched on. */
  readonly onMachine: (id: NodeId) => void;
  /** The node is about to leave: nothing happens to its disk any more. False if something has. */
  readonly spare: (id: NodeId) => boolean;
}

/** Somebody who adds new nodes to the cluster and removes others, one at a time: each is drained, and leaves when it is empty. */
export class Renewal {
  readonly #options: RenewalOptions;
  /** Clients and new nodes find the cluster by those that it was founded with: more of these stay than may be damaged. */
  readonly #lasting: number;
  #last: NodeId;
  #leaving: NodeId | undefined;
  readonly #left = new Set<NodeId>();
  #stopped = false;

  constructor(options: RenewalOptions) {
    this.#options = options;
    this.#last = options.nodes;
    this.#lasting = 1 + Math.floor((options.replicas - 1) / 2);
  }

  /** Nodes that have come, and that have left. */
  get counts(): { readonly joined: number; readonly left: number } {
    return { joined: this.#last - this.#options.nodes, left: this.#left.size };
  }

  /** It is no member any more, and stops when it hears of that. */
  hasLeft(id: NodeId): boolean {
    return this.#left.has(id);
  }

  async run(): Promise<void> {
    const { everyMs, random } = this.#options;
    while (!this.#stopped) {
      await this.#sleep(this.#leaving === undefined ? everyMs * 2 * random.float() : LOOK_MS);
      if (!this.#stopped) this.#act();
    }
  }

  /** Nobody comes or goes any more; machines whose nodes have left are switched off. */
  stop(): void {
    this.#stopped = true;
    for (const id of this.#left) this.#options.cluster.discard(id);
  }

  /** A node knows this placement. */
  heard(record: PlacementRecord): void {
    const { cluster, random } = this.#options;
    for (const id of cluster.ids) {
      if (!wasRemoved(record, id) || this.#left.has(id)) continue;
      this.#left.add(id);
      if (this.#leaving === id) this.#leaving = undefined;
      // Not in the midst of what that node does.
      cluster.loop.timers.after(this.#stopped ? 0 : random.float() * LINGER_MS, () => cluster.discard(id));
    }
  }

  #act(): void {
    const { cluster, random, nodes, replicas } = this.#options;
    const leader = leaderOfSystem(cluster);
    if (leader === undefined) return;
    const { record } = cluster.node(leader).keeper;
    if (this.#leaving !== undefined) {
      this.#goOn(leader, record, this.#leaving);
      return;
    }
    // The next id is known when nobody is on the way in.
    const mayCome = record.lastNode === this.#last && record.nodes.length < nodes + MORE_MAX;
    const mayGo = record.nodes.length - record.draining.length > replicas;
    if (mayCome && (!mayGo || random.chance(0.5))) this.#join();
    else if (mayGo) this.#leaving = this.#drawLeaving(record);
  }

  #join(): void {
    const { cluster, onMachine } = this.#options;
    this.#last += 1;
    // What ends it is among the cluster's fatal errors.
    cluster.join(this.#last).catch(() => undefined);
    onMachine(this.#last);
  }

  #drawLeaving({ nodes }: PlacementRecord): NodeId | undefined {
    // A machine whose node is removed before it has heard that it was let in asks again, and becomes another node.
    const { cluster } = this.#options;
    const mayLeave = nodes.map(({ id }) => id).filter((id) => id > this.#lasting && cluster.knowsItIsMember(id));
    if (mayLeave.length === 0) return undefined;
    const id = this.#options.random.pick(mayLeave);
    return this.#options.spare(id) ? id : undefined;
  }

  /** As `cluster remove` does it; who drained it may have been overruled. */
  #goOn(leader: NodeId, record: PlacementRecord, node: NodeId): void {
    if (!record.draining.includes(node)) this.#ask(leader, { kind: 'drain', node });
    else if (replicasOn(record, node) === 0) this.#ask(leader, { kind: 'remove', node });
  }

  /** It may be refused, or fail, or succeed without an answer: at the next look it is seen. */
  #ask(leader: NodeId, change: PlacementChange): void {
    const { cluster } = this.#options;
    cluster.node(leader).keeper.change(change, cluster.clock(leader).monotonicMs() + 2000).catch((error: unknown) => {
      if (!isTidemarkError(error)) throw error;
    });
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.cluster.loop.timers.after(ms, resolve);
    });
  }
}
