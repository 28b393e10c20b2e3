import { crc32 } from 'node:zlib';
import { Packr, RESERVE_START_SPACE } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf, STATUS, TidemarkError, type StatusCode } from '../lib/errors.js';
import type { HeatReport } from '../placement/heat.js';
import { reportFromArray, reportToArray, sizeOfReport } from '../placement/heat-format.js';
import type { BucketId } from '../placement/map.js';
import { messageFromArray, messageToArray } from '../raft/codec.js';
import type { Entry, LogIndex, Message } from '../raft/types.js';

/**
 * What nodes say to each other, and its bytes. A frame is a CRC-32 (four bytes, big-endian) of what follows it, and that is a
 * msgpack array of items, each an array that begins with its kind. The checksum is not only against the wire: an array of
 * numbers with one bit turned mostly is another valid array of numbers, and would go into the log.
 */
export type PeerItem = RaftItem | BeatsItem | SnapshotItem | UnfitItem | HeldItem | DigestItem | MembershipItem | HeatItem;

export interface RaftItem {
  readonly kind: 'raft';
  readonly bucket: BucketId;
  readonly message: Message;
}

/** Heartbeats of groups at rest, or the answers to such, BEAT_FIELDS numbers each; see beats.ts. */
export interface BeatsItem {
  readonly kind: 'beats' | 'beatReplies';
  readonly fields: readonly number[];
}

export const BEAT_FIELDS = { beats: 8, beatReplies: 6 } as const satisfies Record<BeatsItem['kind'], number>;

/** The sender should lead nothing for so long, if it does not say so again; see balance.ts. */
export interface UnfitItem {
  readonly kind: 'unfit';
  readonly forMs: number;
}

/** The lowest timestamp that somebody on the sender still reads; 0: none. See holds.ts. */
export interface HeldItem {
  readonly kind: 'held';
  readonly lowest: number;
}

/** Digests of what replicas have applied up to and including entry `index`; see digest-check.ts. */
export interface DigestAsked {
  readonly kind: 'digestAsked';
  readonly bucket: BucketId;
  readonly index: LogIndex;
}

export interface DigestTold {
  readonly kind: 'digestTold';
  readonly bucket: BucketId;
  readonly index: LogIndex;
  readonly digest: number;
}

/** `digest` is the right one. */
export interface DigestJudged {
  readonly kind: 'digestJudged';
  readonly bucket: BucketId;
  readonly index: LogIndex;
  readonly digest: number;
}

/** The placement as the sender knows it: see placement/record-format.ts for its bytes. */
export interface PlacementItem {
  readonly kind: 'placement';
  readonly record: Bytes;
}

/** `belongs`: does that replica, which is the sender's, still belong to its group? `gone`: it does not, and never will again. */
export interface BelongsItem {
  readonly kind: 'belongs' | 'gone';
  readonly bucket: BucketId;
  readonly replica: number;
}

/** The buckets that the sender leads: those that are not as the placement of this epoch wants them, and those that are. */
export interface SettledItem {
  readonly kind: 'settled';
  readonly epoch: number;
  readonly moving: readonly BucketId[];
  readonly buckets: readonly BucketId[];
}

/** See membership.ts. */
export type MembershipItem = PlacementItem | BelongsItem | SettledItem;

/** How much is asked of the sender; see heat.ts. */
export interface HeatItem {
  readonly kind: 'heat';
  readonly report: HeatReport;
}

export type DigestItem = DigestAsked | DigestTold | DigestJudged;

/** `transfer` is the sender's number for one transfer; see snapshots.ts for who says what when. */
interface OfTransfer {
  readonly bucket: BucketId;
  readonly transfer: number;
}

export interface SnapshotOffer extends OfTransfer {
  readonly kind: 'snapshotOffer';
  readonly toReplica: number;
  readonly header: Bytes;
}

export interface SnapshotChunk extends OfTransfer {
  readonly kind: 'snapshotChunk';
  /** Counts from 1. */
  readonly sequence: number;
  readonly crc: number;
  readonly data: Bytes;
}

export interface SnapshotEnd extends OfTransfer {
  readonly kind: 'snapshotEnd';
  readonly chunks: number;
  /** Of all chunks, one after the other. */
  readonly crc: number;
}

/** The receiver has taken the first `sequence` chunks; 0 says that it wants the snapshot. */
export interface SnapshotTaken extends OfTransfer {
  readonly kind: 'snapshotTaken';
  readonly sequence: number;
}

export interface SnapshotInstalled extends OfTransfer {
  readonly kind: 'snapshotInstalled';
}

/** One side gave up. `by` tells whose transfer is meant, for both sides may send the same bucket to each other. */
export interface SnapshotAborted extends OfTransfer {
  readonly kind: 'snapshotAborted';
  readonly by: 'sender' | 'receiver';
  readonly code: StatusCode;
  readonly reason: string;
  readonly message: string;
}

