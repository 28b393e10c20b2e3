import type { Env, FrameStream, StreamHandlers } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { BinaryWriter } from '../lib/binary.js';
import type { Bytes } from '../lib/bytes.js';
import { Cancellation } from '../lib/cancel.js';
import { TidemarkError, isTidemarkError } from '../lib/errors.js';
import type { Timestamp } from '../bucket/requests.js';
import { checkEpoch } from '../placement/epoch.js';
import { later } from '../mvcc/timestamp.js';
import type { NodeId, Placement } from '../placement/map.js';
import { checkOperation } from './checks.js';
import { fitted } from './fitting.js';
import {
  isInternal,
  isQuery,
  type Answer,
  type LeaderHint,
  type NodeHandle,
  type Operation,
  type OperationContext,
} from './operations.js';
import type { Role } from './wire.js';
import { decodeCalls, type Call, type Request } from './wire-calls.js';
import { encodeAnswer, encodeError, encodePlacement, encodeWelcome } from './wire-pushes.js';

export interface PipelineServerOptions {
  readonly env: Pick<Env, 'clock' | 'timers' | 'log'>;
  readonly limits: Limits;
  readonly node: NodeId;
  readonly handle: NodeHandle;
  /** Undefined until it is known; then streams are refused. */
  readonly placement: () => Placement | undefined;
  /** Who leads now, for new callers; without it they know what the placement says. */
  readonly leaders?: (() => readonly LeaderHint[]) | undefined;
  /**
   * The clock told to new callers, who reckon with it from then on, and to all when it is not any more what they reckon: a wall
   * clock, since one that has only heard of a later time stands still until then.
   */
  readonly wallNow: () => Timestamp;
  /** Called with what is thrown and is no TidemarkError: a bug, after which the process should not go on. */
  readonly fatal: (error: unknown) => void;
}

const FRAME_BYTES = 256 * 1024;
/** What a message has room for beside the entries of an answer: the frame begun before it, and its head. Half of small ones. */
const ANSWER_ROOM_BYTES = 2 * FRAME_BYTES;
/** Of limits.maxClockOffsetMs: by so much a clock may differ from what its callers reckon. */
const CLOCK_NEWS_PART = 1 / 10;
const CLOCK_EVERY_MS = 1000;
/** In multiples of limits.streamBufferBytesMax: what the reads under way may be expected to answer; what may lie unread. */
const WINDOW_BUFFERS = 4;
const HELD_BUFFERS = 16;
/** How often reads that wait for room are looked after, and when a stream that others wait for is slow. */
const POOL_LOOK_MS = 50;
const SLOW_MS = 20_000;
const WINDOW_MIN = 4;
/** Cancelled reads that may wait beside as many live ones before they are removed. */
const WAITING_SLACK = 64;
/** Until a stream has shown how large its answers are; they are mostly far smaller. */
const ANSWER_BYTES_GUESS = 256 * 1024;
const ANSWER_WEIGHT = 1 / 16;

/** What all streams keep and expect together. */
export class Pool {
  readonly #options: PipelineServerOptions;
  readonly #streams: ReadonlySet<ServedStream>;
  #bytes = 0;
  #wanted = false;

  constructor(options: PipelineServerOptions, streams: ReadonlySet<ServedStream>) {
    this.#options = options;
    this.#streams = streams;
  }

  get isFull(): boolean {
    return this.#bytes >= this.#options.limits.answerBytesMax;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
  }

  /** Somebody waits for room: streams are asked again soon, and looked through for one that does not read. */
  want(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#options.env.timers.after(POOL_LOOK_MS, () => {
      this.#wanted = false;
      if (this.isFull) this.#cutSlowest();
      for (const stream of this.#streams) stream.startWaiting();
    });
  }

  #cutSlowest(): void {
    let slowest: ServedStream | undefined;
    for (const stream of this.#streams) {
      if (stream.congestedMs < (slowest?.congestedMs ?? Infinity)) slowest = stream;
    }
    if (slowest !== undefined && this.#options.env.clock.monotonicMs() - slowest.congestedMs >= SLOW_MS) slowest.cutOff();
  }
}

