import { assert } from '../lib/assert.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { decodeConfig } from './config.js';
import type { Core } from './core.js';
import type { AppendMessage, HeartbeatMessage, LogIndex, Message, ReplicaId } from './types.js';

/** How many closed timestamps wait for their index to be applied; more are thinned out. */
const CLOSED_WAITING_MAX = 16;

/**
 * The closed timestamps that a follower heard. One counts when the last index that its leader had then is applied here, if that
 * happens in the same term: what is applied is then exactly what that leader had. Once it counts it is a fact for ever; what
 * still waits when the term ends is forgotten, for other entries may take those places.
 */
export class ClosedTimestamps {
  /** The highest one that counts. */
  usable = 0;
  private waiting: { timestamp: number; index: LogIndex }[] = [];

  hear(timestamp: number, index: LogIndex, applied: LogIndex): void {
    if (timestamp <= this.usable) return;
    if (index <= applied || mutant('closed-before-applied')) {
      this.usable = timestamp;
      return;
    }
    const last = this.waiting[this.waiting.length - 1];
    if (last === undefined || (timestamp > last.timestamp && index > last.index)) {
      // When full, the last one gives way to the newer: both are true, and this one says more, later.
      if (this.waiting.length >= CLOSED_WAITING_MAX) this.waiting.pop();
      this.waiting.push({ timestamp, index });
    } else if (timestamp > last.timestamp && index === last.index) {
      last.timestamp = timestamp;
    }
  }

  onApplied(applied: LogIndex): void {
    while ((this.waiting[0]?.index ?? Infinity) <= applied) {
      this.usable = Math.max(this.usable, this.waiting.shift()?.timestamp ?? 0);
    }
  }

  onTermEnd(): void {
    if (this.waiting.length > 0) this.waiting = [];
    if (mutant('closed-forgotten')) this.usable = 0;
  }
}

/** The receiving side: what a follower does with the messages of its leader. */
export class Follower {
  readonly closed = new ClosedTimestamps();
  private readonly core: Core;

  constructor(core: Core) {
    this.core = core;
  }

  onHeartbeat(m: HeartbeatMessage): void {
    const { core } = this;
    this.checkKept(m.commit);
    core.commitTo(mutant('old-copy-welcome') ? Math.min(m.commit, core.log.lastIndex) : m.commit);
    this.closed.hear(m.closed, m.closedIndex, core.applied);
    if (m.round === 0) return;
    // Not after the sync: that this replica knows of no later leader is true whatever its disk holds.
    const floor = core.options.promises.acceptFloor(m.floor);
    core.send({ type: 'heartbeatReply', from: core.id, to: m.from, term: core.term, round: m.round, floor });
  }

  /** As `onHeartbeat`, where that would move no commit index; returns what the answer carries. */
  onBeat(index: LogIndex, floor: number, closed: number): number {
    this.closed.hear(closed, index, this.core.applied);
    return this.core.options.promises.acceptFloor(floor);
  }

  /**
   * A heartbeat tells a commit index only of what this replica itself has acknowledged in this term. If that is not in its log,
   * its disk has lost it: somebody put an old copy of it back. What else it has said nobody knows here.
   */
  private checkKept(commit: LogIndex): void {
    const { log } = this.core;
    if (commit <= log.lastIndex || mutant('old-copy-welcome')) return;
    const message =
      `this replica has acknowledged log entries up to ${commit} at least, and its log ends at ${log.lastIndex}: its disk has ` +
      'lost what was on it, or is an old copy';
    throw new TidemarkError('DATA_LOSS', 'LOG_LOST', message);
  }

  /** Says that whatever the leader has sent from here on did not come. Nothing is acknowledged by it. */
  askAgain(): void {
    const { core } = this;
    const { id: from, leader: to, term } = core;
    const { lastIndex: index, lastTerm: hintTerm } = core.log;
    core.send({ type: 'appendReply', from, to, term, index, rejected: true, hintIndex: index, hintTerm, round: 0, floor: 0 });
  }

