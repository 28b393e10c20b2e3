import type { Timer, Timers } from '../env/env.js';

/** Runs `work` every `ms` milliseconds, counted from the end of the run before, until it is cancelled. */
export function every(timers: Timers, ms: number, work: () => void): Timer {
  let cancelled = false;
  let timer: Timer;
  const next = (): void => {
    timer = timers.after(ms, () => {
      work();
      if (!cancelled) next();
    });
  };
  next();
  return {
    cancel: () => {
      cancelled = true;
      timer.cancel();
    },
  };
}
