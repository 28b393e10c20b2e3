import { EMPTY, toBytes, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { prefixEnd } from '../lib/ordered.js';
import type { KeyRange, Record, Served, Timestamp, Version } from '../bucket/requests.js';

/** Keys and values as callers have them; strings are UTF-8. */
export type Data = string | Uint8Array;

export function bytesOf(data: Data): Bytes {
  return typeof data === 'string' ? Buffer.from(data) : toBytes(data);
}

/** For what is kept when the call is over: its caller may use its own memory again. */
export function copyOf(data: Data): Bytes {
  return Buffer.from(bytesOf(data));
}

/** Keys that begin with `prefix`, or from `start` on and below `end`; neither: all keys. */
export interface RangeOf<K> {
  readonly prefix?: K | undefined;
  readonly start?: K | undefined;
  readonly end?: K | undefined;
}

export function rangeOf({ prefix, start, end }: RangeOf<Data>): KeyRange {
  if (prefix === undefined) return { start: boundOf(start), end: boundOf(end) };
  if (start !== undefined || end !== undefined) throw contradiction('prefix', 'start or end');
  const first = bytesOf(prefix);
  return { start: first, end: prefixEnd(first) };
}

function boundOf(bound: Data | undefined): Bytes {
  return bound === undefined ? EMPTY : bytesOf(bound);
}

export function contradiction(one: string, other: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'OPTIONS_CONTRADICT', `${one} cannot be combined with ${other}`);
}

/** A key that exists, with its value. */
export class Entry {
  readonly found = true;
  readonly key: Bytes;
  readonly value: Bytes;
  /** The commit timestamp of the write that put it. */
  readonly version: Timestamp;
  readonly served: Served;

  constructor({ key, value, version }: Record, served: Served) {
    this.key = key;
    this.value = value;
    this.version = version;
    this.served = served;
  }

  text(): string {
    return this.value.toString();
  }

  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}

/** A key that does not exist, which is an answer like any other: it says who proved it, and as of when. */
export class Missing {
  readonly found = false;
  readonly key: Bytes;
  readonly value = undefined;
  readonly version: Timestamp = 0;
  readonly served: Served;

  constructor(key: Bytes, served: Served) {
    this.key = key;
    this.served = served;
  }

  text(): undefined {
    return undefined;
  }

  json(): undefined {
    return undefined;
  }
}

/** One version of a key. A deletion is a version without a value. */
export class VersionEntry {
  readonly version: Timestamp;
  readonly deleted: boolean;
  readonly value: Bytes;
  readonly served: Served;

  constructor({ version, deleted, value }: Version, served: Served) {
    this.version = version;
    this.deleted = deleted;
    this.value = value;
    this.served = served;
  }

  text(): string {
    return this.value.toString();
  }
}
