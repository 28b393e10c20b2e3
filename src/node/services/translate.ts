import { EMPTY } from '../../lib/bytes.js';
import { TidemarkError } from '../../lib/errors.js';
import { prefixEnd } from '../../lib/ordered.js';
import { ANY_STALENESS_MS } from '../../bucket/requests.js';
import { checkTimestamp, parseTimestamp } from '../../mvcc/timestamp.js';
import type { Condition, Consistency, KeyRange, Mutation, RequestId, Served, Timestamp } from '../../bucket/requests.js';
import { invalid } from '../../bucket/validate.js';
import type * as wire from './messages.js';

/** Between the messages of the public API and the words of bucket/requests.ts. */

const NAMES: Readonly<Record<Consistency['kind'], wire.ConsistencyName>> = {
  linearizable: 'CONSISTENCY_LINEARIZABLE',
  bounded: 'CONSISTENCY_BOUNDED',
  local: 'CONSISTENCY_LOCAL',
  asOf: 'CONSISTENCY_AS_OF',
};

export function headerOf({ node, timestamp, consistency, hops }: Served): wire.ReplyHeader {
  return { node, timestamp, consistency: NAMES[consistency], hops };
}

/** Spans before now are counted from `now`. */
export function consistencyOf(read: wire.ReadOptions | null, now: () => Timestamp): Consistency {
  if (read === null) return { kind: 'linearizable' };
  const { maxStalenessMs, asOf, atLeast } = read;
  const isSession = atLeast !== 0 && read.consistency === 'CONSISTENCY_UNSPECIFIED' && asOf === null;
  const consistency = isSession ? 'CONSISTENCY_BOUNDED' : read.consistency;
  const bounded = consistency === 'CONSISTENCY_BOUNDED';
  const inPast = consistency === 'CONSISTENCY_AS_OF' || (consistency === 'CONSISTENCY_UNSPECIFIED' && asOf !== null);
  if (maxStalenessMs !== 0 && !bounded) {
    throw invalid('READ_OPTIONS_CONFLICT', 'read.max_staleness_ms is set; it goes with CONSISTENCY_BOUNDED only', {
      field: 'read.max_staleness_ms',
    });
  }
  if (asOf !== null && !inPast) {
    throw invalid('READ_OPTIONS_CONFLICT', 'read.as_of is set; it goes with CONSISTENCY_AS_OF only', { field: 'read.as_of' });
  }
  switch (consistency) {
    case 'CONSISTENCY_BOUNDED':
      return { kind: 'bounded', maxStalenessMs: atLeast !== 0 && maxStalenessMs === 0 ? ANY_STALENESS_MS : maxStalenessMs };
    case 'CONSISTENCY_LOCAL':
      return { kind: 'local' };
    case 'CONSISTENCY_LINEARIZABLE':
      return { kind: 'linearizable' };
    case 'CONSISTENCY_UNSPECIFIED':
    case 'CONSISTENCY_AS_OF':
      return inPast ? { kind: 'asOf', timestamp: momentOf(asOf, now, 'read.as_of') } : { kind: 'linearizable' };
    default:
      throw invalid('CONSISTENCY_UNKNOWN', `read.consistency is ${consistency}, which is none of the known values`, {
        field: 'read.consistency',
      });
  }
}

export function momentOf(moment: wire.Moment | null, now: () => Timestamp, field: string): Timestamp {
  switch (moment?.moment) {
    case 'timestamp':
      return checkTimestamp(moment.timestamp ?? 0, `${field}.timestamp`);
    case 'text':
      return parseTimestamp(moment.text ?? '', now(), `${field}.text`);
    default:
      throw invalid('TIMESTAMP_MISSING', `${field} needs a timestamp or a text`, { field });
  }
}

export function optionalMoment(moment: wire.Moment | null, now: () => Timestamp, field: string): Timestamp | undefined {
  return moment === null ? undefined : momentOf(moment, now, field);
}

export function idOf(id: wire.RequestId | null): RequestId | undefined {
  return id ?? undefined;
}

export function conditionOf(condition: wire.Condition, index: number): Condition {
  const { key } = condition;
  switch (condition.test) {
    case 'exists':
      return { kind: condition.exists === true ? 'exists' : 'absent', key };
    case 'version':
      return { kind: 'version', key, version: condition.version ?? 0 };
    case 'value':
      return { kind: 'value', key, value: condition.value ?? EMPTY };
    case 'unchanged':
      return unchangedOf(condition, `conditions[${index}]`);
    default: {
      const field = `conditions[${index}]`;
      throw invalid('CONDITION_MISSING', `${field} tests nothing: set one of exists, version, value, unchanged`, { field });
    }
  }
}

function unchangedOf({ key, unchanged }: wire.Condition, field: string): Condition {
  if (key.length > 0) {
    const message = `${field} has a key beside unchanged, which is about a range; one key is a range of its own`;
    throw invalid('CONDITION_CONFLICT', message, { field: `${field}.key` });
  }
  const { start = EMPTY, end = EMPTY, prefix = EMPTY, since = 0 } = unchanged ?? {};
  return { kind: 'unchanged', range: rangeOf({ start, end, prefix }, `${field}.unchanged.`), since };
}

export function mutationOf(mutation: wire.Mutation, index: number): Mutation {
  switch (mutation.mutation) {
    case 'put':
      return { kind: 'put', key: mutation.put?.key ?? EMPTY, value: mutation.put?.value ?? EMPTY };
    case 'delete':
      return { kind: 'delete', key: mutation.delete?.key ?? EMPTY };
    default: {
      const field = `mutations[${index}]`;
      throw invalid('MUTATION_MISSING', `${field} is empty: set one of put, delete`, { field });
    }
  }
}

export function rangeOf({ start, end, prefix }: Pick<wire.ScanRequest, 'start' | 'end' | 'prefix'>, path = ''): KeyRange {
  if (prefix.length === 0) return { start, end };
  if (start.length === 0 && end.length === 0) return { start: prefix, end: prefixEnd(prefix) };
  const field = `${path}prefix`;
  throw invalid('RANGE_CONFLICT', `${field} is set beside start or end; a range is given by one or the other`, { field });
}

/** A count on the wire; 0 stands for no limit. */
export function limitOf(limit: number): number {
  if (Number.isSafeInteger(limit)) return limit;
  throw invalid('LIMIT_MALFORMED', `limit is ${limit}; expected a number below 2^53`, { field: 'limit' });
}

/** Cuts a page into replies of about `bytesMax`, at least one item each; a page without items is one empty reply. */
export function* chunks<T>(items: readonly T[], sizeOf: (item: T) => number, bytesMax: number): Generator<readonly T[]> {
  let start = 0;
  let bytes = 0;
  for (const [index, item] of items.entries()) {
    const size = sizeOf(item);
    if (index > start && bytes + size > bytesMax) {
      yield items.slice(start, index);
      start = index;
      bytes = 0;
    }
    bytes += size;
  }
  yield start === 0 ? items : items.slice(start);
}

export function outOfPlacement(bucket: number, buckets: number): TidemarkError {
  const message = `bucket ${bucket} does not exist; this cluster has the buckets 0 to ${buckets - 1}`;
  return new TidemarkError('INVALID_ARGUMENT', 'UNKNOWN_BUCKET', message, { details: { field: 'bucket' } });
}
