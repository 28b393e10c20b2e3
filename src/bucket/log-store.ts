import { crc32 } from 'node:zlib';
import type { Batch, Store } from '../env/env.js';
import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { readUint64, writeUint64 } from '../lib/ordered.js';
import type { BucketId } from '../placement/map.js';
import type { Entry, EntryKind, HardState, LogIndex, LogReader, Term } from '../raft/types.js';

/**
 * One bucket's part of the node's `log` store.
 *
 *   e <bucket u32> <index u64>  ->  crc u32, term u64, kind u8, data
 *   h <bucket u32>              ->  crc u32, term u64, vote u32, commit u64
 *   t <bucket u32>              ->  crc u32, index u64, term u64          what the log begins behind
 *
 * Writing only fills a batch: the node's log writer syncs one batch for all its buckets. The reader shows the durable log.
 */
const ENTRY_TAG = 0x65; // 'e'
const HARD_STATE_TAG = 0x68; // 'h'
const START_TAG = 0x74; // 't'
const KINDS: readonly EntryKind[] = ['data', 'config', 'empty'];
const ENTRY_HEAD = 13;

function entryKey(bucket: BucketId, index: LogIndex): Bytes {
  const out = Buffer.allocUnsafe(13);
  out[0] = ENTRY_TAG;
  out.writeUInt32BE(bucket, 1);
  writeUint64(out, index, 5);
  return out;
}

function bucketKey(tag: number, bucket: BucketId): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = tag;
  out.writeUInt32BE(bucket, 1);
  return out;
}

function encodeEntry(entry: Entry): Bytes {
  const out = Buffer.allocUnsafe(ENTRY_HEAD + entry.data.length);
  writeUint64(out, entry.term, 4);
  out[12] = KINDS.indexOf(entry.kind);
  entry.data.copy(out, ENTRY_HEAD);
  return seal(out);
}

function seal(out: Bytes): Bytes {
  out.writeUInt32BE(crc32(out.subarray(4)), 0);
  return out;
}

function unseal(data: Bytes, what: string): Bytes {
  if (data.length < 4 || data.readUInt32BE(0) !== crc32(data.subarray(4))) {
    throw new TidemarkError('DATA_LOSS', 'LOG_CORRUPT', `${what} fails its checksum on disk`);
  }
  return data;
}

export class LogStore implements LogReader {
  readonly bucket: BucketId;
  readonly #store: Store;
  #start: { index: LogIndex; term: Term } = { index: 0, term: 0 };
  /** The last durable index. */
  #last: LogIndex = 0;
  /** The last index that is in a batch, written or on its way. */
  #written: LogIndex = 0;
  #entryBytes = 64;

  private constructor(store: Store, bucket: BucketId) {
    this.#store = store;
    this.bucket = bucket;
  }

  static async open(store: Store, bucket: BucketId): Promise<{ log: LogStore; hardState: HardState }> {
    const log = new LogStore(store, bucket);
    const start = store.get(bucketKey(START_TAG, bucket));
    if (start !== undefined) {
      unseal(start, `the start of the log of bucket ${bucket}`);
      log.#start = { index: readUint64(start, 4), term: readUint64(start, 12) };
    }
    const newest = await store.page({
      gte: entryKey(bucket, 0),
      lt: entryKey(bucket, Number.MAX_SAFE_INTEGER),
      reverse: true,
      limit: 1,
    });
    const lastKey = newest.entries[0]?.[0];
    log.#last = lastKey === undefined ? log.#start.index : Math.max(readUint64(lastKey, 5), log.#start.index);
    log.#written = log.#last;
    const data = store.get(bucketKey(HARD_STATE_TAG, bucket));
    if (data === undefined) return { log, hardState: { term: 0, vote: 0, commit: 0 } };
    unseal(data, `the vote of bucket ${bucket}`);
    return { log, hardState: { term: readUint64(data, 4), vote: data.readUInt32BE(12), commit: readUint64(data, 16) } };
  }

  /** The size of an entry, as a slowly moving average. */
  get entryBytes(): number {
    return this.#entryBytes;
  }

