import type { Replica } from '../bucket/replica.js';
import { SYSTEM_BUCKET, type BucketId } from '../placement/map.js';
import type { LeaderHint } from '../router/operations.js';

/** Who leads which bucket, for routers: they are told what has changed since they were told, once a tick for all buckets. */
export class LeaderNews {
  readonly #push: (hints: readonly LeaderHint[]) => void;
  readonly #told = new Map<BucketId, LeaderHint>();
  /** Replicas whose leader routers have not been told yet. */
  readonly #toTell = new Set<Replica>();

  constructor(push: (hints: readonly LeaderHint[]) => void) {
    this.#push = push;
  }

  /** All that was ever told: for a router that is new. */
  told(): LeaderHint[] {
    return [...this.#told.values()];
  }

  learned(replica: Replica): void {
    this.#toTell.add(replica);
  }

  tell(): void {
    const hints: LeaderHint[] = [];
    for (const replica of this.#toTell) {
      const { bucket, leaderNode, raft } = replica;
      if (leaderNode === 0) continue;
      this.#toTell.delete(replica);
      if (bucket === SYSTEM_BUCKET) continue;
      const hint = { bucket, leader: leaderNode, term: raft.term };
      this.#told.set(bucket, hint);
      hints.push(hint);
    }
    if (hints.length > 0) this.#push(hints);
  }
}
