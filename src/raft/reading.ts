/** What may be read of stored logs for one purpose. Whoever asks when it is used up is refused, and asks again later. */
export class Allowance {
  private entriesLeft: number;
  private bytesLeft: number;
  /** Who asked last has got something; and was refused more of it. */
  private served = false;
  private refused = false;

  constructor(entriesMax: number, bytesMax: number) {
    this.entriesLeft = entriesMax;
    this.bytesLeft = bytesMax;
  }

  /** How many entries may be read, and how many bytes beyond the first of them; no entry at all if it is used up. */
  ask(): { readonly entries: number; readonly bytes: number } {
    const isUsedUp = this.entriesLeft <= 0 || this.bytesLeft <= 0;
    if (isUsedUp) this.refused = true;
    return { entries: isUsedUp ? 0 : this.entriesLeft, bytes: this.bytesLeft };
  }

  take(entries: number, bytes: number): void {
    this.served = true;
    this.entriesLeft -= entries;
    this.bytesLeft -= bytes;
  }

  /** Another one asks from now on. */
  next(): void {
    this.served = this.refused = false;
  }

  get isShort(): boolean {
    return this.refused;
  }

  get hasGivenNothing(): boolean {
    return this.refused && !this.served;
  }
}

/** Nothing is ever refused. */
export const UNLIMITED = new Allowance(Infinity, Infinity);

/**
 * What all groups together may read of their stored logs in one turn. They are read synchronously, so who leads many groups to
 * which a follower returns would else do nothing but read for seconds. What is committed has an allowance of its own, that of
 * followers: leaders apply what they have, since callers wait for it.
 */
export class Reading {
  readonly toSend: Allowance;
  readonly toApply: Allowance;

  constructor(entriesMax: number, bytesMax: number) {
    this.toSend = new Allowance(entriesMax, bytesMax);
    this.toApply = new Allowance(entriesMax, bytesMax);
  }

  /** Without limits. */
  static get all(): Reading {
    return new Reading(Infinity, Infinity);
  }

  /** Another group reads from now on. */
  next(): void {
    this.toSend.next();
    this.toApply.next();
  }

  /** The group that reads was refused something. */
  get isShort(): boolean {
    return this.toSend.isShort || this.toApply.isShort;
  }

  /** And of that it has got nothing. */
  get hasGivenNothing(): boolean {
    return this.toSend.hasGivenNothing || this.toApply.hasGivenNothing;
  }
}
