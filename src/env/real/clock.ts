import type { Clock } from '../time.js';

/**
 * The clocks of the operating system. Date follows every correction of the wall clock, as it must: a wall clock derived from
 * the monotonic one would stand still while the machine sleeps. The logical part of a timestamp orders what falls into one
 * millisecond.
 */
export function systemClock(): Clock {
  return {
    wallMs: () => Date.now(),
    monotonicMs: () => performance.now(),
  };
}
