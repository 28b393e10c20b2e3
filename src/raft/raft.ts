import { assert, unreachable } from '../lib/assert.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { ConfigChange } from './config.js';
import { Core, type RaftOptions } from './core.js';
import { Election } from './election.js';
import { answerStale, Follower } from './follower.js';
import { Leadership } from './leadership.js';
import type { FollowerProgress } from './progress.js';
import { Reading, UNLIMITED } from './reading.js';
import { ForwardedReads } from './reads.js';
import type {
  Config, LogIndex, Message, Ready, ReplicaId, Role, SnapshotMeta, TellBeat, Term, VoteMessage, VoteReply,
} from './types.js';

export type { RaftOptions } from './core.js';
export type { ConfigChange } from './config.js';

/** A follower that lacks no more of what is committed is in step, however old that is. */
const IN_STEP_ENTRIES = 64;

/**
 * Consensus for one group: one replica of a log that all its replicas agree on (Raft; Ongaro's dissertation, chapters 3, 4,
 * 6 and 9.6). Pure and synchronous: no clock, no disk, no network, no timer. Messages and moments go in through methods; what is
 * to be written, sent and applied comes out of `ready()`.
 *
 * The caller's side of the contract
 *
 * 1. After any call, when `hasReady()`, take `ready()` and do all that it says. Messages in `messages` may leave at once.
 *    `entries` and `hardState` go to disk in one synced batch, batches in the order of the Readies that they hold; then
 *    `messagesAfterSync` of these Readies leave, and `persisted(index, term)` is called with the last entry of the batch (if it
 *    had entries). A failed write is fatal: there is no way to tell the core that one did not happen. Where `ready` is told how
 *    much it may read of the stored log, it is to be taken again while `hasReady()`, each time with a new allowance.
 * 2. `committed` entries are applied in order, then `applied(index)` is called. Not calling it in time is back-pressure: after
 *    some pages no more entries are given out.
 * 3. `now` is monotonic and read after the input that it comes with had arrived, in the same turn. A read that rests on
 *    `leaseValid(now)` is served in the turn that asked, with a `now` read in it. After a suspension in which the clocks may
 *    have stood still, call `expireLease`.
 * 4. `tick(now)` is called soon after `nextTickMs`; before that moment, or while it may not vote, it has nothing to do.
 * 5. A snapshot is installed by the caller: check `canInstall(meta)`, stage it, make it durable, reset the log store (keeping a
 *    suffix that follows the same index and term), then `restore(meta)`. From the reset of the store to `restore` no `ready()`
 *    is taken. To compact, `compact(index)` first, then trim the store.
 *
 * What it guarantees then: at most one leader a term; every committed entry is in the log of every later leader; `committed`
 * is the same sequence on every replica, without gaps, each entry once in a life; a read at a confirmed index, or under a
 * valid lease, sees all that was acknowledged before it was asked.
 *
 * Worked example, a write on three replicas 1, 2, 3 with leader 1: `propose(data)` appends entry 8 to the log in memory.
 * `ready()` gives entry 8 to write and two appends to send, at once, in parallel to the write. Replica 2 steps on the append; its
 * `ready()` gives entry 8 to write and, in `messagesAfterSync`, its answer with index 8. The answer reaches the leader before
 * its own disk is done: 8 is on one disk, not yet on two that count. `persisted(8)`: now 1 and 2 have it, commit becomes 8,
 * and the next `ready()` has entry 8 in `committed`. Followers hear of it with the next append, or a little later by itself.
 *
 * Where things are: core.ts holds what does not depend on the role and fills Ready; election.ts the votes; leadership.ts a
 * leader's term of office, over replication.ts (what to send to whom), progress.ts (one follower) and rounds.ts (who answered
 * what); follower.ts the reads and timestamps of followers; log.ts and config.ts what their names say.
 *
 * What it is not: it knows nothing of keys, clocks of the wall, nodes or addresses. Floors and closed timestamps pass through
 * it as numbers whose meaning is the caller's (see Promises).
 */
