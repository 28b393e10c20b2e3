import { earlier, later, type Timestamp } from '../mvcc/timestamp.js';

/** What a node said of its clock, and the monotonic time here at which that was heard. */
export interface ToldClock {
  readonly now: Timestamp;
  readonly atMs: number;
}

/**
 * The clock of a node as one caller knows it: what it was told last, and the time since.
 *
 * What is told is true when it is sent. A stream that was cut for a while delivers it late, and who believed that would be behind
 * the cluster and refuse, as ahead of it, what is not. So a welcome that was long on its way says nothing, and what is behind
 * what was reckoned here counts only when the node still says so a while later: then its clock was set back.
 */
export class NodeClock {
  #told: ToldClock | undefined;
  /** Since when the node has said less than was reckoned. */
  #doubtedMs: number | undefined;

  /** Undefined while nothing is known that can be relied on. */
  get told(): ToldClock | undefined {
    return this.#told;
  }

  /** The answer to what was asked at `askedMs`. */
  welcome(now: Timestamp, askedMs: number, heardMs: number): void {
    if (heardMs - askedMs <= LATE_MS) this.#told = { now, atMs: heardMs };
  }

  hear(now: Timestamp, heardMs: number): void {
    const isBehind = this.#told !== undefined && now < earlier(later(this.#told.now, heardMs - this.#told.atMs), LATE_MS);
    if (isBehind) {
      this.#doubtedMs ??= heardMs;
      if (heardMs - this.#doubtedMs < STILL_MS) return;
    }
    this.#doubtedMs = undefined;
    this.#told = { now, atMs: heardMs };
  }
}

const LATE_MS = 250;
/** What was held up comes all at once. */
const STILL_MS = 500;
