import type { Clock } from '../env/env.js';
import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { NodeId } from '../placement/map.js';

/**
 * Moments that somebody on this node, or on another one, is still reading: the horizon of no bucket passes them, for as long as
 * the budget allows (limits.horizonHoldMsMax behind the retention). They are not replicated and survive no restart: who holds one
 * keeps it alive, tells nothing to anybody but its own node, and is told by an error when it was lost.
 *
 * Every node tells all others its lowest hold, at once when it goes down and with every tick while there is one. A leader counts
 * what it heard lately. So a hold protects from about a message's delay after it was taken; whoever reads at a moment that is
 * just being passed gets OUT_OF_RANGE, for a read looks at the horizon in the turn in which it answers.
 *
 * Two kinds: `hold` is for what runs for as long as it wants and says when it is done (a change stream); `touch` is for reads in
 * pages, of which nobody says when the last one was: it lapses by itself.
 */
export interface Hold {
  /** Holds a later moment from now on; an earlier one is ignored. */
  advance(timestamp: Timestamp): void;
  release(): void;
}

export interface HoldsOptions {
  readonly clock: Clock;
  /** Tells all other nodes; 0: none. */
  readonly tell: (lowest: Timestamp) => void;
}

/** How long a read in pages is protected after its last page. */
const TOUCH_MS = 30_000;
/** Reads that are protected at a time; more are not, and find out by an error if the horizon passes them. */
const TOUCHED_MAX = 1024;
/** A node that has told nothing for so long holds nothing. */
const HEARD_MS_MAX = 10_000;

export class Holds {
  readonly #options: HoldsOptions;
  readonly #held = new Set<{ timestamp: Timestamp }>();
  readonly #touched = new Map<Timestamp, number>();
  readonly #heard = new Map<NodeId, { readonly lowest: Timestamp; readonly atMs: number }>();
  #told: Timestamp = 0;
  /** Of the last tick. */
  #floor: Timestamp = 0;

  constructor(options: HoldsOptions) {
    this.#options = options;
  }

  /** Keeps history from `timestamp` on readable, if it still is, until it is released. */
  hold(timestamp: Timestamp): Hold {
    const held = { timestamp };
    this.#held.add(held);
    this.#tellIfLower();
    return {
      advance: (later) => {
        held.timestamp = Math.max(held.timestamp, later);
      },
      release: () => void this.#held.delete(held),
    };
  }

  /** A page of a read as of `timestamp` was served, and another may follow. */
  touch(timestamp: Timestamp): void {
    if (!this.#touched.has(timestamp) && this.#touched.size >= TOUCHED_MAX) return;
    this.#touched.set(timestamp, this.#options.clock.monotonicMs() + TOUCH_MS);
    this.#tellIfLower();
  }

  /** That read has had its last page; another one at the same moment touches it again with its next. */
  done(timestamp: Timestamp): void {
    this.#touched.delete(timestamp);
  }

  heard(from: NodeId, lowest: Timestamp): void {
    this.#heard.set(from, { lowest, atMs: this.#options.clock.monotonicMs() });
  }

  /** The lowest moment that is held at or above `floor`, anywhere; Infinity if there is none. */
  lowest(floor: Timestamp): Timestamp {
    if (mutant('holds-ignored')) return Infinity;
    const since = this.#options.clock.monotonicMs() - HEARD_MS_MAX;
    let lowest = this.#lowestHere(floor);
    for (const { lowest: theirs, atMs } of this.#heard.values()) {
      if (theirs >= floor && theirs > 0 && atMs >= since) lowest = Math.min(lowest, theirs);
    }
    return lowest;
  }

  #lowestHere(floor: Timestamp): Timestamp {
    let lowest = Infinity;
    for (const { timestamp } of this.#held) if (timestamp >= floor) lowest = Math.min(lowest, timestamp);
    for (const timestamp of this.#touched.keys()) if (timestamp >= floor) lowest = Math.min(lowest, timestamp);
    return lowest;
  }

  #tellIfLower(): void {
    const lowest = this.#lowestHere(this.#floor);
    if (lowest === Infinity || (this.#told !== 0 && lowest >= this.#told)) return;
    this.#told = lowest;
    this.#options.tell(lowest);
  }

  /** Once a second. `floor`: what is below is over the budget, and is not told, so that it does not hide what is above. */
  tick(floor: Timestamp): void {
    this.#floor = floor;
    const now = this.#options.clock.monotonicMs();
    for (const [timestamp, untilMs] of this.#touched) if (untilMs <= now) this.#touched.delete(timestamp);
    const lowest = this.#lowestHere(floor);
    const tells = lowest === Infinity ? 0 : lowest;
    if (tells === 0 && this.#told === 0) return;
    this.#told = tells;
    this.#options.tell(tells);
  }
}