export type SnapshotItem =
  | SnapshotOffer
  | SnapshotChunk
  | SnapshotEnd
  | SnapshotTaken
  | SnapshotInstalled
  | SnapshotAborted;

const RAFT = 0;
const OFFER = 1;
const CHUNK = 2;
const END = 3;
const TAKEN = 4;
const INSTALLED = 5;
const ABORTED = 6;
const UNFIT = 7;
const DIGEST_ASKED = 8;
const DIGEST_TOLD = 9;
const DIGEST_JUDGED = 10;
const HELD = 11;
const BEATS = 12;
const BEAT_REPLIES = 13;
const PLACEMENT = 14;
const BELONGS = 15;
const GONE = 16;
const SETTLED = 17;
const HEAT = 18;

const CRC_BYTES = 4;
const TEXT_MAX = 1000;
/** Below this size a frame may live as long as the entries that were decoded from it. */
const SHARED_FRAME_BYTES_MAX = 16 * 1024;

const packr = new Packr({ useRecords: false, moreTypes: false });

export function isBeats(item: PeerItem): item is BeatsItem {
  return item.kind === 'beats' || item.kind === 'beatReplies';
}

/** An upper estimate of an item's bytes in a frame. */
export function sizeOf(item: PeerItem): number {
  if (item.kind === 'raft') {
    let size = 160;
    if (item.message.type === 'append') for (const entry of item.message.entries) size += entry.data.length + 40;
    return size;
  }
  if (isBeats(item)) return 16 + 9 * item.fields.length;
  if (item.kind === 'placement') return 64 + item.record.length;
  if (item.kind === 'settled') return 64 + 5 * (item.moving.length + item.buckets.length);
  if (item.kind === 'heat') return sizeOfReport(item.report);
  if (item.kind === 'snapshotOffer') return 64 + item.header.length;
  if (item.kind === 'snapshotChunk') return 64 + item.data.length;
  return item.kind === 'snapshotAborted' ? 128 + 4 * TEXT_MAX : 64;
}

export function encodeFrame(items: readonly PeerItem[]): Bytes {
  const frame = packr.pack(items.map(toArray), RESERVE_START_SPACE + CRC_BYTES);
  frame.writeUInt32BE(crc32(frame.subarray(CRC_BYTES)), 0);
  return frame;
}

/** Throws INVALID_ARGUMENT / MALFORMED_FRAME, whatever the bytes are. */
export function decodeFrame(frame: Bytes): PeerItem[] {
  if (frame.length <= CRC_BYTES) throw malformed(`${frame.length} bytes are too short`);
  const body = frame.subarray(CRC_BYTES);
  if (crc32(body) !== frame.readUInt32BE(0)) throw malformed('the checksum does not match');
  try {
    const decoded: unknown = packr.unpack(body);
    if (!Array.isArray(decoded)) throw malformed('not an array of items');
    const items: PeerItem[] = [];
    for (const parts of decoded as readonly unknown[]) items.push(fromArray(parts, frame.length));
    return items;
  } catch (error) {
    if (isTidemarkError(error) && error.reason === 'MALFORMED_FRAME') throw error;
    throw malformed(messageOf(error));
  }
}

function toArray(item: PeerItem): readonly unknown[] {
  switch (item.kind) {
    case 'raft':
      return [RAFT, item.bucket, messageToArray(item.message)];
    case 'beats':
    case 'beatReplies':
      return [item.kind === 'beats' ? BEATS : BEAT_REPLIES, ...item.fields];
    case 'snapshotOffer':
      return [OFFER, item.bucket, item.transfer, item.toReplica, item.header];
    case 'snapshotChunk':
      return [CHUNK, item.bucket, item.transfer, item.sequence, item.crc, item.data];
    case 'snapshotEnd':
      return [END, item.bucket, item.transfer, item.chunks, item.crc];
    case 'snapshotTaken':
      return [TAKEN, item.bucket, item.transfer, item.sequence];
    case 'snapshotInstalled':
      return [INSTALLED, item.bucket, item.transfer];
    case 'snapshotAborted': {
      const message = item.message.slice(0, TEXT_MAX);
      return [ABORTED, item.bucket, item.transfer, item.by === 'sender', item.code, item.reason, message];
    }
    case 'unfit':
      return [UNFIT, item.forMs];
    case 'held':
      return [HELD, item.lowest];
    case 'placement':
      return [PLACEMENT, item.record];
    case 'belongs':
    case 'gone':
      return [item.kind === 'belongs' ? BELONGS : GONE, item.bucket, item.replica];
    case 'settled':
      return [SETTLED, item.epoch, item.moving, ...item.buckets];
    case 'heat':
      return [HEAT, ...reportToArray(item.report)];
    case 'digestAsked':
      return [DIGEST_ASKED, item.bucket, item.index];
    case 'digestTold':
    case 'digestJudged':
      return [item.kind === 'digestTold' ? DIGEST_TOLD : DIGEST_JUDGED, item.bucket, item.index, item.digest];
  }
}

