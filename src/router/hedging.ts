import type { Counter, Metrics } from '../env/env.js';
import { Quantile } from '../lib/quantile.js';
import type { ReadSort } from './node-loads.js';

/**
 * When a second replica is asked beside one that takes its time ("The tail at scale", Dean and Barroso, 2013): after what 95 of
 * 100 such reads take, and so rarely that it never is the load that makes nodes slow. Every read earns a small part of a second
 * request; what is earned is kept for a few only.
 */
export interface HedgingOptions {
  /** Second requests, as a part of all reads that several replicas could serve; 0: none. Default 0.05. */
  readonly share?: number | undefined;
  /** Never sooner than this after the first. Default 5. */
  readonly afterMsMin?: number | undefined;
}

/** The least and the most that each may be. */
export const HEDGING_BOUNDS = { share: [0, 1], afterMsMin: [0, 60_000] } as const;

const SHARE = 0.05;
const AFTER_MS_MIN = 5;
const PART = 0.95;
const SAMPLES_MIN = 64;
const SAVED_MAX = 10;

export class Hedging {
  readonly #share: number;
  readonly #afterMsMin: number;
  readonly #latencies: Readonly<Record<ReadSort, Quantile>>;
  readonly #sent: Counter;
  readonly #won: Counter;
  #saved = 0;

  constructor({ share = SHARE, afterMsMin = AFTER_MS_MIN }: HedgingOptions, metrics: Metrics) {
    this.#share = share;
    this.#afterMsMin = afterMsMin;
    this.#latencies = { settled: new Quantile(PART, SAMPLES_MIN), confirmed: new Quantile(PART, SAMPLES_MIN) };
    this.#sent = metrics.counter('tidemark_router_hedges_sent_total', 'Reads of which a second replica was asked as well');
    this.#won = metrics.counter('tidemark_router_hedges_won_total', 'Reads that the second replica answered first');
  }

  /** A read begins. After how long another replica may be asked as well; Infinity: not at all. */
  begin(sort: ReadSort): number {
    if (this.#share === 0) return Infinity;
    this.#saved = Math.min(SAVED_MAX, this.#saved + this.#share);
    return this.#saved < 1 ? Infinity : Math.max(this.#afterMsMin, this.#latencies[sort].ms);
  }

  took(sort: ReadSort, ms: number): void {
    if (this.#share > 0) this.#latencies[sort].add(ms);
  }

  /** Whether there is one left to send; it is counted as sent. */
  take(): boolean {
    if (this.#saved < 1) return false;
    this.#saved -= 1;
    this.#sent.add();
    return true;
  }

  won(): void {
    this.#won.add();
  }
}
