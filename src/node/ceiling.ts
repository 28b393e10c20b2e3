import type { Clock, Store } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { mutant } from '../lib/mutants.js';
import { readUint64, writeUint64 } from '../lib/ordered.js';
import { checkSealed } from '../bucket/log-format.js';
import { sealInPlace } from '../bucket/sealed.js';
import { later, type HybridClock, type Timestamp } from '../mvcc/timestamp.js';
import type { LogWriter } from './log-writer.js';

/**
 * The clock ceiling. A voter promises floors: timestamps that a later leader must stay above. It does not
 * write each one down; it persists, now and then, a timestamp a little ahead of its clock and promises nothing above it.
 * After a restart it no longer knows which floors it promised, only that all were at or below the ceiling: until its wall
 * clock has passed that, it votes for nobody and promises nothing, and from then on the ceiling is its floor.
 */
const KEY = Buffer.from('n/ceiling');
const AHEAD_MS = 1400;
/**
 * The floors of a node's buckets always reach beyond the next heartbeat, also where it looks only once in a heartbeat: which then
 * renews at every second look.
 */
const RENEW_BELOW_MS = 650;

export class ClockCeiling {
  readonly #writer: LogWriter;
  readonly #hybrid: HybridClock;
  /** What the last life of this node may have promised. */
  readonly restartFloor: number;
  #ceiling = 0;
  #writing = false;

  constructor(store: Store, writer: LogWriter, hybrid: HybridClock) {
    this.#writer = writer;
    this.#hybrid = hybrid;
    const data = store.get(KEY);
    this.restartFloor = data === undefined || mutant('restart-forgets-floor') ? 0 : decode(data);
  }

  /** Milliseconds from now until this node may promise and vote again. */
  waitMs(): number {
    const ahead = this.restartFloor - this.#hybrid.physicalNow();
    return ahead <= 0 ? 0 : Math.ceil(ahead / later(0, 1)) + 1;
  }

  /** The highest floor that may be promised now; 0 while the last life's promises are still ahead of the clock. */
  get promisable(): number {
    return this.#hybrid.physicalNow() < this.restartFloor ? 0 : this.#ceiling;
  }

  /** Keeps the persisted ceiling ahead of the clock. */
  tick(): void {
    const now = this.#hybrid.physicalNow();
    if (this.#writing || now < this.restartFloor || this.#ceiling >= later(now, RENEW_BELOW_MS)) return;
    const next = later(now, AHEAD_MS);
    this.#writing = true;
    void this.#writer.put(KEY, encode(next)).then(() => {
      this.#ceiling = Math.max(this.#ceiling, next);
      this.#writing = false;
    });
  }
}

function encode(ceiling: Timestamp): Bytes {
  const out = Buffer.allocUnsafe(12);
  writeUint64(out, ceiling, 4);
  return sealInPlace(out);
}

/** Throws DATA_LOSS / LOG_CORRUPT: a ceiling that is too low would break promises, one that is too high keeps the node mute. */
function decode(data: Bytes): Timestamp {
  if (!mutant('ceiling-unchecked')) checkSealed(data, 'the clock ceiling');
  return readUint64(data, 4);
}

/**
 * Notices that wall and monotonic clock have parted (the machine slept, or someone set the clock): leases measured before
 * that are not trusted for a while.
 */
export class ClockGuard {
  readonly #clock: Clock;
  readonly #boundMs: number;
  readonly #distrustMs: number;
  #offset: number;
  #distrustedUntil = -Infinity;

  constructor(clock: Clock, boundMs: number, distrustMs: number) {
    this.#clock = clock;
    this.#boundMs = boundMs;
    this.#distrustMs = distrustMs;
    this.#offset = clock.wallMs() - clock.monotonicMs();
  }

  trusted(): boolean {
    const now = this.#clock.monotonicMs();
    const offset = this.#clock.wallMs() - now;
    if (Math.abs(offset - this.#offset) > this.#boundMs) {
      this.#offset = offset;
      this.#distrustedUntil = now + this.#distrustMs;
    }
    return now >= this.#distrustedUntil;
  }

  /** Takes the slow drift between the two clocks, which is harmless, out of the comparison. */
  tick(): void {
    if (this.trusted()) this.#offset = this.#clock.wallMs() - this.#clock.monotonicMs();
  }
}
