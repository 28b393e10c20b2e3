import { expect } from 'chai';
import { isTidemarkError, type Database, type Timestamp } from '../../src/client/index.js';
import { bucketOf } from '../../src/placement/map.js';

/**
 * Writers that write all the time, one for each bucket, and remember what they were told. Every value is written once under one
 * call, so that the history of a key tells how often it was applied: exactly once if it was acknowledged, at most once if its
 * outcome is unknown, never if it was refused.
 */
export interface LoadOptions {
  readonly buckets: number;
  /** The writers take turns among these. */
  readonly clients: readonly Database[];
  /** A writer's rest after each answer. */
  readonly restMs?: number;
}

const KEYS = 3;
const REST_MS = 25;

interface Acknowledged {
  readonly key: string;
  readonly value: string;
  readonly version: Timestamp;
}

interface Gap {
  readonly bucket: number;
  readonly ms: number;
}

export class Load {
  readonly #options: LoadOptions;
  readonly #acknowledged: Acknowledged[] = [];
  readonly #unknown = new Set<string>();
  readonly #lastMs: number[];
  #watchedSinceMs = Infinity;
  #gap: Gap = { bucket: 0, ms: 0 };
  #stopping = false;
  #writers: Promise<unknown> = Promise.resolve();

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#lastMs = Array.from({ length: options.buckets }, () => 0);
  }

  get acknowledged(): number {
    return this.#acknowledged.length;
  }

  start(): void {
    const { buckets, clients } = this.#options;
    this.#writers = Promise.all(
      Array.from({ length: buckets }, (_, bucket) => {
        const client = clients[bucket % clients.length];
        if (client === undefined) throw new Error('a load needs clients');
        return this.#write(bucket, client);
      }),
    );
    this.#writers.catch(() => undefined);
  }

  /** Rejects if a writer met anything but an honest refusal. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#writers;
  }

  async #write(bucket: number, client: Database): Promise<void> {
    const { buckets, restMs = REST_MS } = this.#options;
    const tag = tagOf(bucket, buckets);
    for (let n = 0; !this.#stopping; n += 1) {
      const key = `{${tag}}${n % KEYS}`;
      const value = `${key} ${n}`;
      try {
        const { version } = await client.put(key, value);
        this.#acknowledged.push({ key, value, version });
        this.#answered(bucket);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        expect(error.code, error.message).to.equal('UNAVAILABLE');
        if (error.outcome === 'unknown') this.#unknown.add(value);
      }
      await new Promise((resolve) => setTimeout(resolve, restMs));
    }
  }

  #answered(bucket: number): void {
    const now = performance.now();
    const ms = now - (this.#lastMs[bucket] ?? 0);
    if (now > this.#watchedSinceMs && ms > this.#gap.ms && this.#lastMs[bucket] !== 0) this.#gap = { bucket, ms };
    this.#lastMs[bucket] = now;
  }

  /** From now on, the longest time between two acknowledgements of one bucket counts. */
  watch(): void {
    this.#watchedSinceMs = performance.now();
    this.#gap = { bucket: 0, ms: 0 };
  }

  /** The longest since `watch()`, with the silence that still lasts. */
  get longestGap(): Gap {
    const now = performance.now();
    return this.#lastMs.map((lastMs, bucket) => ({ bucket, ms: now - lastMs })).reduce((a, b) => (b.ms > a.ms ? b : a), this.#gap);
  }

  /** Every bucket has acknowledged a write since then. */
  acknowledgedEverywhereSince(atMs: number): boolean {
    return this.#lastMs.every((lastMs) => lastMs > atMs);
  }

  /** Compares what the writers were told with the history of every key. */
  async check(reader: Database): Promise<void> {
    const { buckets } = this.#options;
    const found = new Map<string, Timestamp[]>();
    const readKey = async (key: string): Promise<void> => {
      for await (const entry of reader.history(key)) {
        expect(entry.deleted, `a deletion of ${key}`).to.equal(false);
        const versions = found.get(entry.text());
        if (versions === undefined) found.set(entry.text(), [entry.version]);
        else versions.push(entry.version);
      }
    };
    const keys = Array.from({ length: buckets * KEYS }, (_, index) => `{${tagOf(Math.floor(index / KEYS), buckets)}}${index % KEYS}`);
    await Promise.all(keys.map(readKey));
    for (const { value, version } of this.#acknowledged) {
      expect(found.get(value), `the acknowledged write of '${value}' at ${version}`).to.deep.equal([version]);
      found.delete(value);
    }
    for (const [value, versions] of found) {
      expect(this.#unknown.has(value), `'${value}' was written though its writer was told that it was not`).to.equal(true);
      expect(versions, `the versions of '${value}'`).to.have.lengthOf(1);
    }
  }
}

/** A partition key that belongs to the bucket. */
export function tagOf(bucket: number, buckets: number): string {
  for (let n = 0; ; n += 1) {
    const tag = `b${bucket}-${n}`;
    if (bucketOf(Buffer.from(tag), buckets) === bucket) return tag;
  }
}
