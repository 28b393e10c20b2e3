import { toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError, type Outcome } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Limits } from '../env/limits.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { LogIndex, Term } from '../raft/types.js';
import type { Claim, Holder } from '../txn/locks.js';
import { transactionKey, type Prepared, type TransactionId, type TransactionKey } from '../txn/transaction.js';
import { claimOf } from './claims.js';
import { encodeEffects, type Effects, type WriteEffects } from './effects.js';
import { Evaluation } from './evaluation.js';
import { LockManager, type Waiting } from './lock-manager.js';
import type { Blocked } from './lock-queue.js';
import { NO_RANGES, RangeChecks, type WatchedRanges } from './range-conditions.js';
import type {
  Condition,
  DecideRequest,
  DecideResult,
  Mutation,
  PlacedCondition,
  PrepareRequest,
  PrepareResult,
  RequestId,
  ReserveRequest,
  ResolveRequest,
  WriteRequest,
  WriteResult,
} from './requests.js';
import { forgotten } from './sessions.js';
import type { BucketState } from './state.js';

/**
 * The leader's commands between evaluation and apply.
 *
 * A command is evaluated (evaluation.ts), and conditions, previous links, timestamp and log index are fixed in one synchronous
 * turn. All of it belongs to one term: when leadership ends, what is in flight may still commit or vanish, so its outcome is
 * unknown to the waiting caller, and nothing may build on it.
 *
 * Conditions on ranges may take several turns to look at (range-conditions.ts). A command that has some waits for that; it is
 * known by its id from the start, is evaluated in the turn in which all has been looked at, and others may overtake it.
 *
 * What transactions have locked or reserved must be passed before (lock-manager.ts): a command may have to wait for that as well.
 */
interface Proposal {
  readonly effects: Effects;
  readonly bytes: number;
  readonly done: () => void;
  readonly reject: (error: unknown) => void;
}

/** What proposing needs of its replica. */
export interface ProposalHost {
  readonly state: BucketState;
  readonly limits: Limits;
  /** Leads, and may evaluate and propose. */
  canServe(): boolean;
  /** A commit timestamp above everything that this bucket has committed, proposed or promised. */
  nextTimestamp(): number;
  /** The clock that those timestamps are above. */
  clock(): Timestamp;
  /** From now on they are above this one, which is committed elsewhere. */
  raise(timestamp: Timestamp): void;
  append(data: Bytes): LogIndex;
  notLeader(): TidemarkError;
  monotonicMs(): number;
}

export class Proposals {
  readonly #host: ProposalHost;
  readonly #term: Term;
  readonly #byIndex = new Map<LogIndex, Proposal>();
  /** Commands under way, those that wait for locks included. */
  readonly #byId = new Map<string, Promise<WriteResult>>();
  readonly #preparing = new Map<TransactionKey, Promise<PrepareResult>>();
  /** Resolutions that are proposed. */
  readonly #resolving = new Map<TransactionKey, Promise<void>>();
  readonly #evaluation: Evaluation;
  readonly #locks: LockManager;
  readonly #ranges: RangeChecks;
  /** Commands whose ranges are being looked at. */
  #examining = 0;
  #abandoned = false;
  /** Of transactions that are proposed and not applied: how many, and records of decisions. */
  #preparesInFlight = 0;
  #recordsInFlight = 0;
  #bytes = 0;

  constructor(host: ProposalHost, term: Term) {
    this.#host = host;
    this.#term = term;
    this.#locks = new LockManager(host);
    this.#evaluation = new Evaluation(host.state);
    this.#ranges = new RangeChecks(host.state, host.limits);
  }

  get term(): Term {
    return this.#term;
  }

  // --- plain commands

  /** Evaluates and proposes a command; resolves when it is applied. */
  write(request: WriteRequest, deadlineMs: number): Promise<WriteResult> {
    const { id, mutations } = request;
    const name = idKey(id);
    const running = mutant('retry-in-flight-runs-again') ? undefined : this.#byId.get(name);
    if (running !== undefined) return running;
    // First of all: of what has a result, no range needs to be looked at, which may not even be possible any more.
    const known = this.#known(id);
    if (known !== undefined) return known;
    const conditions = request.conditions.map((condition, position) => ({ position, condition }));
    const waiting: Waiting = { request, owner: request.owner, deadlineMs, waits: 0, result: () => this.#byId.get(name) };
    const result = this.#whenFree(conditions, deadlineMs, (ranges) => {
      const knownByNow = this.#known(id);
      if (knownByNow !== undefined) return knownByNow;
      const blocked = this.#locks.blocked(waiting);
      if (blocked !== undefined) return blocked;
      this.#checkLoad();
      const effects = this.#evaluate(id, conditions, mutations, ranges);
      return this.#append(effects, effects.result);
    });
    return track(this.#byId, name, result);
  }

