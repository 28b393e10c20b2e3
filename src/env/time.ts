export interface Clock {
  /** Milliseconds since 1970 UTC, with a fraction. May jump in both directions; never measure a duration with it. */
  wallMs(): number;
  /** Milliseconds since some moment of this process, with a fraction. Never goes back. */
  monotonicMs(): number;
}

export interface Timer {
  cancel(): void;
}

export interface Timers {
  /** Runs `callback` once, not before `delayMs` from now. A pending timer keeps the process alive. */
  after(delayMs: number, callback: () => void): Timer;
  /** Runs `callback` when the input that has arrived in this turn of the event loop has been handled. */
  turnEnd(callback: () => void): void;
}

export interface Random {
  /** A uniform integer in [0, 2^32). */
  uint32(): number;
  /** A uniform number in [0, 1). */
  float(): number;
}

/** An identity by chance: 53 random bits. Never 0, which reads as "none". */
export function randomIdentity(random: Random): number {
  return Math.max(1, random.uint32() * 2 ** 21 + Math.floor(random.uint32() / 2 ** 11));
}

/** Fulfilled when a timer of so many milliseconds goes off; nothing ends it earlier. */
export function sleep(timers: Timers, ms: number): Promise<void> {
  return new Promise((resolve) => {
    timers.after(ms, resolve);
  });
}
