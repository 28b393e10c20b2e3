import { assert } from '../lib/assert.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';

/**
 * Timestamps: hybrid logical clocks (Kulkarni et al., 2014) in one JavaScript number.
 *
 *     timestamp = (milliseconds since 2020-01-01T00:00:00Z) * 4096 + logical counter
 *
 * 41 bits of milliseconds and 12 of counter fill the 53 bits that a number holds exactly, which lasts until September 2089.
 * Invariants: a timestamp is an integer in [0, 2^53); 0 is before everything; comparing numbers compares times; adding 1 gives
 * the next timestamp, and a counter that overflows carries into the milliseconds by itself. Bitwise operators would cut a
 * timestamp to 32 bits, so there are none here.
 *
 * Example: 2020-01-01T00:00:01Z is 1000 * 4096 = 4096000; the third timestamp given out in that millisecond is 4096002 and is
 * written `2020-01-01T00:00:01.000Z+2`.
 *
 * This is not a source of truth about real time: nothing in Tidemark is correct only because two clocks agree.
 */
export type Timestamp = number;

/** 2020-01-01T00:00:00Z in milliseconds since 1970. */
export const EPOCH_MS = 1_577_836_800_000;
/** Timestamps within one millisecond. */
export const LOGICAL = 4096;
export const TIMESTAMP_MAX: Timestamp = Number.MAX_SAFE_INTEGER;

/** From milliseconds since 1970 (a fraction is floored) and a counter in [0, 4096). */
export function compose(unixMs: number, logical: number): Timestamp {
  const timestamp = (Math.floor(unixMs) - EPOCH_MS) * LOGICAL + logical;
  assert(logical >= 0 && logical < LOGICAL && isTimestamp(timestamp), () => `no timestamp for ${unixMs} ms + ${logical}`);
  return timestamp;
}

export function decompose(timestamp: Timestamp): { unixMs: number; logical: number } {
  return { unixMs: unixMsOf(timestamp), logical: timestamp % LOGICAL };
}

/** Milliseconds since 1970. */
export function unixMsOf(timestamp: Timestamp): number {
  return Math.floor(timestamp / LOGICAL) + EPOCH_MS;
}

export function isTimestamp(value: number): value is Timestamp {
  return Number.isSafeInteger(value) && value >= 0;
}

/** The timestamp `ms` earlier, or 0. */
export function earlier(timestamp: Timestamp, ms: number): Timestamp {
  return Math.max(0, timestamp - Math.floor(ms) * LOGICAL);
}

/** The timestamp `ms` later, or the last one there is. */
export function later(timestamp: Timestamp, ms: number): Timestamp {
  return Math.min(TIMESTAMP_MAX, timestamp + Math.floor(ms) * LOGICAL);
}

/** `2024-05-01T12:34:56.789Z`, followed by `+n` if the counter is not 0. `parseTimestamp` reads it back exactly. */
export function formatTimestamp(timestamp: Timestamp): string {
  const { unixMs, logical } = decompose(timestamp);
  const days = Math.floor(unixMs / DAY_MS);
  const { year, month, day } = civilOf(days);
  const ms = unixMs - days * DAY_MS;
  const two = (value: number): string => String(Math.floor(value)).padStart(2, '0');
  const date = `${year}-${two(month)}-${two(day)}`;
  const time = `${two(ms / 3_600_000)}:${two((ms / 60_000) % 60)}:${two((ms / 1000) % 60)}`;
  return `${date}T${time}.${String(ms % 1000).padStart(3, '0')}Z${logical === 0 ? '' : `+${logical}`}`;
}

/**
 * A timestamp as people write it:
 *
 * - a whole number: the timestamp itself;
 * - an ISO 8601 date or time, UTC if it names no zone: `2024-05-01`, `2024-05-01T12:34:56.789+02:00`, with or without a
 *   counter at the end (`...Z+17`);
 * - a span before `now`: `-250ms`, `-10s`, `-5m`, `-2h`, `-1d`; also `now`.
 *
 * Throws INVALID_ARGUMENT / TIMESTAMP_MALFORMED, INVALID_ARGUMENT / TIMESTAMP_TOO_LARGE, or OUT_OF_RANGE /
 * TIMESTAMP_TOO_EARLY for a moment before 2020. `field` is the name used in the message.
 */
