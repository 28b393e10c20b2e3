import type { Clock } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { EMPTY, type Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { keyAfter } from '../lib/ordered.js';
import type { KeyRange, Record, Timestamp } from '../bucket/requests.js';
import { comparePositions, endOf, type Change, type Position } from '../changes/change.js';
import { decodeCursor, encodeCursor } from '../changes/cursor.js';
import { Merge } from '../changes/merge.js';
import { TIMESTAMP_MAX } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import type { AnswerBudget } from './answer-budget.js';
import type { Call } from './call.js';
import type { Dispatcher } from './dispatch.js';
import type { Alarms } from './alarms.js';
import type { FeedReader, FeedSpec } from './feed-reader.js';
import type { StreamNeeds } from './operations.js';
import { readTimestamp, scanPage, type ScanPage } from './scan.js';

/**
 * One change stream: every committed change of the keys of a range behind a point in time, once, in the order of their positions
 * (timestamp, bucket, n), over all buckets. Wherever there is a router there can be one: in a client, a sidecar, a node.
 *
 *     [ snapshot as of T ]  ->  changes ... mark ... changes ... mark ...
 *
 * It pulls: pages are read when the consumer has taken what came before. So a consumer that is slow holds no more memory than
 * one that is fast, a page of each node that is read, and its stream has no buffer that could overflow.
 *
 * It survives what replicas do: a page that does not come is asked for elsewhere (feed-replicas.ts), from where the merge knows
 * its buckets. Only what no replica could answer ends it: a cursor before the horizon, a bug.
 *
 * It says to the nodes what it still needs, with every request and while its consumer takes its time, so that what it has not
 * told yet is not collected, within the budget for that (node/stream-holds.ts).
 *
 * The snapshot has no seam: T is a timestamp that confirmed leaders gave, reading as of T promises that nothing more commits at
 * or below it, and the tail begins behind T.
 *
 * Example, two nodes with a bucket each, from a cursor at 100: both are asked for what is behind 100; node 1 answers 103, 107,
 * complete up to 110; node 2 nothing, complete up to 105. 103 goes out, then the mark 105. Both are asked to say when they have
 * passed 105, node 2 says so, its page has 106: out go 106 and 107.
 */
export type StreamFrom =
  | { readonly kind: 'now' }
  /** A snapshot of what there is, then what changes. */
  | { readonly kind: 'beginning' }
  /** What changed after that moment. */
  | { readonly kind: 'timestamp'; readonly timestamp: Timestamp }
  | { readonly kind: 'cursor'; readonly cursor: string };

export type StreamEvent =
  /** Of the snapshot as of `timestamp`, in key order. */
  | { readonly kind: 'entries'; readonly timestamp: Timestamp; readonly entries: readonly Record[]; readonly cursor: string }
  | { readonly kind: 'changes'; readonly changes: readonly Change[]; readonly cursor: string }
  /** Everything at or below was told, the snapshot included; nothing at or below will follow. */
  | { readonly kind: 'mark'; readonly timestamp: Timestamp; readonly cursor: string };

export interface ChangeStreamSpec {
  readonly clusterId: string;
  readonly buckets: readonly BucketId[];
  readonly range: KeyRange;
  readonly before: boolean;
  /** A random number. */
  readonly stream: number;
}

export interface ChangeStreamPorts {
  readonly dispatcher: Dispatcher;
  readonly reader: FeedReader;
  readonly answers: AnswerBudget;
  readonly alarms: Alarms;
  readonly clock: Clock;
  readonly limits: Pick<Limits, 'pageEntriesMax' | 'pageBytesMax'>;
  /** For one attempt after the other; throws when there is to be no more. */
  readonly call: () => Call;
  /** Throws INVALID_ARGUMENT for a time in the future. */
  readonly checkNotAhead: (timestamp: Timestamp, field: string) => void;
}

/** Between attempts at a page of the snapshot. */
const PAUSE_MS = 100;
/** How often it says what it needs, also while its consumer takes its time. */
const KEEP_MS = 10_000;

export class ChangeStream {
  readonly #spec: ChangeStreamSpec;
  readonly #ports: ChangeStreamPorts;
  /** The consumer has taken everything up to here: it may come back to this, not to what is before. */
  #taken: Timestamp = TIMESTAMP_MAX;
  #bug: Error | undefined;

  constructor(spec: ChangeStreamSpec, ports: ChangeStreamPorts) {
    this.#spec = spec;
    this.#ports = ports;
  }

  async *events(from: StreamFrom): AsyncGenerator<StreamEvent> {
    const stop = this.#keepNeeds();
    try {
      yield* this.#eventsFrom(from);
    } finally {
      stop();
    }
  }

  async *#eventsFrom(from: StreamFrom): AsyncGenerator<StreamEvent> {
    const { clusterId, range } = this.#spec;
    const { checkNotAhead } = this.#ports;
    switch (from.kind) {
      case 'now': {
        const timestamp = await this.#now();
        await this.#untilPassed(timestamp);
        yield* this.#tail(endOf(timestamp), true);
        return;
      }
      case 'beginning':
        yield* this.#snapshot(await this.#now(), EMPTY);
        return;
      case 'timestamp':
        checkNotAhead(from.timestamp, 'from.timestamp');
        yield* this.#tail(endOf(from.timestamp), false);
        return;
      case 'cursor': {
        const cursor = decodeCursor(from.cursor, clusterId, range);
        const timestamp = cursor.kind === 'tail' ? cursor.position.timestamp : cursor.timestamp;
        checkNotAhead(timestamp, 'from.cursor');
        if (cursor.kind === 'snapshot') yield* this.#snapshot(timestamp, cursor.last);
        else yield* this.#tail(resumed(cursor.position), false);
      }
    }
  }

  /** A timestamp at or above all that was acknowledged before. */
  async #now(): Promise<Timestamp> {
    const call = this.#ports.call();
    const { timestamp } = await readTimestamp(this.#ports.dispatcher, this.#spec.buckets, call);
    return Math.max(timestamp, call.seen);
  }

  /**
   * Until no bucket commits anything at or below the timestamp any more. It is the clock of one leader, and others may be behind:
   * what they commit later, but at an earlier timestamp, would not be told, though it began when the first mark had come.
   */
  async #untilPassed(timestamp: Timestamp): Promise<void> {
    this.#taken = timestamp;
    const { reader, call } = this.#ports;
    if (!mutant('stream-now-unpassed')) await reader.complete(this.#spec.buckets, timestamp, this.#needs, call);
  }

  async *#snapshot(timestamp: Timestamp, last: Bytes): AsyncGenerator<StreamEvent> {
    const { range } = this.#spec;
    this.#taken = timestamp;
    let start = last.length === 0 ? range.start : keyAfter(last);
    for (;;) {
      const { records, more, resume } = await this.#snapshotPage(timestamp, { start, end: range.end });
      for (const { entries, bytes, end } of portions(records, this.#ports.limits.pageBytesMax)) {
        const cursor = this.#cursor({ kind: 'snapshot', timestamp, last: end, range });
        yield* this.#handOver({ kind: 'entries', timestamp, entries, cursor }, bytes);
        start = keyAfter(end);
      }
      if (!more) break;
      start = resume ?? start;
    }
    const seam = mutant('stream-seam-from-now') ? await this.#now() : timestamp;
    yield* this.#tail(endOf(seam), true);
  }

  /** Tries until it has the page: the cluster may be without a leader for longer than one request would wait. */
  async #snapshotPage(timestamp: Timestamp, range: KeyRange): Promise<ScanPage> {
    const { dispatcher, reader, limits } = this.#ports;
    const { buckets } = this.#spec;
    for (;;) {
      const call = this.#ports.call();
      const consistency = { kind: 'asOf', timestamp } as const;
      const scan = { kind: 'scan', buckets, range, reverse: false, keysOnly: false, limit: limits.pageEntriesMax } as const;
      try {
        return await scanPage(dispatcher, { ...scan, consistency }, call);
      } catch (error) {
        if (!isTidemarkError(error) || !error.retriable) throw error;
        await reader.pause(PAUSE_MS, call);
      }
    }
  }

  /** `isTold`: everything up to `after` was told, so a mark may say it at once. */
  async *#tail(after: Position, isTold: boolean): AsyncGenerator<StreamEvent> {
    const { limits, answers } = this.#ports;
    const { buckets, range, before } = this.#spec;
    const merge = new Merge(buckets, after);
    this.#taken = merge.mark;
    const atEnd = new Set<BucketId>();
    const held = answers.take(0);
    let marked = isTold ? -1 : merge.mark;
    try {
      for (;;) {
        const changes = merge.take(limits.pageEntriesMax, limits.pageBytesMax);
        held.resize(merge.bytes);
        if (changes.length > 0) {
          const event = { kind: 'changes', changes, cursor: this.#cursorAt(merge.position) } as const;
          yield* this.#handOver(event, changes.reduce((sum, { key, value }) => sum + key.length + value.length, 0));
          this.#taken = merge.mark;
          continue;
        }
        if (merge.mark > marked) {
          marked = merge.mark;
          yield* this.#handOver({ kind: 'mark', timestamp: marked, cursor: this.#cursorAt(merge.position) }, 0);
          this.#taken = marked;
        }
        await this.#readMore(merge, atEnd, { range, before, limit: limits.pageEntriesMax, needs: this.#needs });
        held.resize(merge.bytes);
      }
    } finally {
      held.release();
    }
  }

  /**
   * Reads on where there may be something, or else waits until there is. Buckets that are ahead of others wait for them when the
   * merge holds a page already.
   */
  async #readMore(merge: Merge, atEnd: Set<BucketId>, spec: FeedSpec): Promise<void> {
    const { reader, limits } = this.#ports;
    const { buckets } = this.#spec;
    const call = this.#ports.call();
    const wanted = buckets.filter((bucket) => {
      if (atEnd.has(bucket)) return false;
      return merge.bytes < limits.pageBytesMax || comparePositions(merge.known(bucket), merge.least) <= 0;
    });
    if (wanted.length === 0) {
      await reader.awaitMarks(merge, buckets, spec.needs, call);
      atEnd.clear();
      return;
    }
    for (const { buckets: some, isAtEnd } of await reader.read(merge, wanted, spec, call)) {
      if (isAtEnd) for (const bucket of some) atEnd.add(bucket);
    }
  }

  /** What a consumer does not take counts among the unread answers of this process. */
  *#handOver(event: StreamEvent, bytes: number): Generator<StreamEvent> {
    const hold = this.#ports.answers.take(bytes);
    try {
      yield event;
    } finally {
      hold.release();
    }
    if (this.#bug !== undefined) throw this.#bug;
  }

  get #needs(): StreamNeeds {
    return { stream: this.#spec.stream, above: this.#taken };
  }

  /** Says now and then what it needs, whatever it is doing, until the returned function is called. */
  #keepNeeds(): () => void {
    const { alarms, clock, reader, call } = this.#ports;
    let stopped = false;
    const keep = async (): Promise<void> => {
      try {
        await reader.keep(this.#spec.buckets, this.#needs, call());
      } catch (error) {
        // Whoever could not be told collects what is needed: the next page says so.
        if (!isTidemarkError(error)) this.#bug = error instanceof Error ? error : new Error(messageOf(error));
      }
      if (!stopped) alarm = alarms.at(clock.monotonicMs() + KEEP_MS, () => void keep());
    };
    let alarm = alarms.at(clock.monotonicMs() + KEEP_MS, () => void keep());
    return () => {
      stopped = true;
      alarm.cancel();
    };
  }

  #cursorAt(position: Position): string {
    return this.#cursor({ kind: 'tail', position });
  }

  #cursor(cursor: Parameters<typeof encodeCursor>[0]): string {
    return encodeCursor(cursor, this.#spec.clusterId);
  }
}

interface Portion {
  readonly entries: readonly Record[];
  readonly bytes: number;
  /** The last key. */
  readonly end: Bytes;
}

/** A page of several nodes may be larger than an event should be. */
function* portions(records: readonly Record[], bytesMax: number): Generator<Portion> {
  let entries: Record[] = [];
  let bytes = 0;
  for (const record of records) {
    entries.push(record);
    bytes += record.key.length + record.value.length;
    if (bytes < bytesMax && record !== records.at(-1)) continue;
    yield { entries, bytes, end: record.key };
    entries = [];
    bytes = 0;
  }
}

function resumed(position: Position): Position {
  return mutant('stream-resumes-behind-commit') ? endOf(position.timestamp) : position;
}
