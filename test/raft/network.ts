import { assert } from '../../src/lib/assert.js';
import { NO_CONFIG } from '../../src/raft/config.js';
import { Raft } from '../../src/raft/raft.js';
import { Reading } from '../../src/raft/reading.js';
import type {
  Config, Entry, HardState, LogIndex, LogReader, Message, ReadState, Ready, ReplicaId, SnapshotMeta, Term,
} from '../../src/raft/types.js';

/** A seeded generator (mulberry32): the same seed gives the same run. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A state machine reduced to what can be checked: how far it is, and a digest of all that it applied. */
export interface State {
  readonly index: LogIndex;
  readonly term: Term;
  readonly digest: number;
  readonly config: Config;
}

/** What survives a crash of one replica. */
class Disk implements LogReader {
  start: { index: LogIndex; term: Term } = { index: 0, term: 0 };
  log: Entry[] = [];
  hardState: HardState = { term: 0, vote: 0, commit: 0 };
  state: State;
  /** No floor above this was ever acknowledged. */
  floorCeiling = 0;

  constructor(config: Config) {
    this.state = { index: 0, term: 0, digest: 0, config };
  }

  firstIndex(): LogIndex {
    return this.start.index + 1;
  }

  lastIndex(): LogIndex {
    return this.start.index + this.log.length;
  }

  term(index: LogIndex): Term {
    if (index === this.start.index) return this.start.term;
    return this.at(index).term;
  }

  entries(from: LogIndex, to: LogIndex, bytesMax: number): Entry[] {
    const found = [this.at(from)];
    for (let bytes = this.at(from).data.length, index = from + 1; index < to; index += 1) {
      bytes += this.at(index).data.length;
      if (bytes > bytesMax) break;
      found.push(this.at(index));
    }
    return found;
  }

  at(index: LogIndex): Entry {
    const entry = this.log[index - this.start.index - 1];
    assert(entry !== undefined, `the stored log has no entry ${index}`);
    return entry;
  }

  write(batch: Batch): void {
    const first = batch.entries[0];
    if (first !== undefined) {
      assert(first.index >= this.firstIndex() && first.index <= this.lastIndex() + 1, 'entries are written without a gap');
      this.log.length = first.index - this.start.index - 1;
      this.log.push(...batch.entries);
    }
    if (batch.hardState !== undefined) this.hardState = batch.hardState;
  }

  trim(index: LogIndex): void {
    const term = this.term(index);
    this.log.splice(0, index - this.start.index);
    this.start = { index, term };
  }

  install(state: State): void {
    this.state = state;
    const keeps = state.index <= this.lastIndex() && this.term(state.index) === state.term;
    if (keeps) {
      this.trim(state.index);
    } else {
      this.log = [];
      this.start = { index: state.index, term: state.term };
    }
  }
}

interface Batch {
  readonly entries: readonly Entry[];
  readonly hardState: HardState | undefined;
  readonly afterSync: readonly Message[];
}

export interface Timing {
  readonly electionTimeoutMs: number;
  readonly electionJitterMs: number;
  readonly heartbeatMs: number;
  readonly driftBound: number;
}

export interface NetworkOptions extends Timing {
  readonly random: () => number;
  readonly appendBytesMax: number;
  readonly appendsInFlightMax: number;
  readonly appendBytesInFlightMax: number;
  readonly logCacheBytesMax: number;
  /** What each Ready may read of the disk; everything if undefined. */
  readonly reading?: () => Reading;
  /** Told of everything that may break a promise; may throw. */
  readonly observer?: Observer;
}

export interface Observer {
  sent?(message: Message): void;
  written?(id: ReplicaId, entries: readonly Entry[], before: Term): void;
  applied?(replica: Replica, entry: Entry): void;
  read?(replica: Replica, read: ReadState): void;
}

/** The distance of floors from the wall clock, both in milliseconds here. */
const FLOOR_WINDOW_MS = 500;
const CEILING_AHEAD_MS = 1000;

