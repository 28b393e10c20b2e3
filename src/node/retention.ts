import type { Clock, Gauge, Logger, Metrics } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { messageOf } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import type { StateStore } from '../bucket/state-store.js';
import { PERIOD, versionBounds, versionOfKey, type Slot } from '../mvcc/records.js';
import { earlier, LOGICAL, type HybridClock, type Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import type { Holds } from './holds.js';

/**
 * Raises the horizons of the buckets that this node leads: history older than `limits.retentionMs` may go, or what is more than
 * `limits.retentionBytesMax` on this node's disk, but nothing above a bucket's resolved timestamp, nothing that is pinned
 * (bucket/retention.ts) and nothing that is being read (holds.ts), both within their budgets.
 *
 * A horizon moves by an entry of the log, so it moves in steps: of a STEPS-th of the retention. Nothing is proposed for a bucket
 * whose oldest version is younger than that.
 *
 * What is gone is gone on all replicas, and a horizon never goes back. So the age of history is not measured by the clock of one
 * machine, which somebody may set wrong for a second: the present of a bucket is no later than the floor that a quorum of its
 * voters stands for, and none of them accepts a floor that is far ahead of its own clock (ceiling.ts). A bucket of one replica
 * has nobody else to ask.
 */
export interface RetentionOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly limits: Limits;
  readonly hybrid: HybridClock;
  readonly state: StateStore;
  readonly holds: Holds;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly onBug: (error: unknown) => void;
}

const STEPS = 64;
/** While the disk is what limits it, it moves in steps of at most this. */
const ROOM_STEP_MS = 30_000;
/** How often the disk is asked how much history takes; and what is never given up for it. */
const MEASURE_MS = 10_000;
const KEPT_MS_MIN = 60_000;
const SLOT_MAX: Slot = 0xffff_ffff;

export class Retention {
  readonly #options: RetentionOptions;
  readonly #age: Gauge;
  readonly #pins: Gauge;
  readonly #raising = new Set<BucketId>();
  /** Nothing on this node is older; undefined until it is known. Asked for while a horizon is 0. */
  #oldest: Timestamp | undefined;
  #asksForOldest = false;
  /** What is older takes more room than it may. */
  #roomFor: Timestamp = 0;
  #measureDueMs = 0;
  #measuring = false;

  constructor(options: RetentionOptions) {
    const { metrics } = options;
    this.#options = options;
    this.#age = metrics.gauge('tidemark_horizon_age_seconds', 'How far back the replicas of this node can be read, at most.');
    this.#pins = metrics.gauge('tidemark_pins', 'Moments that are pinned, lost ones not counted.');
  }

