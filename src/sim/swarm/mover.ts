import { isTidemarkError } from '../../lib/errors.js';
import { SYSTEM_BUCKET } from '../../placement/map.js';
import { placeOf, type PlacementChange, type PlacementRecord } from '../../placement/record.js';
import type { SimCluster } from '../cluster.js';
import type { SimRandom } from '../random.js';

/** Somebody who keeps changing where replicas should be: single moves, and nodes that are drained and taken back. */
export class Mover {
  readonly #cluster: SimCluster;
  readonly #everyMs: number;
  readonly #random: SimRandom;
  #stopped = false;
  /** Changes that the cluster has taken over. */
  count = 0;

  constructor(cluster: SimCluster, everyMs: number, random: SimRandom) {
    this.#cluster = cluster;
    this.#everyMs = everyMs;
    this.#random = random;
  }

  async run(): Promise<void> {
    while (!this.#stopped) {
      await new Promise<void>((resolve) => {
        this.#cluster.loop.timers.after(this.#everyMs * 2 * this.#random.float(), resolve);
      });
      if (!this.#stopped) this.#change();
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Asks whoever leads the system bucket; it may refuse, or end meanwhile. */
  #change(): void {
    const leader = this.#cluster.ids.find((id) => {
      return this.#cluster.running(id) && this.#cluster.node(id).hosting.replicas.get(SYSTEM_BUCKET)?.raft.canServe() === true;
    });
    if (leader === undefined) return;
    const { keeper } = this.#cluster.node(leader);
    const change = this.#draw(keeper.record);
    if (change === undefined) return;
    keeper.change(change, this.#cluster.clock(leader).monotonicMs() + 2000).then(
      () => {
        this.count += 1;
      },
      (error: unknown) => {
        if (!isTidemarkError(error)) throw error;
      },
    );
  }

  #draw(record: PlacementRecord): PlacementChange | undefined {
    const random = this.#random;
    const [drained] = record.draining;
    if (random.chance(0.2)) {
      return drained === undefined ? { kind: 'drain', node: random.pick(this.#cluster.ids) } : { kind: 'undrain', node: drained };
    }
    const bucket = random.chance(0.1) ? SYSTEM_BUCKET : random.below(record.buckets);
    const nodes = placeOf(record, bucket)?.replicas.map(({ node }) => node) ?? [];
    const others = this.#cluster.ids.filter((id) => !nodes.includes(id) && !record.draining.includes(id));
    if (nodes.length === 0 || others.length === 0) return undefined;
    return { kind: 'move', bucket, from: random.pick(nodes), to: random.pick(others) };
  }
}
