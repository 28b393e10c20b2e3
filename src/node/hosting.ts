import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { sleep } from '../env/time.js';
import { assert } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import { TidemarkError } from '../lib/errors.js';
import type { BucketLog, LogStorage } from '../bucket/log-storage.js';
import { Replica, type ReplicaHost } from '../bucket/replica.js';
import { eachEntry } from '../bucket/pages.js';
import { seal, unseal } from '../bucket/sealed.js';
import { markUnnamed, sweepSlot, unnamedSlots } from '../bucket/slots.js';
import {
  BucketState,
  decodeMeta,
  encodeMeta,
  metaKey,
  placeOfSessionsKey,
  sessionsRange,
  type Meta,
} from '../bucket/state.js';
import type { StateStore } from '../bucket/state-store.js';
import { TableLoader, tableLimitsOf, Tables, type TableLimits } from '../bucket/tables.js';
import type { Slot } from '../mvcc/records.js';
import type { BucketId, BucketInfo, NodeId } from '../placement/map.js';
import { epochOfReplica } from '../placement/record.js';
import { NO_CONFIG } from '../raft/config.js';
import type { Config, LogIndex, ReplicaId } from '../raft/types.js';
import { Checkpoints } from './checkpoints.js';
import type { LogWriter } from './log-writer.js';

/**
 * The replicas that this node hosts: what a data directory holds of them, how they are created and opened again.
 *
 * Invariant: a meta record names the only slot that counts for its bucket. Slots with records that no meta record names carry
 * a mark (bucket/slots.ts), and are swept.
 */
const NEXT_SLOT_KEY = Buffer.from('n/slot');
/** n/gone/<bucket> -> the highest epoch in the id of a replica of that bucket that was here and is gone, as JSON. */
const GONE_PREFIX = 'n/gone/';
const META_RANGE = { gte: metaKey(0), lt: keyAfter(metaKey(0xffff_ffff)) };
const REPLAY_ENTRIES_AT_ONCE = 200;
const TABLES_BYTES_AT_ONCE = 256 * 1024;
/** Of what tables take in memory, about what they take in a checkpoint. */
const CHECKPOINT_PART = 1 / 4;
const SLOT_MAX: Slot = 0xffff_ffff;
const PAUSE_MS = 5;

/** Log entries memory of one node, shared out among its replicas. */
const LOG_CACHE_BYTES = 2 * 1024 * 1024;
/** Logs that are over their limit are shortened to this part of it, so that it is not reached again at once. */
const LOG_SHRINKS_TO = 7 / 8;
/**
 * So many times that limit the logs may take while somebody needs them behind a snapshot: to drop that costs the whole snapshot
 * once more, and the next one is no faster. But not more, or a receiver that is slow for long would fill the disk of its sender.
 */
const HELD_LOG_FACTOR = 4;

export interface HostingOptions {
  readonly env: Env;
  readonly limits: Limits;
  readonly nodeId: NodeId;
  readonly logs: LogStorage;
  readonly state: StateStore;
  readonly writer: LogWriter;
  readonly host: ReplicaHost;
  readonly onBug: (error: unknown) => void;
}

export class Hosting {
  readonly replicas = new Map<BucketId, Replica>();
  readonly tableLimits: TableLimits;
  readonly #options: HostingOptions;
  readonly #checkpoints: Checkpoints;
  #nextSlot: Slot = 1;
  /** Where the logs were cut last, being over their limit, and what had been added to them by then. */
  #logCut = { oldest: 0, added: -Infinity };
  readonly #adding = new Set<BucketId>();

  constructor(options: HostingOptions) {
    this.#options = options;
    this.tableLimits = tableLimitsOf(options.limits);
    this.#checkpoints = new Checkpoints(options.env.timers, options.onBug);
    const data = options.state.get(NEXT_SLOT_KEY);
    if (data !== undefined) this.#nextSlot = unseal(data, 'the number of the next slot').readUInt32BE(0);
  }

  get store(): StateStore {
    return this.#options.state;
  }

