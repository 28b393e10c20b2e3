import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { Founding } from '../placement/founding.js';
import type { NodeId } from '../placement/map.js';

/** How two nodes introduce themselves: the opening message of a peer stream, and the first frame that comes back on it. */
export const PEER_PROTOCOL = 4;

const TEXT_MAX = 256;

export interface Hello {
  readonly clusterId: string;
  readonly from: NodeId;
  readonly uuid: string;
  /** The node that the dialer wants to reach. */
  readonly to: NodeId;
  readonly founding: Founding;
  /** Of the placement that the dialer knows. */
  readonly epoch: number;
}

export interface Welcome {
  readonly nodeId: NodeId;
  readonly uuid: string;
  /** Of the placement that the welcoming node knows. */
  readonly epoch: number;
}

const WELCOME = 'welcome';

export function encodeHello({ clusterId, from, uuid, to, founding, epoch }: Hello): Bytes {
  const { members, buckets, replicas } = founding;
  return pack([PEER_PROTOCOL, clusterId, from, uuid, to, [buckets, replicas, ...members], epoch]);
}

/** Throws INVALID_ARGUMENT / MALFORMED_HELLO, or FAILED_PRECONDITION / PROTOCOL_MISMATCH. */
export function decodeHello(data: Bytes): Hello {
  const parts = decodeArray(data, 'a peer hello');
  const [version, clusterId, from, uuid, to, founded, epoch] = parts;
  if (typeof version === 'number' && version !== PEER_PROTOCOL) {
    const message = `a peer speaks protocol version ${version}, this node speaks ${PEER_PROTOCOL}`;
    throw new TidemarkError('FAILED_PRECONDITION', 'PROTOCOL_MISMATCH', message);
  }
  if (typeof version !== 'number' || !isText(clusterId) || !isText(uuid) || !isCount(from) || !isCount(to)) {
    throw malformed('a peer hello lacks a field or holds a wrong one');
  }
  if (!isCount(epoch)) throw malformed('a peer hello names no epoch of a placement, which is a whole number from 1');
  return { clusterId, from, uuid, to, founding: foundingOf(founded), epoch };
}

function foundingOf(founded: unknown): Founding {
  if (Array.isArray(founded) && founded.every(isCount)) {
    const [buckets, replicas, ...members] = founded;
    if (buckets !== undefined && replicas !== undefined) return { members, buckets, replicas };
  }
  throw malformed('a peer hello does not say how its cluster was founded');
}

export function encodeWelcome({ nodeId, uuid, epoch }: Welcome): Bytes {
  return pack([WELCOME, nodeId, uuid, epoch]);
}

/** Throws INVALID_ARGUMENT / MALFORMED_HELLO. */
export function decodeWelcome(data: Bytes): Welcome {
  const [word, nodeId, uuid, epoch] = decodeArray(data, 'a peer welcome');
  if (word !== WELCOME || !isCount(nodeId) || !isText(uuid) || !isCount(epoch)) {
    throw malformed('the first frame is no peer welcome');
  }
  return { nodeId, uuid, epoch };
}

function decodeArray(data: Bytes, what: string): readonly unknown[] {
  let decoded: unknown;
  try {
    decoded = unpack(data);
  } catch (error) {
    throw malformed(`${data.length} bytes are not ${what}: ${messageOf(error)}`);
  }
  if (!Array.isArray(decoded)) throw malformed(`${data.length} bytes are not ${what}`);
  return decoded;
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= TEXT_MAX;
}

/** A number from 1: a node id, an epoch. */
function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0;
}

function malformed(message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_HELLO', message);
}
