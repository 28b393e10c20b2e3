import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { nodeOfReplica, SYSTEM_BUCKET, type BucketId, type BucketInfo, type NodeInfo, type ReplicaInfo } from './map.js';
import { problemOf, type Ids, type Stored } from './record-check.js';
import type { PlacementRecord } from './record.js';

/**
 * The bytes of a placement, in the system bucket, on the wire between nodes, and on their disks: JSON, in which the replicas of
 * a bucket are a list of their ids, those of read replicas negative. A node's number is in the id. So thousands of buckets take
 * tens of bytes each, and are read and written within a few milliseconds.
 */
const FORMAT = 4;
/** The same in which no bucket has a number of voters of its own: what earlier releases wrote, and read. */
const PLAIN_FORMAT = 3;

export function encodeRecordOf({ system, map, ownReplicas, ...rest }: PlacementRecord): Bytes {
  const own = Object.keys(ownReplicas).length === 0 ? { format: PLAIN_FORMAT } : { format: FORMAT, ownReplicas };
  const stored: Stored = { ...own, ...rest, system: idsOf(system), map: map.map(idsOf) };
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
  if (format !== FORMAT && format !== PLAIN_FORMAT) {
    const message = `the placement has format ${format}, not ${PLAIN_FORMAT} or ${FORMAT}`;
    throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', message);
  }
  const problem = problemOf(stored);
  if (problem !== undefined) {
    throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_PLACEMENT', `a placement cannot be believed: ${problem}`);
  }
  const { system, map, ownReplicas = {}, nodes, ...rest } = stored;
  return {
    ...rest,
    ownReplicas,
    // Earlier releases knew no hosts.
    nodes: nodes.map((node) => ({ ...node, host: (node as Partial<NodeInfo>).host ?? '' })),
    system: placeFrom(SYSTEM_BUCKET, system),
    map: map.map((ids, id) => placeFrom(id, ids)),
  };
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
