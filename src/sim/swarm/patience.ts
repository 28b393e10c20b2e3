import { TidemarkError } from '../../lib/errors.js';
import type { SimLoop } from '../loop.js';

const GONE_MS = 1000;

/** A node that is killed never answers; its client gives up some time after the deadline. */
export function answered<T>(loop: SimLoop, timeoutMs: number, reply: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const patience = loop.timers.after(timeoutMs + GONE_MS, () => {
      reject(new TidemarkError('UNAVAILABLE', 'GONE', 'no answer long after the deadline', { outcome: 'unknown' }));
    });
    reply.then(resolve, reject).finally(() => patience.cancel());
  });
}
