import { mutant } from '../lib/mutants.js';
import { isVoter, members } from './config.js';
import type { Core } from './core.js';
import { entryBytes } from './log.js';
import { Progress } from './progress.js';
import type { Allowance } from './reading.js';
import { Rounds } from './rounds.js';
import type { AppendReply, Entry, LogIndex, ReplicaId } from './types.js';

/** A commit index that no append carries is told on its own after this part of the heartbeat interval. */
const NOTICE_PART = 0.1;
/**
 * No quorum waits for a learner, and each append costs its node a synced write, which others on the same machine wait for. So one
 * that keeps up is sent entries once in this part of the heartbeat interval, in half of it if a read there waits for them, or
 * when so many have gathered. These parts are the same for all groups of a node, so that their appends leave together.
 */
const GATHER_PART = 0.1;
const GATHER_ENTRIES_MAX = 32;
/** A snapshot that arrived is installed within this many election timeouts, or it is sent again. */
const INSTALL_TIMEOUTS = 5;

const NONE: readonly never[] = [];

/** The leader's sending side: what each other replica has, and what it is to be sent next. */
export class Replication {
  readonly rounds: Rounds;
  peers: Progress[] = [];
  /** Told in every message of a round. Never falls within a term. */
  floor: number;
  closed = 0;
  /** When followers are to be told a commit index that they may not have heard of. */
  noticeDueMs = Infinity;
  /** When entries that gather for a learner are to be sent. */
  gatherDueMs = Infinity;
  private readonly core: Core;
  private readonly byId = new Map<ReplicaId, Progress>();
  private awake = true;
  private heartbeatWanted = false;
  private noticeWanted = false;
  // Followers that stand at the same index share one slice of the log.
  private sliceFrom: LogIndex = 0;
  private slice: readonly Entry[] = [];

  constructor(core: Core, floor: number) {
    this.core = core;
    this.floor = floor;
    this.rounds = new Rounds(core.id, core.now);
    this.setMembers(members(core.config));
  }

  get hasWork(): boolean {
    return this.awake || this.heartbeatWanted || this.noticeWanted || this.rounds.isRoundWanted;
  }

  /** There are followers, and each has the whole log and was told that all of it is committed. */
  get isInStep(): boolean {
    const { commit, log } = this.core;
    if (this.peers.length === 0) return false;
    for (const { state, match, commitTold } of this.peers) {
      if (state !== 'replicate' || match !== log.lastIndex || commitTold !== commit) return false;
    }
    return true;
  }

  peer(id: ReplicaId): Progress | undefined {
    return this.byId.get(id);
  }

  /** It was heard of within an election timeout. */
  hears(id: ReplicaId, now: number): boolean {
    const peer = this.byId.get(id);
    return peer !== undefined && this.isAlive(peer, now);
  }

  matchOf(id: ReplicaId): LogIndex {
    return this.byId.get(id)?.match ?? 0;
  }

  /** There may be something to send. */
  wake(): void {
    this.awake = true;
  }

  setMembers(ids: readonly ReplicaId[]): void {
    const { core } = this;
    const { appendsInFlightMax, appendBytesInFlightMax } = core.options;
    for (const id of this.byId.keys()) if (!ids.includes(id)) this.byId.delete(id);
    for (const id of ids) {
      if (id === core.id || this.byId.has(id)) continue;
      const next = core.log.lastIndex + 1;
      this.byId.set(id, new Progress(id, next, core.now, appendsInFlightMax, appendBytesInFlightMax));
    }
    this.peers = [...this.byId.values()];
  }

  /** False if `from` is not a member. */
  heard(from: ReplicaId): boolean {
    const peer = this.byId.get(from);
    if (peer === undefined) return false;
    peer.heardMs = this.core.now;
    return true;
  }

  /** True if `from` has more of the log than was known. */
  onAppendReply(m: AppendReply): boolean {
    const { core } = this;
    const peer = this.byId.get(m.from);
    if (peer === undefined) return false;
    if (m.rejected) {
      this.onRejection(peer, m);
      return false;
    }
    if (m.index > core.log.lastIndex) return false;
    const moved = peer.acknowledge(m.index, core.now);
    const isSynced = peer.state === 'snapshot' && core.log.term(peer.match) >= 0;
    if (peer.state === 'probe' || isSynced) peer.toReplicate();
    if (peer.next <= core.log.lastIndex) this.awake = true;
    this.tellAwaited(peer);
    this.planNotice(peer);
    return moved;
  }

  /** A message to this replica was lost. */
  onUnreachable(id: ReplicaId): void {
    const peer = this.byId.get(id);
    if (peer?.state === 'replicate' && !peer.window.isEmpty) {
      peer.toProbe(peer.match + 1);
      // The next heartbeat sends the probe: at once it would be lost as well.
      peer.probing = true;
    }
  }