  onAppend(m: AppendMessage): void {
    const { core } = this;
    const { log } = core;
    const end = m.prevIndex + m.entries.length;
    this.closed.hear(m.closed, m.closedIndex, core.applied);
    // At or below the commit index the logs agree, whether this one still has the entry or not.
    const matches = log.term(m.prevIndex) === m.prevTerm || (mutant('append-unmatched') && m.prevIndex <= log.lastIndex);
    if (m.prevIndex >= core.commit && !matches) {
      assert(m.prevIndex > core.commit, 'logs agree up to the commit index');
      const hintIndex = Math.max(log.lastIndexUpTo(m.prevIndex, m.prevTerm), log.firstIndex - 1);
      core.send({
        type: 'appendReply',
        from: core.id,
        to: m.from,
        term: core.term,
        index: m.prevIndex,
        rejected: true,
        hintIndex,
        hintTerm: log.term(hintIndex),
        round: m.round,
        floor: core.options.promises.acceptFloor(m.floor),
      });
      return;
    }
    this.appendMissing(m);
    core.commitTo(Math.min(m.commit, end));
    this.accept(m.from, Math.max(end, core.commit), m.round, m.floor);
  }

  /** Appends the entries that the log does not have, in place of what contradicts them. */
  private appendMissing(m: AppendMessage): void {
    const { core } = this;
    const { log, configs } = core;
    let at = Math.max(0, core.commit - m.prevIndex);
    if (at > 0 && at <= m.entries.length) {
      assert(log.term(core.commit) === m.entries[at - 1]?.term, 'logs agree up to the commit index');
    }
    const from = mutant('append-truncates-always') ? Infinity : m.prevIndex + 1;
    while (at < m.entries.length && log.term(from + at) === m.entries[at]?.term) at += 1;
    if (at >= m.entries.length) return;
    const missing = m.entries.slice(at);
    // Decoded before anything is changed: they may be malformed.
    const decoded = missing.map((entry) => (entry.kind === 'config' ? decodeConfig(entry.data) : undefined));
    const first = m.prevIndex + 1 + at;
    if (first <= log.lastIndex) {
      assert(first > core.commit, 'what is committed is never removed');
      log.truncateFrom(first);
      if (!mutant('config-survives-truncation')) configs.truncateFrom(first);
    }
    missing.forEach((entry, i) => {
      log.append(entry);
      const config = decoded[i];
      if (config !== undefined) configs.push(entry.index, config);
    });
  }

  /** Tells the leader that this log agrees with its up to `index`. */
  accept(to: ReplicaId, index: LogIndex, round: number, floorOffered: number): void {
    const { core } = this;
    const floor = core.options.promises.acceptFloor(floorOffered);
    const found = { index, rejected: false, hintIndex: 0, hintTerm: 0, round, floor };
    const reply: Message = { type: 'appendReply', from: core.id, to, term: core.term, ...found };
    if (mutant('ack-before-sync')) core.send(reply);
    else core.sendAfterSync(reply);
  }
}

/** A message of an earlier term. Its sender learns what it must know to catch up; everything else is too late. */
export function answerStale(core: Core, m: Message): void {
  const envelope = { from: core.id, to: m.from, term: core.term };
  if (m.type === 'append') {
    const nothing = { index: m.prevIndex, rejected: true, hintIndex: 0, hintTerm: 0, round: 0, floor: 0 };
    core.send({ type: 'appendReply', ...envelope, ...nothing });
  } else if (m.type === 'heartbeat') {
    core.send({ type: 'heartbeatReply', ...envelope, round: 0, floor: 0 });
  } else if (m.type === 'vote' || m.type === 'preVote') {
    const type = m.type === 'vote' ? 'voteReply' : 'preVoteReply';
    core.send({ type, ...envelope, granted: false, floor: 0 });
  }
}
