import { assert } from '../lib/assert.js';
import { printable, toMapKey } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import type { Limits } from '../env/limits.js';
import { decodePointer, decodeRecord, pointerOfKey, pointerRange, versionOfKey } from '../mvcc/records.js';
import { formatTimestamp } from '../mvcc/timestamp.js';
import { liesInOnePartition } from '../placement/range.js';
import type { Condition, RangeCondition, Timestamp } from './requests.js';
import type { BucketState } from './state.js';
import { VersionScan } from './version-scan.js';

/**
 * Conditions on ranges: has any key between two bounds changed since a timestamp? Deletes are changes.
 *
 * To decide that, many keys may have to be read, which takes pages of the store and hence several turns; but a command's
 * conditions must hold in the one turn in which its timestamp is fixed. So each range is *watched* from the turn on in which
 * its command came:
 *
 *   1. what is in flight in that turn is compared with the range, and from then on every key that is proposed or applied;
 *   2. then pages are read, which show at least all that was applied before they were asked for;
 *   3. in the deciding turn the watch knows of every change: what was applied before 1 is in the pages of 2, everything later
 *      has met the watch.
 *
 * A change that was found stays one, since versions only grow. So it does no harm that pages also show writes of the
 * meantime, nor that something proposed was counted which is never committed: then leadership ends, and this evaluation too.
 *
 * What a page is read from: the pointers of the range tell when each of its keys was changed last, the version records by time
 * tell what was changed since. The first is short for a small range, the second for a short time. Keys of one partition are
 * looked up by pointers first, since no other bucket's lie between; a range over the whole key space by time first, since
 * pointers are in the order of keys over all buckets of the node, unless one page holds all of them. The other way is tried if
 * the first has not come to the end within `limits.rangeEntriesMax`.
 *
 * Below the horizon changes may be forgotten, a tombstone with its pointer: that is OUT_OF_RANGE, and rechecked in the
 * deciding turn.
 */
export class RangeChecks {
  readonly #state: BucketState;
  readonly #limits: Limits;
  readonly #watches = new Set<RangeWatch>();

  constructor(state: BucketState, limits: Limits) {
    this.#state = state;
    this.#limits = limits;
  }

