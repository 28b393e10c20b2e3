import { mutant } from '../lib/mutants.js';
import { countVotes, electorate } from './config.js';
import type { Core } from './core.js';
import type { Message, ReplicaId, VoteMessage, VoteReply } from './types.js';

/** How long a candidate waits for votes before it tries again, in election timeouts: from, and up to. */
const RETRY_FROM = 0.15;
const RETRY_TO = 0.45;
/** From the third failure in a row on it waits twice as long each time, up to this factor: answers may just be slow. */
const RETRY_FACTOR_MAX = 8;

/**
 * Elections, from both sides.
 *
 * The voter's side is what leases rest on: a replica that heard a leader within the election timeout helps nobody else to
 * lead, whatever the term. It does not even take note of the candidate's term, so that a replica which comes back from a
 * partition cannot depose a leader that works. The one exception is a candidate that the leader itself sent (`transfer`):
 * that leader gave its lease up before it did so.
 *
 * A candidate first asks without raising its term (PreVote) and goes on only if it would win.
 */
export class Election {
  /** When this replica stands, unless it hears of a leader before. */
  dueMs = 0;
  private readonly core: Core;
  private timeoutMs = 0;
  private attempts = 0;
  private readonly votes = new Map<ReplicaId, boolean>();
  private floor = 0;

  constructor(core: Core) {
    this.core = core;
    this.randomize();
    this.postpone();
  }

  /** A leader was heard, or there is one now. */
  onLeader(): void {
    this.attempts = 0;
    this.postpone();
  }

  /** Patience begins anew. */
  postpone(): void {
    this.dueMs = this.core.now + this.timeoutMs;
  }

  randomize(): void {
    const { electionTimeoutMs, electionJitterMs, random } = this.core.options;
    this.timeoutMs = electionTimeoutMs + electionJitterMs * random();
  }

  /** The leader may be dead: stands `afterMs` behind the first moment at which others may vote, unless it is heard again. */
  plan(afterMs: number): void {
    const { heardLeaderMs, options } = this.core;
    this.dueMs = heardLeaderMs + options.electionTimeoutMs + afterMs;
  }

  /** Somebody is there again who needs this replica's vote, and cannot have it: this one is to lead, however often it failed. */
  private hasten(): void {
    const { now, options } = this.core;
    this.attempts = 0;
    this.dueMs = Math.min(this.dueMs, now + options.heartbeatMs * options.random());
  }

  postponeByRetry(): void {
    const { electionTimeoutMs, random } = this.core.options;
    const factor = Math.min(Math.max(1, 2 ** (this.attempts - 2)), RETRY_FACTOR_MAX);
    this.dueMs = this.core.now + electionTimeoutMs * factor * (RETRY_FROM + (RETRY_TO - RETRY_FROM) * random());
  }

  /** When it stands if nothing is heard; Infinity for a replica that may not. */
  get nextTickMs(): number {
    if (!this.core.mayStand) return Infinity;
    return Math.max(this.dueMs, this.core.heardLeaderMs + this.core.options.electionTimeoutMs);
  }

  heardLeaderLately(now: number): boolean {
    return now < this.core.heardLeaderMs + this.core.options.electionTimeoutMs;
  }

  /** True if a vote, or a pre-vote, is not even to be considered. */
  ignores(m: VoteMessage, now: number): boolean {
    return !this.core.options.mayVote() || (!m.transfer && this.heardLeaderLately(now));
  }

  /** Answers a request of this term, or a pre-vote of this term or a later one. */
  onVote(m: VoteMessage): void {
    const { core } = this;
    const { promises } = core.options;
    const isFree = core.vote === m.from || (core.vote === 0 && core.leader === 0) || mutant('second-vote');
    const isPre = m.type === 'preVote';
    const isUpToDate = core.log.isUpToDate(m.lastIndex, m.lastTerm);
    const granted = (isFree || (isPre && m.term > core.term)) && isUpToDate;
    if (!isUpToDate) this.hasten();
    const floor = granted && !isPre && !mutant('vote-without-floor') ? promises.acceptFloor(0) : 0;
    const reply: Message = {
      type: isPre ? 'preVoteReply' : 'voteReply',
      from: core.id,
      to: m.from,
      term: isPre && granted ? m.term : core.term,
      granted,
      floor,
    };
    if (isPre) {
      core.send(reply);
      return;
    }
    if (granted) {
      core.vote = m.from;
      this.postpone();
    }
    if (mutant('vote-before-sync')) core.send(reply);
    else core.sendAfterSync(reply);
  }

  /** Asks for votes. True if the own one is enough. */
  start(role: 'preCandidate' | 'candidate', transfer: boolean): boolean {
    const { core } = this;
    const isPre = role === 'preCandidate';
    core.role = role;
    core.leader = 0;
    if (!isPre) {
      core.term += 1;
      core.vote = core.id;
      core.termDurable = false;
    }
    this.votes.clear();
    this.votes.set(core.id, true);
    this.floor = 0;
    this.attempts += isPre ? 1 : 0;
    this.postponeByRetry();
    if (countVotes(core.config, this.votes) === 'won') return true;
    for (const to of electorate(core.config)) {
      if (to === core.id) continue;
      const message: VoteMessage = {
        type: isPre ? 'preVote' : 'vote',
        from: core.id,
        to,
        term: isPre ? core.term + 1 : core.term,
        lastIndex: core.log.lastIndex,
        lastTerm: core.log.lastTerm,
        transfer,
      };
      if (isPre) core.send(message);
      else core.sendAfterSync(message);
    }
    return false;
  }

  /** Counts an answer that belongs to the election under way. */
  count(m: VoteReply): 'won' | 'lost' | 'open' {
    const { core } = this;
    if (!this.votes.has(m.from)) this.votes.set(m.from, m.granted);
    if (m.type === 'voteReply') {
      // It answers a request that left after the sync, so the own vote is on disk.
      core.termDurable = true;
      if (m.granted) this.floor = Math.max(this.floor, m.floor);
    }
    return countVotes(core.config, this.votes);
  }

  /** The highest floor in the votes of the election that was won, the own included. */
  get floorOfVotes(): number {
    return Math.max(this.floor, this.core.options.promises.acceptFloor(0));
  }
}
