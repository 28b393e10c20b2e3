import { assert } from '../lib/assert.js';
import type { Timer, Timers } from '../env/env.js';
import type { SimClock } from './clock.js';

/** The part of the loop that processes use. */
export interface Scheduler {
  /** After this much true time. */
  schedule(delayMs: number, run: () => void): Timer;
  turnEnd(run: () => void): void;
}

/** Rounding of fractional milliseconds, which must not make a timer wait again for nothing. */
const SLACK_MS = 1e-6;

/**
 * One life of one simulated process, seen from its event loop: what it does happens in callbacks that pass through `enter`.
 *
 * - Killed: none of its callbacks runs any more, nor anything that waits for them. A new life is a new SimProcess.
 * - Paused (as by SIGSTOP): its callbacks are held back and run at the moment of `resume`, in the order in which they were
 *   due. Its clocks go on.
 */
export class SimProcess {
  readonly name: string;
  readonly clock: SimClock;
  readonly timers: Timers;
  readonly #loop: Scheduler;
  #alive = true;
  #paused = false;
  #held: (() => void)[] = [];

  constructor(loop: Scheduler, name: string, clock: SimClock) {
    this.#loop = loop;
    this.name = name;
    this.clock = clock;
    this.timers = new ProcessTimers(loop, this);
  }

  get alive(): boolean {
    return this.#alive;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** Runs code of this process: now, after `resume`, or never. */
  enter(callback: () => void): void {
    if (!this.#alive) return;
    if (this.#paused) {
      this.#held.push(callback);
      return;
    }
    callback();
  }

  kill(): void {
    this.#alive = false;
    this.#held = [];
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    const held = this.#held;
    this.#held = [];
    // Each in an event of its own, so that promises settle in between; a second pause holds the rest back again.
    for (const callback of held) this.#loop.schedule(0, () => this.enter(callback));
  }
}

class ProcessTimers implements Timers {
  readonly #loop: Scheduler;
  readonly #process: SimProcess;

  constructor(loop: Scheduler, process: SimProcess) {
    this.#loop = loop;
    this.#process = process;
  }

  after(delayMs: number, callback: () => void): Timer {
    return new ProcessTimer(this.#loop, this.#process, delayMs, callback);
  }

  turnEnd(callback: () => void): void {
    this.#loop.turnEnd(() => this.#process.enter(callback));
  }
}

/** Counts on the monotonic clock of its process, whose rate may change while it waits. */
class ProcessTimer implements Timer {
  readonly #loop: Scheduler;
  readonly #process: SimProcess;
  readonly #dueMs: number;
  /** What the loop calls, each time that it may be due. */
  readonly #due: () => void;
  #pending: Timer | undefined;
  #cancelled = false;

  constructor(loop: Scheduler, process: SimProcess, delayMs: number, callback: () => void) {
    assert(!Number.isNaN(delayMs), 'a delay is a number');
    this.#loop = loop;
    this.#process = process;
    this.#dueMs = process.clock.monotonicMs() + Math.max(0, delayMs);
    const fire = (): void => {
      // It may have been cancelled while its process was paused.
      if (this.#cancelled) return;
      if (this.#dueMs - process.clock.monotonicMs() > SLACK_MS) this.#arm();
      else callback();
    };
    this.#due = () => process.enter(fire);
    this.#arm();
  }

  cancel(): void {
    this.#cancelled = true;
    this.#pending?.cancel();
  }

  #arm(): void {
    const delayMs = Math.max(0, this.#process.clock.trueMsUntil(this.#dueMs));
    this.#pending = this.#loop.schedule(delayMs, this.#due);
  }
}