  /** Nothing was ever hosted in this data directory. */
  get isNew(): boolean {
    return this.#nextSlot === 1;
  }

  /** A slot that was never used in this data directory. */
  newSlot(): Slot {
    const slot = this.#nextSlot;
    this.#nextSlot += 1;
    const data = Buffer.alloc(4);
    data.writeUInt32BE(this.#nextSlot, 0);
    this.#options.state.put(NEXT_SLOT_KEY, seal(data));
    return slot;
  }

  /** The first start of this node: creates its replicas of the given buckets, all or none. */
  async create(buckets: readonly BucketInfo[]): Promise<void> {
    const { nodeId, state } = this.#options;
    for (const bucket of buckets) {
      const mine = bucket.replicas.find(({ node }) => node === nodeId);
      if (mine === undefined) continue;
      const ids = (learner: boolean): number[] =>
        bucket.replicas.filter((replica) => replica.learner === learner).map(({ id }) => id).sort((a, b) => a - b);
      const config = { voters: ids(false), outgoing: [], learners: ids(true), learnersNext: [] };
      state.put(metaKey(bucket.id), encodeMeta(emptyMeta(this.newSlot(), mine.id, config)));
    }
    await state.flush();
  }

  /**
   * A leader calls a replica of this node by an id: it is made, empty and a member of nothing, and learns from that leader what
   * it is. Undefined, and nothing is done, if the bucket has a replica here, or has had a later one: an id is never used again,
   * and a message may come late.
   */
  async add(bucket: BucketId, replicaId: ReplicaId): Promise<Replica | undefined> {
    const { state, logs, writer } = this.#options;
    const isOccupied = this.replicas.has(bucket) || this.#adding.has(bucket);
    const hasGone = epochOfReplica(replicaId) <= this.#goneUpTo(bucket) && !mutant('removed-replica-revived');
    if (isOccupied || hasGone) return undefined;
    this.#adding.add(bucket);
    try {
      await writer.clear(logs.log(bucket));
      const meta = emptyMeta(this.newSlot(), replicaId, NO_CONFIG);
      state.put(metaKey(bucket), encodeMeta(meta));
      await state.flush();
      const tables = new TableLoader(new Tables(this.tableLimits));
      const replica = await this.#openReplica(bucket, meta, tables, this.#logCacheBytes(this.replicas.size + 1));
      this.replicas.set(bucket, replica);
      return replica;
    } finally {
      this.#adding.delete(bucket);
    }
  }

  /**
   * Its group has gone on without this replica, for good: it goes, with all that it holds. `settled` resolves when nothing of it
   * is on its way to the log. A crash in the midst leaves it as it was, or a slot to be swept and a log to be cleared.
   */
  async retire(replica: Replica, settled: (replica: Replica) => Promise<void>): Promise<void> {
    const { state, writer, env } = this.#options;
    const { bucket, id } = replica;
    replica.beginInstall();
    await settled(replica);
    while (replica.state.copies > 0) await sleep(env.timers, PAUSE_MS);
    const { slot } = replica.state;
    this.replicas.delete(bucket);
    replica.close();
    replica.state.retire();
    state.put(goneKey(bucket), seal(Buffer.from(JSON.stringify(epochOfReplica(id)))));
    markUnnamed(state, slot);
    state.del(metaKey(bucket));
    await state.flush();
    await writer.clear(replica.log);
    await sweepSlot(state, slot);
  }

  #goneUpTo(bucket: BucketId): number {
    const data = this.#options.state.get(goneKey(bucket));
    if (data === undefined) return -1;
    return JSON.parse(unseal(data, 'the record of a replica that is gone').toString()) as number;
  }

