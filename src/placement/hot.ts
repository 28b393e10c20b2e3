import { mutant } from '../lib/mutants.js';
import type { HeatSummary } from './heat-summary.js';
import type { BucketId } from './map.js';
import { readersOf, votersOf, type Replicas } from './replicas.js';

/**
 * How many replicas of a bucket should serve it, by the reads that are asked of it. All of its replicas do, the leader, the
 * other voters, and the read replicas; only of the last the number follows the heat.
 *
 *   hot    more than `hotReadsPerSecond` for each that serves: so many serve then that it is no more
 *   cool   so little that fewer would have less than COOL of that each, for `coolMs` on end: these few are left
 *
 * Between the two nothing changes: who was added because of a rate is not removed before the rate is half of that.
 */
export interface HeatRules {
  readonly hotReadsPerSecond: number;
  /** Read replicas of one bucket. */
  readonly readReplicasMax: number;
  readonly coolMs: number;
}

const COOL = 0.5;

/** Read replicas that a bucket with so many voters should have at least now. */
export function readReplicasWanted(reads: number, voters: number, { hotReadsPerSecond, readReplicasMax }: HeatRules): number {
  return bounded(Math.ceil(reads / hotReadsPerSecond) - voters, readReplicasMax);
}

/** Those that it may keep: never fewer than it should have. */
export function readReplicasKept(reads: number, voters: number, { hotReadsPerSecond, readReplicasMax }: HeatRules): number {
  const cool = mutant('removal-without-hysteresis') ? 1 : COOL;
  return bounded(Math.ceil(reads / (hotReadsPerSecond * cool)) - voters, readReplicasMax);
}

function bounded(count: number, most: number): number {
  return Math.max(0, Math.min(count, most));
}

interface Places {
  readonly map: readonly { readonly id: BucketId; readonly replicas: Replicas }[];
}

/** Since when buckets have had more read replicas than they may keep. */
export class Cooling {
  readonly #sinceMs = new Map<BucketId, number>();

  /** Of nothing that was before anything is known. */
  forget(): void {
    this.#sinceMs.clear();
  }

  /** Looks again; the buckets of which that is so for long enough. */
  look({ map }: Places, { buckets }: HeatSummary, rules: HeatRules, nowMs: number): ReadonlySet<BucketId> {
    const cool = new Set<BucketId>();
    for (const { id, replicas } of map) {
      if (!replicas.some(({ learner }) => learner)) {
        if (this.#sinceMs.size > 0) this.#sinceMs.delete(id);
        continue;
      }
      const kept = readReplicasKept(buckets.get(id)?.reads ?? 0, votersOf(replicas).length, rules);
      if (readersOf(replicas).length <= kept) {
        this.#sinceMs.delete(id);
        continue;
      }
      const since = this.#sinceMs.get(id) ?? nowMs;
      this.#sinceMs.set(id, since);
      if (nowMs - since >= rules.coolMs || mutant('removal-without-hysteresis')) cool.add(id);
    }
    return cool;
  }
}
