import type { SimLoop } from '../loop.js';
import type { SimRandom } from '../random.js';

export interface WavesOptions {
  readonly loop: SimLoop;
  readonly random: SimRandom;
  /** How long clients are at work at a time. */
  readonly waveMs: number;
  /** Mean time for which they then rest; 0: they never do. */
  readonly restMs: number;
}

/**
 * When the clients of a run are at work: all of them for a moment, and then none for a while. Requests prove most where they meet
 * each other and what breaks; a steady stream as dense as that costs as much in the long time in which little happens.
 */
export class Waves {
  readonly #options: WavesOptions;
  #endMs: number;
  #next: Promise<void> | undefined;
  #begin: (() => void) | undefined;

  constructor(options: WavesOptions) {
    this.#options = options;
    this.#endMs = options.restMs === 0 ? Infinity : options.loop.nowMs + options.waveMs;
  }

  /** Fulfilled while clients are at work, at once or when they are again. */
  atWork(): Promise<void> {
    const { loop, random, restMs } = this.#options;
    if (loop.nowMs < this.#endMs) return Promise.resolve();
    this.#next ??= new Promise<void>((begin) => {
      this.#begin = begin;
      loop.timers.after(restMs * 2 * random.float(), () => this.#rise());
    });
    return this.#next;
  }

  /** Nobody rests any more. */
  stop(): void {
    this.#rise();
    this.#endMs = Infinity;
  }

  #rise(): void {
    this.#endMs = this.#options.loop.nowMs + this.#options.waveMs;
    this.#begin?.();
    this.#next = undefined;
    this.#begin = undefined;
  }
}
