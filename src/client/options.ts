import { TidemarkError } from '../lib/errors.js';
import type { HedgingOptions } from '../router/hedging.js';
import type { NearCacheOptions } from '../router/near-cache.js';

export interface RouterChoices {
  readonly endpoints: readonly string[];
  readonly timeoutMs?: number | undefined;
  readonly nearCache?: NearCacheOptions | undefined;
  readonly hedging?: HedgingOptions | undefined;
}

/** The same bounds as in the configuration of a sidecar: JavaScript callers have no types, and a NaN would be felt only later. */
export function checkOptions({ endpoints, timeoutMs, nearCache, hedging }: RouterChoices): void {
  if (endpoints.length === 0) {
    throw new TidemarkError('INVALID_ARGUMENT', 'NO_ENDPOINTS', 'endpoints is empty; expected host:port of a node or sidecar');
  }
  check('timeoutMs', timeoutMs, 'milliseconds, 0 or more', (ms) => ms >= 0);
  if (nearCache !== undefined) {
    check('nearCache.keysMax', nearCache.keysMax, 'a whole number from 1 to 256', whole(1, 256), true);
    check('nearCache.bytesMax', nearCache.bytesMax, 'a whole number from 1024', whole(1024, 2 ** 40));
    check('nearCache.readsPerSecondMin', nearCache.readsPerSecondMin, 'a whole number from 1 to 1000000', whole(1, 1_000_000));
  }
  check('hedging.share', hedging?.share, 'a number from 0 to 1', (share) => share >= 0 && share <= 1);
  check('hedging.afterMsMin', hedging?.afterMsMin, 'a whole number from 0 to 60000', whole(0, 60_000));
}

function whole(min: number, max: number): (value: number) => boolean {
  return (value) => Number.isInteger(value) && value >= min && value <= max;
}

function check(name: string, value: unknown, expected: string, holds: (value: number) => boolean, isNeeded = false): void {
  if (value === undefined && !isNeeded) return;
  if (typeof value !== 'number' || !holds(value)) throw invalidOption(name, value, expected);
}

export function invalidOption(field: string, value: unknown, expected: string): TidemarkError {
  const message = `${field} is ${String(value)}; expected ${expected}`;
  return new TidemarkError('INVALID_ARGUMENT', 'OPTION_MALFORMED', message, { details: { field } });
}
