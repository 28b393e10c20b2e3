import type { BucketId, NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';

const EVERY_MS = 50;

/** Looks into the nodes of a running cluster, which clients cannot, for what must hold at every moment. */
export class Inspector {
  readonly problems: string[] = [];
  readonly #cluster: SimCluster;
  readonly #leaders = new Map<string, NodeId>();
  readonly #digests = new Map<string, string>();
  readonly #commits = new Map<string, number>();
  #stopped = false;

  constructor(cluster: SimCluster) {
    this.#cluster = cluster;
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
    const leased = new Map<string, NodeId>();
    for (const id of this.#cluster.ids) {
      if (!this.#cluster.running(id)) continue;
      const nowMs = this.#cluster.clock(id).monotonicMs();
      for (const { bucket, raft, state, installing } of this.#cluster.node(id).hosting.replicas.values()) {
        if (raft.role === 'leader') this.#once(this.#leaders, `bucket ${bucket} term ${raft.term}`, id, 'is led by nodes');
        if (raft.leaseValid(nowMs)) this.#once(leased, `bucket ${bucket}`, id, 'has two leases at a time, of nodes');
        if (installing) continue;
        const { applied, digest, maxTimestamp } = state.meta;
        const facts = `${applied.term} ${digest} ${maxTimestamp}`;
        this.#once(this.#digests, `bucket ${bucket} at ${applied.index}`, facts, 'differs (term, digest, timestamp):');
        const name = `bucket ${bucket} on node ${id}, life ${this.#cluster.life(id)}`;
        const before = this.#commits.get(name) ?? 0;
        if (raft.commitIndex < before) this.#fail(`${name}: commit index went from ${before} to ${raft.commitIndex}`);
        this.#commits.set(name, raft.commitIndex);
      }
    }
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

  #once<T>(map: Map<string, T>, name: string, value: T, what: string): void {
    const known = map.get(name);
    if (known === undefined) map.set(name, value);
    else if (known !== value) this.#fail(`${name} ${what} ${String(known)} and ${String(value)}`);
  }

  #fail(problem: string): void {
    if (this.problems.length < 20) this.problems.push(problem);
  }
}
