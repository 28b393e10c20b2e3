import type { Clock } from '../env/env.js';
import { cancelledError, type CancelSignal } from '../lib/cancel.js';
import { TidemarkError } from '../lib/errors.js';
import type { Alarms } from './alarms.js';

/**
 * The bytes of answers to Queries that a process keeps: read or received, and not yet taken by whoever asked. One budget for all
 * of them, so that neither many large scans at a time nor readers that do not read can take more memory.
 *
 * What is read in pages reserves room for the largest page first, and waits for it in turn: back-pressure. Once the page is there
 * only its size counts, until its reader has taken it. Single answers are counted when they have come, and refused if there is
 * no room: of the budget reservations, which are mostly larger than what comes, leave a part to them. While somebody has to wait,
 * the reader that has left its answer lying for longest, and for SLOW_MS at least, is cut off.
 */
export class AnswerBudget {
  readonly #clock: Clock;
  readonly #alarms: Alarms;
  readonly #bytesMax: number;
  readonly #reservableMax: number;
  readonly #holds = new Set<Hold>();
  readonly #waiting = new Set<Waiter>();
  #bytes = 0;
  #looking = false;

  constructor(clock: Clock, alarms: Alarms, bytesMax: number) {
    this.#clock = clock;
    this.#alarms = alarms;
    this.#bytesMax = bytesMax;
    this.#reservableMax = Math.ceil(bytesMax * RESERVABLE_PART);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Waits for room in turn. Rejects with RESOURCE_EXHAUSTED / ANSWERS_UNREAD at `deadlineMs`, with CANCELLED for the signal. */
  async reserve(bytes: number, deadlineMs: number, signal?: CancelSignal): Promise<Hold> {
    const wanted = Math.min(bytes, this.#reservableMax);
    if (this.#waiting.size === 0 && this.#fits(wanted, this.#reservableMax)) this.#bytes += wanted;
    else await this.#wait(wanted, deadlineMs, signal);
    return this.#hold(wanted);
  }

  /** For an answer that is there. Throws RESOURCE_EXHAUSTED / ANSWERS_UNREAD if there is no room for it. */
  take(bytes: number): Hold {
    if (!this.#fits(bytes, this.#bytesMax)) {
      this.#cutSlowest();
      throw this.#full();
    }
    this.#bytes += bytes;
    return this.#hold(bytes);
  }

  /** An empty budget takes anything. */
  #fits(bytes: number, most: number): boolean {
    return this.#bytes === 0 || this.#bytes + bytes <= most;
  }

  /** The room is counted already. */
  #hold(bytes: number): Hold {
    const hold = new Hold(bytes, this.#clock, (delta) => {
      this.#bytes += delta;
      if (hold.released) this.#holds.delete(hold);
      if (delta < 0) this.#admit();
    });
    this.#holds.add(hold);
    return hold;
  }

  #wait(bytes: number, deadlineMs: number, signal: CancelSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (settle: () => void): void => {
        alarm.cancel();
        signal?.removeEventListener('abort', aborted);
        this.#waiting.delete(waiter);
        settle();
      };
      const aborted = (): void => {
        end(() => reject(cancelledError()));
        this.#admit();
      };
      const waiter: Waiter = { bytes, admit: () => end(resolve) };
      const alarm = this.#alarms.at(deadlineMs, () => {
        end(() => reject(this.#full()));
        this.#admit();
      });
      this.#waiting.add(waiter);
      signal?.addEventListener('abort', aborted);
      if (signal?.aborted === true) aborted();
      this.#lookForSlow();
    });
  }

  /** In turn, so that large ones are not passed by small ones for ever. The room is taken in this turn, before others look. */
  #admit(): void {
    for (const waiter of this.#waiting) {
      if (!this.#fits(waiter.bytes, this.#reservableMax)) return;
      this.#bytes += waiter.bytes;
      waiter.admit();
    }
  }

  #lookForSlow(): void {
    if (this.#looking || this.#waiting.size === 0) return;
    this.#looking = true;
    this.#cutSlowest();
    this.#alarms.at(this.#clock.monotonicMs() + LOOK_MS, () => {
      this.#looking = false;
      this.#lookForSlow();
    });
  }

  #cutSlowest(): void {
    let slowest: Hold | undefined;
    for (const hold of this.#holds) if (hold.parkedMs < (slowest?.parkedMs ?? Infinity)) slowest = hold;
    if (slowest === undefined || this.#clock.monotonicMs() - slowest.parkedMs < SLOW_MS) return;
    slowest.cut();
  }

  #full(): TidemarkError {
    const message =
      `${this.#bytes} bytes of answers to queries are expected here or wait to be read, at most ${this.#bytesMax} are kept; ` +
      'ask for less at a time, read faster, or try again later';
    return new TidemarkError('RESOURCE_EXHAUSTED', 'ANSWERS_UNREAD', message, { retriable: true });
  }
}

/** Reservations fill the budget up to this part of it. */
const RESERVABLE_PART = 4 / 5;
const SLOW_MS = 20_000;
const LOOK_MS = 500;

interface Waiter {
  readonly bytes: number;
  readonly admit: () => void;
}

/** Room in the budget. */
export class Hold {
  readonly #clock: Clock;
  readonly #changed: (delta: number) => void;
  #bytes: number;
  #released = false;
  #cut: (() => void) | undefined;
  #parkedMs = Infinity;

  constructor(bytes: number, clock: Clock, changed: (delta: number) => void) {
    this.#bytes = bytes;
    this.#clock = clock;
    this.#changed = changed;
  }

  get released(): boolean {
    return this.#released;
  }

  /** Since when it waits for a reader who can be cut off; Infinity if it does not. */
  get parkedMs(): number {
    return this.#parkedMs;
  }

  resize(bytes: number): void {
    const delta = bytes - this.#bytes;
    this.#bytes = bytes;
    if (!this.#released) this.#changed(delta);
  }

  /** The answer is ready and waits for its reader; `cut` ends the call of one that is too slow. */
  park(cut: (() => void) | undefined): void {
    this.#cut = cut;
    if (cut !== undefined) this.#parkedMs = this.#clock.monotonicMs();
  }

  /** Called once; the room is free when that has led to `release`. */
  cut(): void {
    const cut = this.#cut;
    this.#cut = undefined;
    this.#parkedMs = Infinity;
    cut?.();
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#parkedMs = Infinity;
    this.#changed(-this.#bytes);
  }
}