/** Its answer may be large. Who waits for a mark takes no room, and must keep none from others while it waits. */
function takesRoom(operation: Operation): boolean {
  return isQuery(operation) && operation.kind !== 'awaitMark';
}

/** One stream of a PipelineServer, which says what it promises. */
export class ServedStream implements StreamHandlers {
  readonly #options: PipelineServerOptions;
  readonly #pool: Pool;
  readonly #role: Role;
  readonly #stream: FrameStream;
  readonly #ended: () => void;
  readonly #out = new BinaryWriter();
  /** Full frames that wait for the stream to drain. */
  readonly #held: Bytes[] = [];
  #heldBytes = 0;
  /**
   * Requests taken and not yet answered; cancelled ones are removed, and their answers dropped. Whoever works on a query is told;
   * a command goes on, whoever waits for it.
   */
  readonly #commands = new Set<number>();
  /** Apart from commands, which wait for them. */
  readonly #internals = new Set<number>();
  readonly #queries = new Map<number, Cancellation>();
  #readsRunning = 0;
  #waitingReads: Waiting[] = [];
  #answerBytes = ANSWER_BYTES_GUESS;
  #flushing = false;
  #congested = false;
  /** Since when its caller has not read all that was sent; Infinity if it has. */
  #congestedMs = Infinity;
  /** Its part of the pool. */
  #counted = 0;
  #over = false;
  /** The epoch of the last placement that went with a reply. One for each is enough: streams keep their order. */
  #epochReplied = 0;
  #told = { now: 0, atMs: 0 };

  constructor(options: PipelineServerOptions, pool: Pool, role: Role, stream: FrameStream, ended: () => void) {
    this.#options = options;
    this.#pool = pool;
    this.#role = role;
    this.#stream = stream;
    this.#ended = ended;
  }

