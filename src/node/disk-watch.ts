import type { Gauge, Logger, Metrics } from '../env/env.js';
import { mutant } from '../lib/mutants.js';

/**
 * Notices a disk that hangs: one that has taken a batch and does not answer. Such a node still hears and is heard, so its
 * followers would not elect another leader, while nothing that it leads is applied any more.
 *
 * A process that was stopped finds its batches old although the disk answered long ago: so a batch counts only when it is
 * still out at a second look, after the answers that had arrived were heard.
 */
export interface WatchedStore {
  /** Monotonic ms since which its oldest batch is on the way to the disk; undefined while none is. */
  readonly busySinceMs: number | undefined;
}

export interface DiskWatchOptions {
  readonly log: WatchedStore;
  readonly state: WatchedStore;
  readonly electionTimeoutMs: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** A leader whose log hangs for this many election timeouts serves no better than a dead one. */
const LOG_PATIENCE = 1;
/** State batches are larger and nobody waits for them until much has gathered in memory. */
const STATE_PATIENCE = 3;
/** Of an election timeout. */
const SLOW_PART = 0.2;

export class DiskWatch {
  readonly #options: DiskWatchOptions;
  readonly #gauge: Gauge;
  #suspected = false;
  #hangs = false;

  constructor(options: DiskWatchOptions) {
    this.#options = options;
    this.#gauge = options.metrics.gauge('tidemark_disk_hangs', '1 while a batch has been on its way to the disk for too long.');
  }

  /** False again as soon as the disk has answered. */
  get hangs(): boolean {
    return this.#hangs;
  }

  /** A batch has been on its way for so long that it is to be looked for again soon. */
  isSlow(now: number): boolean {
    const { log, state, electionTimeoutMs } = this.#options;
    const sinceMs = Math.min(log.busySinceMs ?? now, state.busySinceMs ?? now);
    return now - sinceMs > SLOW_PART * electionTimeoutMs;
  }

  tick(now: number): void {
    const store = this.#lateStore(now);
    const hangs = store !== undefined && this.#suspected && !mutant('hung-disk-leads');
    this.#suspected = store !== undefined;
    if (hangs === this.#hangs) return;
    this.#hangs = hangs;
    this.#gauge.set(hangs ? 1 : 0);
    const { logger } = this.#options;
    if (hangs) logger.warn('the disk hangs: this node leads nothing until it answers', { store });
    else logger.info('the disk answers again');
  }

  #lateStore(now: number): 'log' | 'state' | undefined {
    const { log, state, electionTimeoutMs } = this.#options;
    if (now - (log.busySinceMs ?? now) > LOG_PATIENCE * electionTimeoutMs) return 'log';
    return now - (state.busySinceMs ?? now) > STATE_PATIENCE * electionTimeoutMs ? 'state' : undefined;
  }
}
