import { crc32 } from 'node:zlib';
import { pack, unpack } from 'msgpackr';
import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { prefixEnd, readUint64, writeUint64 } from '../lib/ordered.js';
import {
  encodePointer,
  encodeRecord,
  pointerKey,
  versionKey,
  type Pointer,
  type Slot,
  type TransactionTag,
  type VersionId,
} from '../mvcc/records.js';
import { readPointer } from '../mvcc/reader.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import { decodeConfig } from '../raft/config.js';
import type { Config, Entry, LogIndex, Term } from '../raft/types.js';
import type { Home } from '../txn/home.js';
import type { Participant } from '../txn/participant.js';
import type { Prepared } from '../txn/transaction.js';
import { decodeEffects, type Effect, type Effects } from './effects.js';
import { notLeader } from './not-leader.js';
import {
  applyRetention,
  decodeRetention,
  isRetention,
  pinFromTuple,
  pinToTuple,
  type Pin,
  type PinTuple,
} from './retention.js';
import type { RecentOfBucket } from './recent-versions.js';
import type { Sessions } from './sessions.js';
import type { BatchMember, StateStore } from './state-store.js';
import { TablePieces, type TableLoader, type Tables } from './tables.js';

/**
 * The replicated state of one bucket: versions and pointers in the state store, and the small facts that every replica
 * derives from the log in memory (applied index, highest timestamp, digest, configuration, the tables).
 *
 *   m <bucket u32>                       ->  the meta record: where the state stands, in the same batch as the data it describes
 *   s <slot u32> <index u64> <piece u32>  ->  a piece of the tables as of the entry at index: sessions, transactions (tables.ts)
 *
 * Invariants: sessionsIndex <= durableIndex <= applied.index. Equal applied index means equal digest on every replica. The meta
 * record names the only checkpoint of the tables that counts, by its index, and all pieces of that are on disk. Commands have
 * timestamps that grow with the log; versions do so for each key, but not over all keys: a transaction's have its commit
 * timestamp, and are written when it is resolved.
 */
const META_TAG = 0x6d; // 'm'
const SESSIONS_TAG = 0x73; // 's'
const META_FORMAT = 2;

export interface AppliedMark {
  readonly index: LogIndex;
  readonly term: Term;
}

/** Everything of a bucket's state but its versions and tables. */
export interface Meta {
  readonly slot: Slot;
  readonly replicaId: number;
  readonly applied: AppliedMark;
  /** The bucket's running maximum timestamp, that of its last command: nothing that it holds is above. */
  readonly maxTimestamp: number;
  /** The earliest timestamp that can be read. What only earlier ones would show may be gone. */
  readonly horizon: number;
  readonly pins: readonly Pin[];
  readonly digest: number;
  readonly config: Config;
  readonly sessionsIndex: LogIndex;
}

type MetaTuple = [
  format: number,
  slot: number,
  replicaId: number,
  index: number,
  term: number,
  maxTimestamp: number,
  horizon: number,
  digest: number,
  config: [number[], number[], number[], number[]],
  sessionsIndex: number,
  pins: PinTuple[],
];

export function metaKey(bucket: BucketId): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = META_TAG;
  out.writeUInt32BE(bucket, 1);
  return out;
}

export function sessionsKey(slot: Slot, index: LogIndex, piece: number): Bytes {
  const out = Buffer.allocUnsafe(17);
  out[0] = SESSIONS_TAG;
  out.writeUInt32BE(slot, 1);
  writeUint64(out, index, 5);
  out.writeUInt32BE(piece, 13);
  return out;
}

/** All pieces of all checkpoints of a slot. */
export function sessionsRange(slot: Slot): { gte: Bytes; lt: Bytes } {
  const gte = sessionsKey(slot, 0, 0).subarray(0, 5);
  return { gte, lt: prefixEnd(gte) };
}

export function placeOfSessionsKey(key: Bytes): { slot: Slot; index: LogIndex } {
  return { slot: key.readUInt32BE(1), index: readUint64(key, 5) };
}