export class Raft {
  private readonly core: Core;
  private readonly election: Election;
  private readonly forwarded: ForwardedReads;
  private readonly follower: Follower;
  private leadership: Leadership | undefined = undefined;

  constructor(options: RaftOptions) {
    this.core = new Core(options);
    this.election = new Election(this.core);
    this.follower = new Follower(this.core);
    this.forwarded = new ForwardedReads(this.core);
  }

  get id(): ReplicaId {
    return this.core.id;
  }

  get role(): Role {
    return this.core.role;
  }

  get term(): Term {
    return this.core.term;
  }

  /** Whom this replica gave its vote in this term; 0 if nobody. */
  get vote(): ReplicaId {
    return this.core.vote;
  }

  /** The leader of this term as far as it is known, itself included; 0 if it is not. */
  get leader(): ReplicaId {
    return this.core.leader;
  }

  get commitIndex(): LogIndex {
    return this.core.commit;
  }

  get appliedIndex(): LogIndex {
    return this.core.applied;
  }

  get firstIndex(): LogIndex {
    return this.core.log.firstIndex;
  }

  get lastIndex(): LogIndex {
    return this.core.log.lastIndex;
  }

  get durableIndex(): LogIndex {
    return this.core.log.durableIndex;
  }

  /** In force: the last one in the log, committed or not. */
  get config(): Config {
    return this.core.config;
  }

  /** As of the applied index: what goes into a snapshot or a checkpoint. */
  get appliedConfig(): Config {
    return this.core.configs.at(this.core.applied);
  }

  /** The replica that leadership is being handed to; 0 if none. */
  get transferringTo(): ReplicaId {
    return this.leadership?.transferringTo ?? 0;
  }

  /** The term at an index in [firstIndex - 1, lastIndex]; -1 elsewhere. */
  termAt(index: LogIndex): Term {
    return this.core.log.term(index);
  }

  /** What the leader knows of the others; empty on other replicas. */
  progress(): FollowerProgress[] {
    return (this.leadership?.peers ?? []).map(({ id, match, next, state, heardMs }) => ({ id, match, next, state, heardMs }));
  }

  /** Leader: this follower was heard of within an election timeout. */
  hears(id: ReplicaId, now: number): boolean {
    return this.leadership?.hears(id, now) ?? false;
  }

  /**
   * Leader: this follower has nearly all that is committed, or all but the latest, so that it can vote, or lead, in a moment.
   * What is on its way to the disks of all is not counted: under load nobody has that. Nor does the number alone count: who is
   * far away lacks the entries of a whole round trip.
   */
  isInStep({ state, match }: FollowerProgress, now: number): boolean {
    const lately = this.leadership?.committedLately(now) ?? this.commitIndex;
    return state === 'replicate' && match >= Math.min(lately, this.commitIndex - IN_STEP_ENTRIES);
  }

  /** `tick` has nothing to do before this moment. It moves with every call: ask again each time. */
  get nextTickMs(): number {
    return this.leadership?.nextTickMs ?? Math.min(this.election.nextTickMs, this.forwarded.dueMs);
  }

  /** Leader: when what gathers for learners is to leave, which a tick then sees to as well; Infinity if nothing does. */
  get gatherDueMs(): number {
    return this.leadership?.gatherDueMs ?? Infinity;
  }

  /** Leader: it is that time. */
  endGather(now: number): void {
    this.setTime(now);
    this.leadership?.endGather();
  }

  tick(now: number): void {
    this.setTime(now);
    if (now < this.nextTickMs) return;
    if (this.leadership !== undefined) {
      if (!this.leadership.tick(now)) this.becomeFollower(this.core.term, 0);
      return;
    }
    this.forwarded.tick(now);
    if (now >= this.election.nextTickMs) this.campaign(now);
  }

