import type { Limits } from '../env/limits.js';
import { printable, toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { checkTimestamp } from '../mvcc/timestamp.js';
import type { Condition, Consistency, KeyRange, Mutation, RequestId } from './requests.js';
import { RESERVED_PREFIX } from '../placement/map.js';

/**
 * What every request must fulfil before anything is proposed or read: the one place for it. The router checks what its callers
 * hand in; the serving end of a pipeline checks again what arrives, since anybody can write frames. Each message names the
 * field, what was found and what is allowed; all are INVALID_ARGUMENT.
 */
export function checkKey(key: Bytes, limits: Limits, field = 'key'): void {
  if (key.length === 0) throw invalid('EMPTY_KEY', `${field} is empty; a key has at least one byte`, { field });
  if (key.length > limits.keyBytesMax) {
    const message = `${field} '${printable(key)}' has ${key.length} bytes; at most ${limits.keyBytesMax} are allowed`;
    throw invalid('KEY_TOO_LARGE', message, { field, limit: String(limits.keyBytesMax) });
  }
  if (key[0] === RESERVED_PREFIX) {
    throw invalid('RESERVED_KEY', `${field} is '${printable(key)}'; keys that begin with '!' belong to Tidemark`, { field });
  }
}

export function checkValue(value: Bytes, limits: Limits, field = 'value'): void {
  if (value.length <= limits.valueBytesMax) return;
  throw invalid('VALUE_TOO_LARGE', `${field} has ${value.length} bytes; at most ${limits.valueBytesMax} are allowed`, {
    field,
    limit: String(limits.valueBytesMax),
  });
}

export interface WriteParts {
  readonly conditions: readonly Condition[];
  readonly mutations: readonly Mutation[];
}

/** Returns the bytes of all keys and values. */
export function checkWrite({ conditions, mutations }: WriteParts, limits: Limits): number {
  const count = conditions.length + mutations.length;
  if (count === 0) throw invalid('EMPTY_WRITE', 'a write needs at least one condition or mutation');
  if (count > limits.writeMutationsMax) {
    const message = `a write has ${count} conditions and mutations; at most ${limits.writeMutationsMax} are allowed`;
    throw invalid('WRITE_TOO_LARGE', message, { limit: String(limits.writeMutationsMax) });
  }
  let bytes = 0;
  for (const [index, condition] of conditions.entries()) bytes += checkCondition(condition, limits, `conditions[${index}]`);
  const ranges = conditions.filter(({ kind }) => kind === 'unchanged').length;
  if (ranges > limits.writeRangesMax) {
    const message = `a write has conditions on ${ranges} ranges; at most ${limits.writeRangesMax} are allowed`;
    throw invalid('WRITE_TOO_LARGE', message, { limit: String(limits.writeRangesMax) });
  }
  for (const [index, mutation] of mutations.entries()) {
    checkKey(mutation.key, limits, `mutations[${index}].key`);
    bytes += mutation.key.length;
    if (mutation.kind === 'put') {
      checkValue(mutation.value, limits, `mutations[${index}].value`);
      bytes += mutation.value.length;
    }
  }
  if (mutations.length > 1) checkDistinct(mutations);
  if (bytes > limits.writeBytesMax) {
    const message = `the keys and values of a write have ${bytes} bytes; at most ${limits.writeBytesMax} are allowed`;
    throw invalid('WRITE_TOO_LARGE', message, { limit: String(limits.writeBytesMax) });
  }
  return bytes;
}

/** Returns its bytes. */
function checkCondition(condition: Condition, limits: Limits, field: string): number {
  if (condition.kind === 'unchanged') {
    const { range, since } = condition;
    checkRange(range, limits, `${field}.unchanged.`);
    checkTimestamp(since, `${field}.unchanged.since`);
    return range.start.length + range.end.length;
  }
  checkKey(condition.key, limits, `${field}.key`);
  if (condition.kind === 'version') checkTimestamp(condition.version, `${field}.version`);
  if (condition.kind !== 'value') return condition.key.length;
  checkValue(condition.value, limits, `${field}.value`);
  return condition.key.length + condition.value.length;
}

function checkDistinct(mutations: readonly Mutation[]): void {
  const seen = new Set<string>();
  for (const [index, { key }] of mutations.entries()) {
    const name = toMapKey(key);
    if (seen.has(name)) {
      const message = `mutations[${index}].key '${printable(key)}' is mutated twice in one write`;
      throw invalid('DUPLICATE_KEY', message, { field: `mutations[${index}].key` });
    }
    seen.add(name);
  }
}

/** Bounds are not keys: they may be empty, and `!` is a place in the order like any other. */
export function checkRange(range: KeyRange, limits: Limits, prefix = ''): void {
  for (const [name, bound] of [['start', range.start], ['end', range.end]] as const) {
    // One byte more than a key, so that the successor of the longest key is a bound.
    if (bound.length > limits.keyBytesMax + 1) {
      const field = prefix + name;
      const message = `${field} has ${bound.length} bytes; at most ${limits.keyBytesMax + 1} are allowed`;
      throw invalid('KEY_TOO_LARGE', message, { field, limit: String(limits.keyBytesMax + 1) });
    }
  }
  if (range.end.length > 0 && range.start.compare(range.end) > 0) {
    const where = prefix === '' ? 'the range' : `${prefix.slice(0, -1)}`;
    const message = `${where} is inverted: start '${printable(range.start)}' is above end '${printable(range.end)}'`;
    throw invalid('RANGE_INVERTED', message, { field: `${prefix}end` });
  }
}

export function checkConsistency(consistency: Consistency): void {
  if (consistency.kind === 'asOf') checkTimestamp(consistency.timestamp, 'as_of');
  if (consistency.kind !== 'bounded') return;
  if (!Number.isSafeInteger(consistency.maxStalenessMs) || consistency.maxStalenessMs < 1) {
    const message = `max_staleness_ms is ${consistency.maxStalenessMs}; expected a whole number of at least 1`;
    throw invalid('STALENESS_MALFORMED', message, { field: 'max_staleness_ms' });
  }
}

export function checkRequestId(id: RequestId): void {
  for (const field of ['session', 'born', 'sequence', 'lowest'] as const) {
    const value = id[field];
    if (Number.isSafeInteger(value) && value >= 1) continue;
    const hint = value === 0 ? ' (0 is what a field has that was left out)' : '';
    const message = `id.${field} is ${value}${hint}; expected a whole number of at least 1 and below 2^53`;
    throw invalid('REQUEST_ID_MALFORMED', message, { field: `id.${field}` });
  }
  if (id.lowest <= id.sequence) return;
  const message = `id.lowest is ${id.lowest}, above id.sequence ${id.sequence}, whose answer is still waited for`;
  throw invalid('REQUEST_ID_MALFORMED', message, { field: 'id.lowest' });
}

export function invalid(reason: string, message: string, details: Readonly<Record<string, string>> = {}): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', reason, message, { details });
}