export function parseTimestamp(text: string, now: Timestamp, field = 'timestamp'): Timestamp {
  const trimmed = text.trim();
  if (trimmed === 'now') return now;
  if (/^\d{1,20}$/.test(trimmed)) return checkTimestamp(Number(trimmed), field, trimmed);
  const span = /^-(\d{1,15}(?:\.\d{1,6})?)(ms|s|m|h|d)$/.exec(trimmed);
  if (span !== null) {
    const timestamp = now - Math.floor(Number(span[1]) * (UNIT_MS[span[2] ?? ''] ?? 0)) * LOGICAL;
    if (timestamp < 0) throw tooEarly(field, trimmed);
    return timestamp;
  }
  const timestamp = parseIso(trimmed);
  if (timestamp === undefined) {
    throw new TidemarkError(
      'INVALID_ARGUMENT',
      'TIMESTAMP_MALFORMED',
      `${field} is '${trimmed.slice(0, 64)}': expected a number, an ISO 8601 time like 2024-05-01T12:34:56Z, ` +
        'or a span before now like -10s, -5m, -2h, -1d',
    );
  }
  if (timestamp < 0) throw tooEarly(field, trimmed);
  return checkTimestamp(timestamp, field, trimmed);
}

/** Refuses numbers that are no timestamp, before anything is computed with them. */
export function checkTimestamp(value: number, field: string, shown = String(value)): Timestamp {
  if (isTimestamp(value)) return value;
  if (value > TIMESTAMP_MAX) {
    throw new TidemarkError(
      'INVALID_ARGUMENT',
      'TIMESTAMP_TOO_LARGE',
      `${field} is ${shown}: timestamps are below 2^53 (${TIMESTAMP_MAX + 1})`,
    );
  }
  const want = 'expected a whole number of 0 or more';
  throw new TidemarkError('INVALID_ARGUMENT', 'TIMESTAMP_MALFORMED', `${field} is ${shown}: ${want}`);
}

function tooEarly(field: string, text: string): TidemarkError {
  // No replica was asked how far back it can be read; one that can be read less far says so itself.
  const message = `${field} is '${text}': the timeline begins at 2020-01-01T00:00:00Z, its earliest timestamp is 0`;
  return new TidemarkError('OUT_OF_RANGE', 'TIMESTAMP_TOO_EARLY', message, { details: { field, earliestReadable: '0' } });
}

/**
 * Refuses a timestamp that a caller has chosen, with INVALID_ARGUMENT / CLOCK_TOO_FAR_AHEAD, if it is so far in the future that
 * nodes would: beyond twice their offset, since `now`, the cluster's time as it is known here, may be that of a slow one.
 */
export function checkNotAhead(timestamp: Timestamp, field: string, now: Timestamp, maxOffsetMs: number): void {
  if (timestamp <= later(now, 2 * maxOffsetMs)) return;
  const [message, details] = tooFarAhead(timestamp, field, now, "the cluster's clock", maxOffsetMs);
  throw new TidemarkError('INVALID_ARGUMENT', 'CLOCK_TOO_FAR_AHEAD', message, { details });
}

function tooFarAhead(
  timestamp: Timestamp,
  field: string,
  now: Timestamp,
  whose: string,
  maxOffsetMs: number,
): [message: string, details: Readonly<Record<string, string>>] {
  const aheadMs = Math.floor((timestamp - now) / LOGICAL);
  const message =
    `${field} ${timestamp} (${formatTimestamp(timestamp)}) is ${aheadMs} ms ahead of ${whose} (${formatTimestamp(now)}); ` +
    `at most ${maxOffsetMs} ms are allowed`;
  return [message, { field, now: String(now), maxClockOffsetMs: String(maxOffsetMs) }];
}

/** A node's clock. Every timestamp that it gives out is above all that it gave out or merged before. */
export class HybridClock {
  readonly #wallMs: () => number;
  readonly #maxOffsetMs: number;
  #last: Timestamp = 0;

  constructor(wallMs: () => number, maxOffsetMs: number) {
    this.#wallMs = wallMs;
    this.#maxOffsetMs = maxOffsetMs;
  }

