import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { VersionId } from '../mvcc/records.js';
import type { RequestId, WriteResult } from './requests.js';

/**
 * What one log entry does. The leader evaluates a command once, against everything before it in the log, and logs the
 * outcome: followers apply it without reading, and a replay cannot come to another result.
 */
export interface Effect {
  readonly key: Bytes;
  readonly deleted: boolean;
  readonly value: Bytes;
  readonly previous: VersionId;
}

export interface Effects {
  readonly id: RequestId;
  readonly result: WriteResult;
  /** In the order of the request; the position in this list is part of each version's name. */
  readonly effects: readonly Effect[];
}

const FORMAT = 1;

type EffectTuple = [key: Bytes, deleted: 0 | 1, value: Bytes, timestamp: number, index: number, position: number];
type EffectsTuple = [
  format: number,
  timestamp: number,
  session: number,
  born: number,
  sequence: number,
  lowest: number,
  failedCondition: number,
  failedVersion: number,
  effects: EffectTuple[],
];

export function encodeEffects({ id, result, effects }: Effects): Bytes {
  const tuples = effects.map(({ key, deleted, value, previous }): EffectTuple => {
    return [key, deleted ? 1 : 0, value, previous.timestamp, previous.index, previous.position];
  });
  const tuple: EffectsTuple = [
    FORMAT,
    result.timestamp,
    id.session,
    id.born,
    id.sequence,
    id.lowest,
    result.failedCondition,
    result.failedVersion,
    tuples,
  ];
  return pack(tuple);
}

/** Throws FAILED_PRECONDITION / NEWER_FORMAT for an entry that a newer release wrote. */
export function decodeEffects(data: Bytes): Effects {
  const tuple = unpack(data) as EffectsTuple;
  if (tuple[0] !== FORMAT) {
    throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `log entry has format ${tuple[0]}, not ${FORMAT}`);
  }
  const [, timestamp, session, born, sequence, lowest, failedCondition, failedVersion, tuples] = tuple;
  return {
    id: { session, born, sequence, lowest },
    result: { applied: failedCondition < 0, timestamp, failedCondition, failedVersion },
    effects: tuples.map(([key, deleted, value, previousTimestamp, index, position]) => {
      return { key, deleted: deleted === 1, value, previous: { timestamp: previousTimestamp, index, position } };
    }),
  };
}