  /** Stands for election as if the election timeout were over; does nothing where the rules of votes forbid it. */
  campaign(now: number): void {
    this.setTime(now);
    const { core } = this;
    if (core.role === 'leader' || !core.mayStand) return;
    if (!core.options.mayVote() || this.election.heardLeaderLately(now)) return;
    this.forwarded.failAll();
    if (this.election.start('preCandidate', false)) this.stand(false);
  }

  /**
   * The connection to the leader broke, as it does when its process dies. If the leader is not heard again, this replica stands
   * `afterMs` behind the earliest moment that the rules of votes allow, and not at random: callers give each voter another
   * `afterMs`, so that votes are not split. Reads that were forwarded to it fail.
   */
  suspectLeader(afterMs: number, now: number): void {
    this.setTime(now);
    if (this.core.role !== 'follower' || this.core.leader === 0) return;
    this.election.plan(afterMs);
    // Their questions, or the answers, were lost with the connection.
    this.forwarded.failAll();
  }

  /** Entries that the leader has sent were dropped before they came here, and there is room for them now. */
  askAgain(): void {
    if (this.core.role === 'follower' && this.core.leader !== 0) this.follower.askAgain();
  }

  step(m: Message, now: number): void {
    this.setTime(now);
    const { core } = this;
    if (m.to !== core.id || m.from === core.id) return;
    if (m.term < core.term) {
      answerStale(core, m);
      return;
    }
    if (m.term > core.term && adoptsTerm(m)) this.becomeFollower(m.term, 0);
    switch (m.type) {
      case 'append':
        this.hearLeader(m.from);
        this.follower.onAppend(m);
        break;
      case 'heartbeat':
        this.hearLeader(m.from);
        this.follower.onHeartbeat(m);
        break;
      case 'appendReply':
        this.leadership?.onAppendReply(m);
        break;
      case 'heartbeatReply':
        this.leadership?.onAnswer(m.from, m.round, m.floor);
        break;
      case 'vote':
      case 'preVote':
        this.onVote(m, now);
        break;
      case 'voteReply':
      case 'preVoteReply':
        this.onVoteReply(m);
        break;
      case 'timeoutNow':
        if (core.role !== 'leader' && core.mayStand && core.options.mayVote()) this.stand(true);
        break;
      case 'readIndex':
        if (this.leadership !== undefined) this.leadership.readIndex(m.from, m.context, now);
        else this.refuseRead(m.from, m.context);
        break;
      case 'readIndexReply':
        this.forwarded.onReply(m);
        break;
      default:
        unreachable(m);
    }
  }

  /** Leader: see Leadership.beat. Where it is false, `tick`. */
  beat(now: number, tell: TellBeat): boolean {
    this.setTime(now);
    return this.leadership?.beat(now, tell) ?? false;
  }

  /** A beat came. The floor to answer it with; -1, and nothing has changed, where it is to be stepped on as a heartbeat. */
  onBeat(from: ReplicaId, term: Term, index: LogIndex, floor: number, closed: number, now: number): number {
    const { core } = this;
    if (term !== core.term || from !== core.leader || core.role !== 'follower' || index !== core.commit) return -1;
    this.setTime(now);
    this.hearLeader(from);
    return this.follower.onBeat(index, floor, closed);
  }

  /** The answer to a beat came. False, and nothing has changed, where it is to be stepped on as a heartbeat's. */
  onBeatReply(from: ReplicaId, term: Term, round: number, floor: number, now: number): boolean {
    if (term !== this.core.term || this.leadership === undefined) return false;
    this.setTime(now);
    this.leadership.onAnswer(from, round, floor);
    return true;
  }

  /** Appends a command to the log; it is committed when it comes out of `ready()`, which it may never do. */
  propose(data: Bytes, now: number): LogIndex {
    this.setTime(now);
    return this.mustLead().propose(data);
  }

  proposeConfig(changes: readonly ConfigChange[], now: number): LogIndex {
    this.setTime(now);
    return this.mustLead().proposeConfig(changes);
  }