export function encodeMeta(meta: Meta): Bytes {
  const { voters, outgoing, learners, learnersNext } = meta.config;
  const tuple: MetaTuple = [
    META_FORMAT,
    meta.slot,
    meta.replicaId,
    meta.applied.index,
    meta.applied.term,
    meta.maxTimestamp,
    meta.horizon,
    meta.digest,
    [[...voters], [...outgoing], [...learners], [...learnersNext]],
    meta.sessionsIndex,
    meta.pins.map(pinToTuple),
  ];
  const body = pack(tuple);
  const out = Buffer.allocUnsafe(body.length + 4);
  out.writeUInt32BE(crc32(body), 0);
  body.copy(out, 4);
  return out;
}

export function decodeMeta(data: Bytes): Meta {
  const body = data.subarray(4);
  if (data.length < 5 || data.readUInt32BE(0) !== crc32(body)) {
    throw new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', 'a bucket meta record fails its checksum');
  }
  const [format, slot, replicaId, index, term, maxTimestamp, horizon, digest, config, sessionsIndex, pins] = unpack(
    body,
  ) as MetaTuple;
  if (format !== META_FORMAT) {
    throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `a bucket meta record has format ${format}`);
  }
  const [voters, outgoing, learners, learnersNext] = config;
  return {
    slot,
    replicaId,
    applied: { index, term },
    maxTimestamp,
    horizon,
    pins: pins.map(pinFromTuple),
    digest,
    config: { voters, outgoing, learners, learnersNext },
    sessionsIndex,
  };
}

export class BucketState implements BatchMember {
  readonly bucket: BucketId;
  readonly store: StateStore;
  #tables: Tables;
  #meta: Meta;
  #copies = 0;
  #retired = false;
  #durableIndex: LogIndex;
  #batchIndex: LogIndex = 0;
  /** The checkpoint of the sessions that is on disk, the one in the batch under way, and the one written for the next. */
  #checkpoint: Checkpoint;
  #batchCheckpoint: Checkpoint | undefined;
  #newCheckpoint: Checkpoint | undefined;
  /** The records that were applied last, for those who follow the changes. */
  readonly recent: RecentOfBucket;
  #digestWatch: { readonly index: LogIndex; readonly told: (digest: number) => void } | undefined;

  /** The tables are as of the checkpoint; who opens the bucket replays the log from there. */
  constructor(bucket: BucketId, store: StateStore, meta: Meta, { tables, count }: TableLoader) {
    this.bucket = bucket;
    this.store = store;
    this.#tables = tables;
    this.#meta = meta;
    this.#durableIndex = meta.applied.index;
    this.#checkpoint = { index: meta.sessionsIndex, pieces: count };
    this.recent = store.recent.bucket(meta.maxTimestamp);
  }

  get tables(): Tables {
    return this.#tables;
  }

  get sessions(): Sessions {
    return this.#tables.sessions;
  }

  /** What is prepared here of transactions whose home is elsewhere. */
  get participant(): Participant {
    return this.#tables.participant;
  }

  /** What is committed here and not resolved everywhere. */
  get home(): Home {
    return this.#tables.home;
  }

  get slot(): Slot {
    return this.#meta.slot;
  }

  get meta(): Meta {
    return this.#meta;
  }

  get applied(): AppliedMark {
    return this.#meta.applied;
  }

  get maxTimestamp(): number {
    return this.#meta.maxTimestamp;
  }

  get horizon(): number {
    return this.#meta.horizon;
  }

  /** While this is not 0, nothing is collected: somebody copies the records as they are at one entry. */
  get copies(): number {
    return this.#copies;
  }

  /** Call what it returns, once, when the copy is made. */
  holdForCopy(): () => void {
    if (mutant('snapshot-holds-no-horizon')) return () => undefined;
    let held = true;
    this.#copies += 1;
    return () => {
      if (held) this.#copies -= 1;
      held = false;
    };
  }

  /** The highest applied index that is on disk with its data. */
  get durableIndex(): LogIndex {
    return this.#durableIndex;
  }

  /** The log from here on is needed to restore the tables after a restart. */
  get sessionsIndex(): LogIndex {
    return this.#meta.sessionsIndex;
  }

  pointer(key: Bytes): Pointer | undefined {
    return readPointer(this.store, this.slot, key);
  }

