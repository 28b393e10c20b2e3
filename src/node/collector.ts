import type { Counter, Metrics, Timers } from '../env/env.js';
import { sleep } from '../env/time.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import { collectedUpTo, collectRecord, noteCollected } from '../bucket/collect.js';
import type { Replica } from '../bucket/replica.js';
import type { StateStore } from '../bucket/state-store.js';
import { slotOfVersionKey, versionBounds, versionOfKey, type Slot } from '../mvcc/records.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';

/**
 * Collects garbage (bucket/collect.ts) of all replicas of a node, one pass at a time: records of all slots lie together by
 * periods of time, so one walk over what the horizons have passed since the last one costs little more than that of one bucket.
 *
 * It never hurries: a page of records at a time, with a pause behind each, and none while the state store is behind; a turn's
 * work is bounded by PAGE_RECORDS and PAGE_BYTES. A replica whose state is being copied for a snapshot, or replaced by one, is
 * left out until the next pass; also what is met of it when the copy is over, for records are collected in the order of time.
 */
export interface CollectorOptions {
  readonly timers: Timers;
  readonly metrics: Metrics;
  readonly state: StateStore;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly onBug: (error: unknown) => void;
}

interface Target {
  readonly replica: Replica;
  readonly from: Timestamp;
  readonly to: Timestamp;
  /** Something came between: what was left out must be met again, and before anything later is collected. */
  left: boolean;
}

const PAGE_RECORDS = 256;
const PAGE_BYTES = 256 * 1024;
const PAUSE_MS = 5;
const PAUSE_BUSY_MS = 50;
/** Replicas that are further behind than this are collected in a pass of their own, which the others need not make with them. */
const TOGETHER = 4 * 60_000 * 4096;
const SLOT_MAX: Slot = 0xffff_ffff;

export class Collector {
  readonly #options: CollectorOptions;
  readonly #collected = new Map<Slot, Timestamp>();
  readonly #versions: Counter;
  readonly #bytes: Counter;
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(options: CollectorOptions) {
    const { metrics } = options;
    this.#options = options;
    this.#versions = metrics.counter('tidemark_collected_versions_total', 'Versions that garbage collection has deleted.');
    this.#bytes = metrics.counter('tidemark_collected_bytes_total', 'Their bytes, as an estimate.');
  }

  /** Begins a pass if there is something to collect and none is under way. */
  tick(): void {
    if (this.#running !== undefined || this.#closed) return;
    const targets = this.#targets();
    if (targets.size === 0) return;
    this.#running = this.#pass(targets)
      .catch((error: unknown) => {
        if (!this.#closed) this.#options.onBug(error);
      })
      .then(() => {
        this.#running = undefined;
      });
  }

  /** Nothing is collected any more; resolves when a pass under way has noticed. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#running;
  }

  #targets(): Map<Slot, Target> {
    const due: Target[] = [];
    for (const replica of this.#options.replicas.values()) {
      const { state, installing } = replica;
      if (installing || state.copies > 0) continue;
      const from = this.#collectedUpTo(state.slot);
      const to = mutant('collect-beyond-horizon') ? replica.resolved() : state.horizon;
      if (to > from) due.push({ replica, from, to, left: false });
    }
    const lowest = Math.min(...due.map(({ from }) => from));
    const together = due.filter(({ from }) => from <= lowest + TOGETHER);
    return new Map(together.map((target) => [target.replica.state.slot, target]));
  }

  #collectedUpTo(slot: Slot): Timestamp {
    const known = this.#collected.get(slot) ?? collectedUpTo(this.#options.state, slot);
    this.#collected.set(slot, known);
    return known;
  }

  async #pass(targets: ReadonlyMap<Slot, Target>): Promise<void> {
    const { state } = this.#options;
    const all = [...targets.values()];
    // What is at or below the horizons was applied before they were: now it is on disk, and so are the horizons.
    await state.flush();
    let { gte } = versionBounds(0, Math.min(...all.map(({ from }) => from)), 0);
    const { lt } = versionBounds(SLOT_MAX, 0, Math.max(...all.map(({ to }) => to)));
    while (!this.#closed) {
      const page = await state.pageOnDisk({ gte, lt, limit: PAGE_RECORDS, bytesMax: PAGE_BYTES });
      if (this.#closed) return;
      for (const [key, data] of page.entries) {
        const target = targets.get(slotOfVersionKey(key));
        if (target !== undefined) this.#look(target, key, data);
      }
      const last = page.entries.at(-1)?.[0];
      if (!page.more || last === undefined) break;
      gte = keyAfter(last);
      await this.#pause();
    }
    for (const [slot, { replica, to, left }] of targets) {
      if (left || this.#closed || replica.state.slot !== slot) continue;
      this.#collected.set(slot, to);
      noteCollected(state, slot, to);
    }
  }

  #look(target: Target, key: Buffer, data: Buffer): void {
    const { replica, from, to, left } = target;
    // What was left out may be an overwritten version, and what comes now the deletion that hides it, with the key's pointer.
    if (left) return;
    const { timestamp } = versionOfKey(key);
    if (timestamp <= from || timestamp > to) return;
    const { state } = replica;
    if (replica.installing || state.copies > 0 || state.slot !== slotOfVersionKey(key)) {
      target.left = true;
      return;
    }
    const { versions, bytes } = collectRecord(state, key, data);
    if (versions === 0) return;
    this.#versions.add(versions);
    this.#bytes.add(bytes);
  }

  async #pause(): Promise<void> {
    const { state, timers } = this.#options;
    do {
      await sleep(timers, state.full ? PAUSE_BUSY_MS : PAUSE_MS);
    } while (state.full && !this.#closed);
  }
}
