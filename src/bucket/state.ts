import { crc32 } from 'node:zlib';
import { pack, unpack } from 'msgpackr';
import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import {
  encodePointer,
  encodeRecord,
  pointerKey,
  versionKey,
  type Pointer,
  type Slot,
  type VersionId,
} from '../mvcc/records.js';
import { readPointer } from '../mvcc/reader.js';
import type { BucketId } from '../placement/map.js';
import { decodeConfig } from '../raft/config.js';
import type { Config, Entry, LogIndex, Term } from '../raft/types.js';
import { decodeEffects, type Effects } from './effects.js';
import { type Sessions } from './sessions.js';
import type { BatchMember, StateStore } from './state-store.js';

/**
 * The replicated state of one bucket: versions and pointers in the state store, and the small facts that every replica
 * derives from the log in memory (applied index, highest timestamp, digest, configuration, sessions).
 *
 *   m <bucket u32>  ->  the meta record: where the state stands, in the same batch as the data it describes
 *   s <slot u32>    ->  the last checkpoint of the sessions
 *
 * Invariants: sessionsIndex <= durableIndex <= applied.index. Equal applied index means equal digest on every replica.
 */
const META_TAG = 0x6d; // 'm'
const SESSIONS_TAG = 0x73; // 's'
const META_FORMAT = 1;

export interface AppliedMark {
  readonly index: LogIndex;
  readonly term: Term;
}

/** Everything of a bucket's state but its versions and sessions. */
export interface Meta {
  readonly slot: Slot;
  readonly replicaId: number;
  readonly applied: AppliedMark;
  /** The bucket's running maximum timestamp: nothing that it holds is above. */
  readonly maxTimestamp: number;
  /** Nothing at or below can be read any more, except the latest version of a key. */
  readonly horizon: number;
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
];

export function metaKey(bucket: BucketId): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = META_TAG;
  out.writeUInt32BE(bucket, 1);
  return out;
}

export function sessionsKey(slot: Slot): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = SESSIONS_TAG;
  out.writeUInt32BE(slot, 1);
  return out;
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
  const [format, slot, replicaId, index, term, maxTimestamp, horizon, digest, config, sessionsIndex] = unpack(
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
    digest,
    config: { voters, outgoing, learners, learnersNext },
    sessionsIndex,
  };
}

export class BucketState implements BatchMember {
  readonly bucket: BucketId;
  readonly store: StateStore;
  readonly sessions: Sessions;
  #meta: Meta;
  #durableIndex: LogIndex;
  #batchIndex: LogIndex = 0;
  #checkpointing: LogIndex = 0;
  #checkpointWanted = false;

  constructor(bucket: BucketId, store: StateStore, meta: Meta, sessions: Sessions) {
    this.bucket = bucket;
    this.store = store;
    this.sessions = sessions;
    this.#meta = meta;
    this.#durableIndex = meta.applied.index;
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

  /** The highest applied index that is on disk with its data. */
  get durableIndex(): LogIndex {
    return this.#durableIndex;
  }

  /** The log from here on is needed to restore the sessions after a restart. */
  get sessionsIndex(): LogIndex {
    return this.#meta.sessionsIndex;
  }

  pointer(key: Bytes): Pointer | undefined {
    return readPointer(this.store, this.slot, key);
  }

  /**
   * Applies the next entry and returns its effects, if it is a command. `known` saves the leader decoding what it encoded.
   * Anything that is thrown here stops the node: another replica may have gone on.
   */
  apply(entry: Entry, known: Effects | undefined): Effects | undefined {
    const before = this.#meta;
    assert(entry.index === before.applied.index + 1, `bucket ${this.bucket} applies ${entry.index} out of order`);
    let { digest, maxTimestamp, config } = before;
    let effects: Effects | undefined;
    if (entry.kind === 'config') {
      config = decodeConfig(entry.data);
    } else if (entry.kind === 'data') {
      effects = known ?? decodeEffects(entry.data);
      assert(effects.result.timestamp > maxTimestamp, `bucket ${this.bucket}: commit timestamp goes back`);
      this.#writeVersions(effects, entry.index);
      this.sessions.record(effects.id, effects.result);
      maxTimestamp = effects.result.timestamp;
      digest = crc32(entry.data, digest);
    }
    this.#meta = { ...before, applied: { index: entry.index, term: entry.term }, maxTimestamp, digest, config };
    this.store.enrol(this);
    return effects;
  }

  #writeVersions({ effects, result }: Effects, index: LogIndex): void {
    effects.forEach((effect, position) => {
      const id: VersionId = { timestamp: result.timestamp, index, position };
      this.store.put(versionKey(this.slot, id), encodeRecord(effect));
      this.store.put(pointerKey(this.slot, effect.key), encodePointer({ ...id, deleted: effect.deleted }));
    });
  }

  /** Restores the sessions of an already applied entry after a restart. */
  replaySession(entry: Entry): void {
    if (entry.kind !== 'data') return;
    const { id, result } = decodeEffects(entry.data);
    this.sessions.record(id, result);
  }

  /** Asks that the next batch holds a checkpoint of the sessions. */
  checkpoint(): void {
    if (this.sessionsIndex === this.applied.index) return;
    this.#checkpointWanted = true;
    this.store.enrol(this);
  }

  beforeBatch(): void {
    if (this.#checkpointWanted) {
      this.#checkpointWanted = false;
      this.#checkpointing = this.applied.index;
      this.store.put(sessionsKey(this.slot), this.sessions.encode());
    }
    this.#batchIndex = this.applied.index;
    const sessionsIndex = Math.max(this.#checkpointing, this.#meta.sessionsIndex);
    this.store.put(metaKey(this.bucket), encodeMeta({ ...this.#meta, sessionsIndex }));
  }

  afterBatch(): void {
    this.#durableIndex = Math.max(this.#durableIndex, this.#batchIndex);
    if (this.#checkpointing > this.#meta.sessionsIndex) {
      this.#meta = { ...this.#meta, sessionsIndex: this.#checkpointing };
    }
  }

  /** An installed snapshot took the place of this state; it is already on disk. */
  replace(meta: Meta, sessions: Bytes): void {
    this.#meta = meta;
    this.#durableIndex = meta.applied.index;
    this.#batchIndex = meta.applied.index;
    this.#checkpointing = meta.sessionsIndex;
    this.sessions.restore(sessions);
  }
}