  snapshotSent(id: ReplicaId, index: LogIndex, ok: boolean): void {
    const peer = this.byId.get(id);
    if (peer?.state !== 'snapshot' || peer.snapshotIndex !== 0) return;
    peer.snapshotIndex = ok ? index : -1;
    peer.snapshotSentMs = this.core.now;
    // It is installed, but the log has been compacted beyond it meanwhile.
    if (ok && this.core.log.term(index) < 0) this.wantSnapshot(peer);
  }

  onCommit(): void {
    this.awake = true;
    for (const peer of this.peers) this.planNotice(peer);
  }

  /** The heartbeat interval is over: the next `send` reaches everybody who was not reached lately. */
  heartbeat(): void {
    const { now, options } = this.core;
    this.heartbeatWanted = true;
    for (const peer of this.peers) {
      if (peer.state === 'probe') {
        peer.probing = false;
      } else if (peer.state === 'replicate') {
        const isStuck = !peer.window.isEmpty && now - peer.movedMs > options.electionTimeoutMs;
        if (isStuck) peer.toProbe(peer.match + 1);
      } else if (peer.snapshotIndex !== 0 && this.isAlive(peer)) {
        const isLost = now - peer.snapshotSentMs > INSTALL_TIMEOUTS * options.electionTimeoutMs;
        if (peer.snapshotIndex < 0 || isLost) this.wantSnapshot(peer);
      }
    }
  }

  /** The next `send` tells the commit index to those who may not know it. */
  notice(): void {
    this.noticeWanted = true;
    this.noticeDueMs = Infinity;
  }

  /** The entries that gather have done so for long enough. */
  endGather(): void {
    this.awake = true;
    this.gatherDueMs = Infinity;
  }

  /** A read at this replica waits until it has applied the entry at `index`, which is committed. */
  readWaits(id: ReplicaId, index: LogIndex): void {
    const peer = this.byId.get(id);
    if (peer === undefined) return;
    peer.awaited = Math.max(peer.awaited, index);
    this.awake = true;
    this.tellAwaited(peer);
  }

  /**
   * Makes all messages that are due. One round at most is opened, when the first message needs it. Who lacks entries that may not
   * be read of the store now gets heartbeats and notices as ever, and is the first to get entries when this is called again.
   */
  send(openRound: () => number, reading: Allowance): void {
    const { core, heartbeatWanted, noticeWanted } = this;
    const roundWanted = this.rounds.isRoundWanted;
    this.awake = this.heartbeatWanted = this.noticeWanted = false;
    let round = roundWanted ? openRound() : 0;
    let unserved: Progress | undefined;
    for (const peer of this.peers) {
      const isNext = this.canAppend(peer) && !this.gathers(peer);
      let entries = isNext ? this.entriesFor(peer, reading) : undefined;
      if (isNext && entries === undefined) unserved ??= peer;
      if (entries !== undefined) {
        if (round === 0) round = openRound();
        const isProbe = peer.state === 'probe';
        do {
          this.sendAppend(peer, entries, round);
          entries = this.canAppend(peer) ? this.entriesFor(peer, reading) : undefined;
        } while (entries !== undefined);
        // A probe may carry entries, and is answered when the follower's disk has them: alive it may be all the same.
        if (isProbe && heartbeatWanted && this.isSilent(peer)) this.sendHeartbeat(peer, round);
      } else if (heartbeatWanted && peer.state === 'snapshot' && core.log.term(peer.snapshotIndex) >= 0) {
        if (round === 0) round = openRound();
        this.sendEntries(peer, peer.snapshotIndex, [], round);
      } else if ((roundWanted && isVoter(core.config, peer.id)) || (heartbeatWanted && this.needsHeartbeat(peer))) {
        if (round === 0) round = openRound();
        this.sendHeartbeat(peer, round);
      } else if (noticeWanted && this.knowsLess(peer)) {
        this.sendHeartbeat(peer, 0);
      }
    }
    this.slice = [];
    this.sliceFrom = 0;
    if (unserved !== undefined) this.putFirst(unserved);
  }

  private putFirst(peer: Progress): void {
    const at = this.peers.indexOf(peer);
    if (at > 0) this.peers = [...this.peers.slice(at), ...this.peers.slice(0, at)];
  }

  private onRejection(peer: Progress, m: AppendReply): void {
    // Answers to appends that were overtaken: `match` is known by now, or another probe is out.
    if (peer.state === 'snapshot' || m.index < peer.match || m.index >= peer.next) return;
    if (peer.state === 'probe' && m.index !== peer.next - 1) return;
    // All entries of a term that the follower does not have are skipped at once. If `match` itself is refused, what was sent
    // behind it was dropped (Follower.askAgain).
    const { log } = this.core;
    const at = m.index === peer.match ? m.index : log.lastIndexUpTo(Math.min(m.hintIndex, m.index - 1), m.hintTerm);
    peer.toProbe(at + 1);
    this.awake = true;
  }

