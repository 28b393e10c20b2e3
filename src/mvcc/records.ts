import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { escape, escapePrefix, readUint64, unescape, writeUint64 } from '../lib/ordered.js';
import { isTimestamp } from './timestamp.js';

/**
 * How versions lie in the ordered `state` store: values by time, pointers by key.
 *
 *   v <period u32> <slot u32> <timestamp u64> <log index u64> <position u16>
 *                                ->  crc, format, kind, previous version, transaction if any, key, value
 *   k <escaped key> <slot u32>   ->  latest version, kind
 *
 * A version record is written once, nearly in time order, so that LevelDB hardly compacts it; a pointer is small and is
 * overwritten. A *slot* is the number under which one replica's records stand in its node's store. It is never used again:
 * a snapshot installs into a new slot, and the replica's meta record then points to that one.
 *
 * A *period* is a stretch of time, PERIOD long, the same for all slots: timestamp / PERIOD, rounded down. Were the slot first,
 * whatever is written in a second would lie in as many places as there are slots, and each compaction of it would rewrite files
 * of all that was ever written. With the period first, and no tag of this store behind `v`, new records lie behind all older
 * ones: files of former periods overlap with nothing new, and LevelDB moves them from level to level instead of rewriting them.
 * (Before other tags each level would have one file from its newest records to the first of those, and whatever is newer would
 * have to be merged with it.) One slot's records lie together within a period only: `bucket/version-scan.ts` reads them over all.
 *
 * Pointers are ordered by user key over all buckets of the node, because a scan over hashed buckets touches all of them:
 * one ordered pass costs less than a seek in each of 256 places (docs/architecture.md has the measurement).
 *
 * Example: the second put of key `a` in slot 7, by log entry 12 at timestamp 900, writes `v 0 7 900 12 0` with previous
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
  /** The request that wrote it, if that has also written in other buckets, at the same timestamp. */
  readonly transaction?: TransactionTag | undefined;
}

export interface TransactionTag {
  readonly session: number;
  readonly sequence: number;
}

const VERSION_TAG = 0x76; // 'v'
const POINTER_TAG = 0x6b; // 'k'
const FORMAT = 1;
/**
 * In units of timestamps: 8.192 seconds (docs/architecture.md has the measurement). It is part of the format: a record is
 * found only under the period that it was written with.
 */
export const PERIOD = 2 ** 25;
const SLOT_OFFSET = 5;
const ID_OFFSET = 9;
const ID_BYTES = 18;
const RECORD_HEAD = 4 + 1 + 1 + ID_BYTES + 2;
const KIND_DELETED = 1;
const KIND_IN_TRANSACTION = 2;
const TRANSACTION_BYTES = 16;
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
  const out = Buffer.allocUnsafe(ID_OFFSET + ID_BYTES);
  writeSection(out, periodOf(id.timestamp), slot);
  writeId(out, id, ID_OFFSET);
  return out;
}

export function versionOfKey(key: Bytes): VersionId {
  return readId(key, ID_OFFSET);
}

export function slotOfVersionKey(key: Bytes): Slot {
  return key.readUInt32BE(SLOT_OFFSET);
}

/** A version's name apart from any store: 18 bytes that are ordered as versions are. */
export function encodeVersionId(id: VersionId): Bytes {
  const out = Buffer.allocUnsafe(ID_BYTES);
  writeId(out, id, 0);
  return out;
}

/** Throws RangeError for bytes that name no version. */
export function decodeVersionId(data: Bytes): VersionId {
  const id = readId(data, 0);
  if (!isTimestamp(id.timestamp) || !Number.isSafeInteger(id.index)) throw new RangeError('not the name of a version');
  return id;
}

// --- sections: the records of one slot in one period

export function periodOf(timestamp: number): number {
  return Math.floor(timestamp / PERIOD);
}

/** The first timestamp of a period. */
export function startOfPeriod(period: number): number {
  return period * PERIOD;
}

/** Bounds of the records of all slots in the periods from `first` to `last`, both included. */
export function periodBounds(first: number, last: number): { gte: Bytes; lt: Bytes } {
  return { gte: section(first, 0), lt: section(last + 1, 0) };
}

