import type { Timers } from '../env/env.js';
import type { BucketState } from '../bucket/state.js';

/**
 * Writes checkpoints of buckets' sessions: one bucket after the other, one piece a turn of the event loop, and no more before
 * the disk has what was given to it. However many there are, no turn is long and the overlay keeps its room for commands.
 */
const BYTES_PER_FLUSH = 1024 * 1024;

export class Checkpoints {
  readonly #timers: Timers;
  readonly #onBug: (error: unknown) => void;
  readonly #waiting = new Set<BucketState>();
  #running: Promise<void> | undefined;

  constructor(timers: Timers, onBug: (error: unknown) => void) {
    this.#timers = timers;
    this.#onBug = onBug;
  }

  /** Asks for a checkpoint of a bucket; once is enough until it has begun. */
  request(state: BucketState): void {
    this.#waiting.add(state);
    this.#running ??= this.#run()
      .catch(this.#onBug)
      .then(() => {
        this.#running = undefined;
      });
  }

  /** Resolves when all that was asked for has been given to the store. */
  async settled(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  async #run(): Promise<void> {
    let bytes = 0;
    for (const state of this.#waiting) {
      this.#waiting.delete(state);
      const checkpoint = state.beginCheckpoint();
      if (checkpoint === undefined) continue;
      for (let length = checkpoint.step(); length !== undefined; length = checkpoint.step()) {
        bytes += length;
        if (bytes >= BYTES_PER_FLUSH) {
          bytes = 0;
          await state.store.flush();
        } else {
          await new Promise<void>((resolve) => {
            this.#timers.turnEnd(resolve);
          });
        }
      }
    }
  }
}