  /**
   * Calls `told` with the digest at `index`, as soon as that is what is applied; never, if it is passed already or by a
   * snapshot. A later call takes the place of an earlier one.
   */
  watchDigest(index: LogIndex, told: (digest: number) => void): void {
    this.#digestWatch = { index, told };
    this.#tellDigest();
  }

  #tellDigest(): void {
    const watch = this.#digestWatch;
    if (watch === undefined || watch.index > this.applied.index) return;
    this.#digestWatch = undefined;
    if (watch.index === this.applied.index) watch.told(this.#meta.digest);
  }

  /**
   * Applies the next entry and returns its effects, if it is a command. `known` saves the leader decoding what it encoded.
   * Anything that is thrown here stops the node: another replica may have gone on.
   */
  apply(entry: Entry, known: Effects | undefined): Effects | undefined {
    const before = this.#meta;
    assert(entry.index === before.applied.index + 1, () => `bucket ${this.bucket} applies ${entry.index} out of order`);
    let { digest, maxTimestamp, config, horizon, pins } = before;
    let effects: Effects | undefined;
    if (entry.kind === 'config') {
      if (!mutant('config-not-kept')) config = decodeConfig(entry.data);
    } else if (entry.kind === 'data' && isRetention(entry.data)) {
      ({ horizon, pins } = applyRetention(before, decodeRetention(entry.data)));
      digest = crc32(entry.data, digest);
    } else if (entry.kind === 'data') {
      effects = known ?? decodeEffects(entry.data);
      assert(effects.timestamp > maxTimestamp, () => `bucket ${this.bucket}: the timestamp of a command goes back`);
      const resolved = this.#changeTables(effects);
      if (effects.kind === 'write') {
        const { id, record } = effects;
        this.#writeVersions(effects.effects, effects.timestamp, entry.index, record === undefined ? undefined : id);
      } else if (effects.kind === 'resolve' && effects.commit > 0 && resolved !== undefined) {
        assert(effects.commit < effects.timestamp, `bucket ${this.bucket}: a transaction was committed in the future`);
        this.#writeVersions(resolved.intents, effects.commit, entry.index, effects.id);
      }
      maxTimestamp = effects.timestamp;
      digest = crc32(entry.data, digest);
    }
    const applied = { index: entry.index, term: entry.term };
    this.#meta = { ...before, applied, maxTimestamp, digest, config, horizon, pins };
    this.store.enrol(this);
    this.#tellDigest();
    return effects;
  }

