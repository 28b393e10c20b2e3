import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { BucketId } from '../placement/map.js';
import type { CommittedRecord, Intent, LockRange, Prepared, TransactionId } from '../txn/transaction.js';
import type { RequestId, Timestamp, WriteResult } from './requests.js';

/**
 * What one log entry does. The leader evaluates a command once, against everything before it in the log, and logs the
 * outcome: followers apply it without reading, and a replay cannot come to another result.
 *
 * Every command has a timestamp of its own, above those of all commands before it in the log. A version that a `write` makes
 * has the timestamp of its command; one that a `resolve` makes has the commit timestamp, which is below it.
 */
export type Effect = Intent;

/** A plain command, or the decision of a transaction at its home: then it carries the record. */
export interface WriteEffects {
  readonly kind: 'write';
  readonly timestamp: Timestamp;
  readonly id: RequestId;
  /** What the request is answered, now and when it is retried. */
  readonly result: WriteResult;
  /** In the order of the request; the position in this list is part of each version's name. */
  readonly effects: readonly Effect[];
  readonly record?: CommittedRecord | undefined;
}

/** A participant has checked its part of a transaction: what it locks, and what it will write. */
export interface PrepareEffects {
  readonly kind: 'prepare';
  readonly timestamp: Timestamp;
  readonly prepared: Prepared;
}

/** A participant has found that a condition does not hold. It changes nothing, but that it is committed proves what was found. */
export interface RefuseEffects {
  readonly kind: 'refuse';
  readonly timestamp: Timestamp;
  readonly id: TransactionId;
}

export interface ResolveEffects {
  readonly kind: 'resolve';
  readonly timestamp: Timestamp;
  readonly id: TransactionId;
  readonly start: Timestamp;
  /** 0: it was aborted. */
  readonly commit: Timestamp;
}

/** Home drops records: every participant has resolved them. */
export interface ForgetEffects {
  readonly kind: 'forget';
  readonly timestamp: Timestamp;
  readonly ids: readonly TransactionId[];
}

export type Effects = WriteEffects | PrepareEffects | RefuseEffects | ResolveEffects | ForgetEffects;

const FORMAT = 2;

/** By position: the number in an entry. */
const KINDS = ['write', 'prepare', 'refuse', 'resolve', 'forget'] as const satisfies readonly Effects['kind'][];

type EffectTuple = [key: Bytes, deleted: 0 | 1, value: Bytes, timestamp: number, index: number, position: number];
type IdTuple = [session: number, sequence: number, attempt: number];
type RecordTuple = [attempt: number, start: number, participants: BucketId[]];
type WriteTuple = [
  format: number,
  kind: number,
  timestamp: number,
  session: number,
  born: number,
  sequence: number,
  lowest: number,
  /** 0: that of the command. */
  resultTimestamp: number,
  failedCondition: number,
  failedVersion: number,
  effects: EffectTuple[],
  record: RecordTuple | null,
];
type PrepareTuple = [format: number, kind: number, timestamp: number, prepared: PreparedTuple];
type ResolveTuple = [format: number, kind: number, timestamp: number, id: IdTuple, start: number, commit: number];
type RefuseTuple = [format: number, kind: number, timestamp: number, id: IdTuple];
type ForgetTuple = [format: number, kind: number, timestamp: number, ids: IdTuple[]];

/** As it stands in entries, checkpoints and snapshots. */
export type PreparedTuple = [
  id: IdTuple,
  home: BucketId,
  start: number,
  first: number,
  timestamp: number,
  intents: EffectTuple[],
  reads: Bytes[],
  ranges: [start: Bytes, end: Bytes][],
];

