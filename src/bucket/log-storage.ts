import type { Batch, Store } from '../env/env.js';
import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import type { BucketId } from '../placement/map.js';
import type { Entry, HardState, LogIndex, LogReader, Term } from '../raft/types.js';
import {
  bucketOfKey,
  checkSealed,
  corrupt,
  decodeHardState,
  decodeStart,
  encodeHardState,
  encodeStart,
  entriesOf,
  findSection,
  hardStateKey,
  RECORD_RANGE,
  RecordEncoder,
  recordKey,
  sectionsOf,
  sequenceOfKey,
  START_RANGE,
  startKey,
  storedBytes,
  type LogStart,
} from './log-format.js';
import { LogSegments, type RecordUse } from './log-segments.js';
import { eachEntry } from './pages.js';

/**
 * The logs of all buckets of a node, in one store. What one synced batch adds to them goes to disk as one record, or a few,
 * with a section for each bucket: a command costs the store nothing of its own, neither a key when it is written nor a deletion
 * when the log is compacted. An index in memory knows which record holds which entries; it is rebuilt at the start.
 *
 * Invariants
 * - Records are numbered without end, so keys are inserted in order and the files of the store hardly overlap.
 * - The index shows what is durable, and changes only when a batch has become so, by the steps by which a start rebuilds it.
 * - The port writes a batch as a whole. Less would do here: of a batch of which only the beginning is found, each record stands
 *   behind those that it follows, and what was asked to be written is not there as a whole, which nobody was told. A record whose
 *   predecessor in its batch is missing is damage.
 * - A record is deleted when no bucket needs any of its entries, in a later batch than the one that made it so. Whatever is on
 *   disk after a crash gives the log that was durable then (the proof is in log-segments.ts).
 *
 * Example: 64 commands for 40 buckets in one batch are one record of 40 sections. When each of these buckets has been compacted
 * beyond its section, the record is deleted.
 */
const DELETIONS_PER_BATCH_MAX = 256;
/** Records read lately: replicas that catch up read many entries of the same ones. */
const CACHE_BYTES_MAX = 4 * 1024 * 1024;

/** What an entry takes beside its data: its own head, and its share of that of a section, roughly. */
const ENTRY_OVERHEAD_BYTES = 16;
/** What an entry is taken to have before any was seen, and over how many its size is averaged. */
const ENTRY_BYTES_GUESS = 64;
const ENTRIES_AVERAGED = 64;

interface RecordInfo {
  readonly bytes: number;
  /** Segments of all logs that are in it. */
  segments: number;
}

export class LogStorage implements RecordUse {
  readonly #store: Store;
  readonly #logs = new Map<BucketId, BucketLog>();
  readonly #starts = new Map<BucketId, LogStart>();
  /** Those in use, oldest first. */
  readonly #records = new Map<number, RecordInfo>();
  #bytes = 0;
  #added = 0;
  /** Records that nobody needs any more. */
  readonly #unused: number[] = [];
  #nextSequence = 1;
  #isWriting = false;
  /** Least recently used first. */
  readonly #cache = new Map<number, Bytes>();
  #cacheBytes = 0;

  private constructor(store: Store) {
    this.#store = store;
  }