  /** Once a second. */
  tick(): void {
    const { replicas, holds, hybrid } = this.#options;
    const now = hybrid.physicalNow();
    this.#measure(now);
    holds.tick(this.#holdFloor(now));
    let lowest = Infinity;
    const pins = new Set<string>();
    for (const replica of replicas.values()) {
      if (replica.installing) continue;
      lowest = Math.min(lowest, replica.state.horizon === 0 ? Infinity : replica.state.horizon);
      for (const { name, lost } of replica.state.meta.pins) if (!lost) pins.add(name);
      if (replica.raft.canServe()) this.#raise(replica, presentOf(replica, now));
    }
    this.#age.set(lowest === Infinity ? 0 : Math.max(0, (now - lowest) / LOGICAL / 1000));
    this.#pins.set(pins.size);
  }

  /** Holds below it are over their budget. */
  #holdFloor(now: Timestamp): Timestamp {
    const { limits } = this.#options;
    return earlier(this.#wanted(now), limits.horizonHoldMsMax);
  }

  /** What may go for its age, or for the room that it takes. */
  #wanted(now: Timestamp): Timestamp {
    const { limits } = this.#options;
    const leastKept = earlier(now, Math.min(KEPT_MS_MIN, limits.retentionMs));
    return Math.max(earlier(now, limits.retentionMs), Math.min(this.#roomFor, leastKept));
  }

  #raise(replica: Replica, now: Timestamp): void {
    const { limits, holds, log } = this.#options;
    const { bucket, state } = replica;
    const resolved = mutant('horizon-beyond-resolved') ? now : replica.resolved();
    const horizon = Math.min(this.#wanted(now), holds.lowest(this.#holdFloor(now)), resolved);
    const isExpired = state.meta.pins.some(({ expires }) => expires > 0 && expires <= now);
    const isForRoom = this.#roomFor > earlier(now, limits.retentionMs);
    const stepMs = Math.min(limits.retentionMs / STEPS, isForRoom ? ROOM_STEP_MS : Infinity);
    const step = Math.max(1, Math.floor(stepMs * LOGICAL));
    const isDue = horizon - state.horizon >= step && this.#hasOlder(replica, horizon) && !this.#isPinnedAt(replica, now);
    if ((!isDue && !isExpired) || this.#raising.has(bucket)) return;
    this.#raising.add(bucket);
    const pinFloor = earlier(now, limits.pinMsMax);
    replica.commands
      .retain({ kind: 'raise', horizon: Math.max(horizon, state.horizon), now, pinFloor })
      .catch((error: unknown) => log.debug('a horizon was not raised', { bucket, error: messageOf(error) }))
      .finally(() => this.#raising.delete(bucket));
  }

  /** A pin within its budget stands at the horizon: an entry would change nothing. */
  #isPinnedAt({ state }: Replica, now: Timestamp): boolean {
    const floor = earlier(now, this.#options.limits.pinMsMax);
    return state.meta.pins.some((pin) => {
      const holds = !pin.lost && pin.timestamp >= floor && (pin.expires === 0 || pin.expires > now);
      return holds && pin.timestamp <= state.horizon;
    });
  }

  #hasOlder({ state }: Replica, horizon: Timestamp): boolean {
    if (state.horizon > 0 || state.maxTimestamp === 0) return state.horizon > 0;
    if (this.#oldest !== undefined) return this.#oldest <= horizon;
    if (!this.#asksForOldest) {
      this.#asksForOldest = true;
      this.#lookForOldest()
        .catch(this.#options.onBug)
        .finally(() => {
          this.#asksForOldest = false;
        });
    }
    return false;
  }

  /** The oldest record of the whole node will do for all of its buckets: an early entry or two do no harm. */
  async #lookForOldest(): Promise<void> {
    const { state } = this.#options;
    const { gte } = versionBounds(0, 0, 0);
    const { lt } = versionBounds(SLOT_MAX, 0, Number.MAX_SAFE_INTEGER - 1);
    const { entries } = await state.page({ gte, lt, limit: 1 });
    const first = entries[0]?.[0];
    // In its period there may be older ones of other slots.
    if (first !== undefined) this.#oldest = versionOfKey(first).timestamp - PERIOD;
  }

  /** From when on what lies on this node's disk fits into its budget. */
  #measure(now: Timestamp): void {
    const { clock, limits, onBug } = this.#options;
    const nowMs = clock.monotonicMs();
    if (this.#measuring || nowMs < this.#measureDueMs) return;
    this.#measureDueMs = nowMs + MEASURE_MS;
    this.#measuring = true;
    this.#fitting(limits.retentionBytesMax, earlier(now, limits.retentionMs), now)
      .then((timestamp) => {
        this.#roomFor = timestamp;
      })
      .catch(onBug)
      .finally(() => {
        this.#measuring = false;
      });
  }

  /** The earliest moment in [low, high], within a period, from which on the records take at most so many bytes. */
  async #fitting(bytesMax: number, low: Timestamp, high: Timestamp): Promise<Timestamp> {
    const { state } = this.#options;
    const { lt } = versionBounds(SLOT_MAX, 0, Number.MAX_SAFE_INTEGER - 1);
    const bytesFrom = (from: Timestamp): Promise<number> => state.approximateBytes(versionBounds(0, from, 0).gte, lt);
    if ((await bytesFrom(low)) <= bytesMax) return 0;
    let [fitsNot, fits] = [low, high];
    while (fits - fitsNot > PERIOD) {
      const middle = Math.floor((fits + fitsNot) / 2);
      if ((await bytesFrom(middle)) <= bytesMax) fits = middle;
      else fitsNot = middle;
    }
    return fits;
  }
}

/** Not `closed`, though it is bounded likewise: a floor reaches to the next heartbeat, and does not lag behind the clock. */
function presentOf({ raft }: Replica, now: Timestamp): Timestamp {
  return Math.min(now, raft.quorumFloor());
}
