import type { Clock } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { HybridClock, Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import type { Raft } from '../raft/raft.js';
import type { LogIndex, Term } from '../raft/types.js';
import type { TransactionId } from '../txn/transaction.js';
import type { BucketClock } from './bucket-clock.js';
import type { Effects } from './effects.js';
import { PendingEntries } from './pending-entries.js';
import { Proposals } from './proposals.js';
import type { Reads } from './reads.js';
import type {
  DecideRequest,
  DecideResult,
  PlacedCondition,
  PrepareRequest,
  PrepareResult,
  RequestId,
  ReserveRequest,
  ResolveRequest,
  WriteRequest,
  WriteResult,
} from './requests.js';
import { encodeRetention, type RetentionEntry } from './retention.js';
import type { BucketState } from './state.js';

/**
 * Commands of one replica: what may be asked of it only while it leads.
 *
 * Each is refused with NOT_LEADER unless the replica leads and serves in this turn. What it proposes belongs to the present term:
 * the first command of a term makes its Proposals, in which all that is under way in the bucket is known, locks that the state
 * shows included, and the end of the term ends them. Of commands that were proposed and not applied by then nobody here will
 * learn whether they commit, so they are rejected with outcome unknown.
 *
 * What it is not: it applies nothing. The replica does, and says here which entries were (replica.ts).
 */
export interface CommandHost {
  readonly bucket: BucketId;
  readonly state: BucketState;
  readonly raft: Raft;
  readonly reads: Reads;
  readonly hybrid: HybridClock;
  readonly clock: BucketClock;
  /** Of its node. */
  readonly host: { readonly limits: Limits; readonly clock: Clock };
  /** A snapshot is taking the place of the state. */
  readonly installing: boolean;
  notLeader(): TidemarkError;
  /** Raft has an entry to hand out when the turn ends. */
  changed(): void;
}

/** Changes of the horizon and of pins that wait for their entry. */
const RETENTION_ENTRIES_MAX = 64;

export class Commands {
  readonly #replica: CommandHost;
  /** Of the latest term in which there was a command, until that is known to be over. */
  #proposals: Proposals | undefined;
  /** Changes of the horizon and of pins. */
  readonly #retaining = new PendingEntries();

  constructor(replica: CommandHost) {
    this.#replica = replica;
  }

  // --- what is asked

  /** Proposes a command and resolves when it is applied; rejects with NOT_LEADER if it must be asked elsewhere. */
  write(request: WriteRequest, deadlineMs = Infinity): Promise<WriteResult> {
    return this.#lead((proposals) => proposals.write(request, deadlineMs));
  }

  /**
   * Keeps those who began later off keys and ranges. Resolves with a timestamp when whatever was under way there is over: as of
   * that or later they are as they will stay.
   */
  async reserve(request: ReserveRequest, deadlineMs: number): Promise<Timestamp> {
    await this.#lead((proposals) => proposals.reserve(request, deadlineMs));
    if (request.forMs === 0 || mutant('reserved-too-early')) return 0;
    const { reads, clock } = this.#replica;
    // What is in flight is at or below the clock.
    return (await reads.open({ kind: 'asOf', timestamp: clock.latest }, deadlineMs)).timestamp;
  }

  /** As a participant of a transaction: see Proposals. */
  prepare(request: PrepareRequest, deadlineMs: number): Promise<PrepareResult> {
    return this.#lead((proposals) => proposals.prepare(request, deadlineMs));
  }

  /** The attempt is decided. Resolves when that is applied here, or when nothing of it is left to be resolved. */
  async resolve(request: ResolveRequest, deadlineMs: number): Promise<void> {
    // A leader that lost its office unknowingly may not know the attempt, and must not say that it is done with it.
    if (!mutant('resolved-unconfirmed')) await this.#replica.reads.open({ kind: 'linearizable' }, deadlineMs);
    await this.#lead((proposals) => proposals.resolve(request));
  }

  /** As the home of a transaction, in one and the same term from its begin to its decision. */
  decide(request: DecideRequest, term: Term, deadlineMs: number): Promise<DecideResult> {
    return this.#lead((proposals) => {
      if (proposals.term !== term && !mutant('decide-in-later-term')) throw this.#replica.notLeader();
      return proposals.decide(request, deadlineMs);
    });
  }

  conclude(id: RequestId, result: WriteResult, term: Term): Promise<WriteResult> {
    return this.#lead((proposals) => {
      if (proposals.term !== term) throw this.#replica.notLeader();
      return proposals.conclude(id, result);
    });
  }

  forget(ids: readonly TransactionId[]): Promise<void> {
    return this.#lead((proposals) => proposals.forget(ids));
  }

  refuse(id: RequestId, conditions: readonly PlacedCondition[]): Promise<WriteResult | undefined> {
    return this.#lead<WriteResult | undefined>((proposals) => proposals.refuse(id, conditions) ?? Promise.resolve(undefined));
  }

  /** Proposes a change of what the bucket retains, and resolves when it is applied: what came of it stands in the meta record. */
  async retain(entry: RetentionEntry): Promise<void> {
    const { bucket, raft } = this.#replica;
    if (!this.#canServe()) throw this.#replica.notLeader();
    if (this.#retaining.size >= RETENTION_ENTRIES_MAX) {
      const message = `bucket ${bucket} has ${this.#retaining.size} changes of what it retains in flight; try again later`;
      throw new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', message, { retriable: true });
    }
    await this.#retaining.wait(this.#append(encodeRetention(entry)), raft.term);
  }

  #lead<T>(work: (proposals: Proposals) => Promise<T>): Promise<T> {
    if (!this.#canServe()) return Promise.reject(this.#replica.notLeader());
    try {
      return work(this.#ofThisTerm());
    } catch (error) {
      // Raft takes no proposals while leadership is being handed over.
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #canServe(): boolean {
    return this.#replica.raft.canServe() && !this.#replica.installing;
  }

  #ofThisTerm(): Proposals {
    const { state, raft, hybrid, clock, host } = this.#replica;
    if (this.#proposals?.term !== raft.term) {
      this.#proposals?.abandon('leadership changed');
      this.#proposals = new Proposals(
        {
          state,
          limits: host.limits,
          canServe: () => this.#canServe(),
          nextTimestamp: () => clock.next(),
          clock: () => clock.latest,
          raise: (timestamp) => {
            hybrid.mergeCommitted(timestamp);
            clock.promise(timestamp);
          },
          append: (data) => this.#append(data),
          notLeader: () => this.#replica.notLeader(),
          monotonicMs: () => host.clock.monotonicMs(),
        },
        raft.term,
      );
    }
    return this.#proposals;
  }

  #append(data: Bytes): LogIndex {
    const { raft, host } = this.#replica;
    const index = raft.propose(data, host.clock.monotonicMs());
    this.#replica.changed();
    return index;
  }

  // --- driven by the replica

  /** Some wait for locks, or something is reserved, which ends by time. */
  get areWaiting(): boolean {
    return this.#proposals?.areWaiting === true;
  }

  /** Ends those that nobody waits for any more, and what was reserved for so long. */
  expire(now: number): void {
    this.#proposals?.expire(now);
  }

  /** The effects of an entry, if it was evaluated here, in the same term. */
  effectsAt(index: LogIndex, term: Term): Effects | undefined {
    return this.#proposals?.effectsAt(index, term);
  }

  /** The entry at `index` was applied: answers who waits for it. */
  applied(index: LogIndex, term: Term): void {
    this.#proposals?.applied(index, term);
    this.#retaining.applied(index, term);
  }

  /** Tries again what waited for locks that were let go. Not in the midst of applying. */
  wake(): void {
    this.#proposals?.wake();
  }

  /** The term in which some were proposed is over for this replica, and those who wait are still to be told so. */
  get hasLostLeadership(): boolean {
    return this.#proposals !== undefined && !(this.#isLeader && this.#proposals.term === this.#replica.raft.term);
  }

  /** Tells them, if it is over. Not before all that is known to be committed was applied. */
  endLost(): void {
    if (!this.#isLeader) this.#retaining.abandon('its leader lost its office');
    if (!this.hasLostLeadership || mutant('effects-over-terms')) return;
    this.#proposals?.abandon('its leader lost its office before the command was known to be committed');
    this.#proposals = undefined;
  }

  get #isLeader(): boolean {
    return this.#replica.raft.role === 'leader';
  }

  /** Nobody here will learn what became of changes of the horizon and of pins. */
  abandonRetaining(reason: string): void {
    this.#retaining.abandon(reason);
  }

  close(reason: string): void {
    this.#proposals?.abandon(reason);
    this.#retaining.abandon(reason);
  }
}
