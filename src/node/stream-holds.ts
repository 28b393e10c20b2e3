import type { Clock } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { mutant } from '../lib/mutants.js';
import { earlier, type HybridClock, type Timestamp } from '../mvcc/timestamp.js';
import type { Hold, Holds } from './holds.js';

/**
 * What change streams still need, whose readers are in clients, in sidecars, in this node. Each stream says with every request
 * from when on it needs history, under a number of its own, and now and then if it asks for nothing (router/change-stream.ts).
 * The horizon stays below that within its budget (holds.ts), from then on until KEPT_MS after the last word of the stream: so
 * long a consumer that has lost its connection, or its process, has to go on at its cursor.
 *
 * A stream that is close behind the present needs nothing that could go, and is not remembered.
 */
export interface StreamHoldsOptions {
  readonly clock: Clock;
  readonly hybrid: HybridClock;
  readonly holds: Holds;
  readonly limits: Pick<Limits, 'retentionMs' | 'streamHoldsMax'>;
}

const KEPT_MS = 30_000;
/** History that is younger is never collected (retention.ts), however little room there is, unless less is to be kept. */
const CLOSE_MS = 30_000;

/** Whether what is read from there on needs no hold, for no horizon comes near it soon. */
export function isClose(timestamp: Timestamp, now: Timestamp, { retentionMs }: Pick<Limits, 'retentionMs'>): boolean {
  return timestamp >= earlier(now, Math.min(CLOSE_MS, retentionMs / 2));
}

export class StreamHolds {
  readonly #options: StreamHoldsOptions;
  /** Who said something last is at the end. */
  readonly #held = new Map<number, { readonly hold: Hold; readonly untilMs: number }>();

  constructor(options: StreamHoldsOptions) {
    this.#options = options;
  }

  /** The stream needs all that is above `timestamp`, and will not go back behind it. */
  needs(stream: number, timestamp: Timestamp): void {
    const { clock, hybrid, holds, limits } = this.#options;
    if (mutant('stream-holds-nothing')) return;
    const known = this.#held.get(stream);
    this.#held.delete(stream);
    if (isClose(timestamp, hybrid.physicalNow(), limits) || (known === undefined && this.#held.size >= limits.streamHoldsMax)) {
      known?.hold.release();
      return;
    }
    known?.hold.advance(timestamp);
    this.#held.set(stream, { hold: known?.hold ?? holds.hold(timestamp), untilMs: clock.monotonicMs() + KEPT_MS });
  }

  /** Once a second. */
  tick(): void {
    const nowMs = this.#options.clock.monotonicMs();
    for (const [stream, { hold, untilMs }] of this.#held) {
      if (untilMs > nowMs) return;
      hold.release();
      this.#held.delete(stream);
    }
  }
}
