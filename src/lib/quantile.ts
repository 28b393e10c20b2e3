/**
 * A quantile of the latest of a stream of durations, in bounded memory and as good as a few percent: a histogram whose columns
 * are each a fifth wider than the one before, and which is halved now and then, so that old durations fade.
 */
const COLUMNS = 96;
const COLUMNS_PER_DOUBLING = 4;
/** Milliseconds: what takes no longer is in the first column. */
const LEAST_MS = 0.05;
const RECKON_EVERY = 32;
const FADE_AT = 2048;

export class Quantile {
  readonly #part: number;
  readonly #samplesMin: number;
  readonly #counts = new Float64Array(COLUMNS);
  #total = 0;
  #sinceReckoned = 0;
  #ms = Infinity;

  /** Infinite until there are so many durations. */
  constructor(part: number, samplesMin: number) {
    this.#part = part;
    this.#samplesMin = samplesMin;
  }

  /** Milliseconds that this part of the durations do not exceed. */
  get ms(): number {
    return this.#ms;
  }

  add(ms: number): void {
    const column = Math.ceil(COLUMNS_PER_DOUBLING * Math.log2(Math.max(LEAST_MS, ms) / LEAST_MS));
    const at = Math.min(COLUMNS - 1, column);
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    this.#total += 1;
    this.#sinceReckoned += 1;
    if (this.#total >= this.#samplesMin && this.#sinceReckoned >= Math.min(RECKON_EVERY, this.#samplesMin)) this.#reckon();
  }

  #reckon(): void {
    this.#sinceReckoned = 0;
    let below = 0;
    let column = 0;
    for (; column < COLUMNS - 1; column += 1) {
      below += this.#counts[column] ?? 0;
      if (below >= this.#part * this.#total) break;
    }
    this.#ms = LEAST_MS * 2 ** (column / COLUMNS_PER_DOUBLING);
    if (this.#total < FADE_AT) return;
    for (let at = 0; at < COLUMNS; at += 1) this.#counts[at] = (this.#counts[at] ?? 0) / 2;
    this.#total /= 2;
  }
}