  frame(frame: Bytes): void {
    if (this.#over) return;
    let calls: Call[];
    try {
      calls = decodeCalls(frame);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.#garbage(error);
      return;
    }
    const nowMs = this.#options.env.clock.monotonicMs();
    for (const call of calls) {
      if (call.kind === 'cancel') this.#cancel(call.number);
      else if (this.#isOpen(call.request.number)) this.#garbage(repeated(call.request.number));
      else this.#take(call.request, nowMs);
      // A caller may be cut off amid its requests.
      if (this.#over) return;
    }
  }

  #garbage(error: TidemarkError): void {
    const { remote } = this.#stream;
    this.#options.env.log.warn('a pipeline stream sent garbage; it is closed', { remote, error: error.message });
    this.end(error);
  }

  get congestedMs(): number {
    return this.#congestedMs;
  }

  drained(): void {
    this.#congested = false;
    this.#congestedMs = Infinity;
    while (!this.#congested) {
      const frame = this.#held.shift();
      if (frame === undefined) break;
      this.#heldBytes -= frame.length;
      this.#send(frame);
    }
    this.#count();
    this.#flushLater();
    this.startWaiting();
  }

  closed(): void {
    this.#finish();
  }

  end(error?: TidemarkError): void {
    if (this.#over) return;
    if (!this.#congested && this.#out.length > 0) this.#stream.send(this.#out.take());
    this.#stream.close(error);
    this.#finish();
  }

  push(encode: (out: BinaryWriter) => void): void {
    if (this.#over) return;
    encode(this.#out);
    if (this.#out.length < FRAME_BYTES) {
      this.#flushLater();
      return;
    }
    const frame = this.#out.take();
    if (!this.#congested) {
      this.#send(frame);
      return;
    }
    this.#held.push(frame);
    this.#heldBytes += frame.length;
    this.#count();
    if (this.#heldBytes > this.#options.limits.streamBufferBytesMax * HELD_BUFFERS) this.cutOff();
  }

  #take(request: Request, nowMs: number): void {
    const { limits } = this.#options;
    const { operation, epoch } = request;
    const placement = this.#options.placement();
    const open = this.#openOf(operation);
    try {
      if (isInternal(operation) && this.#role !== 'node') {
        throw new TidemarkError('PERMISSION_DENIED', 'NOT_FOR_CLIENTS', `only nodes may ask for '${operation.kind}'`);
      }
      if (open.size >= limits.routerInFlightMax) {
        const message = `this stream has ${open.size} requests of this sort under way; no more are taken`;
        throw new TidemarkError('RESOURCE_EXHAUSTED', 'STREAM_BUSY', message, { retriable: true });
      }
      checkEpoch(epoch, placement?.epoch ?? 0, 'the request');
      checkOperation(operation, limits, placement?.buckets ?? 0);
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (open instanceof Set) open.add(request.number);
    else open.set(request.number, new Cancellation());
    const deadlineMs = nowMs + request.remainingMs;
    if (!takesRoom(operation) || this.#mayRead()) this.#start(request, deadlineMs);
    else this.#waitingReads.push({ request, deadlineMs });
  }

  #openOf(operation: Operation): Set<number> | Map<number, Cancellation> {
    if (isQuery(operation)) return this.#queries;
    return isInternal(operation) ? this.#internals : this.#commands;
  }

  /** By their numbers requests are counted: a second one of the same number would be bounded by nothing. */
  #isOpen(number: number): boolean {
    return this.#queries.has(number) || this.#commands.has(number) || this.#internals.has(number);
  }

  #cancel(number: number): void {
    this.#commands.delete(number);
    this.#internals.delete(number);
    const query = this.#queries.get(number);
    if (query === undefined) return;
    this.#queries.delete(number);
    query.abort();
    // While the caller reads no answers, none of those that wait is started: cancelled ones must not pile up.
    if (this.#waitingReads.length < 2 * this.#queries.size + WAITING_SLACK) return;
    this.#waitingReads = this.#waitingReads.filter(({ request }) => this.#queries.has(request.number));
  }

  #mayRead(): boolean {
    const expected = this.#options.limits.streamBufferBytesMax * WINDOW_BUFFERS;
    if (this.#congested || this.#readsRunning >= Math.max(WINDOW_MIN, expected / this.#answerBytes)) return false;
    if (!this.#pool.isFull) return true;
    this.#pool.want();
    return false;
  }

  /** What is under way, by the usual size of answers, and what is unread counts for the pool. */
  #count(): void {
    const congested = this.#congested ? this.#options.limits.streamBufferBytesMax : 0;
    const bytes = this.#over ? 0 : this.#readsRunning * this.#answerBytes + this.#heldBytes + congested;
    this.#pool.add(bytes - this.#counted);
    this.#counted = bytes;
  }

  /** Starts as many of the reads that wait as there is room for. */
  startWaiting(): void {
    if (this.#waitingReads.length === 0) return;
    let started = 0;
    for (const { request, deadlineMs } of this.#waitingReads) {
      if (!this.#mayRead()) break;
      started += 1;
      if (this.#queries.has(request.number)) this.#start(request, deadlineMs);
    }
    this.#waitingReads = this.#waitingReads.slice(started);
  }

  #start(request: Request, deadlineMs: number): void {
    const { number, operation, epoch, hops, seen } = request;
    const reads = takesRoom(operation);
    const open = this.#openOf(operation);
    if (reads) {
      this.#readsRunning += 1;
      this.#count();
    }
    const signal = isQuery(operation) ? this.#queries.get(number) : undefined;
    void this.#execute(operation, { epoch, hops, seen, deadlineMs, signal }).then(
      (answer) => {
        if (reads) this.#readsRunning -= 1;
        if (open.delete(number)) this.#answer(request, answer);
        this.#count();
        this.startWaiting();
      },
      (error: unknown) => {
        if (reads) this.#readsRunning -= 1;
        if (open.delete(number) || !isTidemarkError(error)) this.#fail(request, error);
        this.#count();
        this.startWaiting();
      },
    );
  }

  /** Asynchronous, so that a handle that throws at once is as good as one that rejects. */
  async #execute(operation: Operation, context: OperationContext): Promise<Answer> {
    return this.#options.handle.execute(operation, context);
  }

  #answer(request: Request, whole: Answer): void {
    const { number, epoch, operation } = request;
    const { messageBytesMax } = this.#options.limits;
    let answer: Answer;
    try {
      answer = fitted(operation, whole, messageBytesMax - Math.min(ANSWER_ROOM_BYTES, messageBytesMax / 2));
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    this.push((out) => {
      const before = out.length;
      encodeAnswer(out, number, operation.kind, answer);
      if (takesRoom(operation)) this.#answerBytes += (out.length - before - this.#answerBytes) * ANSWER_WEIGHT;
    });
    this.#correct(epoch, false);
  }

  #fail({ number, epoch }: Request, error: unknown): void {
    if (isTidemarkError(error)) {
      this.push((out) => encodeError(out, number, error));
      this.#correct(epoch, error.reason === 'NOT_HOSTED');
    } else {
      this.#options.fatal(error);
    }
  }

  /** The placement goes with a reply to somebody who has an older one, or has gone astray by whatever it has. */
  #correct(epoch: number, astray: boolean): void {
    const placement = this.#options.placement();
    if (placement === undefined || placement.epoch === this.#epochReplied) return;
    if (!astray && (epoch === 0 || epoch >= placement.epoch)) return;
    this.#epochReplied = placement.epoch;
    this.push((out) => encodePlacement(out, placement));
  }

  #flushLater(): void {
    if (this.#flushing || this.#congested || this.#over) return;
    this.#flushing = true;
    this.#options.env.timers.turnEnd(() => {
      this.#flushing = false;
      if (this.#over || this.#congested || this.#out.length === 0) return;
      this.#correctClock();
      this.#send(this.#out.take());
    });
  }

  encodeClock(out: BinaryWriter, { clusterId }: Placement): void {
    const { env, node, wallNow } = this.#options;
    const now = wallNow();
    this.#told = { now, atMs: env.clock.monotonicMs() };
    encodeWelcome(out, { clusterId, node, now });
  }

  /**
   * Once a turn, beside what is sent anyway: the caller goes on with what it was told. At once when the clock was set meanwhile;
   * and now and then, since what was told may have been long on its way (node-clock.ts).
   */
  #correctClock(): void {
    const { env, limits, placement, wallNow } = this.#options;
    const sinceMs = env.clock.monotonicMs() - this.#told.atMs;
    const expected = later(this.#told.now, sinceMs);
    const [low, high] = [expected, wallNow()].sort((a, b) => a - b) as [Timestamp, Timestamp];
    const known = placement();
    const isNews = high > later(low, limits.maxClockOffsetMs * CLOCK_NEWS_PART);
    if (known !== undefined && (isNews || sinceMs >= CLOCK_EVERY_MS)) this.encodeClock(this.#out, known);
  }

  #send(frame: Bytes): void {
    if (this.#stream.send(frame) || this.#congested) return;
    this.#congested = true;
    this.#congestedMs = this.#options.env.clock.monotonicMs();
    this.#count();
  }

  cutOff(): void {
    const { limits, env } = this.#options;
    env.log.warn('a pipeline stream does not read its answers; it is cut off', { remote: this.#stream.remote });
    const message = `the caller left more than ${limits.streamBufferBytesMax + this.#heldBytes} bytes of answers unread`;
    this.end(new TidemarkError('RESOURCE_EXHAUSTED', 'SLOW_CONSUMER', message, { retriable: true }));
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#commands.clear();
    this.#internals.clear();
    for (const query of this.#queries.values()) query.abort();
    this.#queries.clear();
    this.#waitingReads = [];
    this.#held.length = 0;
    this.#heldBytes = 0;
    this.#congestedMs = Infinity;
    this.#count();
    this.#ended();
  }
}

interface Waiting {
  readonly request: Request;
  readonly deadlineMs: number;
}

function repeated(number: number): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_MESSAGE', `request ${number} is under way, and asked for again`);
}
