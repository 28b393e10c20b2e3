import { BinaryReader, type BinaryWriter } from '../lib/binary.js';
import type { Bytes } from '../lib/bytes.js';
import type { Condition, Consistency, Mutation, Timestamp } from '../bucket/requests.js';
import type { BucketId } from '../placement/map.js';
import type { Claim } from '../txn/locks.js';
import type { Owner } from '../txn/reservations.js';
import type { TransactionId } from '../txn/transaction.js';
import type { Operation, OperationKind, PinAction, StreamNeeds } from './operations.js';
import { CONSISTENCIES, decodePosition, encodePosition, ITEM, OPERATIONS, pick } from './wire.js';

/** Frames to a server (see wire.ts). */
export interface Request {
  readonly number: number;
  readonly epoch: number;
  readonly remainingMs: number;
  readonly hops: number;
  readonly seen: Timestamp;
  readonly operation: Operation;
}

export type Call = { readonly kind: 'request'; readonly request: Request } | { readonly kind: 'cancel'; readonly number: number };

const CONDITIONS: readonly Condition['kind'][] = ['exists', 'absent', 'version', 'value', 'unchanged'];

const PIN_ACTIONS: readonly PinAction['kind'][] = ['list', 'add', 'remove', 'takeBack'];

/** Longest time a caller may say that it waits: a day. */
const REMAINING_MS_MAX = 86_400_000;

export function encodeRequest(out: BinaryWriter, request: Request): void {
  const { operation } = request;
  out.byte(OPERATIONS.indexOf(operation.kind));
  out.uint(request.number);
  out.uint(request.epoch);
  out.uint(Math.min(Math.max(0, Math.ceil(request.remainingMs)), REMAINING_MS_MAX));
  out.uint(request.hops);
  out.uint(request.seen);
  switch (operation.kind) {
    case 'write': {
      const { id, conditions, mutations, owner } = operation.request;
      out.uint(operation.bucket);
      out.uint(id.session);
      out.uint(id.born);
      out.uint(id.sequence);
      out.uint(id.lowest);
      out.uint(conditions.length);
      for (const condition of conditions) encodeCondition(out, condition);
      out.uint(mutations.length);
      for (const mutation of mutations) encodeMutation(out, mutation);
      encodeOwner(out, owner);
      return;
    }
    case 'get':
      out.uint(operation.bucket);
      out.bytes(operation.key);
      out.byte(operation.anyReplica ? 1 : 0);
      encodeConsistency(out, operation.consistency);
      return;
    case 'history':
      out.uint(operation.bucket);
      out.bytes(operation.key);
      out.uint(operation.from);
      out.uint(operation.to);
      out.uint(operation.limit);
      encodeConsistency(out, operation.consistency);
      return;
    case 'scan':
      encodeBuckets(out, operation.buckets);
      out.bytes(operation.range.start);
      out.bytes(operation.range.end);
      out.byte((operation.reverse ? 1 : 0) + (operation.keysOnly ? 2 : 0));
      out.uint(operation.limit);
      encodeConsistency(out, operation.consistency);
      return;
    case 'diff':
      encodeBuckets(out, operation.buckets);
      out.bytes(operation.range.start);
      out.bytes(operation.range.end);
      out.uint(operation.from);
      out.uint(operation.to);
      out.uint(operation.limit);
      return;
    case 'pins':
      encodeBuckets(out, operation.buckets);
      encodePinAction(out, operation.action);
      return;
    case 'readTimestamp':
      encodeBuckets(out, operation.buckets);
      return;
    case 'prepare': {
      const { id, home, start, first, reservation, conditions, mutations } = operation.request;
      out.uint(operation.bucket);
      encodeTransactionId(out, id);
      out.uint(home);
      out.uint(start);
      out.uint(first);
      out.uint(reservation);
      out.uint(conditions.length);
      for (const { position, condition } of conditions) {
        out.uint(position);
        encodeCondition(out, condition);
      }
      out.uint(mutations.length);
      for (const mutation of mutations) encodeMutation(out, mutation);
      return;
    }
    case 'resolve': {
      const { id, start, commit } = operation.request;
      out.uint(operation.bucket);
      encodeTransactionId(out, id);
      out.uint(start);
      out.uint(commit);
      return;
    }
    case 'outcomes':
      out.uint(operation.bucket);
      out.uint(operation.ids.length);
      for (const id of operation.ids) encodeTransactionId(out, id);
      out.uint(operation.asOf);
      return;
    case 'changes':
      encodeBuckets(out, operation.buckets);
      out.bytes(operation.range.start);
      out.bytes(operation.range.end);
      encodePosition(out, operation.after);
      out.byte(operation.before ? 1 : 0);
      out.uint(operation.limit);
      encodeNeeds(out, operation.needs);
      return;
    case 'awaitMark':
      encodeBuckets(out, operation.buckets);
      out.uint(operation.above);
      out.uint(Math.ceil(operation.waitMs));
      encodeNeeds(out, operation.needs);
      return;
    case 'reserve': {
      const { owner, claim, forMs } = operation.request;
      out.uint(operation.bucket);
      encodeOwner(out, owner);
      out.uint(Math.ceil(forMs));
      encodeClaim(out, claim);
    }
  }
}

