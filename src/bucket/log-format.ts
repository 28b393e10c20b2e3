import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { prefixEnd, readUint64, writeUint64 } from '../lib/ordered.js';
import type { BucketId } from '../placement/map.js';
import type { Entry, EntryKind, HardState, LogIndex, Term } from '../raft/types.js';
import { CRC_BYTES, isSealed, sealInPlace } from './sealed.js';

/**
 * The bytes of the node's `log` store.
 *
 *   b <sequence u64>  ->  crc u32, sections                        a batch record: what one batch added to all logs
 *   h <bucket u32>    ->  crc u32, term u64, vote u32, commit u64
 *   t <bucket u32>    ->  crc u32, index u64, term u64, since u64  what the log begins behind
 *
 *   section           =   bucket u32, first index u64, term u64, entries u32, bytes u32, { kind u8, length u32, data }
 *
 * A section holds consecutive entries of one bucket and one term. It replaces whatever the log holds from its first index on.
 *
 * Batch records sort before everything else, on purpose. So the last file of a deep level of LevelDB begins with records and ends
 * with a `t`, and newer records come down by being merged with it, all of a level at once, the deletions of the oldest with
 * them. With the records behind everything else, new files are moved down as they are, and the deletions, which weigh
 * nothing, lag behind: half of the compaction, but a store of nine times what is alive, and growing.
 */
const RECORD_TAG = 0x62; // 'b'
const HARD_STATE_TAG = 0x68; // 'h'
const START_TAG = 0x74; // 't'
const KINDS: readonly EntryKind[] = ['data', 'config', 'empty'];
const SECTION_HEAD_BYTES = 28;
const ENTRY_HEAD_BYTES = 5;

/**
 * A batch is cut into records of about this size, which some dozens of small commands fill. Whoever reads one entry reads, copies
 * and checks a whole record; and a record is kept for as long as anybody needs anything in it. An entry that is larger has a
 * record for itself.
 */
const RECORD_BYTES = 8 * 1024;

export const RECORD_RANGE = { gte: recordKey(0), lt: prefixEnd(Buffer.of(RECORD_TAG)) };
export const START_RANGE = { gte: startKey(0), lt: prefixEnd(Buffer.of(START_TAG)) };

/** What a log begins behind. Sections in records before `since` do not count (see log-segments.ts). */
export interface LogStart {
  readonly index: LogIndex;
  readonly term: Term;
  readonly since: number;
}

/** Entries of one bucket and one term that stand together in a record. */
export interface Section {
  readonly bucket: BucketId;
  readonly first: LogIndex;
  readonly term: Term;
  readonly count: number;
  /** Where they begin in the record. */
  readonly offset: number;
}

export function recordKey(sequence: number): Bytes {
  const out = Buffer.allocUnsafe(9);
  out[0] = RECORD_TAG;
  writeUint64(out, sequence, 1);
  return out;
}

export function sequenceOfKey(key: Bytes): number {
  return readUint64(key, 1);
}

export function hardStateKey(bucket: BucketId): Bytes {
  return bucketKey(HARD_STATE_TAG, bucket);
}

export function startKey(bucket: BucketId): Bytes {
  return bucketKey(START_TAG, bucket);
}

export function bucketOfKey(key: Bytes): BucketId {
  return key.readUInt32BE(1);
}

function bucketKey(tag: number, bucket: BucketId): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = tag;
  out.writeUInt32BE(bucket, 1);
  return out;
}

export function corrupt(what: string): TidemarkError {
  return new TidemarkError('DATA_LOSS', 'LOG_CORRUPT', what);
}

/** Throws LOG_CORRUPT where a record of the log store, or one that stands beside the logs, is not what was sealed. */
export function checkSealed(data: Bytes, what: string): void {
  if (!isSealed(data)) throw corrupt(`${what} fails its checksum on disk`);
}

export function encodeHardState({ term, vote, commit }: HardState): Bytes {
  const out = Buffer.allocUnsafe(28);
  writeUint64(out, term, 4);
  writeUint64(out, mutant('vote-forgotten') ? 0 : vote, 12);
  writeUint64(out, commit, 20);
  return sealInPlace(out);
}

export function decodeHardState(data: Bytes, bucket: BucketId): HardState {
  checkSealed(data, `the vote of bucket ${bucket}`);
  return { term: readUint64(data, 4), vote: readUint64(data, 12), commit: readUint64(data, 20) };
}

export function encodeStart({ index, term, since }: LogStart): Bytes {
  const out = Buffer.allocUnsafe(28);
  writeUint64(out, index, 4);
  writeUint64(out, term, 12);
  writeUint64(out, mutant('log-tail-kept') ? 0 : since, 20);
  return sealInPlace(out);
}

export function decodeStart(data: Bytes, bucket: BucketId): LogStart {
  checkSealed(data, `the start of the log of bucket ${bucket}`);
  return { index: readUint64(data, 4), term: readUint64(data, 12), since: readUint64(data, 20) };
}

