import type { Limits } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { printable, type Bytes } from '../lib/bytes.js';
import type { Change, Condition, Mutation, Record, ReserveRequest } from '../bucket/requests.js';
import {
  checkConsistency,
  checkKey,
  checkRange,
  checkRequestId,
  checkWrite,
  invalid,
  type WriteParts,
} from '../bucket/validate.js';
import { checkTimestamp, type Timestamp } from '../mvcc/timestamp.js';
import { bucketOf, type BucketId } from '../placement/map.js';
import { bucketsOfRange } from '../placement/range.js';
import type { Operation, PinAction } from './operations.js';

const MARK_WAIT_MS_MAX = 10_000;

/** Everything that bucket/validate.ts asks of an operation that came over the wire, and that its keys belong to its buckets. */
export function checkOperation(operation: Operation, limits: Limits, buckets: number): void {
  switch (operation.kind) {
    case 'write': {
      const { id, conditions, mutations } = operation.request;
      checkWrite(operation.request, limits);
      const home = homeOfWrite({ conditions, mutations }, buckets);
      if (home !== operation.bucket) {
        throw invalid('WRONG_BUCKET', `the home of the write is bucket ${home} of ${buckets}, not ${operation.bucket}`);
      }
      checkRequestId(id);
      return;
    }
    case 'prepare': {
      const { conditions, mutations } = operation.request;
      const parts = { conditions: conditions.map(({ condition }) => condition), mutations };
      checkWrite(parts, limits);
      for (const condition of parts.conditions) checkConditionBucket(condition, operation.bucket, buckets);
      for (const { key } of mutations) checkBucket(key, operation.bucket, buckets);
      checkBuckets([operation.request.home], buckets);
      return;
    }
    case 'reserve':
      checkReserve(operation.request, operation.bucket, limits, buckets);
      return;
    case 'resolve':
    case 'outcomes':
      checkBuckets([operation.bucket], buckets);
      return;
    case 'get':
      checkKey(operation.key, limits);
      checkBucket(operation.key, operation.bucket, buckets);
      checkConsistency(operation.consistency);
      return;
    case 'history':
      checkKey(operation.key, limits);
      checkBucket(operation.key, operation.bucket, buckets);
      checkConsistency(operation.consistency);
      checkPageLimit(operation.limit);
      return;
    case 'scan':
      checkRange(operation.range, limits);
      checkConsistency(operation.consistency);
      checkBuckets(operation.buckets, buckets);
      checkPageLimit(operation.limit);
      return;
    case 'diff':
      checkRange(operation.range, limits);
      checkMoments(operation.from, operation.to);
      checkBuckets(operation.buckets, buckets);
      checkPageLimit(operation.limit);
      return;
    case 'pins':
      checkPinAction(operation.action);
      checkBuckets(operation.buckets, buckets);
      return;
    case 'readTimestamp':
      checkBuckets(operation.buckets, buckets);
      return;
    case 'changes':
      checkRange(operation.range, limits);
      checkBuckets(operation.buckets, buckets);
      checkPageLimit(operation.limit);
      checkTimestamp(operation.after.timestamp, 'after');
      checkTimestamp(operation.needs.above, 'needs');
      return;
    case 'awaitMark':
      checkBuckets(operation.buckets, buckets);
      checkTimestamp(operation.above, 'above');
      checkTimestamp(operation.needs.above, 'needs');
      if (operation.waitMs > MARK_WAIT_MS_MAX) {
        throw invalid('WAIT_TOO_LONG', `waitMs is ${operation.waitMs}; at most ${MARK_WAIT_MS_MAX} are allowed`);
      }
  }
}

function checkReserve({ owner, claim, forMs }: ReserveRequest, bucket: BucketId, limits: Limits, buckets: number): void {
  checkBuckets([bucket], buckets);
  checkTimestamp(owner.first, 'first');
  const { writes, reads, ranges } = claim;
  const keys = [...writes, ...reads];
  if (keys.length > limits.writeMutationsMax || ranges.length > limits.writeRangesMax) {
    const message = `${keys.length} keys and ${ranges.length} ranges are more than a write may have`;
    throw invalid('WRITE_TOO_LARGE', message, { limit: String(limits.writeMutationsMax) });
  }
  for (const key of keys) {
    checkKey(key, limits);
    checkBucket(key, bucket, buckets);
  }
  for (const range of ranges) checkRange(range, limits);
  if (forMs > limits.reservationMsMax) {
    throw invalid('WAIT_TOO_LONG', `forMs is ${forMs}; at most ${limits.reservationMsMax} are allowed`, { field: 'forMs' });
  }
}

