import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { escape, escapePrefix, readUint64, unescape, writeUint64 } from '../lib/ordered.js';

/**
 * How versions lie in the ordered `state` store: values by time, pointers by key.
 *
 *   a <slot u32> <timestamp u64> <log index u64> <position u16>   ->  crc, format, kind, previous version, key, value
 *   k <escaped key> <slot u32>                                    ->  latest version, kind
 *
 * A version record is written once, nearly in time order, so that LevelDB hardly compacts it; a pointer is small and is
 * overwritten. A *slot* is the number under which one replica's records stand in its node's store. It is never used again:
 * a snapshot installs into a new slot, and the replica's meta record then points to that one.
 *
 * Pointers are ordered by user key over all buckets of the node, because a scan over hashed buckets touches all of them:
 * one ordered pass costs less than a seek in each of 256 places (docs/architecture.md has the measurement).
 *
 * Example: the second put of key `a` in slot 7, by log entry 12 at timestamp 900, writes `a 7 900 12 0` with previous
 * version (800, 11, 0), and overwrites `k a 7` with (900, 12, 0).
 */
export type Slot = number;

/** Names a record within its bucket. Ordered by timestamp, then log index, then position. */
export interface VersionId {
  readonly timestamp: number;
  readonly index: number;
  readonly position: number;
}

export const NO_VERSION: VersionId = { timestamp: 0, index: 0, position: 0 };

/** The latest version of a key, as its pointer tells it. */
export interface Pointer extends VersionId {
  readonly deleted: boolean;
}

export interface VersionRecord {
  readonly key: Bytes;
  readonly deleted: boolean;
  readonly value: Bytes;
  /** NO_VERSION if the key had none. */
  readonly previous: VersionId;
}

const VERSION_TAG = 0x61; // 'a'
const POINTER_TAG = 0x6b; // 'k'
const FORMAT = 1;
const ID_BYTES = 18;
const RECORD_HEAD = 4 + 1 + 1 + ID_BYTES + 2;
const POINTER_BYTES = 4 + ID_BYTES + 1;

function writeId(out: Bytes, id: VersionId, offset: number): number {
  writeUint64(out, id.timestamp, offset);
  writeUint64(out, id.index, offset + 8);
  out.writeUInt16BE(id.position, offset + 16);
  return offset + ID_BYTES;
}

function readId(data: Bytes, offset: number): VersionId {
  return {
    timestamp: readUint64(data, offset),
    index: readUint64(data, offset + 8),
    position: data.readUInt16BE(offset + 16),
  };
}

export function compareVersions(a: VersionId, b: VersionId): number {
  return a.timestamp - b.timestamp || a.index - b.index || a.position - b.position;
}

export function versionKey(slot: Slot, id: VersionId): Bytes {
  const out = Buffer.allocUnsafe(5 + ID_BYTES);
  out[0] = VERSION_TAG;
  out.writeUInt32BE(slot, 1);
  writeId(out, id, 5);
  return out;
}

export function versionOfKey(key: Bytes): VersionId {
  return readId(key, 5);
}

/** Bounds of all version records of a slot. */
export function versionRange(slot: Slot): { gte: Bytes; lt: Bytes } {
  const gte = Buffer.alloc(5);
  gte[0] = VERSION_TAG;
  gte.writeUInt32BE(slot, 1);
  const lt = Buffer.alloc(6, 0xff);
  gte.copy(lt);
  return { gte, lt: Buffer.concat([lt, Buffer.alloc(ID_BYTES, 0xff)]) };
}

export function encodeRecord(record: VersionRecord): Bytes {
  const { key, value } = record;
  const out = Buffer.allocUnsafe(RECORD_HEAD + key.length + value.length);
  out[4] = FORMAT;
  out[5] = record.deleted ? 1 : 0;
  const at = writeId(out, record.previous, 6);
  out.writeUInt16BE(key.length, at);
  key.copy(out, RECORD_HEAD);
  value.copy(out, RECORD_HEAD + key.length);
  out.writeUInt32BE(crc32(out.subarray(4)), 0);
  return out;
}

/** Throws DATA_LOSS / RECORD_CORRUPT if the checksum or the format is wrong. */
export function decodeRecord(data: Bytes): VersionRecord {
  const isIntact = data.length >= RECORD_HEAD && data.readUInt32BE(0) === crc32(data.subarray(4)) && data[4] === FORMAT;
  if (!isIntact && !mutant('checksum-ignored')) {
    throw new TidemarkError('DATA_LOSS', 'RECORD_CORRUPT', 'a version record on disk fails its checksum');
  }
  const split = RECORD_HEAD + data.readUInt16BE(RECORD_HEAD - 2);
  return {
    key: data.subarray(RECORD_HEAD, split),
    deleted: data[5] === 1,
    value: data.subarray(split),
    previous: readId(data, 6),
  };
}

export function pointerKey(slot: Slot, key: Bytes): Bytes {
  const escaped = escape(key);
  const out = Buffer.allocUnsafe(escaped.length + 5);
  out[0] = POINTER_TAG;
  escaped.copy(out, 1);
  out.writeUInt32BE(slot, escaped.length + 1);
  return out;
}

/** The user key and the slot of a pointer's key. */
export function pointerOfKey(data: Bytes): { key: Bytes; slot: Slot } {
  const { value, next } = unescape(data, 1);
  return { key: value, slot: data.readUInt32BE(next) };
}

export function encodePointer(pointer: Pointer): Bytes {
  const out = Buffer.allocUnsafe(POINTER_BYTES);
  out[writeId(out, pointer, 4)] = pointer.deleted ? 1 : 0;
  out.writeUInt32BE(crc32(out.subarray(4)), 0);
  return out;
}

export function decodePointer(data: Bytes): Pointer {
  if (data.length !== POINTER_BYTES || data.readUInt32BE(0) !== crc32(data.subarray(4))) {
    throw new TidemarkError('DATA_LOSS', 'RECORD_CORRUPT', 'a key pointer on disk fails its checksum');
  }
  return { ...readId(data, 4), deleted: data[POINTER_BYTES - 1] === 1 };
}

/** Bounds of the pointers of user keys in [start, end), over all slots; an empty end means no upper bound. */
export function pointerRange(start: Bytes, end: Bytes): { gte: Bytes; lt: Bytes } {
  const tag = Buffer.from([POINTER_TAG]);
  return {
    gte: Buffer.concat([tag, escapePrefix(start)]),
    lt: end.length === 0 ? Buffer.from([POINTER_TAG + 1]) : Buffer.concat([tag, escapePrefix(end)]),
  };
}