  #logCacheBytes(replicas: number): number {
    return Math.max(4 * 1024, Math.floor(LOG_CACHE_BYTES / Math.max(1, replicas)));
  }

  /** Opens every replica that the data directory holds, and says how many. */
  async open(): Promise<number> {
    const metas = await this.#readMetas();
    await this.#sweepUnnamed(new Set(metas.map(([, { slot }]) => slot)));
    const logCacheBytesMax = this.#logCacheBytes(metas.length);
    await this.#clearUnhosted(new Set(metas.map(([bucket]) => bucket)));
    const loaders = await this.#loadTables(metas);
    for (const [bucket, meta] of metas) {
      const tables = loaders.get(meta.slot);
      assert(tables !== undefined, `bucket ${bucket} has no tables`);
      this.replicas.set(bucket, await this.#openReplica(bucket, meta, tables, logCacheBytesMax));
    }
    return metas.length;
  }

  async #readMetas(): Promise<[BucketId, Meta][]> {
    const metas: [BucketId, Meta][] = [];
    await eachEntry(this.#options.state, META_RANGE, (key, value) => metas.push([key.readUInt32BE(1), decodeMeta(value)]));
    return metas;
  }

  async #openReplica(
    bucket: BucketId,
    meta: Meta,
    tables: TableLoader,
    logCacheBytesMax: number,
  ): Promise<Replica> {
    const { host, logs, state, writer } = this.#options;
    const bucketState = new BucketState(bucket, state, meta, tables);
    const log = logs.log(bucket);
    const { index, term } = meta.applied;
    if (index < log.firstIndex() - 1) {
      const message = `bucket ${bucket}: its state ends at entry ${index}, but its log begins at ${log.firstIndex()}`;
      throw new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', message);
    }
    if (index > log.lastIndex() || log.term(index) !== term) {
      // A snapshot was installed and the node ended before the log was reset: the log restarts where the state stands.
      assert(meta.sessionsIndex === index, `bucket ${bucket}: the log ends at ${log.lastIndex()}, the state at ${index}`);
      if (!mutant('log-gap-kept')) await writer.restart(log, index, term);
    }
    await this.#replayTables(bucketState, log);
    return new Replica({ host, state: bucketState, log, hardState: logs.hardState(bucket), logCacheBytesMax });
  }

  /** The tables of each slot as of its checkpoint. Pieces of a checkpoint or a snapshot that a crash left unfinished go. */
  async #loadTables(metas: readonly [BucketId, Meta][]): Promise<Map<Slot, TableLoader>> {
    const { state } = this.#options;
    const indexes = new Map(metas.map(([, { slot, sessionsIndex }]) => [slot, sessionsIndex]));
    const loaders = new Map(metas.map(([, { slot }]) => [slot, new TableLoader(new Tables(this.tableLimits))]));
    const range = { gte: sessionsRange(0).gte, lt: sessionsRange(SLOT_MAX).lt, bytesMax: TABLES_BYTES_AT_ONCE };
    await eachEntry(state, range, (key, piece) => {
      const { slot, index } = placeOfSessionsKey(key);
      if (index === indexes.get(slot)) loaders.get(slot)?.add(piece);
      else state.del(key);
    });
    for (const [bucket, { slot, sessionsIndex }] of metas) {
      const loader = loaders.get(slot);
      if (loader?.complete === true || sessionsIndex === 0) continue;
      const message = `bucket ${bucket}: of its tables as of entry ${sessionsIndex} only ${loader?.count} pieces are there`;
      throw new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', message);
    }
    return loaders;
  }

  /** Brings the tables from their checkpoint to the applied index. */
  async #replayTables(state: BucketState, log: BucketLog): Promise<void> {
    const end = state.applied.index + 1;
    for (let next = state.sessionsIndex + 1; next < end; ) {
      const entries = log.entries(next, Math.min(end, next + REPLAY_ENTRIES_AT_ONCE), 1024 * 1024);
      for (const entry of entries) state.replay(entry);
      next += entries.length;
      await new Promise<void>((resolve) => {
        this.#options.env.timers.turnEnd(resolve);
      });
    }
  }

  /** Logs that a crash left of replicas that were going. */
  async #clearUnhosted(hosted: ReadonlySet<BucketId>): Promise<void> {
    const { logs, writer } = this.#options;
    for (const bucket of logs.used) if (!hosted.has(bucket)) await writer.clear(logs.log(bucket));
  }

  /** Deletes what a crash left of a snapshot that was being installed, or of the state that it replaced. */
  async #sweepUnnamed(named: ReadonlySet<Slot>): Promise<void> {
    const { state, env } = this.#options;
    for (const slot of await unnamedSlots(state)) {
      assert(!named.has(slot), `slot ${slot} is named by a meta record and marked as not`);
      env.log.info('sweeping what an interrupted installation left', { slot });
      await sweepSlot(state, slot);
    }
  }

  /**
   * Checkpoints the tables and drops log that neither a restart nor a slow follower needs, nor, by `wantedBehind`, who gets a
   * snapshot; and, if the logs of all buckets together have outgrown their limit, the oldest of it though a slow follower may
   * need it: entries of a bucket that is hardly written to share their records with those of busy ones, and hold on to all that.
   * What is needed behind a snapshot goes last, when the logs have outgrown a larger limit: `wantedBehind` is told up to where.
   */
  compact(wantedBehind: (replica: Replica, kept: number, gone: LogIndex) => LogIndex): void {
    const { limits, logs, writer } = this.#options;
    const oldest = this.#oldestLog();
    const heldBytesMax = limits.logStoreBytesMax * HELD_LOG_FACTOR;
    const oldestHeld = logs.bytes > heldBytesMax ? logs.oldestWithin(heldBytesMax * LOG_SHRINKS_TO) : 0;
    for (const replica of this.replicas.values()) {
      const { state, log, raft } = replica;
      if (replica.installing) continue;
      const kept = Math.min(limits.logEntriesKept, Math.ceil(limits.logBytesKept / log.entryBytes));
      const wanted = wantedBehind(replica, kept, log.lastIndexBefore(oldestHeld));
      const unwanted = Math.min(log.lastIndexBefore(oldest), wanted);
      const isWanted = unwanted < log.firstIndex();
      // As much log as a checkpoint is large must have come, or a large table would be written over and over.
      const worthwhile = Math.max(kept / 2, (state.tables.bytes * CHECKPOINT_PART) / log.entryBytes);
      const isBehind = state.sessionsIndex < unwanted;
      if (isBehind || state.applied.index - state.sessionsIndex >= worthwhile) this.#checkpoints.request(state);
      const needed = mutant('log-compacted-too-far') ? Infinity : Math.min(state.sessionsIndex, state.durableIndex);
      const spare = Math.min(state.applied.index - kept, wanted);
      const index = Math.min(needed, Math.max(spare, unwanted));
      if (index < log.firstIndex() || (isWanted && index - log.firstIndex() < kept / 4)) continue;
      raft.compact(index);
      writer.compact(replica, index);
    }
  }

  /**
   * The oldest record of the log that may stay; 0 while the logs are within their limit. It is another one only when as much has
   * been added as a cut takes off: where the logs stay over their limit for a while, not every second asks for checkpoints.
   */
  #oldestLog(): number {
    const { limits: { logStoreBytesMax }, logs } = this.#options;
    if (logs.bytes <= logStoreBytesMax) return 0;
    const { added } = logs;
    if (added - this.#logCut.added >= logStoreBytesMax * (1 - LOG_SHRINKS_TO)) {
      this.#logCut = { oldest: logs.oldestWithin(logStoreBytesMax * LOG_SHRINKS_TO), added };
    }
    return this.#logCut.oldest;
  }

  /** Writes the tables of every replica, so that the next start has nothing to replay; resolves when the store has them. */
  async checkpointAll(): Promise<void> {
    for (const { state } of this.replicas.values()) this.#checkpoints.request(state);
    await this.#checkpoints.settled();
  }
}

/** Of a replica that has applied nothing yet. */
function emptyMeta(slot: Slot, replicaId: ReplicaId, config: Config): Meta {
  const nothing = { applied: { index: 0, term: 0 }, maxTimestamp: 0, horizon: 0, pins: [], digest: 0, sessionsIndex: 0 };
  return { slot, replicaId, config, ...nothing };
}

function goneKey(bucket: BucketId): Bytes {
  return Buffer.from(`${GONE_PREFIX}${bucket}`);
}
