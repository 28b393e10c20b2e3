import type { Timer, Timers } from '../time.js';

/** setTimeout takes a delay of at most 31 bits and fires at once beyond it. */
const DELAY_MS_MAX = 2 ** 31 - 1;
/** Longer delays get a millisecond more: nearly all of them would fire early else, and wake the process twice. */
const EXACT_DELAY_MS_MAX = 20;

/**
 * Timers of Node's event loop, made exact: Node counts a delay from the moment at which the loop last looked at its clock, so
 * after a long turn a timer fires early. Then the rest is waited for.
 */
export function systemTimers(): Timers {
  return {
    after: (delayMs, callback) => new SystemTimer(performance.now() + delayMs, callback),
    turnEnd: (callback) => {
      setImmediate(callback);
    },
  };
}

class SystemTimer implements Timer {
  readonly #dueMs: number;
  readonly #callback: () => void;
  #handle: NodeJS.Timeout | undefined;

  constructor(dueMs: number, callback: () => void) {
    this.#dueMs = dueMs;
    this.#callback = callback;
    this.#arm(performance.now());
  }

  cancel(): void {
    clearTimeout(this.#handle);
    this.#handle = undefined;
  }

  #arm(nowMs: number): void {
    const restMs = Math.max(0, Math.ceil(this.#dueMs - nowMs));
    const delayMs = Math.min(restMs > EXACT_DELAY_MS_MAX ? restMs + 1 : restMs, DELAY_MS_MAX);
    this.#handle = setTimeout(() => this.#fire(), delayMs);
  }

  #fire(): void {
    const nowMs = performance.now();
    if (nowMs < this.#dueMs) {
      this.#arm(nowMs);
      return;
    }
    this.#handle = undefined;
    this.#callback();
  }
}
