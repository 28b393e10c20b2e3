import type { Timers } from '../env/env.js';
import type { CancelSignal } from '../lib/cancel.js';

/** Resolves after so long, or as soon as the signal is aborted; leaves nobody listening there. */
export function pause(timers: Timers, ms: number, signal: CancelSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      timer.cancel();
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = timers.after(ms, done);
    signal?.addEventListener('abort', done);
  });
}
