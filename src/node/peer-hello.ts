import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { NodeId } from '../placement/map.js';

/** How two nodes introduce themselves: the opening message of a peer stream, and the first frame that comes back on it. */
export const PEER_PROTOCOL = 1;

const TEXT_MAX = 256;

export interface Hello {
  readonly clusterId: string;
  readonly from: NodeId;
  readonly uuid: string;
  /** The node that the dialer wants to reach. */
  readonly to: NodeId;
}

export interface Welcome {
  readonly nodeId: NodeId;
  readonly uuid: string;
}

const WELCOME = 'welcome';

export function encodeHello({ clusterId, from, uuid, to }: Hello): Bytes {
  return pack([PEER_PROTOCOL, clusterId, from, uuid, to]);
}

/** Throws INVALID_ARGUMENT / MALFORMED_HELLO, or FAILED_PRECONDITION / PROTOCOL_MISMATCH. */
export function decodeHello(data: Bytes): Hello {
  const parts = decodeArray(data, 'a peer hello');
  const [version, clusterId, from, uuid, to] = parts;
  if (typeof version === 'number' && version !== PEER_PROTOCOL) {
    const message = `a peer speaks protocol version ${version}, this node speaks ${PEER_PROTOCOL}`;
    throw new TidemarkError('FAILED_PRECONDITION', 'PROTOCOL_MISMATCH', message);
  }
  if (typeof version !== 'number' || !isText(clusterId) || !isText(uuid) || !isNodeId(from) || !isNodeId(to)) {
    throw malformed('a peer hello lacks a field or holds a wrong one');
  }
  return { clusterId, from, uuid, to };
}

export function encodeWelcome({ nodeId, uuid }: Welcome): Bytes {
  return pack([WELCOME, nodeId, uuid]);
}

/** Throws INVALID_ARGUMENT / MALFORMED_HELLO. */
export function decodeWelcome(data: Bytes): Welcome {
  const [word, nodeId, uuid] = decodeArray(data, 'a peer welcome');
  if (word !== WELCOME || !isNodeId(nodeId) || !isText(uuid)) throw malformed('the first frame is no peer welcome');
  return { nodeId, uuid };
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

function isNodeId(value: unknown): value is NodeId {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0;
}

function malformed(message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_HELLO', message);
}
