import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import { TidemarkError } from '../lib/errors.js';
import type { BucketLog, LogStorage } from '../bucket/log-storage.js';
import { Replica, type ReplicaHost } from '../bucket/replica.js';
import { eachEntry } from '../bucket/pages.js';
import { sweepSlot, unnamedSlots } from '../bucket/slots.js';
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
import { Checkpoints } from './checkpoints.js';
import type { LogWriter } from './log-writer.js';

/**
 * The replicas that this node hosts: what a data directory holds of them, how they are created and opened again.
 *
 * Invariant: a meta record names the only slot that counts for its bucket. Slots with records that no meta record names carry
 * a mark (bucket/slots.ts), and are swept.
 */
const NEXT_SLOT_KEY = Buffer.from('n/slot');
const META_RANGE = { gte: metaKey(0), lt: keyAfter(metaKey(0xffff_ffff)) };
const REPLAY_ENTRIES_AT_ONCE = 200;
const TABLES_BYTES_AT_ONCE = 256 * 1024;
/** Of what tables take in memory, about what they take in a checkpoint. */
const CHECKPOINT_PART = 1 / 4;
const SLOT_MAX: Slot = 0xffff_ffff;

/** Log entries memory of one node, shared out among its replicas. */
const LOG_CACHE_BYTES = 2 * 1024 * 1024;
/** Logs that are over their limit are shortened to this part of it, so that it is not reached again at once. */
const LOG_SHRINKS_TO = 7 / 8;

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

  constructor(options: HostingOptions) {
    this.#options = options;
    this.tableLimits = tableLimitsOf(options.limits);
    this.#checkpoints = new Checkpoints(options.env.timers, options.onBug);
    const data = options.state.get(NEXT_SLOT_KEY);
    if (data !== undefined) this.#nextSlot = data.readUInt32BE(0);
  }

  /** A slot that was never used in this data directory. */
  newSlot(): Slot {
    const slot = this.#nextSlot;
    this.#nextSlot += 1;
    const data = Buffer.alloc(4);
    data.writeUInt32BE(this.#nextSlot, 0);
    this.#options.state.put(NEXT_SLOT_KEY, data);
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
      const meta: Meta = {
        slot: this.newSlot(),
        replicaId: mine.id,
        applied: { index: 0, term: 0 },
        maxTimestamp: 0,
        horizon: 0,
        pins: [],
        digest: 0,
        config: { voters: ids(false), outgoing: [], learners: ids(true), learnersNext: [] },
        sessionsIndex: 0,
      };
      state.put(metaKey(bucket.id), encodeMeta(meta));
    }
    await state.flush();
  }

  /**
   * Opens every replica that the data directory holds, and says how many. They vote for nobody before `voteNotBefore`, in
   * monotonic milliseconds.
   */
  async open(voteNotBefore: number): Promise<number> {
    const metas = await this.#readMetas();
    await this.#sweepUnnamed(new Set(metas.map(([, { slot }]) => slot)));
    const logCacheBytesMax = Math.max(4 * 1024, Math.floor(LOG_CACHE_BYTES / Math.max(1, metas.length)));
    const loaders = await this.#loadTables(metas);
    for (const [bucket, meta] of metas) {
      const tables = loaders.get(meta.slot);
      assert(tables !== undefined, `bucket ${bucket} has no tables`);
      this.replicas.set(bucket, await this.#openReplica(bucket, meta, tables, { logCacheBytesMax, voteNotBefore }));
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
    options: { readonly logCacheBytesMax: number; readonly voteNotBefore: number },
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
      await writer.restart(log, index, term);
    }
    await this.#replayTables(bucketState, log);
    return new Replica({ host, state: bucketState, log, hardState: logs.hardState(bucket), ...options });
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
   * Checkpoints the tables and drops log that neither a restart nor a slow follower needs; and, if the logs of all buckets
   * together have outgrown their limit, the oldest of it though a follower may need it: entries of a bucket that is hardly
   * written to share their records with those of busy ones, and hold on to all of that.
   */
  compact(): void {
    const { limits, logs, writer } = this.#options;
    const isOver = logs.bytes > limits.logStoreBytesMax;
    const oldest = isOver ? logs.oldestWithin(limits.logStoreBytesMax * LOG_SHRINKS_TO) : 0;
    for (const replica of this.replicas.values()) {
      const { state, log, raft } = replica;
      if (replica.installing) continue;
      const kept = Math.min(limits.logEntriesKept, Math.ceil(limits.logBytesKept / log.entryBytes));
      const unwanted = log.lastIndexBefore(oldest);
      const isWanted = unwanted < log.firstIndex();
      // As much log as a checkpoint is large must have come, or a large table would be written over and over.
      const worthwhile = Math.max(kept / 2, (state.tables.bytes * CHECKPOINT_PART) / log.entryBytes);
      const isBehind = state.sessionsIndex < unwanted;
      if (isBehind || state.applied.index - state.sessionsIndex >= worthwhile) this.#checkpoints.request(state);
      const needed = mutant('log-compacted-too-far') ? Infinity : Math.min(state.sessionsIndex, state.durableIndex);
      const index = Math.min(needed, Math.max(state.applied.index - kept, unwanted));
      if (index < log.firstIndex() || (isWanted && index - log.firstIndex() < kept / 4)) continue;
      raft.compact(index);
      writer.compact(replica, index);
    }
  }

  /** Writes the tables of every replica, so that the next start has nothing to replay; resolves when the store has them. */
  async checkpointAll(): Promise<void> {
    for (const { state } of this.replicas.values()) this.#checkpoints.request(state);
    await this.#checkpoints.settled();
  }
}
