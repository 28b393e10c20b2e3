import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import {
  decodeRecord,
  decodeVersionId,
  encodePointer,
  encodeVersionId,
  pointerKey,
  versionKey,
  versionOfKey,
  type Slot,
} from '../mvcc/records.js';
import type { LogIndex, SnapshotMeta } from '../raft/types.js';
import type { SnapshotSource } from './snapshot-port.js';
import { markUnnamed, unmark, versionsOnDisk } from './slots.js';
import { decodeMeta, encodeMeta, metaKey, sessionsKey, type BucketState, type Meta } from './state.js';
import type { StateStore } from './state-store.js';
import { TableLoader, TablePieces, Tables, type TableLimits } from './tables.js';
import type { VersionScan } from './version-scan.js';

/**
 * Snapshots of one bucket at a log index i: its meta record and its tables, frozen in one turn at i, and all version records
 * with log index <= i, all but the first streamed in pieces. Version records are written once and never change, so their pages
 * need no common moment; what is written after i is left out by its log index. Pointers are not sent: the receiver derives
 * them, for a key's pointer names the highest of its versions.
 *
 * Install goes into a new slot beside the old one. Only when all of it is on disk does the meta record turn to the new slot,
 * in one batch; a crash before that leaves a slot that nobody names, which is swept at the next start (bucket/slots.ts).
 */
const FORMAT = 3;

type HeaderTuple = [format: number, meta: Bytes];
type RecordTuple = [id: Bytes, value: Bytes];
/** One of the two; all tables come before the first records. */
type ChunkTuple = [tables: Bytes | null, records: readonly RecordTuple[]];

const RECORDS_PER_CHUNK_MAX = 1000;
/** A chunk leaves after so many pages, however little they brought: the receiver takes a long silence for a failure. */
const PAGES_PER_CHUNK_MAX = 100;

export class StateSnapshot implements SnapshotSource {
  readonly header: Bytes;
  readonly meta: SnapshotMeta;
  readonly #state: BucketState;
  readonly #slot: Slot;
  readonly #index: LogIndex;
  readonly #tables: TablePieces;
  readonly #release: () => void;
  #scan: VersionScan | undefined;
  #done = false;

  constructor(state: BucketState) {
    const { meta } = state;
    const header: HeaderTuple = [FORMAT, encodeMeta(meta)];
    this.header = pack(header);
    this.meta = { index: meta.applied.index, term: meta.applied.term, config: meta.config };
    this.#state = state;
    this.#slot = meta.slot;
    this.#index = meta.applied.index;
    this.#tables = new TablePieces(state.tables);
    // The receiver will answer from its horizon on, which is that of now.
    this.#release = state.holdForCopy();
  }

