import type { LogIndex } from './types.js';

const SAMPLES = 16;

/**
 * What was committed a while ago: some samples of the commit index, in a ring that takes a new one at most every fifteenth part
 * of the while, so that they reach back over all of it.
 *
 * A sample is the index from which the commit index moved on at that time. So what is told was committed at most `spanMs` ago,
 * mostly hardly less, and where nothing has been committed since it is the present index.
 */
export class CommitTrail {
  private readonly spanMs: number;
  private readonly times = new Float64Array(SAMPLES).fill(-Infinity);
  private readonly indexes = new Float64Array(SAMPLES);
  private latest = 0;

  constructor(spanMs: number) {
    this.spanMs = spanMs;
  }

  /** The commit index moves on from `index`. */
  note(index: LogIndex, now: number): void {
    if (now - (this.times[this.latest] ?? 0) < this.spanMs / (SAMPLES - 1)) return;
    this.latest = (this.latest + 1) % SAMPLES;
    this.times[this.latest] = now;
    this.indexes[this.latest] = index;
  }

  /** The commit index as it was, given what it is. */
  lately(present: LogIndex, now: number): LogIndex {
    for (let n = 1; n <= SAMPLES; n += 1) {
      const at = (this.latest + n) % SAMPLES;
      if (now - (this.times[at] ?? 0) <= this.spanMs) return this.indexes[at] ?? present;
    }
    return present;
  }
}
