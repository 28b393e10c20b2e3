import { TidemarkError } from '../lib/errors.js';
import { HEDGING_BOUNDS, type HedgingOptions } from '../router/hedging.js';
import { NEAR_CACHE_BOUNDS, type NearCacheOptions } from '../router/near-cache.js';

export interface RouterChoices {
  readonly endpoints: readonly string[];
  readonly timeoutMs?: number | undefined;
  readonly nearCache?: NearCacheOptions | undefined;
  readonly hedging?: HedgingOptions | undefined;
}

/** Bounds are those of a sidecar's configuration: JavaScript callers have no types, and a NaN would be felt only later. */
export function checkOptions({ endpoints, timeoutMs, nearCache, hedging }: RouterChoices): void {
  if (endpoints.length === 0) {
    throw new TidemarkError('INVALID_ARGUMENT', 'NO_ENDPOINTS', 'endpoints is empty; expected host:port of a node or sidecar');
  }
  check('timeoutMs', timeoutMs, 'milliseconds, 0 or more', (ms) => ms >= 0);
  if (nearCache !== undefined) {
    const { keysMax, bytesMax, readsPerSecondMin } = NEAR_CACHE_BOUNDS;
    check('nearCache.keysMax', nearCache.keysMax, ...whole(...keysMax), true);
    check('nearCache.bytesMax', nearCache.bytesMax, ...whole(...bytesMax));
    check('nearCache.readsPerSecondMin', nearCache.readsPerSecondMin, ...whole(...readsPerSecondMin));
  }
  const [least, most] = HEDGING_BOUNDS.share;
  check('hedging.share', hedging?.share, `a number from ${least} to ${most}`, (share) => share >= least && share <= most);
  check('hedging.afterMsMin', hedging?.afterMsMin, ...whole(...HEDGING_BOUNDS.afterMsMin));
}

/** What is expected, in words, and whether a number is that. */
function whole(min: number, max: number): [string, (value: number) => boolean] {
  return [`a whole number from ${min} to ${max}`, (value) => Number.isInteger(value) && value >= min && value <= max];
}

function check(name: string, value: unknown, expected: string, holds: (value: number) => boolean, isNeeded = false): void {
  if (value === undefined && !isNeeded) return;
  if (typeof value !== 'number' || !holds(value)) throw invalidOption(name, value, expected);
}

export function invalidOption(field: string, value: unknown, expected: string): TidemarkError {
  const message = `${field} is ${String(value)}; expected ${expected}`;
  return new TidemarkError('INVALID_ARGUMENT', 'OPTION_MALFORMED', message, { details: { field } });
}
