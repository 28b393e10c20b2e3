import type { Env } from '../env/env.js';
import { Cancellation } from '../lib/cancel.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import type { Bytes } from '../lib/bytes.js';
import type { KeyRange, Record, Timestamp } from '../bucket/requests.js';
import type { Change } from '../changes/change.js';
import { encodeCursor } from '../changes/cursor.js';
import type { StreamEvent, StreamFrom } from '../router/change-stream.js';
import type { Router } from '../router/router.js';
import { pause } from './pause.js';

/** A key of the snapshot with which a stream from the beginning starts. */
export class SnapshotEntry {
  readonly kind = 'entry';
  readonly key: Bytes;
  readonly value: Bytes;
  readonly version: Timestamp;
  /** The snapshot is as of it. */
  readonly timestamp: Timestamp;
  readonly #range: KeyRange;
  readonly #clusterId: string;

  constructor({ key, value, version }: Record, timestamp: Timestamp, range: KeyRange, clusterId: string) {
    this.key = key;
    this.value = value;
    this.version = version;
    this.timestamp = timestamp;
    this.#range = range;
    this.#clusterId = clusterId;
  }

  /** Goes on behind this entry. */
  get cursor(): string {
    const { timestamp, key } = this;
    return encodeCursor({ kind: 'snapshot', timestamp, last: key, range: this.#range }, this.#clusterId);
  }

  text(): string {
    return this.value.toString();
  }

  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}

/** A committed change of one key. */
export class ChangeEntry {
  readonly kind: 'put' | 'delete';
  readonly key: Bytes;
  /** What was put; empty if it was deleted. */
  readonly value: Bytes;
  /** What the key held before, if that was asked for and there was something. */
  readonly before: { readonly version: Timestamp; readonly value: Bytes } | undefined;
  /** The commit timestamp: from then on the version of the key. */
  readonly timestamp: Timestamp;
  /** Equal in all changes of one commit, and in no other. */
  readonly transaction: string;
  readonly #change: Change;
  readonly #clusterId: string;

  constructor(change: Change, clusterId: string) {
    this.kind = change.deleted ? 'delete' : 'put';
    this.key = change.key;
    this.value = change.value;
    this.before = change.before;
    this.timestamp = change.at.timestamp;
    this.transaction = change.transaction.toString('base64url');
    this.#change = change;
    this.#clusterId = clusterId;
  }

  /** Goes on behind this change, be it in the midst of a commit. */
  get cursor(): string {
    return encodeCursor({ kind: 'tail', position: this.#change.at }, this.#clusterId);
  }

  text(): string {
    return this.value.toString();
  }

  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}

/** Everything at or below the timestamp was told, and nothing at or below it will follow. */
export interface Mark {
  readonly kind: 'mark';
  readonly timestamp: Timestamp;
  readonly cursor: string;
}

export type ChangeEvent = SnapshotEntry | ChangeEntry | Mark;

export interface ChangeFeedOptions {
  readonly range: KeyRange;
  readonly from: StreamFrom;
  readonly before: boolean;
  readonly signal: AbortSignal | undefined;
}

const PAUSE_MS = 200;

/**
 * The changes as they come; see Database.changes. It ends when it is left (`break`, `return`, `await using`), when its signal is
 * aborted, or by an error that waiting does not cure. For all others it goes on from where it is.
 */
export class ChangeFeed implements AsyncIterableIterator<ChangeEvent>, AsyncDisposable {
  readonly #router: Router;
  readonly #timers: Env['timers'];
  readonly #options: ChangeFeedOptions;
  readonly #left = new Cancellation();
  readonly #events: AsyncGenerator<ChangeEvent>;
  #cursor: string | undefined;

  constructor(router: Router, timers: Env['timers'], options: ChangeFeedOptions) {
    this.#router = router;
    this.#timers = timers;
    this.#options = options;
    this.#events = this.#whileWanted();
  }

  /** Behind the last event that was given out; undefined before the first. */
  get cursor(): string | undefined {
    return this.#cursor;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<ChangeEvent, undefined>> {
    const result = await this.#events.next();
    if (result.done === true) return { done: true, value: undefined };
    this.#cursor = result.value.cursor;
    return result;
  }

  async return(): Promise<IteratorResult<ChangeEvent, undefined>> {
    // What it waits for ends, or the generator would end only then.
    this.#left.abort();
    await this.#events.return(undefined);
    return { done: true, value: undefined };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /** Listens to the caller's signal no longer than it runs: that may outlive many streams. */
  async *#whileWanted(): AsyncGenerator<ChangeEvent> {
    const { signal } = this.#options;
    const abort = (): void => this.#left.abort();
    if (signal?.aborted === true) abort();
    else signal?.addEventListener('abort', abort);
    try {
      yield* this.#follow();
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  async *#follow(): AsyncGenerator<ChangeEvent> {
    const { range, before } = this.#options;
    const signal = this.#left;
    let { from } = this.#options;
    for (;;) {
      try {
        for await (const event of this.#router.changes(range, { from, before, signal })) {
          yield* this.#eventsOf(event);
          from = { kind: 'cursor', cursor: event.cursor };
        }
      } catch (error) {
        if (signal.aborted) return;
        // What has not begun may never: that the caller wants to know.
        if (!isTidemarkError(error) || !error.retriable || from.kind !== 'cursor') throw error;
        await pause(this.#timers, PAUSE_MS, signal);
      }
      if (signal.aborted) return;
    }
  }

  *#eventsOf(event: StreamEvent): Generator<ChangeEvent> {
    const clusterId = this.#router.placement?.clusterId ?? '';
    switch (event.kind) {
      case 'entries':
        for (const entry of event.entries) yield new SnapshotEntry(entry, event.timestamp, this.#options.range, clusterId);
        break;
      case 'changes':
        for (const change of event.changes) yield new ChangeEntry(change, clusterId);
        break;
      case 'mark':
        yield event;
    }
  }
}

/** `now`, `beginning`, a cursor, or a moment as text. */
export function streamFrom(from: Timestamp | string, momentOf: (text: string) => Timestamp): StreamFrom {
  const text = String(from).trim();
  if (text === 'now' || text === 'beginning') return { kind: text };
  if (/^c\d+\./.test(text)) return { kind: 'cursor', cursor: text };
  try {
    return { kind: 'timestamp', timestamp: momentOf(text) };
  } catch (error) {
    if (!isTidemarkError(error) || error.reason !== 'TIMESTAMP_MALFORMED') throw error;
    const message =
      `from is '${text.slice(0, 64)}': expected 'now', 'beginning', a cursor, a number, an ISO 8601 time like ` +
      '2024-05-01T12:34:56Z, or a span before now like -10s';
    throw new TidemarkError('INVALID_ARGUMENT', 'FROM_MALFORMED', message, { cause: error });
  }
}
