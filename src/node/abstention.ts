import type { Clock } from '../env/env.js';
import type { ClockCeiling } from './ceiling.js';

/**
 * For a while after its start a node votes for nobody and leads nothing: it has forgotten which leaders it heard and when, so an
 * election timeout must pass, and which floors it promised, so its wall clock must pass the ceiling of those. A clock that was
 * behind, and is set right, ends that at once.
 */
export class Abstention {
  readonly #clock: Clock;
  readonly #ceiling: Pick<ClockCeiling, 'waitMs'>;
  /** Monotonic ms; -Infinity when it is over. */
  #untilMs = -Infinity;

  constructor(clock: Clock, ceiling: Pick<ClockCeiling, 'waitMs'>) {
    this.#clock = clock;
    this.#ceiling = ceiling;
  }

  begin(electionTimeoutMs: number): void {
    this.#untilMs = this.#clock.monotonicMs() + electionTimeoutMs;
  }

  get isOver(): boolean {
    if (this.#untilMs === -Infinity) return true;
    if (this.#clock.monotonicMs() < this.#untilMs || this.#ceiling.waitMs() > 0) return false;
    this.#untilMs = -Infinity;
    return true;
  }
}
