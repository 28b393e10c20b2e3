import { createHash } from 'node:crypto';
import type { Random } from '../env/env.js';

/**
 * A pseudo-random generator (sfc32) whose whole sequence follows from a seed.
 *
 * `fork(name)` gives an independent generator that depends on the seed and the names on the way to it, not on how much was
 * drawn before: a change in one part of a simulated world leaves the luck of the other parts as it was.
 */
export class SimRandom implements Random {
  readonly seed: string;
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: string | number) {
    this.seed = String(seed);
    const digest = createHash('sha256').update(this.seed).digest();
    this.#a = digest.readUInt32LE(0);
    this.#b = digest.readUInt32LE(4);
    this.#c = digest.readUInt32LE(8);
  }

  uint32(): number {
    const result = (this.#a + this.#b + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = (this.#b ^ (this.#b >>> 9)) >>> 0;
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) >>> 0;
    return result;
  }

  float(): number {
    return (Math.floor(this.uint32() / 32) * 2 ** 26 + Math.floor(this.uint32() / 64)) / 2 ** 53;
  }

  fork(name: string | number): SimRandom {
    return new SimRandom(`${this.seed}/${name}`);
  }

  /** A uniform integer in [0, end). */
  below(end: number): number {
    return Math.floor(this.float() * end);
  }

  /** A uniform number in [min, max). */
  between(min: number, max: number): number {
    return min + (max - min) * this.float();
  }

  /** True with this probability. Draws nothing at 0 and 1, so that a fault switched off does not shift the sequence. */
  chance(probability: number): boolean {
    if (probability <= 0) return false;
    return probability >= 1 || this.float() < probability;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError('nothing to pick from');
    return item;
  }
}
