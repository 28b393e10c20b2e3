import type { Env } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { Cancellation } from '../lib/cancel.js';
import { isTidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { SpaceSaving } from '../lib/space-saving.js';
import { keyAfter } from '../lib/ordered.js';
import type { KeyRange, Record, Timestamp } from '../bucket/requests.js';
import { earlier } from '../mvcc/timestamp.js';
import type { Alarms } from './alarms.js';
import type { StreamEvent } from './change-stream.js';
import type { ChangesOptions } from './change-streams.js';

/**
 * The few keys that the bounded reads of this router ask for most, kept here: such a read takes no hop at all.
 *
 * A key gets in when it is among the hottest for a second, and goes when it is not. It is kept fresh by a change stream of that
 * key alone, from a snapshot on. What is shown is the key as of the stream's last *mark*: everything at or below that has been
 * told, and nothing at or below it will follow, so it is what any replica would show as of that moment, for ever.
 *
 * A read is served only if that mark proves all that it asks for: it is within the bound from now, by the clocks of the nodes and
 * by this machine's, and at or above what the session of the read has seen. If the stream stalls, the mark stands still, and
 * soon proves nothing any more: then replicas are asked as ever.
 *
 * Example: `price/eur` is read 900 times a second, at most 1 s old. Its mark moves with every heartbeat, 0.4 s behind at most;
 * all but the first thousand reads are served from here. The node that the stream reads dies: the mark stands at 10.0 s; from
 * 11.0 s on reads go to replicas; at 11.2 s the stream has found another replica, and goes on behind 10.0 s.
 *
 * What it is not: it serves no linearizable read, no scan, nothing of which it cannot say as of when it is true.
 */
export interface NearCacheOptions {
  /** Keys that are kept at most, each with a change stream. */
  readonly keysMax: number;
  /** Memory for their values; one that takes more than its part of it is not kept. Default 16 MiB. */
  readonly bytesMax?: number | undefined;
  /** Bounded reads a second that make a key hot. Default 20. */
  readonly readsPerSecondMin?: number | undefined;
}

/** The least and the most that each may be. */
export const NEAR_CACHE_BOUNDS = { keysMax: [1, 256], bytesMax: [1024, 2 ** 40], readsPerSecondMin: [1, 1_000_000] } as const;

export interface NearCachePorts {
  readonly clock: Env['clock'];
  readonly alarms: Alarms;
  /** The present, for which it may be too late rather than too early. */
  readonly now: () => Timestamp;
  readonly changes: (range: KeyRange, options: ChangesOptions) => AsyncIterable<StreamEvent>;
  readonly isClosed: () => boolean;
}

const BYTES_MAX = 16 * 1024 * 1024;
const READS_PER_SECOND_MIN = 20;
/** Counters, in multiples of the keys that are kept: so that a crowd of cold keys does not hide hot ones. */
const COUNTERS = 16;
const LOOK_MS = 1000;
/** It stays as long as it is half as hot as it must be to get in. */
const STAYS_PART = 0.5;

interface Shown {
  /** Undefined: there is none as of the mark. */
  record: Record | undefined;
  mark: Timestamp;
}

export class NearCache {
  readonly #ports: NearCachePorts;
  readonly #keysMax: number;
  readonly #valueBytesMax: number;
  readonly #readsMin: number;
  readonly #sketch: SpaceSaving;
  readonly #kept = new Map<string, Follower>();
  #looking = false;

  constructor(options: NearCacheOptions, ports: NearCachePorts) {
    const { keysMax, bytesMax = BYTES_MAX, readsPerSecondMin = READS_PER_SECOND_MIN } = options;
    this.#ports = ports;
    this.#keysMax = keysMax;
    this.#valueBytesMax = Math.floor(bytesMax / keysMax);
    this.#readsMin = readsPerSecondMin;
    this.#sketch = new SpaceSaving(keysMax * COUNTERS);
  }

  /** What a bounded read shows, if that can be proved here; it counts as a read either way. */
  read(key: Bytes, maxStalenessMs: number, seen: Timestamp): Shown | undefined {
    const name = key.toString('latin1');
    this.#sketch.add(name);
    this.#look();
    const shown = this.#kept.get(name)?.shown;
    if (shown === undefined) return undefined;
    const isProved = shown.mark >= seen && shown.mark >= earlier(this.#ports.now(), maxStalenessMs);
    return isProved || mutant('near-cache-unproved') ? shown : undefined;
  }

  close(): void {
    for (const follower of this.#kept.values()) follower.stop();
    this.#kept.clear();
  }

  /** Once a second, as long as somebody reads or something is kept, decides what is kept. */
  #look(): void {
    if (this.#looking) return;
    this.#looking = true;
    const { alarms, clock } = this.#ports;
    alarms.at(clock.monotonicMs() + LOOK_MS, () => {
      this.#looking = false;
      if (this.#ports.isClosed()) return;
      this.#choose();
      if (this.#kept.size > 0) this.#look();
    });
  }

  /** Counts that are halved once a second come to what is added in one. */
  #choose(): void {
    this.#sketch.decay(1 / 2);
    const hot = new Set(this.#hottest(this.#readsMin * STAYS_PART));
    for (const [name, follower] of this.#kept) {
      if (hot.has(name) && !follower.isOver) continue;
      follower.stop();
      this.#kept.delete(name);
    }
    for (const name of this.#hottest(this.#readsMin)) {
      if (this.#kept.has(name) || this.#kept.size >= this.#keysMax) continue;
      this.#kept.set(name, new Follower(Buffer.from(name, 'latin1'), this.#valueBytesMax, this.#ports));
    }
  }

  /** By what is certain of their counts: where many cold keys share the counters, each inherits a count that is not its own. */
  #hottest(readsMin: number): string[] {
    const often = this.#sketch.top(this.#keysMax).filter(({ count, error }) => count - error >= readsMin);
    return often.map(({ item }) => item);
  }
}

/** Follows the changes of one key. */
class Follower {
  /** Undefined until the snapshot is whole, and while the value is too large. */
  shown: Shown | undefined;
  isOver = false;
  readonly #key: Bytes;
  readonly #bytesMax: number;
  readonly #cancellation = new Cancellation();
  /** The latest that was told at or below the mark, and what was told above it, in order. */
  #settled: Record | undefined;
  readonly #above: { readonly at: Timestamp; readonly record: Record | undefined }[] = [];

  constructor(key: Bytes, bytesMax: number, ports: NearCachePorts) {
    this.#key = key;
    this.#bytesMax = bytesMax;
    void this.#follow(ports);
  }

  stop(): void {
    this.shown = undefined;
    this.#cancellation.abort();
  }

  async #follow({ changes }: NearCachePorts): Promise<void> {
    const range = { start: this.#key, end: keyAfter(this.#key) };
    const options = { from: { kind: 'beginning' }, signal: this.#cancellation, isOwn: true } as const;
    try {
      for await (const event of changes(range, options)) this.#take(event);
    } catch (error) {
      // Whatever ended it: if the key is still hot, it is begun anew.
      if (!isTidemarkError(error)) throw error;
    } finally {
      this.shown = undefined;
      this.isOver = true;
    }
  }

  #take(event: StreamEvent): void {
    switch (event.kind) {
      case 'entries':
        for (const record of event.entries) this.#settled = this.#fitting(record);
        return;
      case 'changes':
        for (const { at, key, deleted, value } of event.changes) {
          const record = deleted ? undefined : this.#fitting({ key, value, version: at.timestamp });
          this.#above.push({ at: at.timestamp, record });
        }
        return;
      case 'mark':
        this.#pass(event.timestamp);
    }
  }

  #pass(mark: Timestamp): void {
    while ((this.#above[0]?.at ?? Infinity) <= mark) this.#settled = this.#above.shift()?.record;
    if (this.#cancellation.aborted) return;
    this.shown = this.#settled === TOO_LARGE ? undefined : { record: this.#settled, mark };
  }

  #fitting(record: Record): Record {
    if (record.key.length + record.value.length > this.#bytesMax) return TOO_LARGE;
    return { key: this.#key, value: alone(record.value), version: record.version };
  }
}

/** A large value that came over the wire lies in its frame, which is larger. */
function alone(value: Bytes): Bytes {
  if (value.buffer.byteLength === value.length) return value;
  const copy = Buffer.allocUnsafeSlow(value.length);
  value.copy(copy);
  return copy;
}

/** Stands for a value that is not kept. */
const TOO_LARGE: Record = { key: Buffer.alloc(0), value: Buffer.alloc(0), version: 0 };
