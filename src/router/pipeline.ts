import type { Env, FrameStream } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { BinaryWriter } from '../lib/binary.js';
import type { Bytes } from '../lib/bytes.js';
import { cancelledError } from '../lib/cancel.js';
import { TidemarkError, isTidemarkError, messageOf, type Outcome } from '../lib/errors.js';
import type { Placement } from '../placement/map.js';
import type { Alarm, Alarms } from './alarms.js';
import { NodeClock, type ToldClock } from './node-clock.js';
import {
  leavesDoubt,
  type Answer,
  type LeaderHint,
  type NodeHandle,
  type Operation,
  type OperationContext,
} from './operations.js';
import { encodeHello, type Hello, type Welcome } from './wire.js';
import { encodeCancel, encodeRequest } from './wire-calls.js';
import { decodePushes, type Push } from './wire-pushes.js';

/**
 * The asking end of one multiplexed stream to one node: a NodeHandle whose node is elsewhere.
 *
 * Invariants: every `execute` settles by its deadline. An operation that was never sent fails with outcome none; one that was
 * sent and is a write fails with outcome unknown. Nothing is sent before the other side's Welcome, so that a refused or broken
 * connection attempt leaves no doubt. Nothing waits while the pipeline is between two attempts to connect: the router has
 * other nodes to ask.
 *
 * Operations of one turn of the event loop leave in one frame. While the stream is congested they wait here, as many as the
 * router admits.
 */
export type PipelineEnv = Pick<Env, 'clock' | 'timers' | 'random' | 'network' | 'log'>;

export interface PipelineOptions {
  readonly env: PipelineEnv;
  readonly limits: Limits;
  readonly alarms: Alarms;
  readonly address: string;
  readonly hello: () => Hello;
  readonly listener: PipelineListener;
}

/** What a node says unasked. Each may throw a TidemarkError, which ends the stream. */
export interface PipelineListener {
  welcome(pipeline: Pipeline, welcome: Welcome): void;
  placement(pipeline: Pipeline, placement: Placement): void;
  leaders(pipeline: Pipeline, hints: readonly LeaderHint[]): void;
}

/** Frames are cut when they reach this size. */
const FRAME_BYTES = 256 * 1024;
const CONNECT_TIMEOUT_MS = 3000;
const BACKOFF_MIN_MS = 50;
const BACKOFF_MAX_MS = 1000;

interface Pending {
  readonly number: number;
  readonly operation: Operation;
  readonly context: OperationContext;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: TidemarkError) => void;
  sentAtMs: number;
  alarm: Alarm | undefined;
  unlisten: (() => void) | undefined;
}

interface Connection {
  stream: FrameStream | undefined;
  welcome: Welcome | undefined;
  readonly openedMs: number;
  readonly clock: NodeClock;
  congested: boolean;
  over: boolean;
}