/** One replica with its disk and its clocks. While it is crashed, `raft` is undefined. */
export class Replica {
  readonly id: ReplicaId;
  readonly disk: Disk;
  readonly network: Network;
  raft: Raft | undefined;
  state: State;
  /** Local monotonic time = true time * rate + offset. */
  rate = 1;
  offsetMs = 0;
  wallOffsetMs = 0;
  paused = false;
  /** Its disk does not take a higher ceiling for floors, so it stands for no later ones. */
  ceilingStuck = false;
  floor = 0;
  private batches: Batch[] = [];
  /** Confirmed reads that wait for their index. */
  private reads: ReadState[] = [];

  constructor(network: Network, id: ReplicaId, config: Config) {
    this.network = network;
    this.id = id;
    this.disk = new Disk(config);
    this.state = this.disk.state;
  }

  get now(): number {
    return this.network.timeMs * this.rate + this.offsetMs;
  }

  get wallMs(): number {
    return this.network.timeMs + this.wallOffsetMs;
  }

  get live(): Raft {
    assert(this.raft !== undefined, `replica ${this.id} is down`);
    return this.raft;
  }

  get isSyncing(): boolean {
    return this.batches.length > 0;
  }

  start(isRestart: boolean): void {
    const { options } = this.network;
    this.state = this.disk.state;
    this.batches = [];
    this.reads = [];
    this.floor = this.disk.floorCeiling;
    const mayVoteMs = this.now + (isRestart ? options.electionTimeoutMs : 0);
    this.raft = new Raft({
      ...options,
      id: this.id,
      config: this.disk.state.config,
      log: this.disk,
      hardState: this.disk.hardState,
      applied: this.disk.state.index,
      now: this.now,
      leaseReads: true,
      mayVote: () => this.now >= mayVoteMs,
      promises: {
        offerFloor: () => this.wallMs + FLOOR_WINDOW_MS,
        acceptFloor: (floor) => {
          if (!this.ceilingStuck && this.wallMs + CEILING_AHEAD_MS > this.disk.floorCeiling) {
            this.disk.floorCeiling = this.wallMs + CEILING_AHEAD_MS;
          }
          this.floor = Math.max(this.floor, Math.min(floor, this.disk.floorCeiling));
          return this.floor;
        },
        closed: () => this.live.quorumFloor(),
      },
    });
  }

  /** Loses all that was not synced; of the batch that was being written, `survives` of its Readies are kept. */
  crash(survives: number): void {
    for (const batch of this.batches.slice(0, survives)) this.disk.write(batch);
    this.batches = [];
    this.raft = undefined;
    this.paused = false;
  }

  /** Heartbeats are taken as beats wherever that can be done, and sent so; on the wire they are what they stand for. */
  step(message: Message): void {
    if (this.raft === undefined || this.stepBeat(this.raft, message)) return;
    this.raft.step(message, this.now);
  }

  private stepBeat(raft: Raft, m: Message): boolean {
    const isMine = m.to === this.id && m.from !== this.id;
    if (isMine && m.type === 'heartbeat' && m.round > 0 && m.commit === m.closedIndex) {
      const floor = raft.onBeat(m.from, m.term, m.commit, m.floor, m.closed, this.now);
      if (floor < 0) return false;
      this.network.send({ type: 'heartbeatReply', from: this.id, to: m.from, term: m.term, round: m.round, floor });
      return true;
    }
    return isMine && m.type === 'heartbeatReply' && raft.onBeatReply(m.from, m.term, m.round, m.floor, this.now);
  }

  tick(): void {
    if (this.raft === undefined || this.now < this.raft.nextTickMs) return;
    const told = this.raft.beat(this.now, (to, term, index, round, floor, closed) => {
      this.network.send({ type: 'heartbeat', from: this.id, to, term, commit: index, round, floor, closed, closedIndex: index });
    });
    if (!told) this.raft.tick(this.now);
  }

  /** Carries out every Ready there is. */
  collect(): void {
    for (let rounds = 0; this.raft?.hasReady() === true; rounds += 1) {
      assert(rounds < 1000, 'ready() comes to an end');
      this.carryOut(this.raft.ready(this.network.options.reading?.() ?? Reading.all));
    }
  }

