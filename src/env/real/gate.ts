/**
 * A fair gate between one writer and many short readers of a store.
 *
 * Why: LevelDB 1.20 may return stale values if a key is overwritten or deleted while a snapshot is open (google/leveldb#320:
 * a compaction under the snapshot keeps two versions of the key, puts them into two files of one level, and a later
 * compaction moves the newer one below the older). Every iterator holds a snapshot. So:
 *
 * - While an exclusive job runs, nothing else runs.
 * - Shared jobs run together, up to `sharedMax`.
 * - Exclusive jobs run one at a time, in the order of their calls.
 * - Neither side starves. Phases alternate while both wait: one exclusive job, then the shared jobs that wait by then (up to
 *   `sharedMax`), then the next exclusive job. A shared job that arrives while an exclusive one waits does not join the
 *   running phase.
 *
 * Example: with A exclusive and running, arrivals s1 s2 B s3 run as A, (s1 s2 s3), B.
 */
export class Gate {
  readonly #sharedMax: number;
  readonly #exclusiveQueue: Queue = new Queue();
  readonly #sharedQueue: Queue = new Queue();
  #exclusiveRuns = false;
  #sharedRunning = 0;
  #lastPhase: 'exclusive' | 'shared' = 'shared';
  #idleWaiters: (() => void)[] = [];

  constructor(sharedMax: number) {
    this.#sharedMax = sharedMax;
  }

  exclusive<T>(job: () => Promise<T>): Promise<T> {
    return this.#enter(this.#exclusiveQueue, job, () => {
      this.#exclusiveRuns = false;
    });
  }

  shared<T>(job: () => Promise<T>): Promise<T> {
    return this.#enter(this.#sharedQueue, job, () => {
      this.#sharedRunning -= 1;
    });
  }

  /** Fulfilled at the first moment at which nothing runs and nothing waits. */
  idle(): Promise<void> {
    if (this.#isIdle()) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  #isIdle(): boolean {
    return !this.#exclusiveRuns && this.#sharedRunning === 0 && this.#exclusiveQueue.empty && this.#sharedQueue.empty;
  }

  #enter<T>(queue: Queue, job: () => Promise<T>, leave: () => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      queue.push(() => {
        const done = (): void => {
          leave();
          this.#advance();
        };
        // The next phase starts before the caller continues: the disk should not wait for the caller's turn.
        job().then(
          (value) => {
            done();
            resolve(value);
          },
          (error: unknown) => {
            done();
            reject(error instanceof Error ? error : new Error(String(error)));
          },
        );
      });
      this.#advance();
    });
  }

  #advance(): void {
    if (this.#exclusiveRuns) return;
    if (this.#sharedRunning > 0) {
      if (this.#exclusiveQueue.empty) this.#startShared();
      return;
    }
    if (!this.#exclusiveQueue.empty && (this.#lastPhase === 'shared' || this.#sharedQueue.empty)) {
      this.#lastPhase = 'exclusive';
      this.#exclusiveRuns = true;
      this.#exclusiveQueue.shift()?.();
      return;
    }
    this.#startShared();
    if (this.#idleWaiters.length > 0 && this.#isIdle()) {
      const waiters = this.#idleWaiters;
      this.#idleWaiters = [];
      for (const resolve of waiters) resolve();
    }
  }

  #startShared(): void {
    while (this.#sharedRunning < this.#sharedMax) {
      const start = this.#sharedQueue.shift();
      if (start === undefined) return;
      this.#lastPhase = 'shared';
      this.#sharedRunning += 1;
      start();
    }
  }
}

/** So many slots of removed items are kept before the rest is moved to the front. */
const REMOVED_MIN = 64;

/**
 * First in, first out, without moving the rest on every removal: it moves when half of the slots are of removed items. Not only
 * when it is empty, for beside a writer and many readers it may never be, and a removed job would keep its page alive.
 */
export class Queue {
  readonly #items: ((() => void) | undefined)[] = [];
  #head = 0;

  get empty(): boolean {
    return this.#head === this.#items.length;
  }

  /** How many it holds in memory: those that wait, and the slots of some that were removed. */
  get slots(): number {
    return this.#items.length;
  }

  push(item: () => void): void {
    this.#items.push(item);
  }

  shift(): (() => void) | undefined {
    const item = this.#items[this.#head];
    if (item === undefined) return undefined;
    this.#items[this.#head] = undefined;
    this.#head += 1;
    if (this.empty || (this.#head >= REMOVED_MIN && 2 * this.#head >= this.#items.length)) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }
}