  /** Throws DATA_LOSS / RECORD_CORRUPT where this node's disk has lost a record. */
  async next(bytesMax: number): Promise<Bytes | undefined> {
    const tables = this.#done ? undefined : this.#tables.next(bytesMax);
    if (tables !== undefined) return pack([tables, []] satisfies ChunkTuple);
    const scan = this.#scan ?? (await versionsOnDisk(this.#state.store, this.#slot));
    this.#scan = scan;
    const records: RecordTuple[] = [];
    let bytes = 0;
    for (let pages = 0; !this.#done && pages < PAGES_PER_CHUNK_MAX; pages += 1) {
      const page = await scan.next({ limit: RECORDS_PER_CHUNK_MAX - records.length, bytesMax: bytesMax - bytes });
      this.#checkSlot();
      if (!page.more) this.#done = true;
      for (const [key, value] of page.entries) {
        const id = versionOfKey(key);
        if (id.index > this.#index) continue;
        // One that is rotten is this node's failure: a receiver would only refuse it, again and again.
        if (!mutant('rot-sent-on')) decodeRecord(value);
        records.push([encodeVersionId(id), value]);
        bytes += key.length + value.length;
      }
      if (records.length === RECORDS_PER_CHUNK_MAX || bytes >= bytesMax) break;
    }
    return records.length === 0 && this.#done ? undefined : pack([null, records] satisfies ChunkTuple);
  }

  /** A snapshot that was itself installed here meanwhile lets the old slot be swept, and pages of it may lack records. */
  #checkSlot(): void {
    if (this.#state.slot === this.#slot || mutant('snapshot-of-swept-slot')) return;
    const message = `bucket ${this.#state.bucket} has a newer state than the one that was being sent`;
    throw new TidemarkError('ABORTED', 'SNAPSHOT_REPLACED', message, { retriable: true });
  }

  close(): void {
    this.#done = true;
    this.#release();
  }
}

/** The state that a snapshot is of. Throws INVALID_ARGUMENT / SNAPSHOT_MALFORMED or NEWER_FORMAT, whatever the bytes are. */
export function decodeHeader(header: Bytes): Meta {
  return readable('the header', () => {
    const [format, meta] = unpack(header) as HeaderTuple;
    if (format !== FORMAT) {
      throw new TidemarkError('INVALID_ARGUMENT', 'NEWER_FORMAT', `a snapshot has format ${format}, not ${FORMAT}`);
    }
    return decodeMeta(meta);
  });
}

/** What a peer sent may be anything: that is its failure, not this node's. */
function readable<T>(what: string, decode: () => T): T {
  try {
    return decode();
  } catch (cause) {
    if (isTidemarkError(cause) && cause.reason === 'NEWER_FORMAT') throw cause;
    const message = `${what} of a snapshot cannot be read: ${messageOf(cause)}`;
    throw new TidemarkError('INVALID_ARGUMENT', 'SNAPSHOT_MALFORMED', message, { cause });
  }
}

/** A received snapshot on its way to disk, in a slot of its own. */
export class StagedSnapshot {
  readonly slot: Slot;
  readonly meta: SnapshotMeta;
  readonly #store: StateStore;
  readonly #source: Meta;
  readonly #tables: TableLoader;

  constructor(source: Meta, slot: Slot, store: StateStore, limits: TableLimits) {
    this.#source = source;
    this.#tables = new TableLoader(new Tables(limits));
    this.slot = slot;
    this.#store = store;
    const { applied, config } = this.#source;
    this.meta = { index: applied.index, term: applied.term, config };
  }

  /** Stages one chunk; resolves when it is on disk. Rejects, having staged nothing of it, with INVALID_ARGUMENT. */
  async write(chunk: Bytes): Promise<void> {
    const piece = this.#tables.count;
    const { tables, records } = readable('a chunk', () => {
      const [bytes, tuples] = unpack(chunk) as ChunkTuple;
      if (bytes !== null) this.#tables.add(bytes);
      const decoded = tuples.map(([id, value]) => ({ id: decodeVersionId(id), record: decodeRecord(value), value }));
      return { tables: bytes, records: decoded };
    });
    markUnnamed(this.#store, this.slot);
    if (tables !== null) this.#store.put(sessionsKey(this.slot, this.#source.applied.index, piece), tables);
    for (const { id, record, value } of records) {
      // Chunks come in version order, so the last write of a pointer is that of the key's latest version.
      this.#store.put(versionKey(this.slot, id), value);
      this.#store.put(pointerKey(this.slot, record.key), encodePointer({ ...id, deleted: record.deleted }));
    }
    await this.#store.flush();
  }

  /** Throws DATA_LOSS / SNAPSHOT_BROKEN if something is missing that the chunks should have brought. */
  checkComplete(): void {
    if (this.#tables.complete) return;
    throw new TidemarkError('DATA_LOSS', 'SNAPSHOT_BROKEN', 'a snapshot ended before all of its tables had come');
  }

  /** Turns the bucket to the new slot; resolves when that is on disk. The replica must not apply meanwhile. */
  async flip(state: BucketState): Promise<void> {
    const { replicaId } = state.meta;
    const horizon = mutant('snapshot-without-horizon') ? state.horizon : this.#source.horizon;
    const meta: Meta = { ...this.#source, slot: this.slot, replicaId, horizon, sessionsIndex: this.#source.applied.index };
    markUnnamed(this.#store, state.slot);
    unmark(this.#store, this.slot);
    this.#store.put(metaKey(state.bucket), encodeMeta(meta));
    state.replace(meta, this.#tables);
    if (!mutant('flip-before-sync')) await this.#store.flush();
  }
}