  /** Reads all records once. Rejects with DATA_LOSS / LOG_CORRUPT if one is bad, or entries are missing. */
  static async open(store: Store): Promise<LogStorage> {
    const storage = new LogStorage(store);
    await eachEntry(store, START_RANGE, (key, value) => {
      const bucket = bucketOfKey(key);
      const start = decodeStart(value, bucket);
      storage.#starts.set(bucket, start);
      storage.#nextSequence = Math.max(storage.#nextSequence, start.since);
    });
    await eachEntry(store, RECORD_RANGE, (key, value) => {
      const sequence = sequenceOfKey(key);
      storage.#nextSequence = Math.max(storage.#nextSequence, sequence + 1);
      checkSealed(value, nameOf(sequence));
      storage.#add(sequence, value);
    });
    for (const log of storage.#logs.values()) log.segments.verify();
    return storage;
  }

  /** The log of a bucket; an empty one if nothing was ever written. */
  log(bucket: BucketId): BucketLog {
    let log = this.#logs.get(bucket);
    if (log === undefined) {
      const start = this.#starts.get(bucket) ?? { index: 0, term: 0, since: 0 };
      log = new BucketLog(this, bucket, new LogSegments(bucket, start, this));
      this.#logs.set(bucket, log);
    }
    return log;
  }

  /** Every bucket of which something is in use. */
  get used(): BucketId[] {
    return [...this.#logs.values()].filter((log) => log.lastIndex() > 0).map(({ bucket }) => bucket);
  }

  hardState(bucket: BucketId): HardState {
    const data = this.#store.get(hardStateKey(bucket));
    return data === undefined ? { term: 0, vote: 0, commit: 0 } : decodeHardState(data, bucket);
  }

  /** Bytes of all records that some bucket needs. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes of all records that were ever found or written, those included that are gone. */
  get added(): number {
    return this.#added;
  }

  /** True if the next batch can delete something. */
  get hasUnused(): boolean {
    return this.#unused.length > 0;
  }

  /** The oldest record that can stay if those in use are to have at most so many bytes; all before it would have to go. */
  oldestWithin(bytesMax: number): number {
    let bytes = this.#bytes;
    for (const [sequence, record] of this.#records) {
      if (bytes <= bytesMax) return sequence;
      bytes -= record.bytes;
    }
    return this.#nextSequence;
  }

  /** What is to be written together. One batch at a time. */
  batch(): LogBatch {
    assert(!this.#isWriting, 'the logs are written one batch at a time');
    return new LogBatch(this, this.#store.batch(), this.#nextSequence);
  }

  /** @internal Writes what a batch has gathered. After a failure nothing is known about the logs any more. */
  async write(batch: Batch, records: readonly Bytes[], starts: ReadonlyMap<BucketLog, LogStart>): Promise<void> {
    assert(!this.#isWriting, 'the logs are written one batch at a time');
    this.#isWriting = true;
    let sequence = this.#nextSequence;
    this.#nextSequence += records.length;
    for (const [at, record] of records.entries()) batch.put(recordKey(sequence + at), record);
    for (const [{ bucket }, start] of starts) batch.put(startKey(bucket), encodeStart(start));
    for (const unused of this.#unused.splice(0, DELETIONS_PER_BATCH_MAX)) batch.del(recordKey(unused));
    await batch.write();
    for (const record of records) this.#add(sequence++, record);
    for (const [log, start] of starts) log.segments.restart(start);
    this.#isWriting = false;
  }

  #add(sequence: number, data: Bytes): void {
    const record: RecordInfo = { bytes: data.length, segments: 0 };
    this.#records.set(sequence, record);
    this.#bytes += record.bytes;
    this.#added += record.bytes;
    for (const { bucket, first, count, term } of sectionsOf(data)) this.log(bucket).segments.add(sequence, first, count, term);
    if (record.segments === 0) this.#drop(sequence, record);
  }

  /** @internal */
  hold(sequence: number): void {
    const record = this.#records.get(sequence);
    assert(record !== undefined, () => `${nameOf(sequence)} of the log is not in use`);
    record.segments += 1;
  }

  /** @internal */
  release(sequence: number): void {
    const record = this.#records.get(sequence);
    assert(record !== undefined && record.segments > 0, () => `${nameOf(sequence)} of the log is not in use`);
    record.segments -= 1;
    if (record.segments === 0) this.#drop(sequence, record);
  }

  #drop(sequence: number, record: RecordInfo): void {
    this.#records.delete(sequence);
    this.#bytes -= record.bytes;
    this.#unused.push(sequence);
    this.#cacheBytes -= this.#cache.get(sequence)?.length ?? 0;
    this.#cache.delete(sequence);
  }

  /** @internal A record that some log needs. */
  record(sequence: number): Bytes {
    const cached = this.#cache.get(sequence);
    if (cached !== undefined) {
      this.#cache.delete(sequence);
      this.#cache.set(sequence, cached);
      return cached;
    }
    const data = this.#store.get(recordKey(sequence));
    if (data === undefined) throw corrupt(`${nameOf(sequence)} of the log is missing`);
    checkSealed(data, nameOf(sequence));
    this.#cache.set(sequence, data);
    this.#cacheBytes += data.length;
    for (const [oldest, { length }] of this.#cache) {
      if (this.#cacheBytes <= CACHE_BYTES_MAX || oldest === sequence) break;
      this.#cache.delete(oldest);
      this.#cacheBytes -= length;
    }
    return data;
  }

  /** Waits for a batch under way. */
  close(): Promise<void> {
    return this.#store.close();
  }
}

function nameOf(sequence: number): string {
  return `batch record ${sequence}`;
}

/** The durable log of one bucket. */
export class BucketLog implements LogReader {
  readonly bucket: BucketId;
  /** @internal */
  readonly segments: LogSegments;
  readonly #storage: LogStorage;
  #entryBytes = ENTRY_BYTES_GUESS;

  constructor(storage: LogStorage, bucket: BucketId, segments: LogSegments) {
    this.#storage = storage;
    this.bucket = bucket;
    this.segments = segments;
  }

  /** The size of an entry, as a slowly moving average. */
  get entryBytes(): number {
    return this.#entryBytes;
  }

  /** @internal */
  noteSize(entry: Entry): void {
    this.#entryBytes += (entry.data.length + ENTRY_OVERHEAD_BYTES - this.#entryBytes) / ENTRIES_AVERAGED;
  }

  firstIndex(): LogIndex {
    return this.segments.start.index + 1;
  }

  lastIndex(): LogIndex {
    return this.segments.last;
  }

  term(index: LogIndex): Term {
    return this.segments.term(index);
  }

  /** The last index that stands in a batch record before `sequence`; firstIndex() - 1 if there is none. */
  lastIndexBefore(sequence: number): LogIndex {
    return this.segments.lastIndexBefore(sequence);
  }

  entries(from: LogIndex, to: LogIndex, bytesMax: number): Entry[] {
    const found: Entry[] = [];
    let bytes = 0;
    for (let next = from; next < to; ) {
      const { last, sequence } = this.segments.at(next);
      const end = Math.min(to, last + 1);
      for (const entry of this.#entriesIn(sequence, next, end)) {
        bytes += storedBytes(entry);
        if (found.length > 0 && bytes > bytesMax) return found;
        found.push(entry);
      }
      next = end;
    }
    return found;
  }

  #entriesIn(sequence: number, from: LogIndex, to: LogIndex): Entry[] {
    const record = this.#storage.record(sequence);
    const section = findSection(record, this.bucket, from);
    if (section === undefined || section.first + section.count < to) {
      throw corrupt(`log entries ${from} to ${to - 1} of bucket ${this.bucket} are not in ${nameOf(sequence)}`);
    }
    return entriesOf(record, section, from, to);
  }
}

/** What goes to disk together: entries of many buckets, votes, compactions, and records of the node's own. */
export class LogBatch {
  readonly #storage: LogStorage;
  readonly #batch: Batch;
  /** The number of the first record of this batch. */
  readonly #sequence: number;
  readonly #entries = new Map<BucketLog, readonly Entry[]>();
  readonly #starts = new Map<BucketLog, LogStart>();

  constructor(storage: LogStorage, batch: Batch, sequence: number) {
    this.#storage = storage;
    this.#batch = batch;
    this.#sequence = sequence;
  }

  /** What one Ready wants persisted; entries replace everything from the first one's index on. */
  append(log: BucketLog, entries: readonly Entry[], hardState: HardState | undefined): void {
    const first = entries[0]?.index;
    if (first !== undefined) {
      const gathered = this.#entries.get(log);
      const last = gathered?.at(-1)?.index ?? log.lastIndex();
      const follows = first >= log.firstIndex() && first <= last + 1;
      assert(follows, () => `bucket ${log.bucket}: ${first} does not follow ${last} in the log`);
      for (const entry of entries) log.noteSize(entry);
      this.#entries.set(log, gathered === undefined ? entries : replaceFrom(gathered, entries, first));
    }
    if (hardState !== undefined) this.#batch.put(hardStateKey(log.bucket), encodeHardState(hardState));
  }

  /** Drops entries up to `index`, as far as they are durable. */
  compact(log: BucketLog, index: LogIndex): void {
    const to = Math.min(index, log.lastIndex());
    if (to < log.firstIndex() || this.#starts.has(log)) return;
    this.#restart(log, to, log.term(to), true);
  }

  /**
   * Starts the log behind a snapshot at (index, term). Entries behind it stay only if the log holds that very entry, for then
   * it is the same log.
   */
  reset(log: BucketLog, index: LogIndex, term: Term): void {
    assert(!this.#entries.has(log), `bucket ${log.bucket}: a log is reset while entries are on their way to it`);
    const isHeld = index >= log.firstIndex() - 1 && index <= log.lastIndex() && log.term(index) === term;
    this.#restart(log, index, term, isHeld);
  }

  /** As if nothing had ever been written for the bucket: its replica is gone, and another may come that knows nothing of it. */
  clear(log: BucketLog): void {
    assert(!this.#entries.has(log), `bucket ${log.bucket}: a log is cleared while entries are on their way to it`);
    this.#starts.set(log, { index: 0, term: 0, since: this.#sequence });
    this.#batch.put(hardStateKey(log.bucket), encodeHardState({ term: 0, vote: 0, commit: 0 }));
  }

  #restart(log: BucketLog, index: LogIndex, term: Term, keepsSuffix: boolean): void {
    const first = this.#entries.get(log)?.[0]?.index ?? Infinity;
    assert(first > index, `bucket ${log.bucket}: entry ${first} is written again, though the log is compacted to ${index}`);
    const since = keepsSuffix ? log.segments.sequenceBehind(index) : undefined;
    this.#starts.set(log, { index, term, since: since ?? this.#sequence });
  }

  /** A record of the node's own. */
  put(key: Bytes, value: Bytes): void {
    this.#batch.put(key, value);
  }

  /** Resolves when all of it is on disk and the logs show it. */
  write(): Promise<void> {
    const encoder = new RecordEncoder();
    for (const [{ bucket }, entries] of this.#entries) encoder.add(bucket, entries);
    return this.#storage.write(this.#batch, encoder.finish(), this.#starts);
  }
}

function replaceFrom(list: readonly Entry[], entries: readonly Entry[], first: LogIndex): Entry[] {
  return list.filter(({ index }) => index < first).concat(entries);
}
