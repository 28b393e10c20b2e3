import { sleep } from '../../env/time.js';
import { isTidemarkError } from '../../lib/errors.js';
import { SYSTEM_BUCKET, type NodeId } from '../../placement/map.js';
import { placeOf, type PlacementChange, type PlacementRecord } from '../../placement/record.js';
import type { PlacementKeeper } from '../../node/placement-keeper.js';
import type { SimCluster } from '../cluster.js';
import type { SimRandom } from '../random.js';
import { withReadReplica } from '../read-replicas.js';

const READ_REPLICA_CHANCE = 0.3;

/**
 * Somebody who keeps changing where replicas should be: single moves, read replicas that come and go, and nodes that are drained
 * and taken back.
 */
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
      await sleep(this.#cluster.loop.timers, this.#everyMs * 2 * this.#random.float());
      if (!this.#stopped) this.#change();
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Asks whoever leads the system bucket; it may refuse, or end meanwhile. */
  #change(): void {
    const leader = leaderOfSystem(this.#cluster);
    if (leader === undefined) return;
    const { keeper } = this.#cluster.node(leader);
    const deadlineMs = this.#cluster.clock(leader).monotonicMs() + 2000;
    const changed = this.#random.chance(READ_REPLICA_CHANCE)
      ? this.#readReplica(keeper, deadlineMs)
      : this.#other(keeper, deadlineMs);
    changed?.then(
      () => {
        this.count += 1;
      },
      (error: unknown) => {
        if (!isTidemarkError(error)) throw error;
      },
    );
  }

  #readReplica({ record, system }: PlacementKeeper, deadlineMs: number): Promise<unknown> {
    const random = this.#random;
    const bucket = random.below(record.buckets);
    const learners = placeOf(record, bucket)?.replicas.filter(({ learner }) => learner) ?? [];
    const goes = learners.length > 0 && random.chance(0.5);
    const node = goes ? random.pick(learners).node : random.pick(record.nodes).id;
    const isMember = ({ nodes }: PlacementRecord): boolean => nodes.some(({ id }) => id === node);
    const next = (present: PlacementRecord): PlacementRecord => {
      return isMember(present) ? withReadReplica(present, bucket, node, !goes) : present;
    };
    return system.change(next, deadlineMs);
  }

  #other(keeper: PlacementKeeper, deadlineMs: number): Promise<unknown> | undefined {
    const change = this.#draw(keeper.record);
    return change && keeper.change(change, deadlineMs);
  }

  #draw(record: PlacementRecord): PlacementChange | undefined {
    const random = this.#random;
    const [drained] = record.draining;
    if (random.chance(0.2)) {
      return drained === undefined ? { kind: 'drain', node: random.pick(record.nodes).id } : { kind: 'undrain', node: drained };
    }
    const bucket = random.chance(0.1) ? SYSTEM_BUCKET : random.below(record.buckets);
    const nodes = placeOf(record, bucket)?.replicas.map(({ node }) => node) ?? [];
    const others = record.nodes.map(({ id }) => id).filter((id) => !nodes.includes(id) && !record.draining.includes(id));
    if (nodes.length === 0 || others.length === 0) return undefined;
    return { kind: 'move', bucket, from: random.pick(nodes), to: random.pick(others) };
  }
}

/** A node that leads the system bucket, or thinks so still. */
export function leaderOfSystem(cluster: SimCluster): NodeId | undefined {
  return cluster.ids.find((id) => {
    return cluster.running(id) && cluster.node(id).hosting.replicas.get(SYSTEM_BUCKET)?.raft.canServe() === true;
  });
}