export class Pipeline implements NodeHandle {
  readonly address: string;
  readonly #options: PipelineOptions;
  readonly #out = new BinaryWriter();
  readonly #pending = new Map<number, Pending>();
  /** Not yet sent, in order. Some may have settled since. */
  #queue: Pending[] = [];
  #cancels: number[] = [];
  #nextNumber = 1;
  #connection: Connection | undefined;
  #retry: Alarm | undefined;
  #failures = 0;
  #lastError: TidemarkError | undefined;
  #flushing = false;
  #closed = false;
  #heardAtMs = 0;
  #silent = false;

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.address = options.address;
  }

  /** What the node said of itself; undefined while not connected. */
  get welcome(): Welcome | undefined {
    return this.#connection?.welcome;
  }

  /** What is known of the node's clock; undefined while not connected. */
  get clock(): ToldClock | undefined {
    return this.#connection?.clock.told;
  }

  /** False while asking here is likely in vain: between attempts to connect, or after a time-out in silence. */
  get healthy(): boolean {
    return !this.#closed && this.#retry === undefined && !this.#silent;
  }

  /** Why the last connection ended or could not be made. */
  get lastError(): TidemarkError | undefined {
    return this.#lastError;
  }

  /** Connects unless it is connected, about to be, or waiting to try again. */
  connect(): void {
    if (this.#closed || this.#connection !== undefined || this.#retry !== undefined) return;
    const { env, alarms, hello } = this.#options;
    const openedMs = env.clock.monotonicMs();
    const clock = new NodeClock();
    const connection: Connection = { stream: undefined, welcome: undefined, openedMs, clock, congested: false, over: false };
    this.#connection = connection;
    connection.stream = env.network.connect(this.address, 'pipeline', encodeHello(hello()), {
      frame: (frame) => this.#receive(connection, frame),
      drained: () => {
        connection.congested = false;
        this.#flushLater();
      },
      closed: (error) => this.#lost(connection, error ?? unavailable('STREAM_CLOSED', 'the node closed the stream')),
    });
    alarms.at(openedMs + CONNECT_TIMEOUT_MS, () => {
      if (connection.welcome === undefined) this.#end(connection, unavailable('CONNECT_TIMEOUT', 'the node does not answer'));
    });
  }

  execute<O extends Operation>(operation: O, context: OperationContext): Promise<Answer<O['kind']>> {
    if (this.#closed) return Promise.reject(unavailable('CLOSED', `the stream to ${this.address} was closed here`));
    if (this.#retry !== undefined) return Promise.reject(this.#notConnected());
    if (this.#connection === undefined) this.connect();
    return new Promise<Answer>((resolve, reject) => {
      const number = this.#nextNumber;
      this.#nextNumber += 1;
      const pending: Pending = {
        number,
        operation,
        context,
        resolve,
        reject,
        sentAtMs: -1,
        alarm: undefined,
        unlisten: undefined,
      };
      this.#pending.set(number, pending);
      pending.alarm = this.#options.alarms.at(context.deadlineMs, () => this.#expire(pending));
      const { signal } = context;
      if (signal !== undefined) {
        const abort = (): void => this.#abandon(pending, cancelledError);
        signal.addEventListener('abort', abort);
        pending.unlisten = () => signal.removeEventListener('abort', abort);
      }
      this.#queue.push(pending);
      this.#flushLater();
    });
  }

  /** Ends the stream; what is pending fails, outcome unknown for writes that were sent. */
  close(): void {
    this.#closed = true;
    this.#retry?.cancel();
    const error = unavailable('CLOSED', `the stream to ${this.address} was closed here`);
    if (this.#connection !== undefined) this.#end(this.#connection, error, true);
    this.#failAll(error);
  }

  #notConnected(): TidemarkError {
    const why = this.#lastError === undefined ? '' : `: ${this.#lastError.message}`;
    return unavailable('NOT_CONNECTED', `no connection to ${this.address}${why}`, this.#lastError);
  }

  #flushLater(): void {
    if (this.#flushing || this.#connection?.welcome === undefined || this.#connection.congested) return;
    this.#flushing = true;
    this.#options.env.timers.turnEnd(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    const connection = this.#connection;
    if (connection?.welcome === undefined || connection.congested) return;
    const nowMs = this.#options.env.clock.monotonicMs();
    for (const number of this.#cancels) encodeCancel(this.#out, number);
    this.#cancels = [];
    let sent = 0;
    for (const pending of this.#queue) {
      if (connection.congested) break;
      sent += 1;
      if (!this.#pending.has(pending.number)) continue;
      this.#encode(pending, nowMs);
      if (this.#out.length >= FRAME_BYTES) this.#send(connection);
    }
    this.#queue = sent === this.#queue.length ? [] : this.#queue.slice(sent);
    if (this.#out.length > 0) this.#send(connection);
  }

  #encode(pending: Pending, nowMs: number): void {
    const { number, operation, context } = pending;
    pending.sentAtMs = nowMs;
    encodeRequest(this.#out, {
      number,
      epoch: context.epoch,
      remainingMs: context.deadlineMs - nowMs,
      hops: context.hops,
      seen: context.seen ?? 0,
      operation,
    });
  }

  #send(connection: Connection): void {
    const frame = this.#out.take();
    if (connection.over) return;
    if (connection.stream?.send(frame) === false) connection.congested = true;
  }

  #receive(connection: Connection, frame: Bytes): void {
    if (connection.over) return;
    this.#heardAtMs = this.#options.env.clock.monotonicMs();
    this.#silent = false;
    try {
      for (const push of decodePushes(frame)) {
        if (!connection.over) this.#take(connection, push);
      }
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.#options.env.log.warn('a node sent what it should not; the stream is closed', {
        address: this.address,
        error: error.message,
      });
      this.#end(connection, error);
    }
  }

  #take(connection: Connection, push: Push): void {
    const { listener } = this.#options;
    switch (push.kind) {
      case 'answer': {
        const pending = this.#settle(push.number);
        if (pending === undefined) return;
        if (pending.operation.kind !== push.operation) {
          pending.reject(this.#lostError(pending, unavailable('MALFORMED_MESSAGE', 'the answer is to another question')));
          throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_MESSAGE', 'an answer is to another question');
        }
        pending.resolve(push.answer);
        return;
      }
      case 'error':
        this.#settle(push.number)?.reject(push.error);
        return;
      case 'welcome':
        if (connection.welcome === undefined) connection.clock.welcome(push.welcome.now, connection.openedMs, this.#heardAtMs);
        else connection.clock.hear(push.welcome.now, this.#heardAtMs);
        listener.welcome(this, push.welcome);
        connection.welcome = push.welcome;
        this.#failures = 0;
        this.#flushLater();
        return;
      case 'placement':
        listener.placement(this, push.placement);
        return;
      case 'leaders':
        listener.leaders(this, push.hints);
    }
  }

  #settle(number: number): Pending | undefined {
    const pending = this.#pending.get(number);
    if (pending === undefined) return undefined;
    this.#pending.delete(number);
    pending.alarm?.cancel();
    pending.unlisten?.();
    return pending;
  }

  #expire(pending: Pending): void {
    if (pending.sentAtMs >= 0 && this.#heardAtMs <= pending.sentAtMs) this.#silent = true;
    const message = `no answer from ${this.address} in time`;
    this.#abandon(pending, (outcome) => new TidemarkError('UNAVAILABLE', 'TIMED_OUT', message, { outcome, retriable: true }));
  }

  #abandon(pending: Pending, errorOf: (outcome: Outcome) => TidemarkError): void {
    if (this.#settle(pending.number) === undefined) return;
    const sent = pending.sentAtMs >= 0;
    pending.reject(errorOf(sent && leavesDoubt(pending.operation) ? 'unknown' : 'none'));
    if (!sent) return;
    this.#cancels.push(pending.number);
    this.#flushLater();
  }

  /** Ends a connection from this side. */
  #end(connection: Connection, error: TidemarkError, inOrder = false): void {
    if (connection.over) return;
    connection.stream?.close(inOrder ? undefined : error);
    this.#lost(connection, error);
  }

  #lost(connection: Connection, error: TidemarkError): void {
    if (connection.over) return;
    connection.over = true;
    this.#connection = undefined;
    this.#lastError = error;
    this.#cancels = [];
    this.#out.take();
    if (!this.#closed) this.#retryLater();
    this.#failAll(error);
  }

  #retryLater(): void {
    const { env, alarms } = this.#options;
    const backoffMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(this.#failures, 10));
    this.#failures += 1;
    this.#retry = alarms.at(env.clock.monotonicMs() + backoffMs * (0.5 + env.random.float() / 2), () => {
      this.#retry = undefined;
      this.connect();
    });
  }

  #failAll(error: TidemarkError): void {
    const pending = [...this.#pending.keys()];
    this.#queue = [];
    for (const number of pending) {
      const lost = this.#settle(number);
      lost?.reject(this.#lostError(lost, error));
    }
  }

  #lostError(pending: Pending, cause: TidemarkError): TidemarkError {
    if (pending.sentAtMs < 0) return this.#notConnected();
    const message = `the stream to ${this.address} was lost: ${messageOf(cause)}`;
    const outcome = leavesDoubt(pending.operation) ? 'unknown' : 'none';
    return new TidemarkError('UNAVAILABLE', 'STREAM_LOST', message, { outcome, retriable: true, cause });
  }
}

function unavailable(reason: string, message: string, cause?: TidemarkError): TidemarkError {
  return new TidemarkError('UNAVAILABLE', reason, message, { retriable: true, cause });
}
