import type { BucketId, NodeId } from '../../placement/map.js';
import { EMPTY } from '../../lib/bytes.js';
import {
  decodePointer,
  pointerOfKey,
  pointerRange,
  slotOfVersionKey,
  versionBounds,
  versionOfKey,
  type Slot,
  type VersionId,
} from '../../mvcc/records.js';
import { TIMESTAMP_MAX, type Timestamp } from '../../mvcc/timestamp.js';
import type { LogIndex } from '../../raft/types.js';
import type { SimCluster } from '../cluster.js';
import { Problems } from './problems.js';

/** How many records for each of its replicas are looked at when a node starts, the newest of all. */
const NEWEST_RECORDS = 20;
const SLOT_MAX: Slot = 0xffff_ffff;

/** Looks at what is on the disks of nodes that start, and at all replicas in the end. The rest is the witness's. */
export class Inspector {
  readonly #problems: Problems;
  readonly #cluster: SimCluster;

  constructor(cluster: SimCluster) {
    this.#cluster = cluster;
    this.#problems = new Problems(cluster.log);
  }

  get problems(): readonly string[] {
    return this.#problems.found;
  }

  /**
   * A node has just started: its store holds the state of each replica as of the index that the meta record names, and nothing
   * of what comes behind, for batches are written whole.
   */
  checkStart(id: NodeId): void {
    const records = this.#cluster.disk(id).stores.get('state');
    if (records === undefined) return;
    const replicas = [...this.#cluster.node(id).hosting.replicas.values()];
    const bySlot = new Map(replicas.map((replica) => [replica.state.slot, replica.state]));
    const check = (what: string, slot: Slot, { index }: VersionId): void => {
      const state = bySlot.get(slot);
      if (state === undefined || index <= state.applied.index) return;
      this.#fail(`bucket ${state.bucket} on node ${id} starts at entry ${state.applied.index}, with ${what} of entry ${index}`);
    };
    const { gte, lt } = pointerRange(EMPTY, EMPTY);
    for (const [key, value] of records.range(gte, lt)) {
      const { key: name, slot } = pointerOfKey(key);
      check(`the pointer of ${name.toString()}`, slot, decodePointer(value));
    }
    const lowest = versionBounds(0, 0, TIMESTAMP_MAX).gte;
    const highest = versionBounds(SLOT_MAX, 0, TIMESTAMP_MAX).lt;
    let left = NEWEST_RECORDS * bySlot.size;
    for (const [key] of records.range(lowest, highest, true)) {
      if (left === 0) break;
      left -= 1;
      check('a version', slotOfVersionKey(key), versionOfKey(key));
    }
  }

  /** The highest of all replicas that run: in the end, what is above was not collected anywhere. */
  get horizon(): Timestamp {
    const running = this.#cluster.ids.filter((id) => this.#cluster.running(id));
    const replicas = running.flatMap((id) => [...this.#cluster.node(id).hosting.replicas.values()]);
    return Math.max(0, ...replicas.map(({ state }) => state.horizon));
  }

  /** How far the replica of each bucket is that is behind all others. */
  lowestApplied(): string {
    const lowest = new Map<BucketId, LogIndex>();
    for (const id of this.#cluster.ids) {
      if (!this.#cluster.running(id)) continue;
      for (const { bucket, state } of this.#cluster.node(id).hosting.replicas.values()) {
        lowest.set(bucket, Math.min(lowest.get(bucket) ?? Infinity, state.applied.index));
      }
    }
    return JSON.stringify([...lowest]);
  }

  /** Transactions that are prepared or not resolved everywhere, which end within a bounded time when all is well. */
  unresolved(): string[] {
    const found: string[] = [];
    for (const id of this.#cluster.ids) {
      if (!this.#cluster.running(id)) continue;
      for (const { bucket, state } of this.#cluster.node(id).hosting.replicas.values()) {
        const { participant, home } = state;
        if (participant.count + home.count === 0) continue;
        found.push(`bucket ${bucket} on node ${id} has ${participant.count} transactions prepared, ${home.count} to be resolved`);
      }
    }
    return found;
  }

  /** When nothing is under way any more all replicas of a bucket are the same, on the nodes that count. */
  compareReplicas(counts: (node: NodeId) => boolean): string[] {
    const found = new Map<BucketId, Map<string, NodeId[]>>();
    for (const id of this.#cluster.ids) {
      if (!counts(id)) continue;
      if (!this.#cluster.running(id)) return [`node ${id} does not run in the end`];
      for (const { bucket, state } of this.#cluster.node(id).hosting.replicas.values()) {
        const { applied, digest, maxTimestamp } = state.meta;
        const kinds = found.get(bucket) ?? new Map<string, NodeId[]>();
        found.set(bucket, kinds);
        const kind = `index ${applied.index}, digest ${digest}, timestamp ${maxTimestamp}`;
        kinds.set(kind, [...(kinds.get(kind) ?? []), id]);
      }
    }
    return [...found]
      .filter(([, kinds]) => kinds.size > 1)
      .map(([bucket, kinds]) => {
        const shown = [...kinds].map(([kind, nodes]) => `nodes ${nodes.join(', ')}: ${kind}`);
        return `the replicas of bucket ${bucket} differ in the end: ${shown.join('; ')}`;
      });
  }

  #fail(problem: string): void {
    this.#problems.add(problem);
  }
}
