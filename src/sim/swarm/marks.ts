import type { Timestamp } from '../../bucket/requests.js';

/** Something that proves to whoever comes later that time has passed `timestamp`. */
export interface Mark {
  readonly ret: number;
  readonly retMs: number;
  readonly timestamp: Timestamp;
  readonly what: string;
}

/** Marks, asked for the highest one that was there before a moment. */
export class Marks {
  readonly #marks: Mark[] = [];
  #highest: Mark[] | undefined;

  add(mark: Mark): void {
    if (mark.ret === Infinity) return;
    this.#marks.push(mark);
    this.#highest = undefined;
  }

  before(order: number): Mark | undefined {
    return this.#find((mark) => mark.ret < order);
  }

  beforeMs(timeMs: number): Mark | undefined {
    return this.#find((mark) => mark.retMs < timeMs);
  }

  /** `order` and time grow together, so one running maximum serves both. */
  #find(isBefore: (mark: Mark) => boolean): Mark | undefined {
    if (this.#highest === undefined) {
      this.#marks.sort((a, b) => a.ret - b.ret);
      let highest: Mark | undefined;
      this.#highest = this.#marks.map((mark) => {
        if (highest === undefined || mark.timestamp > highest.timestamp) highest = mark;
        return highest;
      });
    }
    let low = 0;
    let high = this.#marks.length;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const mark = this.#marks[middle];
      if (mark !== undefined && isBefore(mark)) low = middle + 1;
      else high = middle;
    }
    return this.#highest[low - 1];
  }
}
