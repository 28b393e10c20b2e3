import type { TidemarkError } from '../../lib/errors.js';
import { hasWildClocks, type SwarmPlan } from './plan.js';

/** CLOSED is said by a gateway whose node was told to stop: over a network it would be a connection that ends. */
const EXCUSED = new Set(['UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'REQUEST_FORGOTTEN', 'CLOSED', 'TRANSACTION_CONFLICT']);
const WILD_EXCUSE = 'CLOCK_TOO_FAR_AHEAD';

/** What clients may be told when nothing is wrong but what the faults broke. Anything else is a bug. */
export function isExcused(plan: SwarmPlan, { code, reason }: Pick<TidemarkError, 'code' | 'reason'>): boolean {
  return EXCUSED.has(code) || EXCUSED.has(reason) || (reason === WILD_EXCUSE && hasWildClocks(plan));
}
