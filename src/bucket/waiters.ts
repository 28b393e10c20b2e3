import type { TidemarkError } from '../lib/errors.js';

/** What waits for something to become true of a replica; it is asked again whenever something has changed there. */
interface Waiter {
  readonly deadlineMs: number;
  /** True: done. May throw to reject. */
  readonly ready: () => boolean;
  readonly expired: () => TidemarkError;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Waiters {
  readonly #waits: () => void;
  #waiters: Waiter[] = [];

  /** `waits` is told of each: somebody has to look at the clock for it. */
  constructor(waits: () => void) {
    this.#waits = waits;
  }

  until(deadlineMs: number, ready: () => boolean, expired: () => TidemarkError): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { deadlineMs, ready, expired, resolve, reject };
      if (settle(waiter)) return;
      this.#waiters.push(waiter);
      this.#waits();
    });
  }

  get isEmpty(): boolean {
    return this.#waiters.length === 0;
  }

  /** Wakes those that have waited long enough for what is true now. */
  advance(): void {
    if (this.#waiters.length === 0) return;
    this.#waiters = this.#waiters.filter((waiter) => !settle(waiter));
  }

  /** Ends those whose time is up. */
  expire(now: number): void {
    if (this.#waiters.length === 0) return;
    this.advance();
    this.#waiters = this.#waiters.filter((waiter) => {
      if (waiter.deadlineMs > now) return true;
      waiter.reject(waiter.expired());
      return false;
    });
  }

  /** Ends all. */
  close(why: () => TidemarkError): void {
    for (const { reject } of this.#waiters) reject(why());
    this.#waiters = [];
  }
}

function settle(waiter: Waiter): boolean {
  try {
    if (!waiter.ready()) return false;
    waiter.resolve();
  } catch (error) {
    waiter.reject(error);
  }
  return true;
}