  /** What a command does to the tables. Answers with the transaction that it has resolved. */
  #changeTables(effects: Effects): Prepared | undefined {
    const { sessions, participant, home } = this.#tables;
    switch (effects.kind) {
      case 'write':
        sessions.record(effects.id, effects.result, effects.timestamp);
        if (effects.record !== undefined) home.commit(effects.record);
        return undefined;
      case 'prepare':
        participant.prepare(effects.prepared);
        return undefined;
      case 'refuse':
        return undefined;
      case 'resolve':
        return participant.resolve(effects.id, effects.start, effects.timestamp);
      case 'forget':
        home.forget(effects.ids);
        return undefined;
    }
  }

  #writeVersions(effects: readonly Effect[], timestamp: Timestamp, index: LogIndex, request: TransactionTag | undefined): void {
    const transaction = request && { session: request.session, sequence: request.sequence };
    effects.forEach((effect, position) => {
      const id: VersionId = { timestamp, index, position };
      this.store.put(versionKey(this.slot, id), encodeRecord({ ...effect, transaction }));
      this.recent.add(id);
      this.store.put(pointerKey(this.slot, effect.key), encodePointer({ ...id, deleted: effect.deleted }));
    });
  }

  /** Restores the tables from an already applied entry after a restart. */
  replay(entry: Entry): void {
    if (entry.kind !== 'data' || isRetention(entry.data) || mutant('sessions-not-replayed')) return;
    this.#changeTables(decodeEffects(entry.data));
  }

  /**
   * Begins a checkpoint of the tables as of what is applied now. One at a time; undefined if the last is as new. Until all of
   * the new one is on disk, the old one counts. One that is complete while another still waits for its batch takes its place.
   */
  beginCheckpoint(): TablesCheckpoint | undefined {
    const newest = this.#newCheckpoint ?? this.#batchCheckpoint ?? this.#checkpoint;
    if (this.#retired || newest.index === this.applied.index) return undefined;
    return new TablesCheckpoint(this, (checkpoint) => {
      if (this.#newCheckpoint !== undefined) this.#delete(this.#newCheckpoint);
      this.#newCheckpoint = checkpoint;
      this.store.enrol(this);
    });
  }

  /** This replica is gone: nothing of it is written any more, and no checkpoint begun or gone on with. */
  retire(): void {
    this.#retired = true;
  }

  get retired(): boolean {
    return this.#retired;
  }

  /** For whoever reads over several turns, before each look: what is gone since was given up, and is not damage. */
  checkStands(): void {
    if (this.#retired && !mutant('read-of-swept-slot')) throw notLeader(this.bucket, 0, 0);
  }

  beforeBatch(): void {
    if (this.#retired) return;
    this.#batchIndex = this.applied.index;
    const checkpoint = this.#newCheckpoint;
    if (checkpoint !== undefined) {
      this.#newCheckpoint = undefined;
      this.#batchCheckpoint = checkpoint;
      this.#delete(this.#checkpoint);
    }
    const sessionsIndex = (this.#batchCheckpoint ?? this.#checkpoint).index;
    this.store.put(metaKey(this.bucket), encodeMeta({ ...this.#meta, sessionsIndex }));
  }

  #delete({ index, pieces }: Checkpoint): void {
    for (let piece = 0; piece < pieces; piece += 1) this.store.del(sessionsKey(this.slot, index, piece));
  }

  afterBatch(): void {
    this.#durableIndex = Math.max(this.#durableIndex, this.#batchIndex);
    if (this.#batchCheckpoint === undefined) return;
    this.#checkpoint = this.#batchCheckpoint;
    this.#batchCheckpoint = undefined;
    this.#meta = { ...this.#meta, sessionsIndex: this.#checkpoint.index };
  }

  /** An installed snapshot takes the place of this state; it is on disk, but for the meta record that turns to it. */
  replace(meta: Meta, { tables, count }: TableLoader): void {
    this.#meta = meta;
    if (!mutant('feed-recent-not-reset')) this.recent.reset(meta.maxTimestamp);
    this.#durableIndex = meta.applied.index;
    this.#batchIndex = meta.applied.index;
    this.#checkpoint = { index: meta.sessionsIndex, pieces: count };
    this.#batchCheckpoint = undefined;
    this.#newCheckpoint = undefined;
    if (!mutant('snapshot-without-sessions')) this.#tables = tables;
    this.#tellDigest();
  }
}

interface Checkpoint {
  readonly index: LogIndex;
  readonly pieces: number;
}

/** A checkpoint under way: the tables as of one entry, written piece by piece while the bucket goes on. */
export class TablesCheckpoint {
  readonly #state: BucketState;
  readonly #slot: Slot;
  readonly #index: LogIndex;
  readonly #pieces: TablePieces;
  readonly #written: (checkpoint: Checkpoint) => void;

  constructor(state: BucketState, written: (checkpoint: Checkpoint) => void) {
    this.#state = state;
    this.#slot = state.slot;
    this.#index = state.applied.index;
    this.#pieces = new TablePieces(state.tables);
    this.#written = written;
  }

  /** Gives the next piece to the store and says how many bytes that was; undefined when nothing is left to do. */
  step(): number | undefined {
    const { store, slot, retired } = this.#state;
    // A snapshot was installed in another slot, or the replica is gone: this one is swept.
    if (slot !== this.#slot || retired) return undefined;
    const number = this.#pieces.count;
    const piece = this.#pieces.next();
    if (piece === undefined) return undefined;
    store.put(sessionsKey(slot, this.#index, number), piece);
    // In the same turn, so that the meta record names it in the batch that holds its last piece.
    if (this.#pieces.done) this.#written({ index: this.#index, pieces: this.#pieces.count });
    return piece.length;
  }
}
