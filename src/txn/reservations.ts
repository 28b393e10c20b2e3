import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import { ClaimKeys, Locks, type Claim } from './locks.js';

/**
 * Reservations: how a transaction of a client that has lost again and again gets its turn.
 *
 * A transaction reads first and locks when it commits, so that one that takes its time can lose to faster ones for ever. One that
 * has lost some times therefore *reserves* the keys and ranges that it used last, and then begins its next attempt. A reservation
 * stands in the way of all that began later, and of plain commands, where a lock would; who is older passes. Of all transactions
 * the oldest meets no reservation but its own, so what it has read stays as it is until it commits.
 *
 * A reservation is no lock. Nothing rests on it: what was read is a condition of the commit, as ever. So it lives in the memory
 * of the leader, costs no entry of the log, ends by itself if its client dies, and is gone when leadership moves: that costs the
 * transaction one more attempt.
 *
 * No circle of waiting can close. Who has prepared something elsewhere never waits for a reservation: it gives up, as the younger
 * one does for a lock. Who reserves waits for what is prepared and for older reservations, and has nothing prepared.
 *
 * Example: A has read k and takes a second to decide; others write k a hundred times meanwhile. After three attempts A reserves
 * k: writes of k wait, A reads k, decides, commits, and lets go; the others go on.
 */
export interface Owner {
  /** A random number of the transaction over all its attempts; 0 if it has reserved nothing. */
  readonly reservation: number;
  /** When its first attempt began: the lower, the older. */
  readonly first: Timestamp;
}

interface Reservation {
  readonly owner: Owner;
  readonly untilMs: number;
  readonly bytes: number;
  /** What it claims, as if it were locked. */
  readonly claimed: Locks;
}

const RESERVATION_BYTES = 512;
const CLAIMED_BYTES = 256;

export class Reservations {
  readonly #bytesMax: number;
  readonly #ended: (reservation: number) => void;
  readonly #held = new Map<number, Reservation>();
  #bytes = 0;

  /** `ended` is told of each that is not there any more. */
  constructor(bytesMax: number, ended: (reservation: number) => void) {
    this.#bytesMax = bytesMax;
    this.#ended = ended;
  }

  get count(): number {
    return this.#held.size;
  }

  /**
   * Reserves, in place of what the owner had reserved before. False if there is no room but that of older ones, and then nothing
   * of the owner is reserved any more; younger ones make room, so that there always is for the oldest.
   */
  place(owner: Owner, claim: Claim, untilMs: number): boolean {
    const bytes = bytesOf(claim);
    const isReplaced = this.#drop(owner.reservation);
    while (this.#held.size > 0 && this.#bytes + bytes > this.#bytesMax) {
      const youngest = this.#youngest();
      if (youngest === undefined || isOlder(youngest, owner)) {
        if (isReplaced) this.#ended(owner.reservation);
        return false;
      }
      this.end(youngest.reservation);
    }
    const claimed = new Locks();
    const { reservation, first } = owner;
    claimed.take({ id: { session: reservation, sequence: 0, attempt: 0 }, first }, claim);
    this.#held.set(reservation, { owner, untilMs, bytes, claimed });
    this.#bytes += bytes;
    return true;
  }

  /** The reservation that stands in the way of a claim; a plain command has no owner and is younger than all. */
  inTheWay(claim: Claim, by: Owner | undefined): number | undefined {
    const keys = new ClaimKeys(claim);
    for (const { owner, claimed } of this.#held.values()) {
      if (owner.reservation === by?.reservation || (by !== undefined && isOlder(by, owner))) continue;
      if (claimed.conflicts(claim, keys).length > 0) return owner.reservation;
    }
    return undefined;
  }

  end(reservation: number): void {
    if (this.#drop(reservation)) this.#ended(reservation);
  }

  /** Ends those whose time is over. */
  expire(nowMs: number): void {
    if (mutant('reservations-unending')) return;
    for (const [reservation, { untilMs }] of this.#held) if (untilMs <= nowMs) this.end(reservation);
  }

  #drop(reservation: number): boolean {
    this.#bytes -= this.#held.get(reservation)?.bytes ?? 0;
    return this.#held.delete(reservation);
  }

  #youngest(): Owner | undefined {
    let youngest: Owner | undefined;
    for (const { owner } of this.#held.values()) if (youngest === undefined || isOlder(youngest, owner)) youngest = owner;
    return youngest;
  }
}

/** Whether `a` began before `b`; two that began in the same moment are told apart by their numbers. */
function isOlder(a: Owner, b: Owner): boolean {
  return (a.first - b.first || a.reservation - b.reservation) < 0;
}

function bytesOf({ writes, reads, ranges }: Claim): number {
  let bytes = RESERVATION_BYTES;
  for (const key of [...writes, ...reads]) bytes += CLAIMED_BYTES + key.length;
  for (const { start, end } of ranges) bytes += CLAIMED_BYTES + start.length + end.length;
  return bytes;
}
