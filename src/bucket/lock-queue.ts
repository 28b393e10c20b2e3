import { TidemarkError } from '../lib/errors.js';
import { transactionKey, type TransactionId, type TransactionKey } from '../txn/transaction.js';
import type { Holder } from '../txn/locks.js';

/**
 * Commands of one leader that wait for locks. Each waits behind one transaction that is in its way; when that one lets its locks
 * go, the command is tried again, the ones that have waited longest first, before anything that comes later.
 */
export class Blocked {
  readonly by: Holder;

  constructor(by: Holder) {
    this.by = by;
  }
}

/** Tries a command: the promise of its result, or what it has to wait for. Throws to refuse it. */
export type Step<T> = () => Promise<T> | Blocked;

interface Waiter {
  readonly deadlineMs: number;
  /** Tries again; what it has to wait for, if it still must. */
  readonly retry: () => Blocked | undefined;
  readonly reject: (error: unknown) => void;
}

export class LockQueue {
  readonly #max: number;
  readonly #waiting = new Map<TransactionKey, Waiter[]>();
  #count = 0;
  /** Transactions that have let their locks go since the last `wake`. */
  #released: TransactionKey[] = [];

  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#count;
  }

  /** Does the step now, or as soon as nothing is in its way. */
  run<T>(deadlineMs: number, step: Step<T>): Promise<T> {
    let first: Promise<T> | Blocked;
    try {
      first = step();
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
    if (!(first instanceof Blocked)) return first;
    const { by } = first;
    if (this.#count >= this.#max) {
      const message = `${this.#count} commands wait for the locks of transactions here; try again later`;
      return Promise.reject(new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', message, { retriable: true }));
    }
    return new Promise<T>((resolve, reject) => {
      const retry = (): Blocked | undefined => {
        try {
          const next = step();
          if (next instanceof Blocked) return next;
          resolve(next);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
        return undefined;
      };
      this.#add(by, { deadlineMs, retry, reject });
    });
  }

  #add(by: Holder, waiter: Waiter): void {
    const key = transactionKey(by.id);
    const waiters = this.#waiting.get(key);
    if (waiters === undefined) this.#waiting.set(key, [waiter]);
    else waiters.push(waiter);
    this.#count += 1;
  }

  released(id: TransactionId): void {
    const key = transactionKey(id);
    if (this.#waiting.has(key)) this.#released.push(key);
  }

  /** Tries again what waited for those that were released. */
  wake(): void {
    if (this.#released.length === 0) return;
    const keys = this.#released;
    this.#released = [];
    for (const key of keys) {
      const waiters = this.#waiting.get(key) ?? [];
      this.#waiting.delete(key);
      this.#count -= waiters.length;
      for (const waiter of waiters) {
        const blocked = waiter.retry();
        if (blocked !== undefined) this.#add(blocked.by, waiter);
      }
    }
  }

  /** Ends those whose time is up. */
  expire(now: number): void {
    if (this.#count === 0) return;
    for (const [key, waiters] of this.#waiting) {
      const left = waiters.filter(({ deadlineMs }) => deadlineMs > now);
      if (left.length === waiters.length) continue;
      this.#count -= waiters.length - left.length;
      if (left.length === 0) this.#waiting.delete(key);
      else this.#waiting.set(key, left);
      const message = 'a key or range stayed locked by a transaction until the deadline';
      const error = new TidemarkError('UNAVAILABLE', 'LOCKED', message, { retriable: true });
      for (const waiter of waiters) if (waiter.deadlineMs <= now) waiter.reject(error);
    }
  }

  /** Ends all: nothing of them was done. */
  abandon(error: () => TidemarkError): void {
    const all = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    this.#released = [];
    this.#count = 0;
    for (const { reject } of all) reject(error());
  }
}
