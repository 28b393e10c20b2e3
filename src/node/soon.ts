import type { Timer, Timers } from '../env/env.js';

/** Work that is due a while after it was asked for, once, however often it is asked for meanwhile. */
export class Soon {
  readonly #timers: Timers;
  readonly #delayMs: () => number;
  readonly #work: () => void;
  readonly #onBug: (error: unknown) => void;
  #timer: Timer | undefined;
  #closed = false;

  constructor(timers: Timers, delayMs: () => number, work: () => void, onBug: (error: unknown) => void) {
    this.#timers = timers;
    this.#delayMs = delayMs;
    this.#work = work;
    this.#onBug = onBug;
  }

  ask(): void {
    if (this.#timer !== undefined || this.#closed) return;
    this.#timer = this.#timers.after(this.#delayMs(), () => {
      this.#timer = undefined;
      try {
        this.#work();
      } catch (error) {
        this.#onBug(error);
      }
    });
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }
}
