import { crc32 } from 'node:zlib';
import { BinaryReader, BinaryWriter } from '../lib/binary.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { KeyRange } from '../bucket/requests.js';
import { checkTimestamp, type Timestamp } from '../mvcc/timestamp.js';
import type { Position } from './change.js';

/**
 * Where a stream goes on: an opaque string for whoever keeps it, `c1.` and base64url of (docs/formats.md)
 *
 *     cluster u32, kind u8, its fields, crc u32
 *
 * A *tail* cursor is a position: everything up to it was delivered. A *snapshot* cursor is the timestamp of the snapshot that is
 * being delivered and the last key of it that was; it holds for the range of its stream only.
 *
 * A cursor is checked as anything that comes from outside: another cluster's, a damaged one, one of a newer format and what never
 * was a cursor are refused. Whether its time is still kept, or lies in the future, is for those to say who read by it.
 */
export type Cursor =
  | { readonly kind: 'tail'; readonly position: Position }
  | { readonly kind: 'snapshot'; readonly timestamp: Timestamp; readonly last: Bytes; readonly range: KeyRange };

const PREFIX = 'c1.';
const TAIL = 0;
const SNAPSHOT = 1;
/** A cursor with the longest key, with room to spare. */
const LENGTH_MAX = 16 * 1024;

export function encodeCursor(cursor: Cursor, clusterId: string): string {
  const out = new BinaryWriter();
  out.uint(crc32(clusterId));
  if (cursor.kind === 'tail') {
    const { timestamp, bucket, index, position } = cursor.position;
    out.byte(TAIL);
    out.uint(timestamp);
    out.uint(bucket);
    out.uint(index);
    out.uint(position);
  } else {
    out.byte(SNAPSHOT);
    out.uint(cursor.timestamp);
    out.bytes(cursor.last);
    out.uint(markOf(cursor.range));
  }
  const body = out.take();
  const check = Buffer.allocUnsafe(4);
  check.writeUInt32BE(crc32(body));
  return PREFIX + Buffer.concat([body, check]).toString('base64url');
}

/** `range` is that of the stream which is to go on. Throws INVALID_ARGUMENT / CURSOR_MALFORMED or CURSOR_MISMATCH. */
export function decodeCursor(text: string, clusterId: string, range: KeyRange): Cursor {
  const input = new BinaryReader(bodyOf(text), 'the cursor');
  try {
    if (input.uint() !== crc32(clusterId)) throw mismatch('the cursor belongs to another cluster');
    const cursor = decodeFields(input, range);
    input.end();
    return cursor;
  } catch (error) {
    if (error instanceof TidemarkError && error.reason === 'MALFORMED_MESSAGE') throw malformed(error.message);
    throw error;
  }
}

function decodeFields(input: BinaryReader, range: KeyRange): Cursor {
  if (input.choice(2, 'the kind of cursor') === TAIL) {
    const timestamp = checkTimestamp(input.uint(), 'the timestamp of the cursor');
    return { kind: 'tail', position: { timestamp, bucket: input.uint(), index: input.uint(), position: input.uint() } };
  }
  const timestamp = checkTimestamp(input.uint(), 'the timestamp of the cursor');
  const last = input.bytes();
  if (input.uint() !== markOf(range)) throw mismatch('the cursor was given in the snapshot of another range');
  return { kind: 'snapshot', timestamp, last, range };
}

function bodyOf(text: string): Bytes {
  const shown = text.length > 32 ? `${text.slice(0, 32)}...` : text;
  if (text.length > LENGTH_MAX) throw malformed(`it has ${text.length} characters`);
  if (!text.startsWith(PREFIX)) {
    const newer = /^c\d+\./.test(text) ? '; it may come from a newer version' : '';
    throw malformed(`'${shown}' does not begin with '${PREFIX}'${newer}`);
  }
  const coded = text.slice(PREFIX.length);
  const data = Buffer.from(coded, 'base64url');
  // Node skips what is not base64url instead of refusing it.
  if (data.toString('base64url') !== coded) throw malformed(`'${shown}' is not base64url`);
  if (data.length < 5) throw malformed(`'${shown}' is too short`);
  const body = data.subarray(0, -4);
  if (data.readUInt32BE(body.length) !== crc32(body)) throw malformed(`'${shown}' fails its checksum; it was changed or cut`);
  return body;
}

/** Two ranges with one mark are taken for the same. */
function markOf({ start, end }: KeyRange): number {
  return crc32(end, crc32(Buffer.from([0]), crc32(start)));
}

function malformed(what: string): TidemarkError {
  const message = `cursor is malformed: ${what}`;
  return new TidemarkError('INVALID_ARGUMENT', 'CURSOR_MALFORMED', message, { details: { field: 'from.cursor' } });
}

function mismatch(message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'CURSOR_MISMATCH', message, { details: { field: 'from.cursor' } });
}
