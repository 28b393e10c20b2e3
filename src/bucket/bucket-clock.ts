import { mutant } from '../lib/mutants.js';
import { later, type HybridClock, type Timestamp } from '../mvcc/timestamp.js';
import type { Raft } from '../raft/raft.js';
import type { BucketState } from './state.js';

/**
 * What one replica of a bucket promises about time, and so what it may assign and call complete.
 *
 *   floor      what it has told a leader, and repeats to every candidate: whoever leads next assigns above it
 *   closed     at or below it nothing new commits behind the present last entry: leaders tell it, as far as a quorum has floors
 *   resolved   at or below it everything is applied here, and nothing more will ever appear
 *
 * Example: a quorum has promised the floor 90 and the leader's clock shows 80. It closes 80, and assigns from 81 on; its
 * successor, whose clock shows 70, begins above 90. A replica that has applied the leader's last entry and holds an intent
 * prepared at 60 has resolved 59.
 */
export interface BucketClockHost {
  /** The node's clock. */
  readonly hybrid: HybridClock;
  readonly timing: { readonly heartbeatMs: number };
  /** The highest floor that this node may promise at present (its persisted clock ceiling); 0 if none. */
  floorCeiling(): number;
  /** A floor that covers every floor which this node promised before it was restarted. */
  restartFloor(): number;
}

/**
 * A floor must last until the answers to the next heartbeat are in. How far it runs ahead of the wall clock is also how far a
 * new leader's bucket clock may start ahead of it, so it should stay well below `maxClockOffsetMs`.
 */
const FLOOR_HEARTBEATS = 1.5;

export class BucketClock {
  readonly #host: BucketClockHost;
  readonly #state: BucketState;
  readonly #raft: () => Raft;
  /** The highest commit timestamp that this replica has assigned or must stay above. */
  #kept = 0;
  /** The highest floor that this replica has promised to repeat to a candidate. */
  #floor: number;

  constructor(host: BucketClockHost, state: BucketState, raft: () => Raft) {
    this.#host = host;
    this.#state = state;
    this.#raft = raft;
    this.#floor = host.restartFloor();
  }

  /** The highest timestamp that this replica has assigned, promised or applied. */
  get latest(): Timestamp {
    return Math.max(this.#kept, this.#state.maxTimestamp);
  }

  /** From now on nothing new commits in this bucket at or below `timestamp`. Leaders only. */
  promise(timestamp: Timestamp): void {
    this.#kept = Math.max(this.#kept, timestamp);
  }

  /** The timestamp of the next command. Leaders only. */
  next(): Timestamp {
    const floor = Math.max(this.latest, this.#raft().electedFloor) + 1;
    this.#kept = Math.max(this.#host.hybrid.now(), floor);
    return this.#kept;
  }

  offerFloor(): number {
    const { hybrid, timing } = this.#host;
    return Math.max(later(hybrid.physicalNow(), FLOOR_HEARTBEATS * timing.heartbeatMs), this.#floor);
  }

  acceptFloor(offered: number): number {
    const accepted = mutant('floor-above-ceiling') ? offered : Math.min(offered, this.#host.floorCeiling());
    this.#floor = Math.max(this.#floor, accepted);
    // Nothing is offered where a vote is asked for: that answer must name all that was ever promised.
    return offered > 0 && accepted === 0 ? 0 : this.#floor;
  }

  /** Closes what a quorum's floor covers, up to now: nothing behind the present last entry will commit at or below it. */
  close(): Timestamp {
    const raft = this.#raft();
    if (!raft.canServe()) return 0;
    const floor = mutant('closed-without-floor') ? Infinity : raft.quorumFloor();
    const closed = Math.min(floor, this.#host.hybrid.physicalNow());
    if (!mutant('closed-not-kept')) this.promise(closed);
    return closed;
  }

  /**
   * The same between two heartbeats, for a read that wants to name a timestamp: the latest up to `wanted` as of which what is
   * applied is all that ever will be. What is in flight may commit below it, so nothing is said (0) while there is any.
   */
  completeUpTo(wanted: Timestamp): Timestamp {
    const raft = this.#raft();
    const isAllApplied = this.#state.applied.index >= raft.lastIndex || mutant('named-before-applied');
    if (!isAllApplied || !raft.canServe()) return 0;
    return Math.min(wanted, this.close());
  }

  /**
   * Everything at or below this timestamp is applied here, and nothing more will ever appear at or below it. On every replica,
   * whoever leads; 0 if nothing is known yet. It never goes back in the life of a replica. Commit timestamps grow in the order of
   * the log, so what is applied says as much as what was closed, and so does a horizon; but a transaction that is prepared may
   * still commit at its prepare timestamp or later, so the resolved timestamp stays below the lowest intent.
   */
  resolved(): Timestamp {
    const { maxTimestamp, horizon, participant } = this.#state;
    const complete = Math.max(this.#raft().closedTimestamp, maxTimestamp, horizon);
    const lowest = mutant('resolved-above-intents') ? undefined : participant.lowestIntent();
    return Math.min(complete, (lowest ?? Infinity) - 1);
  }
}