/** The bytes that an entry takes in a record, but for its share of a section's head. */
export function storedBytes(entry: Entry): number {
  return ENTRY_HEAD_BYTES + entry.data.length;
}

/** Puts entries into batch records, in the order in which they are added. */
export class RecordEncoder {
  readonly #records: Bytes[] = [];
  #sections: SectionDraft[] = [];
  #bytes = CRC_BYTES;

  /** Entries of one bucket that follow each other. */
  add(bucket: BucketId, entries: readonly Entry[]): void {
    let section: SectionDraft | undefined;
    for (const [at, entry] of entries.entries()) {
      const bytes = storedBytes(entry);
      if (this.#sections.length > 0 && this.#bytes + SECTION_HEAD_BYTES + bytes > RECORD_BYTES) {
        this.#cut();
        section = undefined;
      }
      if (section?.term !== entry.term) {
        section = { bucket, term: entry.term, entries, from: at, to: at, bytes: 0 };
        this.#sections.push(section);
        this.#bytes += SECTION_HEAD_BYTES;
      }
      section.to += 1;
      section.bytes += bytes;
      this.#bytes += bytes;
    }
  }

  #cut(): void {
    this.#records.push(encodeRecord(this.#sections, this.#bytes));
    this.#sections = [];
    this.#bytes = CRC_BYTES;
  }

  /** All that was added. */
  finish(): readonly Bytes[] {
    if (this.#sections.length > 0) this.#cut();
    return this.#records;
  }
}

/** A part of a list of entries. */
interface SectionDraft {
  readonly bucket: BucketId;
  readonly term: Term;
  readonly entries: readonly Entry[];
  readonly from: number;
  to: number;
  bytes: number;
}

function encodeRecord(sections: readonly SectionDraft[], bytes: number): Bytes {
  const out = Buffer.allocUnsafe(bytes);
  let at = CRC_BYTES;
  for (const section of sections) {
    at = writeSectionHead(out, at, section);
    for (let n = section.from; n < section.to; n += 1) {
      const entry = section.entries[n];
      assert(entry !== undefined, 'a section is a part of its list');
      out[at] = KINDS.indexOf(entry.kind);
      out.writeUInt32BE(entry.data.length, at + 1);
      entry.data.copy(out, at + ENTRY_HEAD_BYTES);
      at += storedBytes(entry);
    }
  }
  assert(at === bytes, 'a batch record has the size that was counted');
  return sealInPlace(out);
}

function writeSectionHead(out: Bytes, at: number, { bucket, term, entries, from, to, bytes }: SectionDraft): number {
  out.writeUInt32BE(bucket, at);
  writeUint64(out, entries[from]?.index ?? 0, at + 4);
  writeUint64(out, term, at + 12);
  out.writeUInt32BE(to - from, at + 20);
  out.writeUInt32BE(bytes, at + 24);
  return at + SECTION_HEAD_BYTES;
}

/** The sections of a record whose checksum is right, in the order in which they were written. */
export function sectionsOf(record: Bytes): Section[] {
  const sections: Section[] = [];
  for (let at = CRC_BYTES; at < record.length; ) {
    const offset = at + SECTION_HEAD_BYTES;
    sections.push({
      bucket: record.readUInt32BE(at),
      first: readUint64(record, at + 4),
      term: readUint64(record, at + 12),
      count: record.readUInt32BE(at + 20),
      offset,
    });
    at = offset + record.readUInt32BE(at + 24);
  }
  return sections;
}

/** The section that holds an entry; undefined if the record has none. */
export function findSection(record: Bytes, bucket: BucketId, index: LogIndex): Section | undefined {
  for (let at = CRC_BYTES; at < record.length; ) {
    const offset = at + SECTION_HEAD_BYTES;
    if (record.readUInt32BE(at) === bucket) {
      const first = readUint64(record, at + 4);
      const count = record.readUInt32BE(at + 20);
      if (index >= first && index < first + count) return { bucket, first, term: readUint64(record, at + 12), count, offset };
    }
    at = offset + record.readUInt32BE(at + 24);
  }
  return undefined;
}

/** The entries of a section from index `from` to before `to`. */
export function entriesOf(record: Bytes, { first, term, count, offset }: Section, from: LogIndex, to: LogIndex): Entry[] {
  const entries: Entry[] = [];
  let at = offset;
  for (let index = first; index < Math.min(to, first + count); index += 1) {
    const end = at + ENTRY_HEAD_BYTES + record.readUInt32BE(at + 1);
    if (index >= from) {
      const kind = KINDS[record[at] ?? 0xff];
      assert(kind !== undefined, `log entry ${index} has an unknown kind`);
      const data = record.subarray(at + ENTRY_HEAD_BYTES, end);
      // A small entry that is kept for a while must not keep all of its record.
      entries.push({ index, term, kind, data: data.length * 2 < record.length ? Buffer.from(data) : data });
    }
    at = end;
  }
  return entries;
}