  /** The wall clock alone, floored to the millisecond, counter 0. May go back. */
  physicalNow(): Timestamp {
    const ms = Math.floor(this.#wallMs()) - EPOCH_MS;
    return Math.min(Math.max(0, ms * LOGICAL), TIMESTAMP_MAX);
  }

  /** The highest timestamp given out or merged so far. */
  get last(): Timestamp {
    return this.#last;
  }

  /** A new timestamp, above every earlier one. */
  now(): Timestamp {
    const next = mutant('clock-follows-wall') ? this.physicalNow() : Math.max(this.#last + 1, this.physicalNow());
    if (next >= TIMESTAMP_MAX) {
      const message = `this machine's clock (or one it heard) has reached ${formatTimestamp(TIMESTAMP_MAX)}, the last timestamp`;
      throw new TidemarkError('FAILED_PRECONDITION', 'TIMELINE_EXHAUSTED', message);
    }
    this.#last = next;
    return next;
  }

  /**
   * Takes note of a timestamp in a request, so that everything given out from now on is above it. Throws UNAVAILABLE /
   * CLOCK_TOO_FAR_AHEAD, and takes no note, if it is news and further ahead of the wall clock than the maximal offset: who makes
   * up a timestamp must not carry the whole cluster's timeline away. What a committed entry has told already is no news: refusing
   * it would shut out everybody who has seen that entry.
   *
   * Retriable, for such timestamps come from another node's clock: this one comes nearer, or hears of the entry that the other
   * has told of. What a caller makes up is refused where it comes in (checkNotAhead).
   */
  merge(timestamp: Timestamp, field = 'timestamp'): void {
    this.check(timestamp, field);
    this.#last = Math.max(this.#last, timestamp);
  }

  /** The same for a request that does not depend on it: what is too far ahead is passed over. */
  hear(timestamp: Timestamp): void {
    if (!this.#isTooFarAhead(timestamp)) this.#last = Math.max(this.#last, timestamp);
  }

  /** The test of `merge` alone. */
  check(timestamp: Timestamp, field = 'timestamp'): void {
    checkTimestamp(timestamp, field);
    if (!this.#isTooFarAhead(timestamp)) return;
    const [message, details] = tooFarAhead(timestamp, field, this.physicalNow(), "this node's clock", this.#maxOffsetMs);
    throw new TidemarkError('UNAVAILABLE', 'CLOCK_TOO_FAR_AHEAD', message, { retriable: true, details });
  }

  #isTooFarAhead(timestamp: Timestamp): boolean {
    return timestamp > this.#last && timestamp >= later(this.physicalNow(), this.#maxOffsetMs + 1);
  }

  /**
   * Takes note of a timestamp that is already a fact, a committed entry's or a transaction's: never refused, however far ahead.
   * So the node follows the clocks of its buckets, and one wrong clock that commits carries others away (guarantees.md, "Time").
   * Not to follow would be worse: buckets tell by their own clocks how old the sessions and attempts of transactions are that
   * this node's clock gives a birth, and would take all of them for ones that are over.
   */
  mergeCommitted(timestamp: Timestamp): void {
    assert(isTimestamp(timestamp), () => `${timestamp} is no timestamp`);
    this.#last = Math.max(this.#last, timestamp);
  }
}

const DAY_MS = 86_400_000;
const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: DAY_MS };

const ISO =
  /^(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?:([Zz])(?:\+(\d{1,4}))?|([+-])(\d\d):?(\d\d))?)?$/;

/** Undefined if the text is no such time; may be negative or too large. Seconds are floored to milliseconds. */
function parseIso(text: string): Timestamp | undefined {
  const match = ISO.exec(text);
  if (match === null) return undefined;
  const part = (index: number): number => Number(match[index] ?? 0);
  const [year, month, day, hour, minute, second] = [part(1), part(2), part(3), part(4), part(5), part(6)];
  const days = daysOf(year, month, day);
  const written = civilOf(days);
  if (written.year !== year || written.month !== month || written.day !== day) return undefined;
  const [logical, zoneHour, zoneMinute] = [part(9), part(11), part(12)];
  if (hour > 23 || minute > 59 || second > 59 || logical >= LOGICAL || zoneHour > 23 || zoneMinute > 59) return undefined;
  const zoneMs = (zoneHour * 60 + zoneMinute) * 60_000 * (match[10] === '-' ? -1 : 1);
  const ms = Number((match[7] ?? '').padEnd(3, '0').slice(0, 3));
  const unixMs = days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + ms - zoneMs;
  return (unixMs - EPOCH_MS) * LOGICAL + logical;
}

// The proleptic Gregorian calendar, counted in years that begin in March, so that a leap day is the last day of its year.

function daysOf(year: number, month: number, day: number): number {
  const y = month > 2 ? year : year - 1;
  const dayOfYear = Math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1;
  return y * 365 + Math.floor(y / 4) - Math.floor(y / 100) + Math.floor(y / 400) + dayOfYear - DAYS_TO_1970;
}

function civilOf(daysSince1970: number): { year: number; month: number; day: number } {
  const days = daysSince1970 + DAYS_TO_1970;
  const era = Math.floor(days / 146_097);
  const inEra = days - era * 146_097;
  const leap = Math.floor(inEra / 1460) - Math.floor(inEra / 36_524) + Math.floor(inEra / 146_096);
  const yearInEra = Math.floor((inEra - leap) / 365);
  const dayOfYear = inEra - (365 * yearInEra + Math.floor(yearInEra / 4) - Math.floor(yearInEra / 100));
  const march = Math.floor((5 * dayOfYear + 2) / 153);
  const month = march < 10 ? march + 3 : march - 9;
  const year = era * 400 + yearInEra + (month <= 2 ? 1 : 0);
  return { year, month, day: dayOfYear - Math.floor((153 * march + 2) / 5) + 1 };
}

/** From the 1st of March of the year 0 to 1970-01-01. */
const DAYS_TO_1970 = 719_468;
