import { assert } from '../lib/assert.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { CommitTrail } from './commit-trail.js';
import { changeConfig, encodeConfig, isJoint, isVoter, leaveJoint, members, quorumValue } from './config.js';
import type { ConfigChange } from './config.js';
import type { Core } from './core.js';
import type { Allowance } from './reading.js';
import { Replication } from './replication.js';
import type { Bytes } from '../lib/bytes.js';
import type { AppendReply, Config, LogIndex, ReplicaId, TellBeat } from './types.js';

/**
 * A follower that has what was committed this part of the election timeout ago is in step: however far away it is, it keeps up.
 * When it votes, commits that need it wait for so long at most; and it has all of the log long before a hand-over is given up.
 */
const IN_STEP_TIMEOUTS = 0.5;

/**
 * One leader's term of office: made when the election is won, thrown away when leadership ends, so that nothing of it can
 * outlive the term.
 *
 * Invariants
 * - Only an entry of this term is committed by counting; earlier ones follow (Raft 5.4.2).
 * - Nothing is served, proposed or promised before the term's first entry is applied: only then is it certain that this
 *   leader has applied all that its predecessors acknowledged.
 * - At most one configuration is uncommitted. The next change, leaving a joint configuration included, is appended only
 *   when a quorum of the present one stands for every floor that was ever promised. Neighbouring configurations have
 *   intersecting quorums but those two steps apart need not: without this wait a promise made to the first would be unknown
 *   to a leader elected by the third.
 */
export class Leadership {
  /** The highest floor that any of its voters, itself included, had promised before: its clock must start above this. */
  readonly electedFloor: number;
  private readonly core: Core;
  private readonly hearClosed: (timestamp: number) => void;
  private readonly replication: Replication;
  private readonly firstIndex: LogIndex;
  private readonly trail: CommitTrail;
  readonly matchOf = (id: ReplicaId): LogIndex =>
    id === this.core.id ? this.ownMatch : this.replication.matchOf(id);

  private heartbeatDueMs: number;
  private waitingReads: { from: ReplicaId; context: number }[] = [];
  private transferTarget: ReplicaId = 0;
  private transferDueMs = Infinity;
  private timeoutSentTo: ReplicaId = 0;
  /** TimeoutNow was sent: from then on the target may be elected at any moment of this term. */
  private leaseForbidden = false;
  private leaseStartsMs = -Infinity;
  private leaseNotBeforeMs = -Infinity;
  private floor: number | undefined = undefined;
  private floorPromised: number;

  constructor(core: Core, electedFloor: number, hearClosed: (timestamp: number) => void) {
    this.core = core;
    this.hearClosed = hearClosed;
    this.electedFloor = electedFloor;
    this.floorPromised = electedFloor;
    this.replication = new Replication(core, electedFloor);
    this.firstIndex = core.append('empty');
    this.trail = new CommitTrail(IN_STEP_TIMEOUTS * core.options.electionTimeoutMs);
    this.heartbeatDueMs = this.nextHeartbeat(core.now);
  }

  private get ownMatch(): LogIndex {
    const { log } = this.core;
    return mutant('leader-counts-unsynced') ? log.lastIndex : log.durableIndex;
  }

  get canServe(): boolean {
    return this.core.applied >= this.firstIndex || mutant('serve-before-own-term');
  }

  get transferringTo(): ReplicaId {
    return this.transferTarget;
  }

  get peers(): Replication['peers'] {
    return this.replication.peers;
  }

  get gatherDueMs(): number {
    return this.replication.gatherDueMs;
  }

  endGather(): void {
    this.replication.endGather();
  }

  get nextTickMs(): number {
    const quorumDueMs = this.replication.rounds.confirmedMs + this.core.options.electionTimeoutMs;
    return Math.min(this.heartbeatDueMs, quorumDueMs, this.transferDueMs, this.replication.noticeDueMs, this.gatherDueMs);
  }

  /** True while a quorum was heard so recently that it would elect nobody else. */
  hasQuorum(now: number): boolean {
    return now < this.replication.rounds.confirmedMs + this.core.options.electionTimeoutMs;
  }

