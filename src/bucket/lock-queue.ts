import { TidemarkError } from '../lib/errors.js';

/**
 * Commands of one leader that wait for locks. Each waits behind one transaction, or one reservation, that is in its way; when
 * that lets go, the command is tried again, the ones that have waited longest first, before anything that comes later.
 */
export class Blocked {
  /** The name of what it waits for. */
  readonly by: string;

  constructor(by: string) {
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
  readonly #waiting = new Map<string, Waiter[]>();
  #count = 0;
  /** What has let go since the last `wake`. */
  #released: string[] = [];

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

  #add(by: string, waiter: Waiter): void {
    const waiters = this.#waiting.get(by);
    if (waiters === undefined) this.#waiting.set(by, [waiter]);
    else waiters.push(waiter);
    this.#count += 1;
  }

  released(name: string): void {
    if (this.#waiting.has(name)) this.#released.push(name);
  }

  /** Tries again what waited for those that were released. */
  wake(): void {
    if (this.#released.length === 0) return;
    const names = this.#released;
    this.#released = [];
    for (const name of names) {
      const waiters = this.#waiting.get(name) ?? [];
      this.#waiting.delete(name);
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
    for (const [name, waiters] of this.#waiting) {
      const left = waiters.filter(({ deadlineMs }) => deadlineMs > now);
      if (left.length === waiters.length) continue;
      this.#count -= waiters.length - left.length;
      if (left.length === 0) this.#waiting.delete(name);
      else this.#waiting.set(name, left);
      const message = 'a key or range stayed locked by a transaction until the deadline';
      const error = new TidemarkError('ABORTED', 'TRANSACTION_CONFLICT', message, { retriable: true });
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
