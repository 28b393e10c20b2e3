import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { nodeOfReplica, SYSTEM_BUCKET, type BucketId, type BucketInfo, type ReplicaInfo } from './map.js';
import type { PlacementRecord } from './record.js';

/**
 * The bytes of a placement, in the system bucket, on the wire between nodes, and on their disks: JSON, in which the replicas of
 * a bucket are a list of their ids, those of read replicas negative. A node's number is in the id. So thousands of buckets take
 * tens of bytes each, and are read and written within a few milliseconds.
 */
const FORMAT = 3;

type Ids = readonly number[];

interface Stored extends Omit<PlacementRecord, 'system' | 'map'> {
  readonly format: number;
  readonly system: Ids;
  readonly map: readonly Ids[];
}

export function encodeRecordOf({ system, map, ...rest }: PlacementRecord): Bytes {
  const stored: Stored = { format: FORMAT, ...rest, system: idsOf(system), map: map.map(idsOf) };
  return Buffer.from(JSON.stringify(stored));
}

/** Throws FAILED_PRECONDITION / NEWER_FORMAT, or INVALID_ARGUMENT / MALFORMED_PLACEMENT. */
export function decodeRecordOf(data: Bytes): PlacementRecord {
  let found: unknown;
  try {
    found = JSON.parse(data.toString());
  } catch (cause) {
    throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_PLACEMENT', 'a placement cannot be read', { cause });
  }
  const { format, ...stored } = (found ?? {}) as Stored;
  if (format !== FORMAT) {
    throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `the placement has format ${format}, not ${FORMAT}`);
  }
  if (!isStored(stored)) {
    throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_PLACEMENT', 'a placement lacks a field, or holds a wrong one');
  }
  const { system, map, ...rest } = stored;
  return { ...rest, system: placeFrom(SYSTEM_BUCKET, system), map: map.map((ids, id) => placeFrom(id, ids)) };
}

function isStored(stored: Partial<Stored>): boolean {
  const { epoch, buckets, replicas, lastNode, asFounded, nodes, draining, system, map } = stored;
  const areNumbers = [epoch, buckets, replicas, lastNode, asFounded].every(Number.isSafeInteger);
  const areLists = [nodes, draining, map].every(Array.isArray);
  const isPlace = (ids: unknown): boolean => Array.isArray(ids) && ids.every((id) => Number.isSafeInteger(id) && id !== 0);
  return areNumbers && areLists && map?.length === buckets && isPlace(system) && map?.every(isPlace) === true;
}

function idsOf({ replicas }: BucketInfo): number[] {
  return replicas.map(({ id, learner }) => (learner ? -id : id));
}

function placeFrom(id: BucketId, ids: Ids): BucketInfo {
  return { id, replicas: ids.map(replicaFrom), leader: 0 };
}

function replicaFrom(signed: number): ReplicaInfo {
  const id = Math.abs(signed);
  return { id, node: nodeOfReplica(id), learner: signed < 0 };
}