  /**
   * A read of the applied state at `now` is linearizable. The lease alone is not enough: followers may have committed and
   * served what this leader's own slow disk keeps it from applying.
   */
  leaseValid(now: number): boolean {
    return this.core.applied >= this.core.commit && this.holdsLease(now);
  }

  private holdsLease(now: number): boolean {
    const { leaseReads, electionTimeoutMs, driftBound } = this.core.options;
    return (
      leaseReads &&
      this.canServe &&
      ((!this.leaseForbidden && this.transferTarget === 0) || mutant('lease-over-transfer')) &&
      now < this.leaseStartsMs + electionTimeoutMs * (mutant('lease-outlives-timeout') ? 3 : 1 - driftBound)
    );
  }

  /** The clocks cannot be trusted about the time before `now`. */
  expireLease(now: number): void {
    this.leaseStartsMs = -Infinity;
    this.leaseNotBeforeMs = now;
  }

  quorumFloor(): number {
    if (!this.canServe) return 0;
    const floor = this.countFloor();
    this.floorPromised = Math.max(this.floorPromised, floor);
    return floor;
  }

  /** False: no quorum was heard for an election timeout, and leadership must end. */
  tick(now: number): boolean {
    const { core, replication } = this;
    if (now >= this.transferDueMs) this.endTransfer();
    if (quorumValue(core.config, (id) => (id === core.id ? 1 : 0)) === 1) {
      // A quorum of itself is not late because its process was.
      this.openRound();
    } else if (!this.hasQuorum(now) && !mutant('deaf-leader-stays')) {
      return false;
    }
    if (now >= this.heartbeatDueMs) {
      this.heartbeatDueMs = this.nextHeartbeat(now);
      replication.heartbeat();
    }
    if (now >= replication.noticeDueMs) replication.notice();
    if (now >= this.gatherDueMs) this.endGather();
    return true;
  }

  /**
   * `tick` for a group at rest: where heartbeats are due, and nothing else is, tells each follower's straight away. False, and
   * nothing has changed, where there is more to do.
   */
  beat(now: number, tell: TellBeat): boolean {
    const { core, replication } = this;
    if (now < this.heartbeatDueMs || this.hasWork || !this.isAtRest || !this.hasQuorum(now)) return false;
    this.heartbeatDueMs = this.nextHeartbeat(now);
    let round = 0;
    for (const peer of replication.peers) {
      if (!replication.needsHeartbeat(peer)) continue;
      if (round === 0) round = this.openRound();
      peer.roundSentMs = now;
      tell(peer.id, core.term, core.commit, round, replication.floor, replication.closed);
    }
    return true;
  }

  private get isAtRest(): boolean {
    const { core, replication } = this;
    const isWritten = this.canServe && core.termDurable && core.commit === core.log.lastIndex;
    return isWritten && this.transferTarget === 0 && !this.hasPendingConfig && replication.isInStep;
  }

  propose(data: Bytes): LogIndex {
    this.mustAcceptProposals();
    const index = this.core.append('data', data);
    this.replication.wake();
    return index;
  }

  proposeConfig(changes: readonly ConfigChange[]): LogIndex {
    this.mustAcceptProposals();
    if (this.hasPendingConfig && !mutant('change-over-change')) {
      throw new TidemarkError('FAILED_PRECONDITION', 'CONFIG_CHANGE_PENDING', 'another change of members is under way', {
        retriable: true,
      });
    }
    if (!this.floorsHeld() && !mutant('config-change-without-floor')) {
      throw notReady('a quorum has not yet acknowledged the promised timestamps');
    }
    return this.appendConfig(changeConfig(this.core.config, changes));
  }

  get hasPendingConfig(): boolean {
    return this.core.configs.activeIndex > this.core.commit || isJoint(this.core.config);
  }

  transfer(to: ReplicaId, now: number): void {
    const { core } = this;
    if (to === core.id) return;
    const peer = this.replication.peer(to);
    if (peer === undefined || !core.config.voters.includes(to)) {
      throw new TidemarkError('INVALID_ARGUMENT', 'NOT_A_VOTER', `replica ${to} cannot lead this group`);
    }
    if (this.transferTarget !== 0) throw notReady('leadership is being transferred');
    if (peer.state === 'snapshot') throw notReady(`replica ${to} still waits for a snapshot`);
    this.transferTarget = to;
    this.transferDueMs = now + core.options.electionTimeoutMs;
    this.replication.wake();
    this.continueTransfer();
  }