function writeSection(out: Bytes, period: number, slot: Slot): void {
  out[0] = VERSION_TAG;
  out.writeUInt32BE(period, 1);
  out.writeUInt32BE(slot, SLOT_OFFSET);
}

function section(period: number, slot: Slot): Bytes {
  const out = Buffer.allocUnsafe(ID_OFFSET);
  writeSection(out, period, slot);
  return out;
}

/** Above every record of a section: no timestamp begins with this byte. */
const ABOVE = Buffer.from([0xff]);

/** Bounds of the section that the record with this key lies in. */
export function sectionOf(key: Bytes): { gte: Bytes; lt: Bytes } {
  const gte = key.subarray(0, ID_OFFSET);
  return { gte, lt: Buffer.concat([gte, ABOVE]) };
}

/** Bounds that hold all records of a slot with timestamps in [from, to], and between them those of others. */
export function versionBounds(slot: Slot, from: number, to: number): { gte: Bytes; lt: Bytes } {
  const end = Buffer.allocUnsafe(8);
  writeUint64(end, to + 1, 0);
  return {
    gte: versionKey(slot, { timestamp: from, index: 0, position: 0 }),
    lt: Buffer.concat([section(periodOf(to), slot), end]),
  };
}

/** Where the next section of a slot, behind the one that this key is in, begins if there is one. */
export function sectionBehind(slot: Slot, key: Bytes): Bytes {
  const period = key.readUInt32BE(1);
  return section(slotOfVersionKey(key) < slot ? period : period + 1, slot);
}

/** Where the last section of a slot, before the one that this key is in, ends if there is one. */
export function sectionBefore(slot: Slot, key: Bytes): Bytes {
  const period = key.readUInt32BE(1);
  if (slotOfVersionKey(key) > slot) return Buffer.concat([section(period, slot), ABOVE]);
  return period === 0 ? section(0, 0) : Buffer.concat([section(period - 1, slot), ABOVE]);
}

export function encodeRecord(record: VersionRecord): Bytes {
  const { key, value, transaction } = record;
  const head = RECORD_HEAD + (transaction === undefined ? 0 : TRANSACTION_BYTES);
  const out = Buffer.allocUnsafe(head + key.length + value.length);
  out[4] = FORMAT;
  out[5] = (record.deleted ? KIND_DELETED : 0) + (transaction === undefined ? 0 : KIND_IN_TRANSACTION);
  const at = writeId(out, record.previous, 6);
  out.writeUInt16BE(key.length, at);
  if (transaction !== undefined) {
    writeUint64(out, transaction.session, RECORD_HEAD);
    writeUint64(out, transaction.sequence, RECORD_HEAD + 8);
  }
  key.copy(out, head);
  value.copy(out, head + key.length);
  out.writeUInt32BE(crc32(out.subarray(4)), 0);
  return out;
}

/** Throws DATA_LOSS / RECORD_CORRUPT if the checksum or the format is wrong. */
export function decodeRecord(data: Bytes): VersionRecord {
  const isIntact = data.length >= RECORD_HEAD && data.readUInt32BE(0) === crc32(data.subarray(4)) && data[4] === FORMAT;
  if (!isIntact && !mutant('checksum-ignored')) {
    throw new TidemarkError('DATA_LOSS', 'RECORD_CORRUPT', 'a version record on disk fails its checksum');
  }
  const kind = data[5] ?? 0;
  const inTransaction = kind >= KIND_IN_TRANSACTION;
  const head = RECORD_HEAD + (inTransaction ? TRANSACTION_BYTES : 0);
  const split = head + data.readUInt16BE(RECORD_HEAD - 2);
  const record = {
    key: data.subarray(head, split),
    deleted: kind % KIND_IN_TRANSACTION === KIND_DELETED,
    value: data.subarray(split),
    previous: readId(data, 6),
  };
  if (!inTransaction) return record;
  return { ...record, transaction: { session: readUint64(data, RECORD_HEAD), sequence: readUint64(data, RECORD_HEAD + 8) } };
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