/** First 0: there is none. */
function encodeOwner(out: BinaryWriter, owner: Owner | undefined): void {
  out.uint(owner?.first ?? 0);
  if (owner !== undefined) out.uint(owner.reservation);
}

function decodeOwner(input: BinaryReader): Owner | undefined {
  const first = input.uint();
  return first === 0 ? undefined : { first, reservation: input.uint() };
}

function encodeClaim(out: BinaryWriter, { writes, reads, ranges }: Claim): void {
  for (const keys of [writes, reads]) {
    out.uint(keys.length);
    for (const key of keys) out.bytes(key);
  }
  out.uint(ranges.length);
  for (const { start, end } of ranges) {
    out.bytes(start);
    out.bytes(end);
  }
}

function decodeClaim(input: BinaryReader): Claim {
  const keys = (): Bytes[] => input.list(() => input.bytes());
  return { writes: keys(), reads: keys(), ranges: input.list(() => ({ start: input.bytes(), end: input.bytes() })) };
}

function encodeNeeds(out: BinaryWriter, { stream, above }: StreamNeeds): void {
  out.uint(stream);
  out.uint(above);
}

function decodeNeeds(input: BinaryReader): StreamNeeds {
  return { stream: input.uint(), above: input.uint() };
}

function encodeTransactionId(out: BinaryWriter, { session, sequence, attempt }: TransactionId): void {
  out.uint(session);
  out.uint(sequence);
  out.uint(attempt);
}

function decodeTransactionId(input: BinaryReader): TransactionId {
  return { session: input.uint(), sequence: input.uint(), attempt: input.uint() };
}

export function encodeCancel(out: BinaryWriter, number: number): void {
  out.byte(ITEM.cancel);
  out.uint(number);
}

/** Throws INVALID_ARGUMENT / MALFORMED_MESSAGE. Keys and values are views of the frame. */
export function decodeCalls(frame: Bytes): Call[] {
  const input = new BinaryReader(frame, 'a frame of requests');
  const calls: Call[] = [];
  while (!input.done) {
    const type = input.byte();
    const kind = OPERATIONS[type];
    if (type === ITEM.cancel) calls.push({ kind: 'cancel', number: input.uint() });
    else if (kind !== undefined) calls.push({ kind: 'request', request: decodeRequest(input, kind) });
    else throw input.malformed(`there is no request of type ${type}`);
  }
  return calls;
}

function decodeRequest(input: BinaryReader, kind: OperationKind): Request {
  const number = input.uint();
  const epoch = input.uint();
  const remainingMs = Math.min(input.uint(), REMAINING_MS_MAX);
  const hops = input.uint();
  const seen = input.uint();
  return { number, epoch, remainingMs, hops, seen, operation: decodeOperation(input, kind) };
}