  readIndex(from: ReplicaId, context: number, now: number): void {
    if (from !== this.core.id && this.replication.peer(from) === undefined) {
      // It is told of no entries any more, and would wait for the index in vain.
      this.answerRead(from, context, 0);
    } else if (!this.canServe) {
      this.waitingReads.push({ from, context });
    } else if (this.holdsLease(now) || mutant('read-index-unconfirmed')) {
      this.giveRead(from, context, this.core.commit);
    } else {
      this.replication.rounds.addRead(from, context, this.core.commit);
      this.replication.wake();
    }
  }

  /** The state machine moved on. */
  onApplied(): void {
    if (this.waitingReads.length === 0 || !this.canServe) return;
    for (const { from, context } of this.waitingReads) {
      this.replication.rounds.addRead(from, context, this.core.commit);
    }
    this.waitingReads = [];
    this.replication.wake();
  }

  /** This leader's own disk has more of the log. */
  onPersisted(): void {
    this.commitByCounting();
  }

  onAppendReply(m: AppendReply): void {
    this.onAnswer(m.from, m.round, m.floor);
    if (!this.replication.onAppendReply(m)) return;
    if (m.index > this.core.commit) this.commitByCounting();
    this.continueTransfer();
  }

  onAnswer(from: ReplicaId, round: number, floor: number): void {
    const { replication, core } = this;
    if (!replication.heard(from)) return;
    if (floor > 0 && replication.rounds.acceptFloor(from, floor)) {
      this.floor = undefined;
      if (isJoint(core.config)) replication.wake();
    }
    if (round > 0 && replication.rounds.answer(from, round)) this.countRounds();
  }

  hears(id: ReplicaId, now: number): boolean {
    return this.replication.hears(id, now);
  }

  /** The commit index that a follower must have to be in step. */
  committedLately(now: number): LogIndex {
    return this.trail.lately(this.core.commit, now);
  }

  onUnreachable(from: ReplicaId): void {
    this.replication.onUnreachable(from);
    // Whether it was told to stand is not known: if it was, it may still be elected, and so the lease stays away.
    if (from === this.transferTarget) this.endTransfer();
  }

  snapshotSent(to: ReplicaId, index: LogIndex, ok: boolean): void {
    this.replication.snapshotSent(to, index, ok);
  }

  get hasWork(): boolean {
    return this.replication.hasWork;
  }

  /** Makes what is to be sent. Returns true if leadership ends here because this replica is no longer a voter. */
  work(reading: Allowance): boolean {
    const { core, replication } = this;
    const { config, configs } = core;
    const isCommitted = core.commit >= configs.activeIndex || mutant('leave-joint-uncommitted');
    if (core.commit >= this.firstIndex && isCommitted) {
      if (isJoint(config)) {
        if (this.transferTarget === 0 && this.floorsHeld()) this.appendConfig(leaveJoint(config));
      } else if (!isVoter(config, core.id)) {
        this.resign(reading);
        return true;
      }
    }
    replication.send(this.openRound, reading);
    return false;
  }

  /** Leadership is over: nobody will confirm these reads. */
  abandonReads(): void {
    const reads = [...this.waitingReads, ...this.replication.rounds.takeAllReads()];
    this.waitingReads = [];
    for (const { from, context } of reads) this.answerRead(from, context, 0);
  }

  /** Closes between two rounds, for whoever asks this leader; its followers hear of it with the next one. */
  closeNow(): void {
    if (this.canServe) this.hearClosed(this.core.options.promises.closed());
  }

  private readonly openRound = (): number => {
    const { core, replication } = this;
    const { promises } = core.options;
    const round = replication.rounds.open(core.now);
    replication.floor = Math.max(replication.floor, promises.offerFloor());
    replication.closed = this.canServe ? promises.closed() : 0;
    this.hearClosed(replication.closed);
    // The leader stands for its offer as every other voter does, and no further than it may.
    if (replication.rounds.acceptFloor(core.id, promises.acceptFloor(replication.floor))) this.floor = undefined;
    this.countRounds();
    return round;
  };

