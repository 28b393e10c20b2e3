import type { Clock, Logger, Random } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import type { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { HybridClock, Timestamp } from '../mvcc/timestamp.js';
import { nodeOfReplica, type BucketId, type NodeId } from '../placement/map.js';
import { Raft } from '../raft/raft.js';
import type { Reading } from '../raft/reading.js';
import { electorate, type ConfigChange } from '../raft/config.js';
import type { Entry, HardState, LogIndex, Message, Ready, ReplicaId, SnapshotMeta, TellBeat, Term } from '../raft/types.js';
import type { Outcome, Prepared } from '../txn/transaction.js';
import { Backlog } from './backlog.js';
import { BucketClock, type BucketClockHost } from './bucket-clock.js';
import { Commands } from './commands.js';
import type { BucketLog } from './log-storage.js';
import { notLeader } from './not-leader.js';
import { Reads } from './reads.js';
import type { ResolveRequest } from './requests.js';
import { scatter } from './scatter.js';
import type { BucketState } from './state.js';

/**
 * One replica of one bucket: it joins the consensus core (raft), the log on disk, and the versioned state.
 *
 * The life of a write on its leader, over several turns of the event loop:
 *   commands     evaluate the command, fix timestamp, links and index, and append it to raft           (one turn)
 *   collect()    hands raft's Ready to the node: entries to the log writer, appends to the peers       (end of that turn)
 *   persisted()  the group commit that held the entry is on disk
 *   step()       a follower's acknowledgement; with a quorum, the next Ready says that it is committed
 *   collect()    applies it to the state store's overlay and resolves the caller's promise
 *
 * What it is not: it does no I/O itself and knows no other bucket. The node drives it (node/turn.ts).
 */
export interface ReplicaHost extends BucketClockHost {
  readonly clock: Clock;
  readonly random: Random;
  readonly limits: Limits;
  readonly log: Logger;
  readonly timing: Timing;
  /** False while wall and monotonic clock disagree (a suspended machine): then leases prove nothing. */
  clockTrusted(): boolean;
  /** False for a while after a restart. */
  mayVote(): boolean;
  /** False while this node should lead nothing: it may not vote, its disk hangs, or it is stopping. */
  mayLead(): boolean;
  /** Asks the homes of transactions what became of them, as of a timestamp; 0: as of now. */
  outcomes(asked: readonly Prepared[], asOf: Timestamp, deadlineMs: number): Promise<ReadonlyMap<Prepared, Outcome>>;
  /** The replica has something for collect(). */
  changed(replica: Replica): void;
  /** What a leader tells a follower of a group at rest; see Raft.beat. */
  tellBeat(replica: Replica, ...beat: Parameters<TellBeat>): void;
  /** The replica has learned who leads, or that its leader leads in a later term; if it leads itself, that it serves. */
  leaderLearned(replica: Replica): void;
}

export interface Timing {
  readonly heartbeatMs: number;
  readonly electionTimeoutMs: number;
  readonly electionJitterMs: number;
  readonly driftBound: number;
  readonly leaseReads: boolean;
}

/**
 * What was told to all followers comes within a few hops; to learners when it has gathered (raft/replication.ts). Who waits for
 * longer had better ask the leader.
 */
const SOON_HEARTBEATS = 0.05;
const SOON_HEARTBEATS_LEARNER = 0.15;

/**
 * When heirs of a leader that is thought dead stand, in election timeouts behind the earliest moment: the first when the others,
 * who may have heard the leader a little later, would vote; the next when the first has had time to win.
 */
const FIRST_HEIR_AFTER = 0.03;
const NEXT_HEIR_AFTER = 0.12;

export interface ReplicaOptions {
  readonly host: ReplicaHost;
  readonly state: BucketState;
  readonly log: BucketLog;
  readonly hardState: HardState;
  readonly logCacheBytesMax: number;
}

export class Replica {
  readonly bucket: BucketId;
  readonly id: ReplicaId;
  readonly state: BucketState;
  readonly log: BucketLog;
  readonly raft: Raft;
  readonly reads: Reads;
  readonly commands: Commands;
  readonly clock: BucketClock;
  readonly #host: ReplicaHost;
  #installing = false;
  #closed = false;
  #dueMs = -Infinity;
  #learned: { readonly leader: ReplicaId; readonly term: Term } = { leader: 0, term: 0 };
  readonly #backlog = new Backlog();
  readonly #tellBeat: TellBeat = (...beat) => this.#host.tellBeat(this, ...beat);

  constructor({ host, state, log, hardState, logCacheBytesMax }: ReplicaOptions) {
    const { limits, timing } = host;
    this.bucket = state.bucket;
    this.id = state.meta.replicaId;
    this.state = state;
    this.log = log;
    this.#host = host;
    this.clock = new BucketClock(host, state, () => this.raft);
    host.hybrid.mergeCommitted(state.maxTimestamp);
    this.raft = new Raft({
      id: this.id,
      config: state.meta.config,
      log,
      hardState,
      applied: state.applied.index,
      now: host.clock.monotonicMs(),
      ...timing,
      random: () => host.random.float(),
      promises: {
        offerFloor: () => this.clock.offerFloor(),
        acceptFloor: (floor) => this.clock.acceptFloor(floor),
        closed: () => this.clock.close(),
      },
      appendBytesMax: limits.appendBytesMax,
      appendsInFlightMax: limits.appendsInFlightMax,
      appendBytesInFlightMax: limits.appendBytesInFlightMax,
      logCacheBytesMax,
      mayVote: () => host.mayVote(),
    });
    this.reads = new Reads(this);
    this.commands = new Commands(this);
  }

  get host(): ReplicaHost {
    return this.#host;
  }

  get hybrid(): HybridClock {
    return this.#host.hybrid;
  }

  changed(): void {
    this.#host.changed(this);
  }

  soonMs(): number {
    const { clock, timing } = this.#host;
    const isLearner = this.raft.config.learners.includes(this.id);
    return clock.monotonicMs() + timing.heartbeatMs * (isLearner ? SOON_HEARTBEATS_LEARNER : SOON_HEARTBEATS);
  }

  /** Leads with a lease that is valid in this turn. */
  hasLease(): boolean {
    const { clock, timing } = this.#host;
    const now = clock.monotonicMs();
    return timing.leaseReads && !this.#installing && this.#trustsLease(now) && this.raft.leaseValid(now);
  }

  /**
   * False while the clocks prove nothing. Raft must know it too: where it holds a lease, it confirms a ReadIndex without a
   * round, and the monotonic clock of a machine that slept says that no time has passed.
   */
  #trustsLease(now: number): boolean {
    if (this.#host.clockTrusted() || mutant('lease-over-suspend')) return true;
    this.raft.expireLease(now);
    return false;
  }

  get isLeader(): boolean {
    return this.raft.role === 'leader';
  }

  /** The node that leads, as far as this replica knows; 0 if it knows none. */
  get leaderNode(): NodeId {
    return this.raft.leader === 0 ? 0 : nodeOfReplica(this.raft.leader);
  }

  get installing(): boolean {
    return this.#installing;
  }

  /** A leader resolves as much as it may now, instead of with its next heartbeat. It costs no message. */
  closeNow(): void {
    this.raft.closeNow();
  }

  /** Everything at or below this timestamp is applied here, and nothing more will ever appear; see BucketClock. */
  resolved(): Timestamp {
    return this.clock.resolved();
  }

  /** Asks home what became of transactions; see ReadHost. */
  outcomes(asked: readonly Prepared[], asOf: Timestamp, deadlineMs: number): Promise<ReadonlyMap<Prepared, Outcome>> {
    return this.#host.outcomes(asked, asOf, deadlineMs);
  }

  /** Carries out what home has decided; see ReadHost. */
  resolve(request: ResolveRequest, deadlineMs: number): Promise<void> {
    return this.commands.resolve(request, deadlineMs);
  }

  /** Somebody waits here who has a deadline, or for what time may change; or a transaction over several buckets is not over. */
  get isBusy(): boolean {
    const { home, participant } = this.state;
    return this.blocked || this.reads.areWaiting || this.commands.areWaiting || home.count + participant.count > 0;
  }

  /** Ends the reads and the commands that nobody waits for any more. */
  expire(now: number): void {
    this.reads.expire(now);
    this.commands.expire(now);
  }

  notLeader(): TidemarkError {
    return notLeader(this.bucket, nodeOfReplica(this.id), this.leaderNode);
  }

  changeMembers(changes: readonly ConfigChange[]): LogIndex {
    const index = this.raft.proposeConfig(changes, this.#host.clock.monotonicMs());
    this.#host.changed(this);
    return index;
  }

  transferLeadership(to: ReplicaId): void {
    this.raft.transferLeadership(to, this.#host.clock.monotonicMs());
    this.#host.changed(this);
  }

  // --- driven by the node

  step(message: Message): void {
    const now = this.#host.clock.monotonicMs();
    if (message.type === 'readIndex') this.#trustsLease(now);
    if (message.type === 'timeoutNow' && !this.#host.mayLead()) return;
    this.raft.step(this.#backlog.heard(message), now);
    this.#host.changed(this);
  }

  /**
   * A beat of the leader came: the floor to answer it with, or -1 where it is to be stepped on as a heartbeat. It takes no turn
   * of its own: nothing comes of it that is to be written or sent, only closed timestamps move.
   */
  onBeat(from: ReplicaId, term: Term, index: LogIndex, floor: number, closed: number): number {
    const answer = this.raft.onBeat(from, term, index, floor, closed, this.#host.clock.monotonicMs());
    if (answer >= 0 && this.reads.areWaiting) this.#host.changed(this);
    return answer;
  }

  /** The answer to a beat came. False where it is to be stepped on as a heartbeat's. */
  onBeatReply(from: ReplicaId, term: Term, round: number, floor: number): boolean {
    if (!this.raft.onBeatReply(from, term, round, floor, this.#host.clock.monotonicMs())) return false;
    if (this.reads.areWaiting || this.raft.hasReady()) this.#host.changed(this);
    return true;
  }

  /** When `tick` has something to do: kept because a node asks every replica at every look, and counted anew if it is `soon`. */
  dueMs(soon: number): number {
    if (this.#dueMs <= soon) this.#dueMs = this.raft.nextTickMs;
    return this.#dueMs;
  }

  /** When what gathers for learners is to leave: Infinity if nothing does, or nothing is to leave any more. */
  get gatherDueMs(): number {
    return this.#closed || this.#installing ? Infinity : this.raft.gatherDueMs;
  }

  endGather(): void {
    const now = this.#host.clock.monotonicMs();
    if (now < this.gatherDueMs) return;
    this.raft.endGather(now);
    this.#host.changed(this);
  }

  tick(now: number): void {
    // What a follower does by the clock is to stand, when it may. Reads that its leader leaves unanswered have deadlines as well.
    if (!this.isLeader && !this.#host.mayLead()) return;
    if (!this.raft.beat(now, this.#tellBeat)) this.raft.tick(now);
    this.#dueMs = this.raft.nextTickMs;
    // Where no quorum was heard leadership is over, which leaves nothing to write or to send, but callers who wait.
    if (this.raft.hasReady() || this.commands.hasLostLeadership) this.#host.changed(this);
  }

  /**
   * The connection to a node broke. What was on its way to its replica is lost: that is probed instead of waited for. If it
   * leads it may be dead: its voters stand for election one after the other, in an order that differs from bucket to bucket, so
   * that the survivors share what it led.
   */
  lost(node: NodeId, now: number): void {
    for (const { id } of this.raft.progress()) if (nodeOfReplica(id) === node) this.raft.unreachable(id, now);
    const { leader } = this.raft;
    if (this.isLeader || leader === 0 || nodeOfReplica(leader) !== node) return;
    const heirs = electorate(this.raft.config).filter((id) => id !== leader);
    const place = (heirs.indexOf(this.id) + scatter(this.bucket)) % Math.max(1, heirs.length);
    const { electionTimeoutMs } = this.#host.timing;
    this.raft.suspectLeader(electionTimeoutMs * (FIRST_HEIR_AFTER + NEXT_HEIR_AFTER * place), now);
    this.#dueMs = this.raft.nextTickMs;
    if (this.raft.hasReady()) this.#host.changed(this);
  }

  /** A message that this replica has given out is not sent. */
  dropped({ type, to }: Message): void {
    if (type === 'append') this.raft.unreachable(to, this.#host.clock.monotonicMs());
  }

  campaign(now: number): void {
    if (!this.#host.mayLead()) return;
    this.raft.campaign(now);
    this.#host.changed(this);
  }

  persisted(index: LogIndex, term: number): void {
    this.raft.persisted(index, term, this.#host.clock.monotonicMs());
    this.#host.changed(this);
  }

  /** Takes raft's Ready, applies what is committed, and answers reads; the rest is the node's to write and to send. */
  collect(reading: Reading): Ready | undefined {
    if (this.#closed) return undefined;
    const ready = this.#collect(reading);
    this.#dueMs = this.raft.nextTickMs;
    const { leader, term } = this.raft;
    // A leader is worth naming by itself when it serves: whoever asked it too early waits to hear of it again.
    const serves = leader !== this.id || this.raft.canServe();
    if (leader !== 0 && serves && (leader !== this.#learned.leader || term !== this.#learned.term)) {
      this.#learned = { leader, term };
      this.#host.leaderLearned(this);
    }
    return ready;
  }

  #collect(reading: Reading): Ready | undefined {
    this.#requestRound();
    const ready = this.raft.hasReady() ? this.raft.ready(reading) : undefined;
    if (ready !== undefined) {
      this.#backlog.add(ready.committed);
      this.reads.confirmed(ready.reads);
    }
    this.#applyBacklog();
    this.reads.advance();
    // Last, for what is committed was answered above; and taking the Ready may itself have ended leadership.
    this.commands.endLost();
    return ready;
  }

  /** The reads of this turn ask raft for one round together. */
  #requestRound(): void {
    if (!this.reads.wantRound) return;
    const now = this.#host.clock.monotonicMs();
    this.#trustsLease(now);
    this.reads.request(now);
  }

  get blocked(): boolean {
    return !this.#backlog.isEmpty;
  }

  #applyBacklog(): void {
    if (this.#installing || this.#backlog.isEmpty) return;
    const { state } = this;
    const hasRoom = (): boolean => !state.store.full;
    this.#backlog.drain(hasRoom, (entry) => {
      if (entry.index > state.applied.index) this.#apply(entry);
    });
    this.raft.applied(state.applied.index);
    if (this.#backlog.wantsDropped()) this.raft.askAgain();
    this.commands.wake();
    const hasMore = this.blocked && hasRoom();
    // Having applied some, raft may give the next ones, or reads that waited for the term's first entry.
    if (hasMore || this.raft.hasReady()) this.#host.changed(this);
  }

  #apply(entry: Entry): void {
    const known = this.commands.effectsAt(entry.index, entry.term);
    const effects = this.state.apply(entry, known);
    if (effects !== undefined) this.#host.hybrid.mergeCommitted(effects.timestamp);
    this.commands.applied(entry.index, entry.term);
  }

  // --- snapshots

  /** Stops hearing, applying and reading: a snapshot takes the state's place, or the replica is to go. */
  beginInstall(): void {
    assert(!this.#installing, `bucket ${this.bucket} installs two snapshots at once`);
    this.#installing = true;
  }

  /** The snapshot stands in place of state and log. */
  restored(meta: SnapshotMeta, now: number): void {
    this.#backlog.clear();
    this.commands.abandonRetaining('a snapshot took the place of the state');
    const taken = this.raft.restore(meta, now);
    assert(taken, `bucket ${this.bucket}: a snapshot at ${meta.index} was installed that raft does not take`);
    this.#host.hybrid.mergeCommitted(this.state.maxTimestamp);
  }

  snapshotSent(to: ReplicaId, index: LogIndex, delivered: boolean, now: number): void {
    this.raft.snapshotSent(to, index, delivered, now);
    this.#host.changed(this);
  }

  endInstall(): void {
    this.#installing = false;
    this.#host.changed(this);
  }

  close(): void {
    this.#closed = true;
    this.commands.close('its node is stopping');
    this.reads.close();
  }
}
