import { mutant } from '../lib/mutants.js';
import { quorumValue } from './config.js';
import type { Config, LogIndex, ReplicaId } from './types.js';

/**
 * The rounds of one leader in one term (see types.ts). All that a leader learns from being answered is in this table:
 *
 * - `confirmedMs`, when the newest round that a quorum has answered was sent. CheckQuorum and the lease run from it. Never
 *   from the time of an answer: a follower counts its patience from when it received the round, which is after the sending,
 *   so a lease that starts at the sending ends first.
 * - Which reads are confirmed. A read waits for a round sent after it was asked. The token is (term, round) and the table
 *   dies with the term, so a late answer confirms nothing but what it was an answer to.
 * - The floors that others stand for.
 */
export class Rounds {
  private readonly self: ReplicaId;
  /** The newest round; 0 before the first. */
  current = 0;
  /** The newest round that a quorum has answered. */
  confirmed = 0;
  /** When it was sent; before the first, when the term of office began. */
  confirmedMs: number;
  /** Send times of the rounds above `confirmed`, in order. */
  private readonly sentMs: number[] = [];
  private readonly answered = new Map<ReplicaId, number>();
  private readonly floors = new Map<ReplicaId, number>();
  private readonly reads: PendingRead[] = [];
  readonly floorOf = (id: ReplicaId): number => this.floors.get(id) ?? 0;
  private readonly answeredOf = (id: ReplicaId): number => this.answered.get(id) ?? 0;

  constructor(self: ReplicaId, nowMs: number) {
    this.self = self;
    this.confirmedMs = nowMs;
  }

  /** Begins a round. Its messages must be made in this same turn; the leader's own answer is counted at once. */
  open(nowMs: number): number {
    this.current += 1;
    this.sentMs.push(nowMs);
    this.answered.set(this.self, this.current);
    return this.current;
  }

  /** True if this may confirm a newer round. An answer to a round that was never asked proves nothing. */
  answer(from: ReplicaId, round: number): boolean {
    if (round > this.current || round <= this.answeredOf(from)) return false;
    this.answered.set(from, round);
    return round > this.confirmed;
  }

  /** True if this is news. */
  acceptFloor(from: ReplicaId, floor: number): boolean {
    if (floor <= this.floorOf(from)) return false;
    this.floors.set(from, floor);
    return true;
  }

  /** Recounts after an answer or a change of configuration. True if a newer round is confirmed. */
  count(config: Config): boolean {
    const round = quorumValue(config, this.answeredOf);
    if (round <= this.confirmed) return false;
    for (; this.confirmed < round; this.confirmed += 1) this.confirmedMs = this.sentMs.shift() ?? this.confirmedMs;
    return true;
  }

  /** A read that the next round to be opened will confirm. */
  addRead(from: ReplicaId, context: number, index: LogIndex): void {
    this.reads.push({ from, context, index, round: this.current + (mutant('read-joins-old-round') ? 0 : 1) });
  }

  /** True while a read waits for a round that is not yet opened. */
  get isRoundWanted(): boolean {
    return (this.reads[this.reads.length - 1]?.round ?? 0) > this.current;
  }

  takeConfirmedReads(): PendingRead[] {
    let count = 0;
    while (count < this.reads.length && (this.reads[count]?.round ?? Infinity) <= this.confirmed) count += 1;
    return count === 0 ? NO_READS : this.reads.splice(0, count);
  }

  takeAllReads(): PendingRead[] {
    return this.reads.splice(0);
  }
}

const NO_READS: PendingRead[] = [];

export interface PendingRead {
  /** Who asked; the leader itself for its own reads. */
  readonly from: ReplicaId;
  readonly context: number;
  readonly index: LogIndex;
  readonly round: number;
}
