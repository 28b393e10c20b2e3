import type { Gauge, Metrics } from '../env/env.js';
import { TidemarkError } from '../lib/errors.js';

/**
 * How many requests of one sort a node works on at a time. Commands and Queries have one each, so that a flood of one does
 * not starve the other; what comes on top is refused at once, before any work is done on it.
 */
export class Admission {
  readonly #what: string;
  readonly #countMax: number;
  readonly #bytesMax: number;
  readonly #gauge: Gauge;
  #count = 0;
  #bytes = 0;

  constructor(what: string, countMax: number, bytesMax: number, metrics: Metrics) {
    this.#what = what;
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
    this.#gauge = metrics.gauge('tidemark_requests_in_flight', 'Requests that this node works on.', { kind: what });
  }

  /** Runs `work` if there is room for it. */
  async run<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    if (this.#count >= this.#countMax || this.#bytes + bytes > this.#bytesMax) {
      throw new TidemarkError(
        'RESOURCE_EXHAUSTED',
        'NODE_OVERLOADED',
        `this node already works on ${this.#count} ${this.#what} (${this.#bytes} bytes); try again later`,
        { retriable: true },
      );
    }
    this.#count += 1;
    this.#bytes += bytes;
    this.#gauge.set(this.#count);
    try {
      return await work();
    } finally {
      this.#count -= 1;
      this.#bytes -= bytes;
      this.#gauge.set(this.#count);
    }
  }
}
