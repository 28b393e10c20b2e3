import { type ConditionOf, type Entry, type Missing, type Database } from '../../../src/client/index.js';
import type { SimRandom } from '../../../src/sim/random.js';
import type { Caller, Numbers, Recorder } from './recorder.js';

/**
 * A group is some clients, spread over several processes, that work on the same objects, all in one bucket, or, if they do
 * transactions, in a few: when it hears nothing for a while, these were unavailable. Objects are left for fresh ones after a
 * while, so that no history of one grows without bounds, and unknown outcomes do not pile up on it.
 */
export interface Group {
  readonly id: number;
  /** Partition keys, each of another bucket. */
  readonly tags: readonly string[];
  readonly recorder: Recorder;
  readonly random: SimRandom;
  /** The time of the run, the same in all processes. */
  readonly nowMs: () => number;
  /** Values that no other process draws. */
  readonly values: Numbers;
}

export interface Workload {
  /** One operation, from its begin to its end. */
  step(caller: Caller, database: Database): Promise<void>;
  /** The objects that there are, to be read when all is over, so that nothing acknowledged goes unread. */
  readonly objects: readonly string[];
  /** Reads one of them; false if there was no answer. */
  read(caller: Caller, database: Database, object: string): Promise<boolean>;
  /** What goes on beside the steps, until it is told to stop. */
  accompany?(company: Company): Promise<unknown>;
}

/** For what goes on beside the steps. */
export interface Company {
  readonly databases: readonly Database[];
  /** Of all nodes. */
  readonly endpoints: readonly string[];
  readonly newCaller: () => Caller;
  readonly stopped: AbortSignal;
}

/** Longer than an election, so that most operations survive one; short enough that some do not. */
const TIMEOUT_MS = 3000;
export const timely = { timeoutMs: TIMEOUT_MS };

interface ObjectsOptions {
  /** In use at a time. */
  readonly active: number;
  readonly lifeMs: number;
  /** Which they lie in, in turn. */
  readonly buckets?: number;
}

/**
 * Names of objects in use. Each is given up for the next after so much time, one after the other, in all processes at the same
 * moment.
 */
export class Objects {
  readonly #used = new Set<string>();
  readonly #group: Group;
  readonly #kind: string;
  readonly #active: number;
  readonly #lifeMs: number;
  readonly #tags: readonly string[];

  constructor(group: Group, kind: string, { active, lifeMs, buckets = 1 }: ObjectsOptions) {
    this.#group = group;
    this.#kind = kind;
    this.#active = active;
    this.#lifeMs = lifeMs;
    this.#tags = group.tags.slice(0, buckets);
  }

  get all(): readonly string[] {
    return [...this.#used];
  }

  pick(): string {
    const { random, nowMs } = this.#group;
    const slot = random.below(this.#active);
    const life = Math.floor(nowMs() / this.#lifeMs + slot / this.#active);
    const name = `{${this.#tags[slot % this.#tags.length]}}${this.#kind}${slot}-${life}`;
    this.#used.add(name);
    return name;
  }
}

/** The condition that nobody has written the key since it was read. */
export function unchanged(entry: Entry | Missing): ConditionOf<Uint8Array> {
  return entry.found ? { kind: 'version', key: entry.key, version: entry.version } : { kind: 'absent', key: entry.key };
}