function fromArray(parts: unknown, frameBytes: number): PeerItem {
  if (!Array.isArray(parts)) throw malformed('an item is not an array');
  const [kind, second, third, ...rest] = parts as readonly unknown[];
  if (kind === UNFIT) return { kind: 'unfit', forMs: natural(second, 'a time to be unfit') };
  if (kind === HELD) return { kind: 'held', lowest: natural(second, 'a held timestamp') };
  if (kind === BEATS || kind === BEAT_REPLIES) return beatsFrom(kind === BEATS ? 'beats' : 'beatReplies', parts);
  // A copy: it is kept, and its frame need not be.
  if (kind === PLACEMENT) return { kind: 'placement', record: Buffer.from(bytes(second)) };
  if (kind === SETTLED) {
    if (!Array.isArray(third)) throw malformed('buckets on their way are not an array');
    const [moving, buckets] = [third as unknown[], rest].map((ids) => ids.map((bucket) => natural(bucket, 'bucket')));
    return { kind: 'settled', epoch: natural(second, 'epoch'), moving: moving ?? [], buckets: buckets ?? [] };
  }
  if (kind === HEAT) return { kind: 'heat', report: reportFromArray(parts.slice(1)) };
  const bucket = natural(second, 'bucket');
  if (bucket > 0xffff_ffff) throw malformed('a bucket id is out of range');
  if (kind === RAFT) {
    return { kind: 'raft', bucket, message: detached(messageFromArray(third), frameBytes) };
  }
  if (kind === BELONGS || kind === GONE) {
    return { kind: kind === BELONGS ? 'belongs' : 'gone', bucket, replica: natural(third, 'replica') };
  }
  if (kind === DIGEST_ASKED) return { kind: 'digestAsked', bucket, index: natural(third, 'index') };
  if (kind === DIGEST_TOLD || kind === DIGEST_JUDGED) {
    const of = { bucket, index: natural(third, 'index'), digest: natural(rest[0], 'digest') };
    return { kind: kind === DIGEST_TOLD ? 'digestTold' : 'digestJudged', ...of };
  }
  const of = { bucket, transfer: natural(third, 'transfer') };
  switch (kind) {
    case OFFER:
      return { kind: 'snapshotOffer', ...of, toReplica: natural(rest[0], 'replica'), header: bytes(rest[1]) };
    case CHUNK: {
      const [sequence, crc, data] = rest;
      return {
        kind: 'snapshotChunk',
        ...of,
        sequence: natural(sequence, 'sequence'),
        crc: natural(crc, 'crc'),
        data: bytes(data),
      };
    }
    case END:
      return { kind: 'snapshotEnd', ...of, chunks: natural(rest[0], 'chunks'), crc: natural(rest[1], 'crc') };
    case TAKEN:
      return { kind: 'snapshotTaken', ...of, sequence: natural(rest[0], 'sequence') };
    case INSTALLED:
      return { kind: 'snapshotInstalled', ...of };
    case ABORTED: {
      const [bySender, code, reason, message] = rest;
      if (typeof code !== 'string' || typeof reason !== 'string' || typeof message !== 'string') {
        throw malformed('an abort lacks a text');
      }
      const known = Object.hasOwn(STATUS, code) ? (code as StatusCode) : 'UNKNOWN';
      return { kind: 'snapshotAborted', ...of, by: bySender === true ? 'sender' : 'receiver', code: known, reason, message };
    }
    default:
      throw malformed(`an item of unknown kind ${String(kind)}`);
  }
}

function beatsFrom(kind: BeatsItem['kind'], parts: readonly unknown[]): BeatsItem {
  const fields: number[] = [];
  for (let at = 1; at < parts.length; at += 1) fields.push(natural(parts[at], 'a field of a beat'));
  if (fields.length % BEAT_FIELDS[kind] !== 0) throw malformed('beats end in the middle of one');
  return { kind, fields };
}

/**
 * Decoded bytes share memory with their frame. Entries are cached for long; one small entry must not keep alive a large frame
 * with the entries of all other buckets.
 */
function detached(message: Message, frameBytes: number): Message {
  if (message.type !== 'append' || frameBytes <= SHARED_FRAME_BYTES_MAX) return message;
  let bytesOfMessage = 0;
  for (const entry of message.entries) bytesOfMessage += entry.data.length;
  if (bytesOfMessage > frameBytes / 2 && message.entries.length === 1) return message;
  const entries: Entry[] = message.entries.map((entry) => ({ ...entry, data: Buffer.from(entry.data) }));
  return { ...message, entries };
}

function natural(value: unknown, what: string): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw malformed(`${what} is not a whole number`);
}

function bytes(value: unknown): Bytes {
  if (Buffer.isBuffer(value)) return value;
  throw malformed('a field is not bytes');
}

function malformed(message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_FRAME', `malformed peer frame: ${message}`);
}