  private countRounds(): void {
    const { rounds } = this.replication;
    if (!rounds.count(this.core.config)) return;
    if (rounds.confirmedMs >= this.leaseNotBeforeMs) this.leaseStartsMs = Math.max(this.leaseStartsMs, rounds.confirmedMs);
    for (const { from, context, index } of rounds.takeConfirmedReads()) this.giveRead(from, context, index);
  }

  private giveRead(from: ReplicaId, context: number, index: LogIndex): void {
    this.answerRead(from, context, index);
    if (from !== this.core.id) this.replication.readWaits(from, index);
  }

  private answerRead(from: ReplicaId, context: number, index: LogIndex): void {
    const { core } = this;
    if (from === core.id) core.giveRead(context, index);
    else core.sendAsLeader({ type: 'readIndexReply', from: core.id, to: from, term: core.term, context, index });
  }

  private commitByCounting(): void {
    const { core } = this;
    const index = quorumValue(core.config, this.matchOf);
    if (index <= core.commit || (core.log.term(index) !== core.term && !mutant('commit-prior-term'))) return;
    this.trail.note(core.commit, core.now);
    core.commitTo(index);
    this.floor = undefined;
    this.replication.onCommit();
  }

  private appendConfig(config: Config): LogIndex {
    const { core, replication } = this;
    const index = core.append('config', encodeConfig(config));
    core.configs.push(index, config);
    replication.setMembers(members(config));
    this.floor = undefined;
    if (this.transferTarget !== 0 && !config.voters.includes(this.transferTarget)) this.endTransfer();
    replication.wake();
    // With fewer voters, what was short of a quorum may have one now.
    this.commitByCounting();
    this.countRounds();
    return index;
  }

  private countFloor(): number {
    const { core, replication } = this;
    this.floor ??= core.configs.quorumValueFrom(core.commit, replication.rounds.floorOf);
    return this.floor;
  }

  private floorsHeld(): boolean {
    return this.countFloor() >= this.floorPromised;
  }

  private continueTransfer(): void {
    if (this.transferTarget === 0 || this.transferTarget === this.timeoutSentTo) return;
    const { core, replication } = this;
    if (replication.matchOf(this.transferTarget) < core.log.lastIndex && !mutant('transfer-to-lagging')) return;
    this.sendTimeoutNow(this.transferTarget);
  }

  private sendTimeoutNow(to: ReplicaId): void {
    const { core } = this;
    this.leaseForbidden = true;
    this.timeoutSentTo = to;
    core.sendAsLeader({ type: 'timeoutNow', from: core.id, to, term: core.term });
  }

  private endTransfer(): void {
    this.transferTarget = 0;
    this.timeoutSentTo = 0;
    this.transferDueMs = Infinity;
    this.replication.wake();
  }

  /**
   * The configuration without this replica is committed. Tells the others, and who is best placed to go on: entries may be under
   * way, so that nobody is known to have all of the log, but what the heir lacks is sent to it first, as far as its window has
   * room. One that was told to stand already is not given a rival.
   */
  private resign(reading: Allowance): void {
    const { core, replication } = this;
    replication.notice();
    replication.send(this.openRound, reading);
    const { voters } = core.config;
    if (voters.includes(this.timeoutSentTo)) return;
    const heirs = replication.peers.filter(({ id, state }) => state === 'replicate' && voters.includes(id));
    const [heir] = heirs.sort((a, b) => b.match - a.match || b.heardMs - a.heardMs);
    if (heir !== undefined) this.sendTimeoutNow(heir.id);
  }

  private mustAcceptProposals(): void {
    if (!this.canServe) throw notReady('the leader has not yet applied an entry of its own term');
    if (this.transferTarget !== 0) throw notReady('leadership is being transferred');
  }

  /** On multiples of the interval, so that the heartbeats of all groups of a node fall into the same frames. */
  private nextHeartbeat(now: number): number {
    const { heartbeatMs } = this.core.options;
    assert(heartbeatMs > 0, 'heartbeats have an interval');
    return (Math.floor(now / heartbeatMs) + 1) * heartbeatMs;
  }
}

function notReady(why: string): TidemarkError {
  return new TidemarkError('UNAVAILABLE', 'LEADER_NOT_READY', why, { retriable: true });
}
