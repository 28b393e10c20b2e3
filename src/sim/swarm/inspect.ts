import type { Replica } from '../../bucket/replica.js';
import type { Timestamp } from '../../bucket/requests.js';
import { bucketOf, type BucketId, type NodeId } from '../../placement/map.js';
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
import { TIMESTAMP_MAX } from '../../mvcc/timestamp.js';
import type { SimCluster } from '../cluster.js';
import type { VersionSeen } from './record.js';
import type { Witness } from './witness.js';

const EVERY_MS = 50;
/** How many records for each of its replicas are looked at when a node starts, the newest of all. */
const NEWEST_RECORDS = 20;
const SLOT_MAX: Slot = 0xffff_ffff;

export interface InspectorOptions {
  readonly cluster: SimCluster;
  readonly witness: Witness;
  /** Which leases this node thinks it holds does not count at present. */
  readonly isDrowsy: (node: NodeId) => boolean;
}

/** Looks into the nodes of a running cluster, which clients cannot, for what must hold at every moment. */
export class Inspector {
  readonly problems: string[] = [];
  readonly #options: InspectorOptions;
  readonly #cluster: SimCluster;
  readonly #leaders = new Map<string, NodeId>();
  readonly #digests = new Map<string, string>();
  readonly #commits = new Map<string, number>();
  /** By bucket and latest timestamp that a replica had: up to where it had heard that nothing more would commit. */
  readonly #closed = new Map<BucketId, Map<Timestamp, Timestamp>>();
  #stopped = false;

  constructor(options: InspectorOptions) {
    this.#options = options;
    this.#cluster = options.cluster;
  }

  start(): void {
    const look = (): void => {
      if (this.#stopped) return;
      this.look();
      this.#cluster.loop.timers.after(EVERY_MS, look);
    };
    look();
  }

  stop(): void {
    this.#stopped = true;
  }

  look(): void {
    const { isDrowsy, witness } = this.#options;
    const leased = new Map<BucketId, NodeId>();
    for (const id of this.#cluster.ids) {
      if (!this.#cluster.running(id)) continue;
      const nowMs = this.#cluster.clock(id).monotonicMs();
      const isAwake = !this.#cluster.process(id).paused && !isDrowsy(id);
      for (const replica of this.#cluster.node(id).hosting.replicas.values()) {
        const { bucket, raft } = replica;
        if (raft.role === 'leader') {
          this.#once(this.#leaders, `${bucket}/${raft.term}`, id, () => `bucket ${bucket} term ${raft.term} is led by nodes`);
          const hasLease = isAwake && raft.leaseValid(nowMs);
          if (hasLease) this.#once(leased, bucket, id, () => `bucket ${bucket} has two leases at a time, of nodes`);
        }
        if (replica.installing) continue;
        this.#compare(replica, id);
        this.#noteClosed(replica);
        witness.look(replica);
      }
    }
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

  /** Equal index means equal state; and what is committed stays so. */
  #compare({ bucket, raft, state }: Replica, id: NodeId): void {
    const { applied, digest, maxTimestamp } = state.meta;
    const facts = `${applied.term} ${digest} ${maxTimestamp}`;
    this.#once(this.#digests, `${bucket}/${applied.index}`, facts, () => {
      return `bucket ${bucket} at ${applied.index} differs (term, digest, timestamp):`;
    });
    const name = `${bucket}/${id}/${this.#cluster.life(id)}`;
    const before = this.#commits.get(name) ?? 0;
    if (raft.commitIndex < before) {
      this.#fail(`bucket ${bucket} on node ${id}: commit index went from ${before} to ${raft.commitIndex}`);
    }
    this.#commits.set(name, raft.commitIndex);
  }

  #noteClosed(replica: Replica): void {
    const { bucket, state } = replica;
    const timestamp = replica.resolved();
    const latest = state.maxTimestamp;
    if (timestamp <= latest) return;
    const spans = this.#closed.get(bucket) ?? new Map<Timestamp, Timestamp>();
    this.#closed.set(bucket, spans);
    spans.set(latest, Math.max(timestamp, spans.get(latest) ?? 0));
  }

  /** The highest of all replicas: what is above was not collected anywhere. */
  get horizon(): Timestamp {
    const running = this.#cluster.ids.filter((id) => this.#cluster.running(id));
    const replicas = running.flatMap((id) => [...this.#cluster.node(id).hosting.replicas.values()]);
    return Math.max(0, ...replicas.map(({ state }) => state.horizon));
  }

  /** Nothing was committed in a span of time that had been closed without it. */
  checkClosed(finals: ReadonlyMap<string, readonly VersionSeen[]>, buckets: number): void {
    for (const [key, versions] of finals) {
      const spans = this.#closed.get(bucketOf(Buffer.from(key), buckets)) ?? [];
      for (const [latest, closed] of spans) {
        const broken = versions.find(({ version }) => version > latest && version <= closed);
        if (broken === undefined) continue;
        this.#fail(`${key} has version ${broken.version}; a replica with all up to ${latest} had closed up to ${closed}`);
        break;
      }
    }
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

  /** When nothing is under way any more all replicas of a bucket are the same. */
  compareReplicas(): string[] {
    const found = new Map<BucketId, Map<string, NodeId[]>>();
    for (const id of this.#cluster.ids) {
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

  #once<K, V>(map: Map<K, V>, name: K, value: V, what: () => string): void {
    const known = map.get(name);
    if (known === undefined) map.set(name, value);
    else if (known !== value) this.#fail(`${what()} ${String(known)} and ${String(value)}`);
  }

  #fail(problem: string): void {
    if (this.problems.length < 20) this.problems.push(problem);
  }
}