  private canAppend(peer: Progress): boolean {
    if (peer.state === 'snapshot') return false;
    if (this.core.log.term(peer.next - 1) < 0) {
      // A replica that is silent gets no snapshot; heartbeats find out when it is back.
      if (this.isAlive(peer)) this.wantSnapshot(peer);
      return false;
    }
    if (peer.state === 'probe') return !peer.probing;
    return peer.next <= this.core.log.lastIndex && !peer.window.isFull;
  }

  private gathers(peer: Progress): boolean {
    const { now, log, config, options } = this.core;
    const count = log.lastIndex - peer.next + 1;
    if (peer.state !== 'replicate' || count >= GATHER_ENTRIES_MAX || isVoter(config, peer.id)) return false;
    const partMs = options.heartbeatMs * (peer.next <= peer.awaited ? GATHER_PART / 2 : GATHER_PART);
    const dueMs = (Math.floor(peer.appendedMs / partMs) + 1) * partMs;
    if (now >= dueMs) return false;
    this.gatherDueMs = Math.min(this.gatherDueMs, dueMs);
    return true;
  }

  private wantSnapshot(peer: Progress): void {
    peer.toSnapshot();
    this.core.wantSnapshot(peer.id);
  }

  /** What the next append to it carries; undefined, and there will be more to do, if that may not be read now. */
  private entriesFor(peer: Progress, reading: Allowance): readonly Entry[] | undefined {
    const { log, options } = this.core;
    // A replica that is silent, or answers no probe, gets no entries: they would pile up in front of a closed door.
    const isClosed = peer.state === 'probe' && (peer.probes > 0 || !this.isAlive(peer));
    if (peer.next > log.lastIndex || isClosed) return NONE;
    if (this.sliceFrom !== peer.next) {
      const slice = log.slice(peer.next, log.lastIndex + 1, options.appendBytesMax, reading);
      if (slice.length === 0) {
        this.awake = true;
        return undefined;
      }
      this.slice = slice;
      this.sliceFrom = peer.next;
    }
    return this.slice;
  }

  private sendAppend(peer: Progress, entries: readonly Entry[], round: number): void {
    const { core } = this;
    this.sendEntries(peer, peer.next - 1, entries, round);
    if (peer.state === 'probe') {
      peer.probing = true;
      peer.probes += 1;
      return;
    }
    let bytes = 0;
    for (const entry of entries) bytes += entryBytes(entry);
    if (peer.window.isEmpty) peer.movedMs = core.now;
    peer.appendedMs = core.now;
    peer.next += entries.length;
    peer.window.add(peer.next - 1, bytes);
  }

  private sendEntries(peer: Progress, prevIndex: LogIndex, entries: readonly Entry[], round: number): void {
    const { core } = this;
    peer.roundSentMs = core.now;
    peer.commitTold = Math.max(peer.commitTold, Math.min(core.commit, prevIndex + entries.length));
    core.sendAsLeader({
      type: 'append',
      from: core.id,
      to: peer.id,
      term: core.term,
      prevIndex,
      prevTerm: core.log.term(prevIndex),
      entries,
      commit: core.commit,
      round,
      floor: this.floor,
      closed: this.closed,
      closedIndex: core.log.lastIndex,
    });
  }

  /** Round 0 wants no answer and promises nothing: it only tells the commit index. */
  private sendHeartbeat(peer: Progress, round: number): void {
    const { core } = this;
    const commit = mutant('commit-told-unmatched') ? core.commit : Math.min(peer.match, core.commit);
    if (round > 0) peer.roundSentMs = core.now;
    peer.commitTold = Math.max(peer.commitTold, commit);
    core.sendAsLeader({
      type: 'heartbeat',
      from: core.id,
      to: peer.id,
      term: core.term,
      commit,
      round,
      floor: round > 0 ? this.floor : 0,
      closed: round > 0 ? this.closed : 0,
      closedIndex: core.log.lastIndex,
    });
  }

  /** Under load appends carry the rounds; but their answers wait for the follower's disk, which may be slow. */
  needsHeartbeat(peer: Progress): boolean {
    const { now, options } = this.core;
    return now - peer.roundSentMs >= options.heartbeatMs / 2 || this.isSilent(peer);
  }

  private isSilent(peer: Progress): boolean {
    return this.core.now - peer.heardMs >= this.core.options.heartbeatMs;
  }

  private isAlive(peer: Progress, now = this.core.now): boolean {
    return now - peer.heardMs < this.core.options.electionTimeoutMs;
  }

  private knowsLess(peer: Progress): boolean {
    return peer.commitTold < Math.min(peer.match, this.core.commit);
  }

  /** A read there waits for a commit index that it can be told. */
  private tellAwaited(peer: Progress): void {
    if (peer.commitTold < peer.awaited && this.knowsLess(peer)) this.sendHeartbeat(peer, 0);
  }

  private planNotice(peer: Progress): void {
    if (!this.knowsLess(peer)) return;
    this.noticeDueMs = Math.min(this.noticeDueMs, this.core.now + this.core.options.heartbeatMs * NOTICE_PART);
  }
}
