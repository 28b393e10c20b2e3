import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { checkWanted, type CancelSignal } from '../lib/cancel.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { checkRange } from '../bucket/validate.js';
import type { KeyRange } from '../bucket/requests.js';
import { checkTimestamp } from '../mvcc/timestamp.js';
import type { BucketId, Placement } from '../placement/map.js';
import { bucketsOfRange } from '../placement/range.js';
import type { Alarms } from './alarms.js';
import type { AnswerBudget } from './answer-budget.js';
import { ChangeStream, type StreamEvent, type StreamFrom } from './change-stream.js';
import type { Call } from './call.js';
import { closedError } from './closing.js';
import type { Dispatcher } from './dispatch.js';
import { FeedReader } from './feed-reader.js';
import { FeedReplicas } from './feed-replicas.js';
import type { Seen } from './seen.js';

export interface ChangesOptions {
  /** Default: from now on. */
  readonly from?: StreamFrom | undefined;
  /** With what the keys held before. */
  readonly before?: boolean | undefined;
  /** Monotonic milliseconds at which the stream ends. */
  readonly deadlineMs?: number | undefined;
  readonly signal?: CancelSignal | undefined;
  /** Of the router itself: what it tells no caller has seen, and it takes no caller's place. */
  readonly isOwn?: boolean | undefined;
  /** The consumer left an event untaken for too long: RESOURCE_EXHAUSTED / SLOW_CONSUMER, with the cursor behind that event. */
  readonly stalled?: ((error: TidemarkError) => void) | undefined;
  /** It has done so for as long again. */
  readonly cut?: (() => void) | undefined;
}

export interface ChangeStreamsPorts {
  readonly env: Pick<Env, 'clock' | 'random'>;
  readonly limits: Limits;
  readonly alarms: Alarms;
  readonly dispatcher: Dispatcher;
  readonly answers: AnswerBudget;
  readonly isClosed: () => boolean;
  /** This router serves others. */
  readonly isHop: boolean;
  readonly placement: (signal: CancelSignal | undefined) => Promise<Placement>;
  readonly seen: Seen;
}

const ATTEMPTS_MS = 10_000;
const ROTATIONS = 64;

/**
 * The change streams of one router.
 *
 * What ends a stream: INVALID_ARGUMENT for a cursor that is none, or of the future; OUT_OF_RANGE / BEFORE_HORIZON, with detail
 * `earliestReadable`; RESOURCE_EXHAUSTED when this process serves as many streams as it may, or keeps too much for readers that
 * do not read. Once something was told, the detail `cursor` says where to go on.
 */
export class ChangeStreams {
  readonly #ports: ChangeStreamsPorts;
  #replicas: FeedReplicas | undefined;
  /** How many of callers are open. */
  #open = 0;

  constructor(ports: ChangeStreamsPorts) {
    this.#ports = ports;
  }

  async *events(range: KeyRange, options: ChangesOptions): AsyncGenerator<StreamEvent> {
    const { limits, dispatcher, answers, alarms, seen } = this.#ports;
    const { clock, random } = this.#ports.env;
    const { from = { kind: 'now' }, before = false, signal, deadlineMs = Infinity, isOwn = false } = options;
    checkRange(range, limits);
    if (from.kind === 'timestamp') checkTimestamp(from.timestamp, 'from.timestamp');
    if (!isOwn && this.#open >= limits.changeStreamsMax) {
      const message = `${this.#open} change streams are served here, which is the limit`;
      throw new TidemarkError('RESOURCE_EXHAUSTED', 'TOO_MANY_STREAMS', message, {
        retriable: true,
        details: { limit: String(limits.changeStreamsMax) },
      });
    }
    const counted = isOwn ? 0 : 1;
    this.#open += counted;
    let cursor = from.kind === 'cursor' ? from.cursor : '';
    let isUntold = from.kind === 'beginning';
    try {
      const { buckets, clusterId } = await this.#ports.placement(signal);
      const touched = bucketsOfRange(range.start, range.end, buckets);
      const spec = { clusterId, buckets: touched, range, before, stream: random.uint32() };
      const call = (): Call => this.#call(deadlineMs, signal);
      const stream = new ChangeStream(spec, {
        dispatcher,
        reader: this.reader(),
        answers,
        alarms,
        clock,
        limits,
        call,
        checkNotAhead: (timestamp, field) => seen.checkNotAhead(timestamp, field),
      });
      for await (const event of stream.events(from)) {
        if (!isOwn) this.#note(event, touched, isUntold);
        if (event.kind === 'mark') isUntold = false;
        cursor = event.cursor;
        const stop = this.#guard(options, cursor);
        try {
          yield event;
        } finally {
          stop();
        }
      }
    } catch (error) {
      throw isTidemarkError(error) ? withCursor(error, cursor) : error;
    } finally {
      this.#open -= counted;
    }
  }

  /**
   * What a session has seen: of a snapshot also that there is nothing else in any bucket. The first mark behind it says so even
   * if there was no entry. Later marks tell nothing that the changes before them have not.
   */
  #note(event: StreamEvent, touched: readonly BucketId[], isUntold: boolean): void {
    const { seen } = this.#ports;
    if (event.kind === 'changes') for (const { at } of event.changes) seen.note(at.bucket, at.timestamp);
    else if (event.kind === 'entries' || isUntold) for (const bucket of touched) seen.note(bucket, event.timestamp);
  }

  /** Looks after a consumer that has got an event, until the returned function is called. */
  #guard({ stalled, cut }: ChangesOptions, cursor: string): () => void {
    const { alarms, limits } = this.#ports;
    const { clock } = this.#ports.env;
    if (stalled === undefined) return () => undefined;
    const stallMs = limits.consumerStallMsMax;
    let alarm = alarms.at(clock.monotonicMs() + stallMs, () => {
      alarm = alarms.at(clock.monotonicMs() + stallMs, () => cut?.());
      const message = `a part of the stream was not read for ${stallMs} ms; it goes on at the cursor, in another call`;
      stalled(new TidemarkError('RESOURCE_EXHAUSTED', 'SLOW_CONSUMER', message, { retriable: true, details: { cursor } }));
    });
    return () => alarm.cancel();
  }

  reader(): FeedReader {
    const { dispatcher, alarms, isClosed, isHop } = this.#ports;
    const { clock, random } = this.#ports.env;
    this.#replicas ??= new FeedReplicas(dispatcher, clock, random.uint32() % ROTATIONS);
    return new FeedReader({ dispatcher, replicas: this.#replicas, clock, alarms, isClosed, isHop });
  }

  #call(deadlineMs: number, signal: CancelSignal | undefined): Call {
    if (this.#ports.isClosed()) throw closedError(this.#ports.isHop);
    checkWanted(signal);
    const nowMs = this.#ports.env.clock.monotonicMs();
    if (nowMs >= deadlineMs) {
      throw new TidemarkError('DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', 'the deadline of the stream has passed');
    }
    return { giveUpMs: Math.min(deadlineMs, nowMs + ATTEMPTS_MS), hops: 0, seen: this.#ports.seen.latest, signal };
  }
}

/** Says where a stream that ends goes on. */
function withCursor(error: TidemarkError, cursor: string): TidemarkError {
  if (cursor === '' || error.details['cursor'] !== undefined) return error;
  const { code, reason, message, outcome, retriable, details, cause } = error;
  return new TidemarkError(code, reason, message, { outcome, retriable, details: { ...details, cursor }, cause });
}