  /** A configuration is not committed yet, or joint: none can be proposed. False where this replica does not lead. */
  get hasPendingConfig(): boolean {
    return this.leadership?.hasPendingConfig ?? false;
  }

  /** Hands leadership to a voter. Proposals are refused until it leads or an election timeout is over. */
  transferLeadership(to: ReplicaId, now: number): void {
    this.setTime(now);
    this.mustLead().transfer(to, now);
  }

  /** Asks for a linearizable read, here or at the leader. The result comes in `Ready.reads`, maybe as a failure. */
  readIndex(context: number, now: number): void {
    this.setTime(now);
    if (this.leadership !== undefined) this.leadership.readIndex(this.core.id, context, now);
    else this.forwarded.forward(context);
  }

  hasReady(): boolean {
    return this.leadership?.hasWork === true || this.core.hasReady();
  }

  /** What stands in the store is read only as far as it is allowed. While something is not, `hasReady` stays true. */
  ready(reading = Reading.all): Ready {
    if (this.leadership?.hasWork === true && this.leadership.work(reading.toSend)) this.becomeFollower(this.core.term, 0);
    // Who leads answers callers, and serves nobody before it has applied all: what it follows elsewhere is not in its way.
    return this.core.takeReady(this.leadership === undefined ? reading.toApply : UNLIMITED);
  }

  /** The batch whose last entry is (index, term) is on disk, and so is every batch before it. */
  persisted(index: LogIndex, term: Term, now: number): void {
    this.setTime(now);
    if (term === this.core.term) this.core.termDurable = true;
    if (this.core.log.persisted(index, term)) this.leadership?.onPersisted();
  }

  /** Everything up to `index` is applied. */
  applied(index: LogIndex): void {
    this.core.setApplied(index);
    this.follower.closed.onApplied(index);
    this.leadership?.onApplied();
  }

  /** Forgets the log up to `index`, which is applied and durable in the state. The caller trims its store afterwards. */
  compact(index: LogIndex): void {
    assert(index <= this.core.applied, 'only what is applied is compacted');
    this.core.log.compact(index);
  }

  /**
   * Would `restore` accept this snapshot? Not if the log is already committed that far, nor as a leader: its log holds all that
   * is committed, even where it does not know that yet.
   */
  canInstall(meta: SnapshotMeta): boolean {
    return this.core.role !== 'leader' && meta.index > this.core.commit;
  }

  /** The caller has made this snapshot its durable state and has reset its log store. False: it was not needed. */
  restore(meta: SnapshotMeta, now: number): boolean {
    this.setTime(now);
    const { core } = this;
    if (!this.canInstall(meta)) return false;
    core.restart(meta.index, meta.term, meta.config);
    this.follower.closed.onApplied(meta.index);
    if (core.leader !== 0) this.follower.accept(core.leader, meta.index, 0, 0);
    return true;
  }

  /** The snapshot for `to` was sent, or could not be. */
  snapshotSent(to: ReplicaId, index: LogIndex, ok: boolean, now: number): void {
    this.setTime(now);
    this.leadership?.snapshotSent(to, index, ok);
  }

  /** Messages to this replica were dropped: what was in flight to it must be sent again. */
  unreachable(to: ReplicaId, now: number): void {
    this.setTime(now);
    this.leadership?.onUnreachable(to);
  }

  /**
   * True while no other replica can have become leader, and all that is known to be committed is applied: a read of the
   * applied state at `now`, in this turn, is linearizable. If it is false `readIndex` gives an index to wait for.
   */
  leaseValid(now: number): boolean {
    return this.leadership?.leaseValid(now) ?? false;
  }

  /** The clocks cannot be trusted about the time before `now` (the machine was suspended). */
  expireLease(now: number): void {
    this.setTime(now);
    this.leadership?.expireLease(now);
  }

  /** Leads and has applied an entry of its own term: it may evaluate, propose and promise. */
  canServe(): boolean {
    return this.leadership?.canServe ?? false;
  }

