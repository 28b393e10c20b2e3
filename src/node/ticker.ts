import type { Clock, Timer, Timers } from '../env/env.js';

/**
 * When a node looks at its clock: often while something is under way, and where nothing is, only when something falls due. A
 * process at rest costs what it costs to wake it, and most of what a tick would look at is then as it was.
 *
 * Invariant: from `wake` on, and as long as the work says `busy`, no two ticks are further apart than `busyMs`.
 */
export interface TickerOptions {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly busyMs: number;
  readonly restMs: number;
  /** Says when it next has something to do by the clock, in monotonic ms; `busy` if it has to look again soon in any case. */
  readonly work: () => number | 'busy';
}

export class Ticker {
  readonly #options: TickerOptions;
  #timer: Timer | undefined;
  #rests = false;

  constructor(options: TickerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#arm(this.#options.busyMs);
  }

  /** Something has happened that a tick may have to look after. */
  wake(): void {
    if (!this.#rests) return;
    this.#timer?.cancel();
    this.#arm(this.#options.busyMs);
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#rests = false;
  }

  #arm(delayMs: number): void {
    this.#rests = delayMs > this.#options.busyMs;
    this.#timer = this.#options.timers.after(delayMs, () => this.#tick());
  }

  #tick(): void {
    const { clock, busyMs, restMs, work } = this.#options;
    // What the work itself sets off wakes nothing: it is taken into account below.
    this.#rests = false;
    const armed = this.#timer;
    const due = work();
    if (this.#timer !== armed) return;
    const delayMs = due === 'busy' ? busyMs : due - clock.monotonicMs();
    this.#arm(Math.min(Math.max(delayMs, busyMs), restMs));
  }
}
