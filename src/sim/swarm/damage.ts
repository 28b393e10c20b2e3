import { SYSTEM_REPLICAS_MAX } from '../../placement/initial.js';
import { nodeOfReplica, type NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';
import type { SimRandom } from '../random.js';

/**
 * Which disks have lost what they had. However many faults there are, a quorum of every bucket keeps a good copy: else a run
 * that fails would mean nothing.
 */
export class Atlas {
  readonly #most: number;
  readonly #damaged = new Set<NodeId>();
  readonly #spared = new Set<NodeId>();

  constructor(replicas: number) {
    // The system bucket has no more replicas than this, however many others have.
    this.#most = Math.floor((Math.min(replicas, SYSTEM_REPLICAS_MAX) - 1) / 2);
  }

  /** How many nodes more may be damaged, or stay away for ever. */
  get spare(): number {
    return this.#most - this.#damaged.size;
  }

  isDamaged(id: NodeId): boolean {
    return this.#damaged.has(id);
  }

  /** A node that leaves is not damaged any more: with another disk it would come as a new one. False if it is damaged already. */
  spareToLeave(id: NodeId): boolean {
    if (this.#damaged.has(id)) return false;
    this.#spared.add(id);
    return true;
  }

  /** From now on nothing counts that this node has on its disk. False if it must be spared. */
  damage(id: NodeId): boolean {
    if (this.#spared.has(id) || (!this.#damaged.has(id) && this.spare <= 0)) return false;
    this.#damaged.add(id);
    return true;
  }
}

/** For this long a node is away before an old copy of its disk is put back: nobody's lease or floor rests on it any more. */
const AWAY_MS = 3000;
const LOOK_MS = 200;
const LOOKS_MAX = 30;
const ROTTEN_BITS_MAX = 40;

export interface DamageOptions {
  readonly cluster: SimCluster;
  readonly random: SimRandom;
  readonly atlas: Atlas;
  /** Starts a node that is down, if the run still breaks things. */
  readonly boot: (id: NodeId) => void;
  /** Later, if the run still breaks things. */
  readonly soon: (ms: number, work: () => void) => void;
}

/** Disks that lose, for good, what was on them: the node must notice, and not speak for what it had. */
export class Damage {
  readonly #options: DamageOptions;
  /** Nodes that wait for an old copy of their disk: nobody else starts them. */
  readonly #away = new Set<NodeId>();

  constructor(options: DamageOptions) {
    this.#options = options;
  }

  isAway(id: NodeId): boolean {
    return this.#away.has(id);
  }

  /** Nobody is kept away any more. */
  end(): void {
    this.#away.clear();
  }

  /** An empty disk in place of the one that was there. */
  wipe(id: NodeId): void {
    const { cluster, atlas } = this.#options;
    if (this.isAway(id) || !atlas.damage(id)) return;
    cluster.crash(id);
    cluster.disk(id).wipe();
  }

  /** Bits flip, in what is read soon, later, or at the next start. */
  rot(id: NodeId): void {
    const { cluster, atlas, random } = this.#options;
    if (this.isAway(id) || !atlas.damage(id)) return;
    const store = random.pick(['log', 'state', 'state'] as const);
    for (let bits = 1 + random.below(ROTTEN_BITS_MAX); bits > 0; bits -= 1) cluster.disk(id).rot(store);
  }

  /**
   * The disk goes back to where it was some time ago, as when a machine is restored from a snapshot. Consensus cannot bear that
   * of a replica whose word is still needed: it happens where good copies of all that it knew are on a quorum of others.
   */
  stale(id: NodeId): void {
    const { cluster, random, soon } = this.#options;
    if (this.isAway(id) || cluster.isDown(id)) return;
    const copy = cluster.disk(id).copy();
    soon(random.between(500, 4000), () => {
      if (this.isAway(id) || !this.#options.atlas.damage(id)) return;
      this.#away.add(id);
      cluster.crash(id);
      soon(AWAY_MS, () => this.#restoreWhenSpare(id, () => cluster.disk(id).restore(copy), LOOKS_MAX));
    });
  }

  #restoreWhenSpare(id: NodeId, restore: () => void, looks: number): void {
    const { boot, soon } = this.#options;
    if (looks > 0 && !this.#isSpare(id)) {
      soon(LOOK_MS, () => this.#restoreWhenSpare(id, restore, looks - 1));
      return;
    }
    if (looks > 0) restore();
    this.#away.delete(id);
    boot(id);
  }

  /**
   * Every bucket has a leader, confirmed without this node (by its lease, if there are leases: the others follow it in any case),
   * whose voters all have what is committed, and its term.
   */
  #isSpare(id: NodeId): boolean {
    const { cluster, atlas } = this.#options;
    const others = cluster.ids.filter((other) => other !== id && !atlas.isDamaged(other));
    if (others.some((other) => !cluster.running(other) || cluster.process(other).paused)) return false;
    const replicas = others.flatMap((other) => [...cluster.node(other).hosting.replicas.values()]);
    return new Set(replicas.map(({ bucket }) => bucket)).size > 0 && replicas.every(({ bucket, raft, installing }) => {
      const leader = replicas.find((other) => {
        const { raft: own, host } = other;
        return other.bucket === bucket && own.canServe() && (own.leaseValid(host.clock.monotonicMs()) || !host.timing.leaseReads);
      })?.raft;
      if (leader === undefined || installing || nodeOfReplica(leader.id) === id) return false;
      return raft.term === leader.term && raft.durableIndex >= leader.commitIndex && raft.leader === leader.id;
    });
  }
}

/** A node that noticed what became of its disk, and said so. */
export function noticesDamage(error: unknown): boolean {
  const { code, reason } = error as { readonly code?: unknown; readonly reason?: unknown };
  // One that was not there from the beginning asks to be let in, with a new disk: as another, and there is one at its address.
  const isNew = reason === 'ADDRESS_TAKEN';
  return code === 'DATA_LOSS' || reason === 'NODE_IDENTITY_CHANGED' || reason === 'STORE_LOST' || isNew;
}