export function encodeEffects(effects: Effects): Bytes {
  const kind = KINDS.indexOf(effects.kind);
  switch (effects.kind) {
    case 'write': {
      const { timestamp, id, result, record } = effects;
      const tuple: WriteTuple = [
        FORMAT,
        kind,
        timestamp,
        id.session,
        id.born,
        id.sequence,
        id.lowest,
        result.timestamp === timestamp ? 0 : result.timestamp,
        result.failedCondition,
        result.failedVersion,
        effects.effects.map(effectToTuple),
        record === undefined ? null : [record.id.attempt, record.start, [...record.participants]],
      ];
      return pack(tuple);
    }
    case 'prepare':
      return pack([FORMAT, kind, effects.timestamp, preparedToTuple(effects.prepared)] satisfies PrepareTuple);
    case 'refuse':
      return pack([FORMAT, kind, effects.timestamp, idToTuple(effects.id)] satisfies RefuseTuple);
    case 'resolve': {
      const { timestamp, id, start, commit } = effects;
      return pack([FORMAT, kind, timestamp, idToTuple(id), start, commit] satisfies ResolveTuple);
    }
    case 'forget':
      return pack([FORMAT, kind, effects.timestamp, effects.ids.map(idToTuple)] satisfies ForgetTuple);
  }
}

/** Throws FAILED_PRECONDITION / NEWER_FORMAT or OLDER_FORMAT for an entry that another release wrote. */
export function decodeEffects(data: Bytes): Effects {
  const tuple = unpack(data) as [format: number, kind: number];
  const [format, kind] = tuple;
  if (format !== FORMAT) {
    const reason = format > FORMAT ? 'NEWER_FORMAT' : 'OLDER_FORMAT';
    throw new TidemarkError('FAILED_PRECONDITION', reason, `log entry has format ${format}, not ${FORMAT}`);
  }
  switch (KINDS[kind]) {
    case 'write':
      return decodeWrite(tuple as unknown as WriteTuple);
    case 'prepare': {
      const [, , timestamp, prepared] = tuple as unknown as PrepareTuple;
      return { kind: 'prepare', timestamp, prepared: preparedFromTuple(prepared) };
    }
    case 'refuse': {
      const [, , timestamp, id] = tuple as unknown as RefuseTuple;
      return { kind: 'refuse', timestamp, id: idFromTuple(id) };
    }
    case 'resolve': {
      const [, , timestamp, id, start, commit] = tuple as unknown as ResolveTuple;
      return { kind: 'resolve', timestamp, id: idFromTuple(id), start, commit };
    }
    case 'forget': {
      const [, , timestamp, ids] = tuple as unknown as ForgetTuple;
      return { kind: 'forget', timestamp, ids: ids.map(idFromTuple) };
    }
    default:
      throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `log entry is of the unknown kind ${kind}`);
  }
}

function decodeWrite(tuple: WriteTuple): WriteEffects {
  const [, , timestamp, session, born, sequence, lowest, resultTimestamp, failedCondition, failedVersion, effects, tail] = tuple;
  const id = { session, born, sequence, lowest };
  const result = { applied: failedCondition < 0, timestamp: resultTimestamp || timestamp, failedCondition, failedVersion };
  const plain: WriteEffects = { kind: 'write', timestamp, id, result, effects: effects.map(effectFromTuple) };
  if (tail === null) return plain;
  const [attempt, start, participants] = tail;
  return { ...plain, record: { id: { session, sequence, attempt }, start, timestamp, participants } };
}

export function preparedToTuple({ id, home, start, first, timestamp, intents, reads, ranges }: Prepared): PreparedTuple {
  const bounds = ranges.map((range): [Bytes, Bytes] => [range.start, range.end]);
  return [idToTuple(id), home, start, first, timestamp, intents.map(effectToTuple), [...reads], bounds];
}

export function preparedFromTuple([id, home, start, first, timestamp, intents, reads, bounds]: PreparedTuple): Prepared {
  const ranges = bounds.map(([from, to]): LockRange => ({ start: from, end: to }));
  return { id: idFromTuple(id), home, start, first, timestamp, intents: intents.map(effectFromTuple), reads, ranges };
}

function idToTuple({ session, sequence, attempt }: TransactionId): IdTuple {
  return [session, sequence, attempt];
}

function idFromTuple([session, sequence, attempt]: IdTuple): TransactionId {
  return { session, sequence, attempt };
}

function effectToTuple({ key, deleted, value, previous }: Effect): EffectTuple {
  return [key, deleted ? 1 : 0, value, previous.timestamp, previous.index, previous.position];
}

function effectFromTuple([key, deleted, value, timestamp, index, position]: EffectTuple): Effect {
  return { key, deleted: deleted === 1, value, previous: { timestamp, index, position } };
}