  private carryOut(ready: Ready): void {
    const { observer } = this.network.options;
    for (const message of ready.messages) this.network.send(message);
    for (const to of ready.snapshotsWanted) this.network.wantSnapshot(this, to);
    const { entries, hardState } = ready;
    const first = entries[0];
    if (first !== undefined) observer?.written?.(this.id, entries, this.live.termAt(first.index - 1));
    if (entries.length > 0 || hardState !== undefined || this.batches.length > 0) {
      this.batches.push({ entries, hardState, afterSync: ready.messagesAfterSync });
    } else {
      for (const message of ready.messagesAfterSync) this.network.send(message);
    }
    for (const entry of ready.committed) {
      assert(entry.index === this.state.index + 1, 'committed entries come in order');
      this.apply(entry);
    }
    if (ready.committed.length > 0) this.live.applied(this.state.index);
    for (const read of ready.reads) this.reads.push(read);
    this.serve();
  }

  private apply(entry: Entry): void {
    const digest = (Math.imul(this.state.digest, 31) + entry.index * 7 + entry.term + entry.data.length) >>> 0;
    let at = digest;
    for (const byte of entry.data) at = (Math.imul(at, 33) + byte) >>> 0;
    const config = entry.kind === 'config' ? undefined : this.state.config;
    this.state = { index: entry.index, term: entry.term, digest: at, config: config ?? this.state.config };
    this.network.options.observer?.applied?.(this, entry);
  }

  private serve(): void {
    if (this.reads.length === 0) return;
    const waiting = this.reads;
    this.reads = [];
    for (const read of waiting) {
      if (read.index <= this.state.index) this.network.options.observer?.read?.(this, read);
      else this.reads.push(read);
    }
  }

  /** The disk has written the batches that were queued. */
  sync(): void {
    const batches = this.batches;
    this.batches = [];
    for (const batch of batches) {
      this.disk.write(batch);
      for (const message of batch.afterSync) this.network.send(message);
    }
    const last = batches.flatMap((batch) => batch.entries.slice(-1)).at(-1);
    if (last !== undefined) this.raft?.persisted(last.index, last.term, this.now);
  }

  /** Makes the present state durable. */
  checkpoint(): void {
    this.disk.state = { ...this.state, config: this.live.appliedConfig };
    this.state = this.disk.state;
  }

  compact(index: LogIndex): void {
    this.checkpoint();
    const upTo = Math.min(index, this.state.index);
    if (upTo < this.live.firstIndex) return;
    this.live.compact(upTo);
    this.disk.trim(upTo);
  }

  get meta(): SnapshotMeta {
    return { index: this.state.index, term: this.state.term, config: this.live.appliedConfig };
  }

  /** The contract's order: what is queued for the log first, then the flip, then restore without a ready() in between. */
  install(meta: SnapshotMeta, state: State): boolean {
    if (this.raft?.canInstall(meta) !== true) return false;
    this.sync();
    if (!this.raft.canInstall(meta)) return false;
    this.state = { ...state, index: meta.index, term: meta.term, config: meta.config };
    this.disk.install(this.state);
    assert(this.raft.restore(meta, this.now), 'a snapshot that can be installed is restored');
    return true;
  }
}

export interface SnapshotOnWire {
  readonly from: ReplicaId;
  readonly to: ReplicaId;
  readonly meta: SnapshotMeta;
  readonly state: State;
}

/** Replicas, true time, and the messages that are under way. Who delivers what, and when, is the driver's business. */
export class Network {
  readonly options: NetworkOptions;
  readonly replicas = new Map<ReplicaId, Replica>();
  timeMs = 0;
  wire: Message[] = [];
  snapshots: SnapshotOnWire[] = [];

  constructor(options: NetworkOptions) {
    this.options = options;
  }

  add(id: ReplicaId, voters: readonly ReplicaId[]): Replica {
    const config = voters.includes(id) ? { ...NO_CONFIG, voters: [...voters] } : NO_CONFIG;
    const replica = new Replica(this, id, config);
    this.replicas.set(id, replica);
    return replica;
  }

  replica(id: ReplicaId): Replica {
    const replica = this.replicas.get(id);
    assert(replica !== undefined, `there is no replica ${id}`);
    return replica;
  }

  get leaders(): Replica[] {
    return [...this.replicas.values()].filter((replica) => replica.raft?.role === 'leader');
  }

  send(message: Message): void {
    this.options.observer?.sent?.(message);
    this.wire.push(message);
  }

  wantSnapshot(from: Replica, to: ReplicaId): void {
    this.snapshots.push({ from: from.id, to, meta: from.meta, state: from.state });
  }
}
