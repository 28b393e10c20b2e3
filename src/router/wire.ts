import { BinaryReader, BinaryWriter } from '../lib/binary.js';
import type { Bytes } from '../lib/bytes.js';
import type { Consistency, Timestamp } from '../bucket/requests.js';
import type { Position } from '../changes/change.js';
import type { NodeId } from '../placement/map.js';
import type { OperationKind } from './operations.js';

/**
 * What stands in the frames of a pipeline stream. A stream opens with a Hello; the server answers with a Welcome and, whenever
 * they change, the placement, the leaders, and its clock, by another Welcome. In between, each side sends frames that hold many
 * items: requests and cancellations one way, replies the other. Requests carry a number; replies come in any order under the
 * same number.
 *
 * An item is one byte for its type and then its fields in a fixed order (lib/binary.ts). Durations travel as milliseconds that
 * remain, never as times: the clocks of two processes have nothing in common. A frame with a single item that cannot be read
 * is refused as a whole, because nothing behind it can be trusted.
 *
 * Here: the opening messages, and what both directions share. Requests are in wire-calls.ts, replies in wire-pushes.ts.
 */
export const PROTOCOL_VERSION = 5;

export type Role = 'client' | 'sidecar' | 'node';

export interface Hello {
  readonly protocol: number;
  /** Empty if the caller does not know it yet. */
  readonly clusterId: string;
  readonly role: Role;
}

export interface Welcome {
  readonly clusterId: string;
  readonly node: NodeId;
  /** The server's wall clock, for callers whose own clock proves nothing. Another Welcome says it again. */
  readonly now: Timestamp;
}

const ROLES: readonly Role[] = ['client', 'sidecar', 'node'];

/** The position is the number on the wire: as a request, the operation; as a reply, the answer to it. */
export const OPERATIONS = [
  'write',
  'get',
  'history',
  'scan',
  'readTimestamp',
  'prepare',
  'resolve',
  'outcomes',
  'diff',
  'pins',
  'changes',
  'awaitMark',
  'reserve',
] as const satisfies readonly OperationKind[];
export const CONSISTENCIES: readonly Consistency['kind'][] = ['linearizable', 'bounded', 'local', 'asOf'];

/** All other items. */
export const ITEM = { cancel: 16, error: 17, welcome: 18, placement: 19, leaders: 20 } as const;

export function encodeHello(hello: Hello): Bytes {
  const out = new BinaryWriter();
  out.uint(hello.protocol);
  out.text(hello.clusterId);
  out.byte(ROLES.indexOf(hello.role));
  return out.take();
}

export function decodeHello(data: Bytes): Hello {
  const input = new BinaryReader(data, 'the opening message');
  const hello = { protocol: input.uint(), clusterId: input.text(), role: pick(ROLES, input, 'the role') };
  input.end();
  return hello;
}

export function pick<T>(values: readonly T[], input: BinaryReader, name: string): T {
  const value = values[input.choice(values.length, name)];
  if (value === undefined) throw input.malformed(`${name} is unknown`);
  return value;
}

export function encodePosition(out: BinaryWriter, { timestamp, bucket, index, position }: Position): void {
  out.uint(timestamp);
  out.uint(bucket);
  out.uint(index);
  out.uint(position);
}

export function decodePosition(input: BinaryReader): Position {
  return { timestamp: input.uint(), bucket: input.uint(), index: input.uint(), position: input.uint() };
}