  firstIndex(): LogIndex {
    return this.#start.index + 1;
  }

  lastIndex(): LogIndex {
    return this.#last;
  }

  term(index: LogIndex): Term {
    if (index === this.#start.index) return this.#start.term;
    return readUint64(this.#read(index), 4);
  }

  entries(from: LogIndex, to: LogIndex, bytesMax: number): Entry[] {
    const found: Entry[] = [];
    let bytes = 0;
    for (let index = from; index < to && (found.length === 0 || bytes < bytesMax); index += 1) {
      const data = this.#read(index);
      const kind = KINDS[data[12] ?? 0xff];
      assert(kind !== undefined, `log entry ${index} of bucket ${this.bucket} has an unknown kind`);
      found.push({ index, term: readUint64(data, 4), kind, data: data.subarray(ENTRY_HEAD) });
      bytes += data.length;
    }
    return found;
  }

  #read(index: LogIndex): Bytes {
    const data = this.#store.get(entryKey(this.bucket, index));
    if (data === undefined) {
      throw new TidemarkError('DATA_LOSS', 'LOG_CORRUPT', `log entry ${index} of bucket ${this.bucket} is missing`);
    }
    return unseal(data, `log entry ${index} of bucket ${this.bucket}`);
  }

  /** Adds what one Ready wants persisted; entries replace everything from the first one's index on. */
  fill(batch: Batch, entries: readonly Entry[], hardState: HardState | undefined): void {
    const first = entries[0];
    if (first !== undefined) {
      const last = first.index + entries.length - 1;
      for (const entry of entries) {
        const data = encodeEntry(entry);
        batch.put(entryKey(this.bucket, entry.index), data);
        this.#entryBytes += (data.length - this.#entryBytes) / 64;
      }
      const end = mutant('log-tail-kept') ? last : this.#written;
      for (let index = last + 1; index <= end; index += 1) batch.del(entryKey(this.bucket, index));
      this.#written = last;
    }
    if (hardState !== undefined) {
      const out = Buffer.allocUnsafe(24);
      writeUint64(out, hardState.term, 4);
      out.writeUInt32BE(mutant('vote-forgotten') ? 0 : hardState.vote, 12);
      writeUint64(out, hardState.commit, 16);
      batch.put(bucketKey(HARD_STATE_TAG, this.bucket), seal(out));
    }
  }

  /** The batch with entries up to `last` is on disk; a shorter `last` than before means that a tail was replaced. */
  filled(last: LogIndex): void {
    this.#last = last;
  }

  /** Drops entries up to `index`, at most `limit` of them, within one batch; returns how far it came. */
  fillCompaction(batch: Batch, index: LogIndex, limit: number): LogIndex {
    const from = this.#start.index + 1;
    const to = Math.min(index, this.#last, this.#start.index + limit);
    if (to < from) return this.#start.index;
    const term = this.term(to);
    for (let at = from; at <= to; at += 1) batch.del(entryKey(this.bucket, at));
    this.#fillStart(batch, to, term);
    return to;
  }

  /**
   * Starts the log behind a snapshot at (index, term). Entries behind it stay only if the log holds that very entry, for then
   * it is the same log.
   */
  fillReset(batch: Batch, index: LogIndex, term: Term): void {
    const keepsSuffix = index >= this.#start.index && index <= this.#last && this.term(index) === term;
    const end = keepsSuffix ? index : Math.max(this.#written, this.#last);
    for (let at = this.#start.index + 1; at <= end; at += 1) batch.del(entryKey(this.bucket, at));
    this.#fillStart(batch, index, term);
    if (!keepsSuffix) {
      this.#last = index;
      this.#written = index;
    }
  }

  #fillStart(batch: Batch, index: LogIndex, term: Term): void {
    const out = Buffer.allocUnsafe(20);
    writeUint64(out, index, 4);
    writeUint64(out, term, 12);
    batch.put(bucketKey(START_TAG, this.bucket), seal(out));
    this.#start = { index, term };
  }
}
