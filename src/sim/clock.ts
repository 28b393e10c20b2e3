import { assert } from '../lib/assert.js';
import type { Clock } from '../env/env.js';

export interface SimClockOptions {
  /** What the clocks show at the present virtual time. */
  readonly wallMs?: number;
  readonly monotonicMs?: number;
  /** Milliseconds that the clocks advance per true millisecond. */
  readonly rate?: number;
}

/** 2026-01-01 UTC: after the epoch of Tidemark's timestamps. */
export const WALL_START_MS = Date.UTC(2026, 0, 1);

/**
 * The two clocks of one simulated machine. They belong to the machine, not to a process on it: a skew survives restarts.
 * Both run at a rate of their own; the wall clock may also jump.
 */
export class SimClock implements Clock {
  readonly #trueMs: () => number;
  #wall: Line;
  #monotonic: Line;

  constructor(trueMs: () => number, options: SimClockOptions = {}) {
    this.#trueMs = trueMs;
    const sinceMs = trueMs();
    const rate = options.rate ?? 1;
    this.#wall = { sinceMs, startMs: options.wallMs ?? WALL_START_MS + sinceMs, rate };
    this.#monotonic = { sinceMs, startMs: options.monotonicMs ?? sinceMs, rate };
  }

  wallMs(): number {
    return at(this.#wall, this.#trueMs());
  }

  monotonicMs(): number {
    return at(this.#monotonic, this.#trueMs());
  }

  /** From now on both clocks gain or lose, as a bad crystal makes them. 1.0001 is 100 ppm fast. */
  setRate(rate: number): void {
    this.setWallRate(rate);
    this.setMonotonicRate(rate);
  }

  /** As time synchronisation slews it. */
  setWallRate(rate: number): void {
    this.#wall = bend(this.#wall, this.#trueMs(), rate);
  }

  setMonotonicRate(rate: number): void {
    assert(rate > 0, 'a monotonic clock goes forward');
    this.#monotonic = bend(this.#monotonic, this.#trueMs(), rate);
  }

  /** Steps the wall clock, forward or back: an operator, a leap, or a machine that slept (its monotonic clock stood). */
  jumpWall(byMs: number): void {
    const nowMs = this.#trueMs();
    this.#wall = { sinceMs: nowMs, startMs: at(this.#wall, nowMs) + byMs, rate: this.#wall.rate };
  }

  /** The machine slept for the last `ms`: its monotonic clock did not count them, its wall clock did. */
  slept(ms: number): void {
    const nowMs = this.#trueMs();
    const { rate } = this.#monotonic;
    this.#monotonic = { sinceMs: nowMs, startMs: at(this.#monotonic, nowMs) - ms * rate, rate };
  }

  /** True milliseconds until the monotonic clock shows `monotonicMs`, if its rate stays. */
  trueMsUntil(monotonicMs: number): number {
    return (monotonicMs - this.monotonicMs()) / this.#monotonic.rate;
  }
}

interface Line {
  readonly sinceMs: number;
  readonly startMs: number;
  readonly rate: number;
}

function at(line: Line, trueMs: number): number {
  return line.startMs + (trueMs - line.sinceMs) * line.rate;
}

function bend(line: Line, trueMs: number, rate: number): Line {
  return { sinceMs: trueMs, startMs: at(line, trueMs), rate };
}
