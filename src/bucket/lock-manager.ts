import type { Limits } from '../env/limits.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import { isOlder, Locks, type Claim, type Holder } from '../txn/locks.js';
import { Reservations, type Owner } from '../txn/reservations.js';
import { transactionKey, type TransactionId } from '../txn/transaction.js';
import { claimOf, claimOfPrepared } from './claims.js';
import { Blocked, LockQueue, type Step } from './lock-queue.js';
import type { ReserveRequest, WriteRequest } from './requests.js';
import type { BucketState } from './state.js';

/**
 * What is locked and reserved in one bucket in one term of its leader, and who waits for it.
 *
 * Locks of transactions are taken when they are proposed and let go when their resolution is applied; those that are prepared
 * when the term begins hold theirs from the start. What meets one waits in the queue, or, if it holds locks elsewhere and is
 * younger, is refused (txn/locks.ts). Before that it must pass the reservations (txn/reservations.ts).
 *
 * Nobody is tried again in the midst of applying: who lets go is noted, and `wake` tries those who waited for it.
 *
 * Example: a put meets k, which transaction A has prepared, and waits behind A. A's resolution is applied, and A lets go of k;
 * with the next `wake` the put meets k again, which B has prepared meanwhile. When it meets the third in its way it reserves k:
 * it waits for those that are there, and none that is younger gets in before it.
 */
export interface LockHost {
  readonly state: BucketState;
  readonly limits: Limits;
  /** The clock that the timestamps of this bucket's commands are above. */
  clock(): Timestamp;
  monotonicMs(): number;
}

/** A plain command, which may meet locks. */
export interface Waiting {
  readonly request: WriteRequest;
  /** Of a reservation: its transaction's, or its own, whose number is below 0. */
  owner: Owner | undefined;
  readonly deadlineMs: number;
  /** How often it had to wait for somebody. */
  waits: number;
  /** What becomes of it. It is known once the command has waited, so that what it has reserved can end with it. */
  readonly result: () => Promise<unknown> | undefined;
}

const WAITS_MAX = 3;

export class LockManager {
  readonly #host: LockHost;
  readonly #locks = new Locks();
  readonly #reservations: Reservations;
  /** The latest turn of each that waits to reserve: what its owner lets go of meanwhile must not come back. */
  readonly #reserving = new Map<number, symbol>();
  /** How many commands of this term have reserved what they wait for. */
  #ownReservations = 0;
  readonly #queue: LockQueue;

  constructor(host: LockHost) {
    this.#host = host;
    const { lockWaitersPerBucketMax, reservationBytesPerBucketMax } = host.limits;
    this.#queue = new LockQueue(lockWaitersPerBucketMax);
    this.#reservations = new Reservations(reservationBytesPerBucketMax, (ended) => this.#queue.released(reservationName(ended)));
    for (const prepared of host.state.participant.prepared()) {
      if (!mutant('locks-lost-with-leader')) this.#locks.take(prepared, claimOfPrepared(prepared));
    }
  }

  /** Does a step now, or as soon as nothing is in its way. It asks here, in the same turn, what is. */
  run<T>(deadlineMs: number, step: Step<T>): Promise<T> {
    return this.#queue.run(deadlineMs, step);
  }

  // --- locks

  /** The transaction holds locks. */
  has(id: TransactionId): boolean {
    return this.#locks.has(id);
  }

  /** A lock is in the way of the claim. */
  isLocked(claim: Claim): boolean {
    return this.#locks.conflicts(claim).length > 0;
  }

  /** Locks what is claimed; nothing may be in its way. */
  take(holder: Holder, claim: Claim): void {
    this.#locks.take(holder, claim);
  }