  /** Leader: the highest floor that every later leader is certain to know; 0 elsewhere, or before `canServe`. */
  quorumFloor(): number {
    return this.leadership?.quorumFloor() ?? 0;
  }

  /** Leader: the highest floor that any of its voters had promised; its clock starts above this. 0 elsewhere. */
  get electedFloor(): number {
    return this.leadership?.electedFloor ?? 0;
  }

  /** The highest closed timestamp that holds for what is applied here, on a leader as well; 0 if none was heard. */
  get closedTimestamp(): number {
    return this.follower.closed.usable;
  }

  /** A leader closes at once what it may; others do nothing. */
  closeNow(): void {
    this.leadership?.closeNow();
  }

  private setTime(now: number): void {
    if (now > this.core.now) this.core.now = now;
  }

  private mustLead(): Leadership {
    if (this.leadership !== undefined) return this.leadership;
    const { leader } = this.core;
    throw new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'this replica does not lead its group', {
      retriable: true,
      details: leader === 0 ? {} : { leader: String(leader) },
    });
  }

  private onVote(m: VoteMessage, now: number): void {
    if (this.election.ignores(m, now) || (!m.transfer && this.leadership?.hasQuorum(now) === true)) return;
    if (m.type === 'vote' && m.term > this.core.term) this.becomeFollower(m.term, 0);
    this.election.onVote(m);
  }

  private onVoteReply(m: VoteReply): void {
    const { core } = this;
    const isPre = m.type === 'preVoteReply';
    if (core.role !== (isPre ? 'preCandidate' : 'candidate')) return;
    if (isPre && m.granted && m.term !== core.term + 1) return;
    const result = this.election.count(m);
    if (result === 'won') {
      if (isPre) this.stand(false);
      else this.becomeLeader();
    } else if (result === 'lost') {
      this.becomeFollower(core.term, 0);
      this.election.postponeByRetry();
    }
  }

  /** Asks for real votes in a new term. */
  private stand(transfer: boolean): void {
    this.forwarded.failAll();
    this.follower.closed.onTermEnd();
    if (this.election.start('candidate', transfer)) this.becomeLeader();
  }

  private becomeLeader(): void {
    const { core } = this;
    core.role = 'leader';
    core.leader = core.id;
    this.election.onLeader();
    // What a leader closes it hears itself, as its followers do.
    const hear = (closed: number): void => this.follower.closed.hear(closed, core.log.lastIndex, core.applied);
    this.leadership = new Leadership(core, this.election.floorOfVotes, hear);
  }

  private becomeFollower(term: Term, leader: ReplicaId): void {
    const { core } = this;
    this.leadership?.abandonReads();
    this.leadership = undefined;
    if (term > core.term) {
      core.term = term;
      core.vote = 0;
      this.follower.closed.onTermEnd();
    }
    if (leader !== core.leader) this.forwarded.failAll();
    core.role = 'follower';
    core.leader = leader;
    core.termDurable = true;
    this.election.randomize();
    this.election.postpone();
  }

  /** A message of this term's leader arrived. */
  private hearLeader(from: ReplicaId): void {
    const { core } = this;
    assert(core.role !== 'leader', 'a term has one leader');
    if (core.leader !== from || core.role !== 'follower') {
      assert(core.leader === 0 || core.leader === from, 'a term has one leader');
      this.becomeFollower(core.term, from);
    }
    core.heardLeaderMs = core.now;
    this.election.onLeader();
  }

  private refuseRead(to: ReplicaId, context: number): void {
    const { core } = this;
    core.send({ type: 'readIndexReply', from: core.id, to, term: core.term, context, index: 0 });
  }
}

/** Requests for votes are weighed first; and a pre-vote is granted in a term that nobody is in. */
function adoptsTerm(m: Message): boolean {
  return m.type !== 'vote' && m.type !== 'preVote' && !(m.type === 'preVoteReply' && m.granted);
}
