import { EMPTY, toMapKey, type Bytes } from '../lib/bytes.js';
import { mutant } from '../lib/mutants.js';
import { NO_VERSION, type Pointer, type VersionId } from '../mvcc/records.js';
import { readRecord } from '../mvcc/reader.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { LogIndex } from '../raft/types.js';
import type { Effect, WriteEffects } from './effects.js';
import type { WatchedRanges } from './range-conditions.js';
import type { Condition, KeyCondition, Mutation, PlacedCondition, WriteResult } from './requests.js';
import type { BucketState } from './state.js';

/**
 * What the commands of a leader find: the applied state, and over it the versions that are proposed and not applied yet. So a
 * command is evaluated as it will be applied, without waiting for those before it.
 *
 * Example: key a is at version 50, and a put of it at 60 is in flight. A condition "a is at version 60" holds, and what is put
 * now links to 60 as the version before it.
 */
export interface PendingVersion extends Pointer {
  readonly value: Bytes;
}

export class Evaluation {
  readonly #state: BucketState;
  /** The latest version of each key that is in flight. */
  readonly #inFlight = new Map<string, PendingVersion>();

  constructor(state: BucketState) {
    this.#state = state;
  }

  get inFlight(): ReadonlyMap<string, PendingVersion> {
    return this.#inFlight;
  }

  /** These effects are logged at `index`: later commands build on them. */
  proposed({ effects, timestamp }: WriteEffects, index: LogIndex): void {
    effects.forEach(({ key, deleted, value }, position) => {
      this.#inFlight.set(toMapKey(key), { timestamp, index, position, deleted, value });
    });
  }

  /** They are applied. */
  applied({ effects }: WriteEffects, index: LogIndex): void {
    for (const { key } of effects) {
      const mapKey = toMapKey(key);
      if (this.#inFlight.get(mapKey)?.index === index) this.#inFlight.delete(mapKey);
    }
  }

  clear(): void {
    this.#inFlight.clear();
  }

  /** What the first condition that does not hold is answered; undefined if all hold. */
  refusal(conditions: readonly PlacedCondition[], timestamp: Timestamp, ranges: WatchedRanges): WriteResult | undefined {
    for (const { position, condition } of conditions) {
      const failedVersion = this.#failedVersion(condition, ranges);
      if (failedVersion !== undefined) return { applied: false, timestamp, failedCondition: position, failedVersion };
    }
    return undefined;
  }

  /** What a condition that does not hold found instead; undefined if it holds. */
  #failedVersion(condition: Condition, ranges: WatchedRanges): number | undefined {
    if (condition.kind === 'unchanged') {
      const changed = ranges.change(condition);
      return changed > 0 ? changed : undefined;
    }
    const latest = this.#latest(condition.key);
    if (this.#holds(condition, latest)) return undefined;
    return latest === undefined || latest.deleted ? 0 : latest.timestamp;
  }

  effectsOf(mutations: readonly Mutation[]): Effect[] {
    return mutations.map((mutation): Effect => {
      const latest = this.#latest(mutation.key);
      const previous: VersionId =
        latest === undefined
          ? NO_VERSION
          : { timestamp: latest.timestamp, index: latest.index, position: latest.position };
      return mutation.kind === 'put'
        ? { key: mutation.key, deleted: false, value: mutation.value, previous }
        : { key: mutation.key, deleted: true, value: EMPTY, previous };
    });
  }

  #latest(key: Bytes): Pointer | undefined {
    const pending = mutant('conditions-miss-in-flight') ? undefined : this.#inFlight.get(toMapKey(key));
    return pending ?? this.#state.pointer(key);
  }

  #holds(condition: KeyCondition, latest: Pointer | undefined): boolean {
    const exists = latest !== undefined && !latest.deleted;
    switch (condition.kind) {
      case 'exists':
        return exists;
      case 'absent':
        return !exists;
      case 'version':
        return (exists ? latest.timestamp : 0) === condition.version;
      case 'value':
        return exists && this.#valueOf(condition.key, latest).equals(condition.value);
    }
  }

  #valueOf(key: Bytes, latest: Pointer): Bytes {
    const { store, slot } = this.#state;
    const pending = this.#inFlight.get(toMapKey(key));
    return pending === undefined ? readRecord(store, slot, latest).value : pending.value;
  }
}