/** Of a diff. */
export function checkMoments(from: Timestamp, to: Timestamp): void {
  checkTimestamp(from, 'from');
  checkTimestamp(to, 'to');
  if (from <= to) return;
  throw invalid('RANGE_INVERTED', `the range is inverted: from ${from} is above to ${to}`, { field: 'from' });
}

const PIN_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export function checkPinAction(action: PinAction): void {
  if (action.kind === 'list') return;
  if (!PIN_NAME.test(action.name)) {
    const message = `name is '${action.name.slice(0, 80)}'; expected 1 to 64 letters, digits, dots, hyphens and underscores`;
    throw invalid('PIN_NAME_MALFORMED', message, { field: 'name' });
  }
  if (action.kind !== 'add') return;
  checkTimestamp(action.timestamp, 'timestamp');
  checkTimestamp(action.expires, 'expires');
}

function checkPageLimit(limit: number): void {
  if (limit < 1) throw invalid('LIMIT_MALFORMED', `limit is ${limit}; expected at least 1`, { field: 'limit' });
}

function checkBucket(key: Bytes, bucket: BucketId, buckets: number): void {
  const own = bucketOf(key, buckets);
  if (own === bucket) return;
  throw invalid('WRONG_BUCKET', `key '${printable(key)}' belongs to bucket ${own} of ${buckets}, not to ${bucket}`);
}

function checkConditionBucket(condition: Condition, bucket: BucketId, buckets: number): void {
  if (condition.kind !== 'unchanged') return checkBucket(condition.key, bucket, buckets);
  const { start, end } = condition.range;
  if (bucketsOfRange(start, end, buckets).includes(bucket)) return;
  throw invalid('WRONG_BUCKET', `the range from '${printable(start)}' to '${printable(end)}' has no keys in bucket ${bucket}`);
}

function checkBuckets(list: readonly BucketId[], buckets: number): void {
  if (list.length === 0) throw invalid('NO_BUCKETS', 'the request names no bucket');
  let last = -1;
  for (const bucket of list) {
    if (bucket <= last || bucket >= buckets) {
      throw invalid('WRONG_BUCKET', `bucket ${bucket} is out of order, repeated, or not below ${buckets}`);
    }
    last = bucket;
  }
}

/** The bucket of the first mutation, else of the first condition: it holds the result of the request. */
export function homeOfWrite({ conditions, mutations }: WriteParts, buckets: number): BucketId {
  const [mutation] = mutations;
  if (mutation !== undefined) return bucketOf(mutation.key, buckets);
  const [condition] = conditions;
  assert(condition !== undefined, 'a checked write has keys or ranges');
  return bucketsOfCondition(condition, buckets)[0] ?? 0;
}

/** The buckets of all that it changes or checks. */
export function bucketsOfWrite({ conditions, mutations }: WriteParts, buckets: number): Set<BucketId> {
  const touched = new Set(mutations.map(({ key }) => bucketOf(key, buckets)));
  for (const condition of conditions) {
    // A single range can be in all of them.
    if (touched.size === buckets) break;
    for (const bucket of bucketsOfCondition(condition, buckets)) touched.add(bucket);
  }
  return touched;
}

/** A range is looked at, and locked, wherever it may have keys. */
export function bucketsOfCondition(condition: Condition, buckets: number): BucketId[] {
  if (condition.kind !== 'unchanged') return [bucketOf(condition.key, buckets)];
  return bucketsOfRange(condition.range.start, condition.range.end, buckets);
}

/** The bytes that a write keeps in memory. */
export function bytesOfWrite(mutations: readonly Mutation[]): number {
  let bytes = 0;
  for (const mutation of mutations) bytes += mutation.key.length + (mutation.kind === 'put' ? mutation.value.length : 0);
  return bytes;
}

export function bytesOfRecord({ key, value }: Record): number {
  return key.length + value.length;
}

export function bytesOfChange({ key, before, after }: Change): number {
  return key.length + (before?.value.length ?? 0) + (after?.value.length ?? 0);
}

/** How many items a caller wants in all: 0 or nothing stands for as many as there are. */
export function checkLimit(limit = 0): number {
  if (Number.isSafeInteger(limit) && limit >= 0) return limit === 0 ? Number.MAX_SAFE_INTEGER : limit;
  throw invalid('LIMIT_MALFORMED', `limit is ${limit}; expected a whole number of 0 or more`, { field: 'limit' });
}