  /** The answer to a request that is not new. */
  #known(id: RequestId): Promise<WriteResult> | undefined {
    const { state } = this.#host;
    const known = state.sessions.lookup(id);
    if (known.kind === 'new') return undefined;
    return known.kind === 'done' ? Promise.resolve(known.result) : Promise.reject(forgotten(id, state));
  }

  /** Does the step in a turn in which all ranges of the conditions have been looked at and nothing that it meets is locked. */
  #whenFree<T>(
    conditions: readonly PlacedCondition[],
    deadlineMs: number,
    step: (ranges: WatchedRanges) => Promise<T> | Blocked,
  ): Promise<T> {
    let ranges: WatchedRanges;
    try {
      ranges = this.#ranges.watch(unplaced(conditions), this.#evaluation.inFlight);
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
    const run = (): Promise<T> => this.#locks.run(deadlineMs, () => step(ranges));
    const result = ranges.examine === undefined ? run() : this.#whenExamined(ranges.examine, run);
    const ended = (): void => ranges.end();
    if (conditions.length > 0) result.then(ended, ended);
    return result;
  }

  async #whenExamined<T>(examine: () => Promise<void>, run: () => Promise<T>): Promise<T> {
    this.#checkLoad();
    this.#examining += 1;
    try {
      await examine();
    } finally {
      this.#examining -= 1;
    }
    if (this.#abandoned || !this.#host.canServe()) {
      throw leadershipLost(this.#host.state, 'leadership changed while ranges were looked at', 'none');
    }
    return run();
  }

  #checkLoad(): void {
    const { state, limits } = this.#host;
    const count = this.#byIndex.size + this.#examining;
    if (count < limits.proposalsPerBucketMax && this.#bytes < limits.proposalBytesPerBucketMax) return;
    throw new TidemarkError(
      'RESOURCE_EXHAUSTED',
      'BUCKET_OVERLOADED',
      `bucket ${state.bucket} has ${count} commands (${this.#bytes} bytes) in flight; try again later`,
      { retriable: true },
    );
  }

  /** Logs what the effects say; resolves with the value when they are applied. */
  #append<T>(effects: Effects, value: T): Promise<T> {
    const data = encodeEffects(effects);
    const index = this.#host.append(data);
    if (effects.kind === 'write') {
      this.#evaluation.proposed(effects, index);
      for (const { key } of effects.effects) {
        if (!mutant('range-misses-overtaking')) this.#ranges.note(toMapKey(key), effects.timestamp);
      }
    }
    this.#bytes += data.length;
    return new Promise<T>((resolve, reject) => {
      this.#byIndex.set(index, { effects, bytes: data.length, done: () => resolve(value), reject });
      if (mutant('answer-before-commit')) resolve(value);
    });
  }

  #evaluate(
    id: RequestId,
    conditions: readonly PlacedCondition[],
    mutations: readonly Mutation[],
    ranges: WatchedRanges,
  ): WriteEffects {
    const timestamp = this.#host.nextTimestamp();
    const refusal = this.#evaluation.refusal(conditions, timestamp, ranges);
    if (refusal !== undefined) return { kind: 'write', timestamp, id, result: refusal, effects: [] };
    const result = { applied: true, timestamp, failedCondition: -1, failedVersion: 0 };
    return { kind: 'write', timestamp, id, result, effects: this.#evaluation.effectsOf(mutations) };
  }

  // --- reservations

  /** Resolves when nothing that is locked is in the way any more; what was proposed before may still have to be applied. */
  reserve(request: ReserveRequest, deadlineMs: number): Promise<void> {
    return this.#locks.reserve(request, deadlineMs);
  }

  // --- transactions: as a participant

  /** Checks, locks, and logs this bucket's part of a transaction. Asked again, it answers the same. */
  prepare(request: PrepareRequest, deadlineMs: number): Promise<PrepareResult> {
    const { participant } = this.#host.state;
    const prepared = participant.find(request.id);
    if (prepared !== undefined) return Promise.resolve({ kind: 'prepared', timestamp: prepared.timestamp });
    const name = transactionKey(request.id);
    const running = this.#preparing.get(name);
    if (running !== undefined) return running;
    const claim = claimOf(unplaced(request.conditions), request.mutations);
    const holder: Holder = { id: request.id, first: request.first };
    const result = this.#whenFree<PrepareResult>(request.conditions, deadlineMs, (watched) => {
      if (this.#hasEnded(request.id, request.start)) {
        return Promise.resolve({ kind: 'ended', upTo: participant.tooOldFor(this.#host.clock()) });
      }
      const blocked = this.#locks.blockedOrDead(holder, claim, request.reservation);
      if (blocked !== undefined) return blocked === 'dead' ? Promise.resolve({ kind: 'locked' }) : blocked;
      this.#checkLoad();
      this.#checkRoom();
      return this.#prepareNow(request, holder, claim, watched);
    });
    return track(this.#preparing, name, result);
  }

  #hasEnded(id: TransactionId, start: Timestamp): boolean {
    return this.#resolving.has(transactionKey(id)) || this.#host.state.participant.hasEnded(id, start, this.#host.clock());
  }

  #checkRoom(): void {
    const { state, limits } = this.#host;
    const { count, bytes } = state.participant;
    if (count + this.#preparesInFlight < limits.preparedPerBucketMax && bytes < limits.preparedBytesPerBucketMax) return;
    const message = `${count} transactions (${bytes} bytes) are prepared in bucket ${state.bucket}; try again later`;
    throw new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', message, { retriable: true });
  }

  #prepareNow(request: PrepareRequest, holder: Holder, claim: Claim, watched: WatchedRanges): Promise<PrepareResult> {
    const { id, home, start, first, conditions, mutations } = request;
    const timestamp = this.#host.nextTimestamp();
    const refusal = this.#evaluation.refusal(conditions, timestamp, watched);
    if (refusal !== undefined) {
      return this.#append<PrepareResult>({ kind: 'refuse', timestamp, id }, { kind: 'refused', result: refusal });
    }
    const { reads, ranges } = claim;
    const intents = this.#evaluation.effectsOf(mutations);
    const prepared: Prepared = { id, home, start, first, timestamp, intents, reads, ranges };
    const result = this.#append<PrepareResult>({ kind: 'prepare', timestamp, prepared }, { kind: 'prepared', timestamp });
    this.#locks.take(holder, claim);
    this.#preparesInFlight += 1;
    return result;
  }

  /**
   * The attempt is decided: resolves when that is applied here. Only for a leader that is known to be one in this turn: that
   * nothing is prepared here counts as an answer.
   */
  resolve({ id, start, commit }: ResolveRequest): Promise<void> {
    const name = transactionKey(id);
    const running = this.#resolving.get(name);
    if (running !== undefined) return running;
    const { state } = this.#host;
    // One that is not prepared need not be known to have ended if it was committed: then it was prepared, and was resolved.
    const isKnown = this.#locks.has(id) || state.participant.find(id) !== undefined;
    if (!isKnown && (commit > 0 || this.#hasEnded(id, start))) return Promise.resolve();
    if (!mutant('resolve-leaves-clock')) this.#host.raise(commit);
    const timestamp = this.#host.nextTimestamp();
    return track(this.#resolving, name, this.#append<void>({ kind: 'resolve', timestamp, id, start, commit }, undefined));
  }

  // --- transactions: as home

  /** Logs the decision of a transaction whose participants are prepared, with this bucket's part of it. */
  decide(request: DecideRequest, deadlineMs: number): Promise<DecideResult> {
    const { state, limits } = this.#host;
    const { id, start, first, reservation, participants, after, conditions, mutations } = request;
    const claim = claimOf(unplaced(conditions), mutations);
    return this.#whenFree<DecideResult>(conditions, deadlineMs, (ranges) => {
      const known = state.sessions.lookup(request.request);
      if (known.kind === 'done') return Promise.resolve({ kind: 'done', committed: false, result: known.result });
      if (known.kind === 'unknown') throw forgotten(request.request, state);
      const blocked = this.#locks.blockedOrDead({ id, first }, claim, reservation);
      if (blocked !== undefined) return blocked === 'dead' ? Promise.resolve({ kind: 'locked' }) : blocked;
      this.#checkLoad();
      if (state.home.count + this.#recordsInFlight >= limits.recordsPerBucketMax) {
        const message = `bucket ${state.bucket} waits for the participants of ${state.home.count} transactions; try again later`;
        throw new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', message, { retriable: true });
      }
      if (!mutant('commit-below-prepares')) this.#host.raise(after);
      const effects = this.#evaluate(request.request, conditions, mutations, ranges);
      const { result, timestamp } = effects;
      if (!result.applied) return this.#append<DecideResult>(effects, { kind: 'done', committed: false, result });
      const decided: WriteEffects = { ...effects, record: { id, start, timestamp, participants } };
      const done = this.#append<DecideResult>(decided, { kind: 'done', committed: true, result });
      this.#recordsInFlight += 1;
      return done;
    });
  }

  /** Logs that a transaction was refused by a participant, with the result as it was there: all attempts have ended. */
  conclude(id: RequestId, result: WriteResult): Promise<WriteResult> {
    const known = this.#known(id);
    if (known !== undefined) return known;
    return this.#append({ kind: 'write', timestamp: this.#host.nextTimestamp(), id, result, effects: [] }, result);
  }

  /** Drops records that nobody will ask for any more. */
  forget(ids: readonly TransactionId[]): Promise<void> {
    return this.#append<void>({ kind: 'forget', timestamp: this.#host.nextTimestamp(), ids }, undefined);
  }

  /** Logs that this bucket's own part of a transaction is refused, if it is as things stand: then nobody else has to be asked. */
  refuse(id: RequestId, conditions: readonly PlacedCondition[]): Promise<WriteResult> | undefined {
    const onKeys = conditions.filter(({ condition }) => condition.kind !== 'unchanged');
    if (onKeys.length === 0 || this.#host.state.sessions.lookup(id).kind !== 'new') return undefined;
    if (this.#locks.isLocked(claimOf(unplaced(onKeys), []))) return undefined;
    const timestamp = this.#host.nextTimestamp();
    const result = this.#evaluation.refusal(onKeys, timestamp, NO_RANGES);
    return result && this.#append({ kind: 'write', timestamp, id, result, effects: [] }, result);
  }

  // --- after evaluation

  /** The effects of a proposal of this replica, for apply. */
  effectsAt(index: LogIndex, term: Term): Effects | undefined {
    return term === this.#term || mutant('effects-over-terms') ? this.#byIndex.get(index)?.effects : undefined;
  }

  /** The entry at `index` was applied. */
  applied(index: LogIndex, term: Term): void {
    const proposal = this.#byIndex.get(index);
    if (proposal === undefined || term !== this.#term) return;
    const { effects, bytes } = proposal;
    this.#byIndex.delete(index);
    this.#bytes -= bytes;
    switch (effects.kind) {
      case 'write':
        if (effects.record !== undefined) this.#recordsInFlight -= 1;
        this.#evaluation.applied(effects, index);
        break;
      case 'prepare':
        this.#preparesInFlight -= 1;
        break;
      case 'resolve':
        this.#locks.release(effects.id, (key) => {
          if (!mutant('range-misses-resolved')) this.#ranges.note(toMapKey(key), effects.commit);
        });
        break;
      case 'refuse':
      case 'forget':
    }
    proposal.done();
  }

  /** Tries again what waited for locks that were let go. Not in the midst of applying. */
  wake(): void {
    this.#locks.wake();
  }

  /** Commands wait for locks, or something is reserved, which ends by time. */
  get areWaiting(): boolean {
    return this.#locks.areWaiting;
  }

  expire(now: number): void {
    this.#locks.expire(now);
  }

  /** Leadership ended: whatever is in flight may or may not commit. */
  abandon(reason: string): void {
    this.#abandoned = true;
    for (const { reject } of this.#byIndex.values()) reject(leadershipLost(this.#host.state, reason, 'unknown'));
    this.#byIndex.clear();
    this.#evaluation.clear();
    this.#bytes = 0;
    this.#locks.abandon(() => this.#host.notLeader());
  }
}

function leadershipLost({ bucket }: BucketState, reason: string, outcome: Outcome): TidemarkError {
  return new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', `bucket ${bucket}: ${reason}`, { outcome, retriable: true });
}

/** Keeps a promise under its name until it is settled. */
function track<K, T>(running: Map<K, Promise<T>>, name: K, promise: Promise<T>): Promise<T> {
  running.set(name, promise);
  const settled = (): void => {
    if (running.get(name) === promise) running.delete(name);
  };
  promise.then(settled, settled);
  return promise;
}

function unplaced(conditions: readonly PlacedCondition[]): Condition[] {
  return conditions.map(({ condition }) => condition);
}

function idKey(id: RequestId): string {
  return `${id.session}:${id.sequence}`;
}
