import type { Clock, Timer, Timers } from '../env/env.js';

/**
 * Deadlines, nearly all of which are cancelled: an operation takes a millisecond and may take seconds. So setting and
 * cancelling touch only a set, and one timer stands for all of them. Alarms ring up to GRAIN_MS late, never early.
 */
const GRAIN_MS = 10;

export interface Alarm {
  cancel(): void;
}

export class Alarms {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #pending = new Set<PendingAlarm>();
  #timer: Timer | undefined;
  /** When the timer fires; nothing is due before it. */
  #timerAtMs = Infinity;
  #closed = false;

  constructor(clock: Clock, timers: Timers) {
    this.#clock = clock;
    this.#timers = timers;
  }

  /** Calls `ring` once at `atMs` on the monotonic clock, unless it is cancelled. An infinite time never comes. */
  at(atMs: number, ring: () => void): Alarm {
    const alarm = new PendingAlarm(this.#pending, atMs, ring);
    if (atMs === Infinity || this.#closed) return alarm;
    this.#pending.add(alarm);
    if (atMs < this.#timerAtMs) this.#arm(atMs);
    return alarm;
  }

  /** Rings all that are pending, so that nobody waits for what will not come; later ones never ring. */
  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    for (const alarm of this.#pending) {
      if (this.#pending.delete(alarm)) alarm.ring();
    }
  }

  #arm(atMs: number): void {
    this.#timer?.cancel();
    const delayMs = Math.max(0, atMs - this.#clock.monotonicMs());
    this.#timerAtMs = atMs;
    this.#timer = this.#timers.after(delayMs, () => this.#sweep());
  }

  #sweep(): void {
    this.#timer = undefined;
    this.#timerAtMs = Infinity;
    const now = this.#clock.monotonicMs();
    const due: PendingAlarm[] = [];
    let nextAtMs = Infinity;
    for (const alarm of this.#pending) {
      if (alarm.atMs <= now) due.push(alarm);
      else if (alarm.atMs < nextAtMs) nextAtMs = alarm.atMs;
    }
    if (nextAtMs < Infinity) this.#arm(Math.max(nextAtMs, now + GRAIN_MS));
    for (const alarm of due) {
      if (this.#pending.delete(alarm)) alarm.ring();
    }
  }
}

class PendingAlarm implements Alarm {
  readonly atMs: number;
  readonly ring: () => void;
  readonly #all: Set<PendingAlarm>;

  constructor(all: Set<PendingAlarm>, atMs: number, ring: () => void) {
    this.#all = all;
    this.atMs = atMs;
    this.ring = ring;
  }

  cancel(): void {
    this.#all.delete(this);
  }
}