  /** The transaction lets go of its locks; `unlocked` is told of the keys that it had locked to write them. */
  release(id: TransactionId, unlocked: (key: Bytes) => void): void {
    for (const key of this.#locks.release(id)) unlocked(key);
    this.#queue.released(transactionKey(id));
  }

  /** What is in the way of a plain command. */
  blocked(waiting: Waiting): Blocked | undefined {
    if ((this.#locks.isEmpty && this.#reservations.count === 0) || mutant('writes-ignore-locks')) return undefined;
    const { request, owner } = waiting;
    const claim = claimOf(request.conditions, request.mutations);
    const [holder] = this.#locks.conflicts(claim);
    const blocked = holder === undefined ? this.#reserved(claim, owner) : blockedBy(holder);
    if (blocked !== undefined) this.#waits(waiting, claim);
    return blocked;
  }

  /** What is read all the time is never free of shared locks: who finds new ones again and again lets no more come. */
  #waits(waiting: Waiting, claim: Claim): void {
    waiting.waits += 1;
    const { waits, owner, deadlineMs, result } = waiting;
    const hasReserved = owner !== undefined && owner.reservation !== 0;
    if (waits !== WAITS_MAX || hasReserved || mutant('waiting-writes-overtaken')) return;
    this.#ownReservations += 1;
    const reservation = -this.#ownReservations;
    waiting.owner = { reservation, first: owner?.first ?? this.#host.clock() };
    this.#reservations.place(waiting.owner, claim, deadlineMs);
    const ended = (): void => {
      this.#reservations.end(reservation);
      this.#queue.wake();
    };
    result()?.then(ended, ended);
  }

  /**
   * Wait-die: who is older than all in its way waits for one of them, who is younger than one gives up. Only older ones have
   * reservations that are in the way.
   */
  blockedOrDead(holder: Holder, claim: Claim, reservation: number): Blocked | 'dead' | undefined {
    if (this.#reserved(claim, { reservation, first: holder.first }) !== undefined) return 'dead';
    const conflicts = this.#locks.conflicts(claim);
    const [first] = conflicts;
    if (first === undefined) return undefined;
    const mayWait = mutant('younger-waits-too') || conflicts.every((other) => isOlder(holder, other));
    return mayWait ? blockedBy(first) : 'dead';
  }

  // --- reservations

  #reserved(claim: Claim, owner: Owner | undefined): Blocked | undefined {
    const reservation = mutant('reservations-ignored') ? undefined : this.#reservations.inTheWay(claim, owner);
    return reservation === undefined ? undefined : new Blocked(reservationName(reservation));
  }

  /** Resolves when nothing that is locked is in the way any more; what was proposed before may still have to be applied. */
  reserve({ owner, claim, forMs }: ReserveRequest, deadlineMs: number): Promise<void> {
    const { reservation } = owner;
    if (forMs === 0) {
      this.#reserving.delete(reservation);
      this.#reservations.end(reservation);
      this.#queue.wake();
      return Promise.resolve();
    }
    const turn = Symbol(reservationName(reservation));
    const isOver = (): boolean => this.#reserving.get(reservation) !== turn;
    this.#reserving.set(reservation, turn);
    const result = this.#queue.run(deadlineMs, () => {
      if (isOver()) throw new TidemarkError('CANCELLED', 'CANCELLED', 'its owner has let go of it, or reserved something else');
      if (!this.#reservations.place(owner, claim, this.#host.monotonicMs() + forMs)) {
        const message = `${this.#reservations.count} older transactions have reserved much of bucket ${this.#host.state.bucket}`;
        throw new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', message, { retriable: true });
      }
      const [holder] = this.#locks.conflicts(claim);
      return this.#reserved(claim, owner) ?? (holder === undefined ? Promise.resolve() : blockedBy(holder));
    });
    const settled = (): void => {
      if (!isOver()) this.#reserving.delete(reservation);
    };
    result.then(settled, settled);
    // Those whose reservations had to make room keep nobody waiting any more, nor does its own former one.
    this.#queue.wake();
    return result;
  }

  // --- those who wait

  /** Tries again what waited for locks that were let go. Not in the midst of applying. */
  wake(): void {
    this.#queue.wake();
  }

  /** Commands wait for locks, or something is reserved, which ends by time. */
  get areWaiting(): boolean {
    return this.#queue.count > 0 || this.#reservations.count > 0;
  }

  /** Ends the reservations and the waiting of those whose time is over. */
  expire(now: number): void {
    this.#reservations.expire(now);
    this.#queue.wake();
    this.#queue.expire(now);
  }

  /** The term is over: ends all who wait. Nothing of them was done. */
  abandon(error: () => TidemarkError): void {
    this.#queue.abandon(error);
  }
}

function blockedBy({ id }: Holder): Blocked {
  return new Blocked(transactionKey(id));
}

function reservationName(reservation: number): string {
  return `reservation ${reservation}`;
}
