import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type Database } from '../../../src/client/index.js';
import { isTidemarkError } from '../../../src/lib/errors.js';
import { tagOf } from '../load.js';
import type { Fleet } from './fleet.js';
import { unchanged } from './group.js';
import { changePlacement, heatOf } from './membership.js';

/**
 * A key that is read by so many that its bucket gets read replicas, and then by nobody, so that they vanish. The clients of the run go
 * on in that bucket as in all others, so that what read replicas answer is judged with the rest of their histories. What is read
 * here is judged at once: the key holds a number that only grows, and a linearizable read must tell at least what was acknowledged
 * before it began.
 */

/** The least at which what the clients do makes no bucket hot by itself: two busy cores can do several times as much. */
export const HOT_LIMITS = { hotReadsPerSecond: 90, coolMs: 2000 };

/** So many that answers which take long on a busy machine do not keep it cool. */
const READERS = 64;
const READS_PER_SECOND = 600;
const WRITE_MS = 50;
const CALL_MS = 2000;
const LOOK_MS = 100;
/** A planner looks once a second, and what was read counts by an average over some seconds. */
const APPEAR_MS_MAX = 20_000;
const VANISH_MS_MAX = 90_000;

/** A bucket may be heated again: each time it is by another key, whose number nobody has written yet. */
let keys = 0;

export class HotKey {
  readonly #fleet: Fleet;
  readonly #bucket: number;
  readonly #replicas: number;
  readonly #key: string;
  readonly #over = new AbortController();
  /** The latest number that was sent, and the highest that was acknowledged. */
  #sent = 0;
  #acknowledged = 0;
  #reads = 0;
  #most = 0;
  #vanishedMs = 0;

  constructor(fleet: Fleet, bucket: number, replicas: number) {
    this.#fleet = fleet;
    this.#bucket = bucket;
    this.#replicas = replicas;
    keys += 1;
    this.#key = `{${tagOf(bucket, fleet.cluster.buckets)}}hot${keys}`;
  }

  get what(): string {
    const vanished = this.#most === 0 ? '' : `, gone ${Math.round(this.#vanishedMs)} ms after the last read`;
    return `${this.#reads} reads of a key in bucket ${this.#bucket}, ${this.#most} read replicas at most${vanished}`;
  }

  /** Goes on until it is to cool. Nodes that have every bucket anyway could take no read replica: first each bucket gets fewer. */
  async heat(): Promise<void> {
    const { cluster, ids } = this.#fleet;
    const { signal } = this.#over;
    await changePlacement(this.#fleet, { replicas: this.#replicas }, signal);
    const database = await connect({ endpoints: ids.map((id) => cluster.address(id)), clusterId: cluster.id, timeoutMs: VANISH_MS_MAX });
    try {
      const readers = Array.from({ length: READERS }, (_, n) => this.#repeat((READERS * 1000) / READS_PER_SECOND, () => this.#read(database, n)));
      await Promise.all([...readers, this.#repeat(WRITE_MS, () => this.#write(database)), this.#repeat(LOOK_MS, () => this.#look())]);
    } finally {
      await database.close();
    }
  }

  /** Lets it go on for a while if there have been no read replicas yet, then ends it, and waits until there are none any more. */
  async cool(): Promise<void> {
    const untilMs = performance.now() + APPEAR_MS_MAX;
    while (this.#most === 0 && performance.now() < untilMs) await sleep(LOOK_MS);
    this.#over.abort();
    const cooledMs = performance.now();
    const what = `bucket ${this.#bucket}, which nobody reads much any more, has no read replicas`;
    await this.#fleet.cluster.eventually(what, async () => (await this.#readReplicas()) === 0, VANISH_MS_MAX);
    this.#vanishedMs = performance.now() - cooledMs;
  }

  /** Begins so often, if the one before has come to its end. Faults are no errors. */
  async #repeat(everyMs: number, act: () => Promise<void>): Promise<void> {
    while (!this.#over.signal.aborted) {
      const nextMs = performance.now() + everyMs;
      try {
        await act();
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
      }
      await sleep(Math.max(0, nextMs - performance.now()));
    }
  }

  async #write(database: Database): Promise<void> {
    const entry = await database.get(this.#key, { timeoutMs: CALL_MS });
    this.#sent += 1;
    const number = this.#sent;
    // On that condition an earlier write of which nobody knows what became comes never, or before this one.
    const write = { conditions: [unchanged(entry)], mutations: [{ kind: 'put', key: this.#key, value: String(number) } as const] };
    const { applied } = await database.write(write, { timeoutMs: CALL_MS });
    if (applied) this.#acknowledged = number;
  }

  /** Two of three are linearizable; the others may be stale, but tell nothing that nobody has written. */
  async #read(database: Database, n: number): Promise<void> {
    const isLinearizable = n % 3 > 0;
    const least = isLinearizable ? this.#acknowledged : 0;
    const entry = await database.get(this.#key, { timeoutMs: CALL_MS, ...(isLinearizable ? {} : { maxStalenessMs: CALL_MS }) });
    const number = entry.found ? Number(entry.text()) : 0;
    this.#reads += 1;
    if (number >= least && number <= this.#sent) return;
    const expected = `${least} was acknowledged before it began, ${this.#sent} is the latest that was sent`;
    this.#fleet.surprises.push(`a read of ${this.#key} on node ${entry.served.node} told ${number}: ${expected}`);
    // It is said once, not by every reader.
    this.#over.abort();
  }

  async #look(): Promise<void> {
    this.#most = Math.max(this.#most, (await this.#readReplicas()) ?? 0);
  }

  /** Undefined while nobody can tell. */
  async #readReplicas(): Promise<number | undefined> {
    const heat = await heatOf(this.#fleet);
    return heat?.buckets.find(({ id }) => id === this.#bucket)?.readReplicas.length;
  }
}
