import { setTimeout as sleep } from 'node:timers/promises';
import type { Histogram } from 'hdr-histogram-js';
import type { Bytes } from '../../lib/bytes.js';

/**
 * How far a change stream is behind the writes that it tells: for each, the time from its acknowledgement, from which on anybody
 * may know of it, to its change, both seen in this process. A change that comes before its acknowledgement is not behind at all.
 *
 * Values begin with a number that no other put has, so that changes are recognised.
 */
export interface Following {
  /** Resolves when the stream has ended. */
  stop(): Promise<void>;
}

/** Values are at least as long as their number. */
export const NUMBER_BYTES = 6;

export class LagMeter {
  readonly #histogram: Histogram;
  readonly #measured: (acknowledgedMs: number) => boolean;
  readonly #run: number;
  #puts = 0;
  /** When each was acknowledged that was not told yet, and those that were told before they were acknowledged. */
  readonly #waiting = new Map<number, number>();
  readonly #early = new Set<number>();

  /** `run` tells the puts of this run from those of others whose changes may still come; at most 16 bits of it count. */
  constructor(histogram: Histogram, run: number, measured: (acknowledgedMs: number) => boolean) {
    this.#histogram = histogram;
    this.#run = run % 65_536;
    this.#measured = measured;
  }

  /** The value of the next put; `acknowledged` is to be called when it is, and `failed` if nobody knows what became of it. */
  next(filling: Bytes): { readonly value: Bytes; acknowledged(): void; failed(): void } {
    const number = this.#puts;
    this.#puts += 1;
    const value = Buffer.alloc(Math.max(NUMBER_BYTES, filling.length));
    filling.copy(value);
    value.writeUInt16BE(this.#run, 0);
    value.writeUInt32BE(number, 2);
    return {
      value,
      acknowledged: () => {
        if (this.#early.delete(number)) this.#note(performance.now(), 0);
        else this.#waiting.set(number, performance.now());
      },
      failed: () => void this.#early.delete(number),
    };
  }

  told(value: Bytes): void {
    if (value.length < NUMBER_BYTES || value.readUInt16BE(0) !== this.#run) return;
    const number = value.readUInt32BE(2);
    const acknowledgedMs = this.#waiting.get(number);
    if (acknowledgedMs === undefined) {
      this.#early.add(number);
      return;
    }
    this.#waiting.delete(number);
    this.#note(acknowledgedMs, performance.now() - acknowledgedMs);
  }

  #note(acknowledgedMs: number, lagMs: number): void {
    if (this.#measured(acknowledgedMs)) this.#histogram.recordValue(Math.max(1, Math.round(lagMs * 1000)));
  }

  /** Waits until all was told, but not for ever; answers how many acknowledged puts were not. Who stops early asks for none. */
  async untold(patienceMs: number, signal: AbortSignal): Promise<number> {
    const untilMs = performance.now() + patienceMs;
    while (this.#waiting.size > 0 && performance.now() < untilMs && !signal.aborted) await sleep(10);
    return signal.aborted ? 0 : this.#waiting.size;
  }
}