function decodeOperation(input: BinaryReader, kind: OperationKind): Operation {
  switch (kind) {
    case 'write': {
      const bucket = input.uint();
      const id = { session: input.uint(), born: input.uint(), sequence: input.uint(), lowest: input.uint() };
      const conditions = input.list(() => decodeCondition(input));
      const mutations = input.list(() => decodeMutation(input));
      return { kind, bucket, request: { id, conditions, mutations, owner: decodeOwner(input) } };
    }
    case 'get': {
      const of = { kind, bucket: input.uint(), key: input.bytes() };
      const anyReplica = input.choice(2, 'a flag') === 1;
      return { ...of, anyReplica, consistency: decodeConsistency(input) };
    }
    case 'history': {
      const bucket = input.uint();
      const key = input.bytes();
      const of = { kind, bucket, key, from: input.uint(), to: input.uint(), limit: input.uint() };
      const consistency = decodeConsistency(input);
      if (consistency.kind !== 'linearizable' && consistency.kind !== 'asOf') {
        throw input.malformed(`a history is linearizable or as of a timestamp, not ${consistency.kind}`);
      }
      return { ...of, consistency };
    }
    case 'scan': {
      const buckets = decodeBuckets(input);
      const range = { start: input.bytes(), end: input.bytes() };
      const flags = input.choice(4, 'the flags of a scan');
      const limit = input.uint();
      const consistency = decodeConsistency(input);
      return { kind, buckets, range, reverse: flags % 2 === 1, keysOnly: flags >= 2, limit, consistency };
    }
    case 'diff': {
      const buckets = decodeBuckets(input);
      const range = { start: input.bytes(), end: input.bytes() };
      return { kind, buckets, range, from: input.uint(), to: input.uint(), limit: input.uint() };
    }
    case 'pins':
      return { kind, buckets: decodeBuckets(input), action: decodePinAction(input) };
    case 'readTimestamp':
      return { kind, buckets: decodeBuckets(input) };
    case 'prepare': {
      const bucket = input.uint();
      const id = decodeTransactionId(input);
      const [home, start, first, reservation] = [input.uint(), input.uint(), input.uint(), input.uint()];
      const conditions = input.list(() => ({ position: input.uint(), condition: decodeCondition(input) }));
      const mutations = input.list(() => decodeMutation(input));
      return { kind, bucket, request: { id, home, start, first, reservation, conditions, mutations } };
    }
    case 'resolve': {
      const bucket = input.uint();
      const id = decodeTransactionId(input);
      return { kind, bucket, request: { id, start: input.uint(), commit: input.uint() } };
    }
    case 'outcomes': {
      const bucket = input.uint();
      const ids = input.list(() => decodeTransactionId(input));
      return { kind, bucket, ids, asOf: input.uint() };
    }
    case 'changes': {
      const buckets = decodeBuckets(input);
      const range = { start: input.bytes(), end: input.bytes() };
      const after = decodePosition(input);
      const before = input.choice(2, 'a flag') === 1;
      return { kind, buckets, range, after, before, limit: input.uint(), needs: decodeNeeds(input) };
    }
    case 'awaitMark':
      return { kind, buckets: decodeBuckets(input), above: input.uint(), waitMs: input.uint(), needs: decodeNeeds(input) };
    case 'reserve': {
      const bucket = input.uint();
      const owner = decodeOwner(input);
      if (owner === undefined) throw input.malformed('nobody reserves');
      return { kind, bucket, request: { owner, forMs: input.uint(), claim: decodeClaim(input) } };
    }
  }
}

function encodeCondition(out: BinaryWriter, condition: Condition): void {
  out.byte(CONDITIONS.indexOf(condition.kind));
  if (condition.kind === 'unchanged') {
    out.bytes(condition.range.start);
    out.bytes(condition.range.end);
    out.uint(condition.since);
    return;
  }
  out.bytes(condition.key);
  if (condition.kind === 'version') out.uint(condition.version);
  if (condition.kind === 'value') out.bytes(condition.value);
}

function decodeCondition(input: BinaryReader): Condition {
  const kind = pick(CONDITIONS, input, 'the kind of a condition');
  if (kind === 'unchanged') return { kind, range: { start: input.bytes(), end: input.bytes() }, since: input.uint() };
  const key = input.bytes();
  if (kind === 'version') return { kind, key, version: input.uint() };
  if (kind === 'value') return { kind, key, value: input.bytes() };
  return { kind, key };
}

function encodeMutation(out: BinaryWriter, mutation: Mutation): void {
  out.byte(mutation.kind === 'put' ? 1 : 0);
  out.bytes(mutation.key);
  if (mutation.kind === 'put') out.bytes(mutation.value);
}

function decodeMutation(input: BinaryReader): Mutation {
  const put = input.choice(2, 'the kind of a mutation') === 1;
  const key = input.bytes();
  return put ? { kind: 'put', key, value: input.bytes() } : { kind: 'delete', key };
}

function encodeConsistency(out: BinaryWriter, consistency: Consistency): void {
  out.byte(CONSISTENCIES.indexOf(consistency.kind));
  if (consistency.kind === 'bounded') out.uint(Math.ceil(consistency.maxStalenessMs));
  if (consistency.kind === 'asOf') out.uint(consistency.timestamp);
}

function decodeConsistency(input: BinaryReader): Consistency {
  const kind = pick(CONSISTENCIES, input, 'the consistency');
  if (kind === 'bounded') return { kind, maxStalenessMs: input.uint() };
  if (kind === 'asOf') return { kind, timestamp: input.uint() };
  return { kind };
}

function encodePinAction(out: BinaryWriter, action: PinAction): void {
  out.byte(PIN_ACTIONS.indexOf(action.kind));
  if (action.kind === 'list') return;
  out.text(action.name);
  if (action.kind === 'remove') return;
  out.uint(action.timestamp);
  if (action.kind === 'add') out.uint(action.expires);
}

function decodePinAction(input: BinaryReader): PinAction {
  const kind = pick(PIN_ACTIONS, input, 'what is to be done with pins');
  if (kind === 'list') return { kind };
  const name = input.text();
  if (kind === 'remove') return { kind, name };
  const timestamp = input.uint();
  return kind === 'takeBack' ? { kind, name, timestamp } : { kind, name, timestamp, expires: input.uint() };
}

function encodeBuckets(out: BinaryWriter, buckets: readonly BucketId[]): void {
  out.uint(buckets.length);
  for (const bucket of buckets) out.uint(bucket);
}

function decodeBuckets(input: BinaryReader): BucketId[] {
  return input.list(() => input.uint());
}
