import type { Clock, Timer, Timers } from '../env/env.js';

/**
 * So many bytes a second, shared by all that send: who has a piece to send takes a turn, and sends it when that has come.
 *
 * - In any second no more goes than `bytesPerSecond`, what `SPARE_MS` make of it, and one piece: a piece goes whole, however
 *   large it is, and the next one waits until it is paid for.
 * - Turns come in the order in which they were taken. Who takes a new one for each piece gets as many as every other.
 * - A piece is paid for when it was sent. A turn that ends unused, before it has come or after, costs nobody anything.
 * - A timer runs only while somebody waits.
 */
export class Pace {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #bytesPerMs: number;
  readonly #turns: Turn[] = [];
  /** By then all that was sent is paid for. */
  #paidMs = -Infinity;
  #timer: Timer | undefined;

  constructor({ clock, timers }: { readonly clock: Clock; readonly timers: Timers }, bytesPerSecond: number) {
    this.#clock = clock;
    this.#timers = timers;
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  /** `onCome` is called when `come` has become true, perhaps at once. Every turn must be ended. */
  take(onCome: () => void): Turn {
    const turn = new Turn(onCome, (bytesSent) => this.#ended(turn, bytesSent));
    this.#turns.push(turn);
    this.#next();
    return turn;
  }

  #ended(turn: Turn, bytesSent: number): void {
    const at = this.#turns.indexOf(turn);
    if (at >= 0) this.#turns.splice(at, 1);
    if (bytesSent > 0) {
      this.#paidMs = Math.max(this.#paidMs, this.#clock.monotonicMs() - SPARE_MS) + bytesSent / this.#bytesPerMs;
    }
    this.#next();
  }

  #next(): void {
    const [first] = this.#turns;
    const waitMs = this.#paidMs - this.#clock.monotonicMs();
    const isOpen = first !== undefined && !first.come;
    if (!isOpen || waitMs <= 0) {
      this.#timer?.cancel();
      this.#timer = undefined;
      if (isOpen) first.comes();
      return;
    }
    this.#timer ??= this.#timers.after(Math.max(waitMs, 1), () => {
      this.#timer = undefined;
      this.#next();
    });
  }
}

/** So much that was not sent may be made up for: timers are late, and disks take their time between two pieces. */
const SPARE_MS = 20;

export class Turn {
  readonly #onCome: () => void;
  readonly #onEnd: (bytesSent: number) => void;
  #come = false;

  constructor(onCome: () => void, onEnd: (bytesSent: number) => void) {
    this.#onCome = onCome;
    this.#onEnd = onEnd;
  }

  /** The piece may be sent now; nobody else's may, until this turn has ended. */
  get come(): boolean {
    return this.#come;
  }

  comes(): void {
    this.#come = true;
    this.#onCome();
  }

  /** It has sent so many bytes; 0 if it sends nothing after all. Once. */
  end(bytesSent: number): void {
    this.#onEnd(bytesSent);
  }
}