  /** Watches the ranges of a command from this turn on; `inFlight` is what is proposed and not yet applied. */
  watch(conditions: readonly Condition[], inFlight: ReadonlyMap<string, { readonly timestamp: Timestamp }>): WatchedRanges {
    const ranges = rangesOf(conditions);
    if (ranges.length === 0) return NO_RANGES;
    const { rangesPerBucketMax } = this.#limits;
    if (this.#watches.size + ranges.length > rangesPerBucketMax || inFlight.size * ranges.length > LOOKS_MAX) {
      const message = `bucket ${this.#state.bucket} has too much in flight to look at more ranges; try again later`;
      throw new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', message, { retriable: true });
    }
    const watches = ranges.map((range) => new RangeWatch(range));
    for (const watch of watches) {
      if (mutant('range-misses-in-flight')) break;
      for (const [mapKey, { timestamp }] of inFlight) watch.note(mapKey, timestamp);
    }
    for (const watch of watches) this.#watches.add(watch);
    // A quiet bucket, where nothing was written since, is the common case.
    const isKnown = watches.every((watch) => watch.changed > 0 || isBehind(this.#state, watch));
    return {
      examine: isKnown ? undefined : () => examine(this.#state, watches, this.#limits),
      change: (condition) => {
        checkHorizon(this.#state, condition);
        const watch = watches.find((each) => each.condition === condition);
        assert(watch !== undefined, 'each condition on a range of a command is watched');
        return watch.changed;
      },
      end: () => {
        for (const watch of watches) this.#watches.delete(watch);
      },
    };
  }

  /** To be called for every key that is proposed, and for one that is applied without having been. */
  note(mapKey: string, timestamp: Timestamp): void {
    for (const watch of this.#watches) watch.note(mapKey, timestamp);
  }
}

/** The ranges of one command. */
export interface WatchedRanges {
  /** Looks at what needs to be looked at; undefined if nothing does. To be called in the same turn, or not at all. */
  readonly examine: (() => Promise<void>) | undefined;
  /** When the range was changed after its timestamp; 0 if it was not. In the deciding turn. */
  change(condition: RangeCondition): Timestamp;
  /** To be called whatever becomes of the command: until then it is watched. */
  end(): void;
}

export const NO_RANGES: WatchedRanges = { examine: undefined, change: () => 0, end: () => undefined };

/** Comparisons of what is in flight with the ranges of a new command, in one turn. */
const LOOKS_MAX = 50_000;

class RangeWatch {
  readonly condition: RangeCondition;
  /** A change behind `since`; 0: none is known. */
  changed: Timestamp = 0;
  readonly #start: string;
  readonly #end: string;

  constructor(condition: RangeCondition) {
    this.condition = condition;
    this.#start = toMapKey(condition.range.start);
    this.#end = toMapKey(condition.range.end);
  }

  /** A key, as toMapKey gives it, was written at `timestamp`, or will have been when that is committed. */
  note(mapKey: string, timestamp: Timestamp): void {
    if (timestamp <= this.condition.since || mapKey < this.#start || (this.#end !== '' && mapKey >= this.#end)) return;
    this.changed = Math.max(this.changed, timestamp);
  }
}

export function rangesOf(conditions: readonly Condition[]): RangeCondition[] {
  return conditions.filter((condition): condition is RangeCondition => condition.kind === 'unchanged');
}

/** Throws if history does not reach back to the timestamp. In the deciding turn, for the horizon may rise meanwhile. */
function checkHorizon({ bucket, horizon }: BucketState, { since }: RangeCondition): void {
  if (since >= horizon || mutant('range-below-horizon')) return;
  const message =
    `bucket ${bucket} cannot tell what has changed since ${formatTimestamp(since)}: history before ` +
    `${formatTimestamp(horizon)} is gone. Read again, and write on what that shows`;
  throw new TidemarkError('OUT_OF_RANGE', 'BEFORE_HORIZON', message, { details: { earliestReadable: String(horizon) } });
}

/** Nothing that is applied is later than the timestamp: no page needs to be read. */
function isBehind({ maxTimestamp }: BucketState, { condition }: RangeWatch): boolean {
  return maxTimestamp <= condition.since;
}

/** Reads until each watch knows of a change in what is applied, or it is certain that there is none. */
async function examine(state: BucketState, watches: readonly RangeWatch[], limits: Limits): Promise<void> {
  let left = limits.rangeEntriesMax;
  for (const watch of watches) {
    checkHorizon(state, watch.condition);
    const { start, end } = watch.condition.range;
    const ways = liesInOnePartition(start, end) ? [byKey, byTime] : [byFirstKeys, byTime, byKey];
    let known = watch.changed > 0 || isBehind(state, watch);
    for (const [at, way] of ways.entries()) {
      if (known) break;
      // What one way may look at in vain, the next must still have.
      const look = await way(state, watch, Math.floor(left / (ways.length - at)), limits);
      left -= look.entries;
      known = look.complete || watch.changed > 0;
    }
    if (!known) throw tooLarge(state, watch.condition, limits);
  }
}

interface Look {
  readonly entries: number;
  /** Nothing of the range was left out. */
  readonly complete: boolean;
}

/** Entries of one page: about a millisecond of the loop. */
const PAGE_ENTRIES = 256;

/** The latest version of each key of the range, until one is a change. */
async function byKey({ store, slot }: BucketState, watch: RangeWatch, most: number): Promise<Look> {
  const { range } = watch.condition;
  const { gte: first, lt } = pointerRange(range.start, range.end);
  let gte = first;
  for (let entries = 0; entries < most; ) {
    const page = await store.page({ gte, lt, limit: Math.min(PAGE_ENTRIES, most - entries) });
    entries += page.entries.length;
    for (const [name, data] of page.entries) {
      const { key, slot: owner } = pointerOfKey(name);
      const { timestamp, deleted } = decodePointer(data);
      if (owner !== slot || (deleted && mutant('range-misses-deletes'))) continue;
      watch.note(toMapKey(key), timestamp);
      if (watch.changed > 0) return { entries, complete: true };
    }
    const last = page.entries.at(-1)?.[0];
    if (!page.more || last === undefined) return { entries, complete: true };
    gte = keyAfter(last);
  }
  return { entries: most, complete: false };
}

/** One page of them: few keys, or none, are told at once, however much was written since. */
function byFirstKeys(state: BucketState, watch: RangeWatch, most: number): Promise<Look> {
  return byKey(state, watch, Math.min(PAGE_ENTRIES, most));
}

/** What was written after `since`, until something of it is in the range. */
async function byTime({ store, slot }: BucketState, watch: RangeWatch, most: number, limits: Limits): Promise<Look> {
  const scan = new VersionScan(store, slot, { from: watch.condition.since + 1 });
  for (let entries = 0; entries < most; ) {
    const page = await scan.next({ limit: Math.min(PAGE_ENTRIES, most - entries), bytesMax: limits.pageBytesMax });
    // A page without a record of this bucket costs as much as one with some.
    entries += Math.max(1, page.entries.length);
    for (const [name, data] of page.entries) {
      const { key, deleted } = decodeRecord(data);
      if (deleted && mutant('range-misses-deletes')) continue;
      watch.note(toMapKey(key), versionOfKey(name).timestamp);
      if (watch.changed > 0) return { entries, complete: true };
    }
    if (!page.more) return { entries, complete: true };
  }
  return { entries: most, complete: false };
}

function tooLarge({ bucket }: BucketState, { range: { start, end }, since }: RangeCondition, limits: Limits): TidemarkError {
  const message =
    `bucket ${bucket} would have to look at more than ${limits.rangeEntriesMax} keys or changes to tell whether the range from ` +
    `'${printable(start)}' to '${printable(end)}' has changed since ${formatTimestamp(since)}; a smaller range or a later ` +
    'moment takes less';
  return new TidemarkError('RESOURCE_EXHAUSTED', 'RANGE_TOO_LARGE', message, {
    details: { limit: String(limits.rangeEntriesMax) },
  });
}
