import type { Counter } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { following } from '../lib/cancel.js';
import { TidemarkError } from '../lib/errors.js';
import { checkTimestamp } from '../mvcc/timestamp.js';
import type { Condition, Consistency, KeyRange, Mutation, RequestId, Timestamp } from '../bucket/requests.js';
import { checkConsistency, checkKey, checkRequestId, checkValue, checkWrite } from '../bucket/validate.js';
import { bucketOf, type BucketId, type NodeId, type Placement } from '../placement/map.js';
import type { Claim } from '../txn/locks.js';
import type { Owner } from '../txn/reservations.js';
import { Alarms } from './alarms.js';
import { AnswerBudget } from './answer-budget.js';
import { bucketsOfWrite, bytesOfRecord, bytesOfWrite, homeOfWrite, checkPinAction } from './checks.js';
import type { StreamEvent } from './change-stream.js';
import { ChangeStreams, type ChangesOptions } from './change-streams.js';
import { closedError } from './closing.js';
import { Connections } from './connections.js';
import type { Call } from './call.js';
import { Dispatcher } from './dispatch.js';
import type { DiffPage } from './diff.js';
import { Hedging } from './hedging.js';
import { forward, isPage } from './forward.js';
import {
  isInternal,
  isQuery,
  type Answer,
  type LeaderHint,
  type NodeHandle,
  type Operation,
  type OperationContext,
  type PinAction,
} from './operations.js';
import type { RouterOptions, CallOptions, WriteOptions, ReadOptions, ScanOptions, HistoryOptions } from './options.js';
import type { DiffOptions, PinsReply, WriteReply, GetReply, GetManyEntry, HistoryPage } from './options.js';
import { marginBefore } from './margin.js';
import { NearCache } from './near-cache.js';
import { PagedReads } from './paged-reads.js';
import { pinsOverBuckets } from './pins.js';
import { PlacementCache } from './placement-cache.js';
import { claimsByBucket, reserve } from './reserve.js';
import { readTimestamp, type ScanPage } from './scan.js';
import { Seen } from './seen.js';
import { Sessions } from './session.js';
import { Trail } from './trail.js';

/**
 * The router: takes a request by key, finds the bucket and a replica that can serve it, and stays with it until it has an
 * answer or its time is nearly up. There is one, with three homes:
 *
 *   client library   knows some endpoints, learns the placement from the first that answers, speaks to leaders directly
 *   sidecar          the same, on behalf of the processes of its machine, which see it as the only node there is
 *   node             the gateway of a node for plain clients: its own node is in the process, all others one hop away
 *
 * What it promises: a command is proposed under one request id however often it is tried; an error with outcome none means that
 * nothing was or will be written; no request waits beyond its deadline, and one that no replica can serve fails with
 * UNAVAILABLE a little before it (10 %, at most 200 ms), saying which bucket it was and what was tried.
 *
 * Example: `put('k', 'v')` in a client. crc32('k') mod 256 = bucket 17; the cache says that node 2 leads it; the operation joins
 * this turn's frame to node 2; the answer carries the commit timestamp: one hop. Had the cache been wrong, node 2 would have
 * said NOT_LEADER, leader 3, and the same command, under the same id, would have gone to node 3.
 *
 * What it is not: it holds no data and no truth. Losing all that it knows costs a round trip.
 */
const LINEARIZABLE = { kind: 'linearizable' } as const;
const TIMEOUT_MS = 10_000;
/** Keys of one getMany that are asked for at a time. */
const GET_MANY_WINDOW_MIN = 16;
const GET_MANY_WINDOW_MAX = 256;

/** Limited each by itself. */
type Sort = 'commands' | 'queries' | 'transactions';

export class Router implements NodeHandle {
  readonly #options: RouterOptions;
  /** Answers that wait for their readers; a client's own are its own affair once it has them. */
  readonly answers: AnswerBudget;
  readonly #alarms: Alarms;
  readonly #cache: PlacementCache;
  readonly #connections: Connections;
  readonly #dispatcher: Dispatcher;
  readonly #sessions: Sessions;
  readonly #operations: Counter;
  readonly #refusals: Counter;
  /**
   * Separate, so that a flood of one does not starve the other, whose buckets may be well; what nodes ask of each other for
   * transactions, so that commands that wait for it do not keep it out.
   */
  readonly #load = {
    commands: { count: 0, bytes: 0 },
    queries: { count: 0, bytes: 0 },
    transactions: { count: 0, bytes: 0 },
  };
  readonly #seen: Seen;
  readonly #changeStreams: ChangeStreams;
  readonly #pages: PagedReads;
  readonly #near: NearCache | undefined;
  readonly #nearAnswers: Counter;
  #closed = false;

  constructor(options: RouterOptions) {
    this.#options = options;
    const { env, limits, role, seeds, self, zone = '' } = options;
    this.#alarms = new Alarms(env.clock, env.timers);
    this.answers = new AnswerBudget(env.clock, this.#alarms, limits.answerBytesMax);
    this.#cache = new PlacementCache(options.clusterId ?? '');
    this.#connections = new Connections({ env, limits, alarms: this.#alarms, cache: this.#cache, role, seeds, self });
    this.#seen = new Seen({
      clock: env.clock,
      limits,
      role,
      clusterNow: () => this.#connections.clusterNow(),
      nodeNow: options.now,
    });
    this.#operations = env.metrics.counter('tidemark_router_operations_total', 'Requests that the router has taken');
    this.#refusals = env.metrics.counter('tidemark_router_refused_total', 'Requests refused since too many were in flight');
    const retries = env.metrics.counter('tidemark_router_retries_total', 'Attempts that failed and were followed by others');
    const answers = (hops: string): Counter =>
      env.metrics.counter('tidemark_router_answers_total', 'Requests that were answered, by hops to the node that did', { hops });
    const [direct, detours] = [answers('1'), answers('more')];
    this.#nearAnswers = answers('0');
    this.#dispatcher = new Dispatcher({
      env,
      alarms: this.#alarms,
      cache: this.#cache,
      connections: this.#connections,
      isHop: role !== 'client',
      zone,
      linearizableAnywhere: options.linearizableAnywhere ?? 'hot',
      hedging: new Hedging(options.hedging ?? {}, env.metrics),
      now: () => this.#seen.now(),
      isClosed: () => this.#closed,
      retried: () => retries.add(),
      answered: (hops) => (hops > 1 ? detours : direct).add(),
    });
    this.#changeStreams = new ChangeStreams({
      env,
      limits,
      alarms: this.#alarms,
      dispatcher: this.#dispatcher,
      answers: this.answers,
      isClosed: () => this.#closed,
      isHop: role !== 'client',
      placement: async (signal) => this.#cache.placement ?? this.#knownPlacement(this.#callOf({ signal })),
      seen: this.#seen,
    });
    if (options.nearCache !== undefined) {
      this.#near = new NearCache(options.nearCache, {
        clock: env.clock,
        alarms: this.#alarms,
        now: () => this.#seen.lateNow(),
        changes: (range, asked) => this.#changeStreams.events(range, asked),
        isClosed: () => this.#closed,
      });
    }
    this.#pages = new PagedReads({
      limits,
      role,
      dispatcher: this.#dispatcher,
      answers: this.answers,
      callsOf: (asked) => this.#callsOf(asked),
      placement: async (call) => this.#cache.placement ?? this.#knownPlacement(call),
      admitted: (bytes, work) => this.#admitted('queries', bytes, work),
      seen: this.#seen,
    });
    this.#sessions = new Sessions(env.clock, env.random, limits, () => this.#seen.now());
  }

  // --- what it knows

  get placement(): Placement | undefined {
    return this.#cache.placement;
  }

  /** The node that is thought to lead a bucket; 0 if none is. */
  leaderOf(bucket: BucketId): NodeId {
    return this.#cache.leaderOf(bucket);
  }

  /** Whether there is a stream to the node now. */
  isConnected(node: NodeId): boolean {
    return this.#connections.isConnected(node);
  }

  get inFlight(): number {
    const { commands, queries, transactions } = this.#load;
    return commands.count + queries.count + transactions.count;
  }

  /** The cluster's present time, as well as it is known here; no proof of anything. */
  now(): Timestamp {
    return this.#seen.now();
  }

  /** The same by clocks alone, which go on by themselves; what was seen may be ahead of them. */
  wallNow(): Timestamp {
    return this.#seen.wallNow();
  }

  /** The highest timestamp that callers of this router have seen. */
  get seen(): Timestamp {
    return this.#seen.latest;
  }

  /** Told by the node in this process: the placement, unless it is older than what is known ... */
  adopt(placement: Placement): void {
    this.#cache.learn(placement, 'this node');
  }

  /** ... and who leads. */
  learn(hints: readonly LeaderHint[]): void {
    for (const hint of hints) this.#cache.hint(hint);
  }

  /** Calls `changed` after each new placement, until the returned function is called. */
  watch(changed: () => void): () => void {
    return this.#cache.watch(changed);
  }

  /** Waits until a placement is known. Rejects at once if every endpoint refuses for good. */
  async ready(options: CallOptions = {}): Promise<Placement> {
    return this.#knownPlacement(this.#callOf(options));
  }

  // --- commands

  async put(key: Bytes, value: Bytes, options: WriteOptions = {}): Promise<WriteReply> {
    // A write says the same, but of `mutations[0].key`, which the caller of this never gave.
    checkKey(key, this.#options.limits);
    checkValue(value, this.#options.limits);
    return this.write([], [{ kind: 'put', key, value }], options);
  }

  /** Deleting what does not exist succeeds. */
  async delete(key: Bytes, options: WriteOptions = {}): Promise<WriteReply> {
    checkKey(key, this.#options.limits);
    return this.write([], [{ kind: 'delete', key }], options);
  }

  /** Checks the conditions and, if all hold, applies the mutations: at one timestamp, whichever buckets the keys are in. */
  async write(
    conditions: readonly Condition[],
    mutations: readonly Mutation[],
    options: WriteOptions = {},
  ): Promise<WriteReply> {
    const { limits } = this.#options;
    const bytes = checkWrite({ conditions, mutations }, limits);
    if (options.id !== undefined) checkRequestId(options.id);
    const { atLeast = 0 } = options;
    checkTimestamp(atLeast, 'at_least');
    return this.#admitted('commands', bytes, async () => {
      const { seen, ...rest } = this.#callOf(options);
      const call = { ...rest, seen: Math.max(seen, atLeast) };
      const placement = this.#cache.placement ?? (await this.#knownPlacement(call));
      const bucket = homeOfWrite({ conditions, mutations }, placement.buckets);
      if (options.id !== undefined) this.#seen.checkNotAhead(options.id.born, 'id.born');
      for (const [at, condition] of conditions.entries()) {
        if (condition.kind === 'unchanged') this.#seen.checkNotAhead(condition.since, `conditions[${at}].unchanged.since`);
      }
      if (atLeast > 0) this.#seen.checkNotAhead(atLeast, 'at_least');
      const execute = (id: RequestId): Promise<Answer<'write'>> =>
        this.#dispatcher.execute(
          { kind: 'write', bucket, request: { id, conditions, mutations, owner: options.owner } },
          options.id === undefined ? { ...call, renewable: true } : call,
        );
      const { result, served } = options.id === undefined ? await this.#sessions.run(execute) : await execute(options.id);
      // What was checked too: as of a commit all conditions hold, and as of a refusal one of them does not.
      for (const each of bucketsOfWrite({ conditions, mutations }, placement.buckets)) this.#seen.note(each, served.timestamp);
      return { ...result, served };
    });
  }

  /**
   * Keeps who began later off keys and ranges for so long (txn/reservations.ts); 0: lets go of them. When it answers, whatever
   * was under way there is over, and what this router's callers read next shows it.
   */
  async reserve(claim: Claim, owner: Owner, forMs: number, options: CallOptions = {}): Promise<void> {
    await this.#admitted('commands', 0, async () => {
      const call = this.#callOf(options);
      const placement = this.#cache.placement ?? (await this.#knownPlacement(call));
      const claims = claimsByBucket(claim, placement.buckets);
      const timestamp = await reserve(this.#dispatcher, claims, owner, forMs, call);
      for (const bucket of claims.keys()) this.#seen.note(bucket, timestamp);
    });
  }

  /** An id for a caller that retries by itself: see WriteOptions. */
  newRequestId(): RequestId {
    return this.#sessions.alone();
  }

  // --- queries

  async get(key: Bytes, options: ReadOptions = {}): Promise<GetReply> {
    checkKey(key, this.#options.limits);
    const consistency: Consistency = options.consistency ?? LINEARIZABLE;
    checkConsistency(consistency);
    return this.#admitted('queries', key.length, async () => {
      const call = this.#callOf(options);
      const placement = this.#cache.placement ?? (await this.#knownPlacement(call));
      const bucket = bucketOf(key, placement.buckets);
      if (consistency.kind === 'asOf') this.#seen.checkNotAhead(consistency.timestamp, 'as_of');
      const atLeast = this.#seen.checkAtLeast(options.atLeast, consistency);
      const latest = options.namesNow === true ? Math.max(call.seen, this.#seen.wallNow()) : call.seen;
      const seen = consistency.kind === 'bounded' ? Math.max(atLeast, this.#seen.inSession(bucket)) : latest;
      const operation = { kind: 'get', bucket, key, consistency, anyReplica: false } as const;
      const asked = { ...call, seen, atLeader: options.namesNow === true };
      const near = this.#nearby(operation, asked);
      const { result, served } = near ?? (await this.#dispatcher.execute(operation, asked));
      if (consistency.kind !== 'asOf') this.#seen.note(bucket, served.timestamp);
      return { record: result.record, served };
    });
  }

  /** From the near cache, if there is one and it can prove what is asked for. */
  #nearby(operation: Operation, { seen, hops }: Pick<Call, 'seen' | 'hops'>): Answer<'get'> | undefined {
    if (this.#near === undefined || operation.kind !== 'get' || operation.consistency.kind !== 'bounded') return undefined;
    const shown = this.#near.read(operation.key, operation.consistency.maxStalenessMs, seen);
    if (shown === undefined) return undefined;
    this.#nearAnswers.add();
    // What the caller does with it must not reach what is kept.
    const record = shown.record && { ...shown.record, key: operation.key, value: Buffer.from(shown.record.value) };
    return { result: { record }, served: { node: 0, timestamp: shown.mark, consistency: 'bounded', hops } };
  }

  /** Many keys, each read by itself, in batches as they come; with `asOf` all at one moment. */
  async *getMany(keys: readonly Bytes[], options: ReadOptions = {}): AsyncGenerator<readonly GetManyEntry[]> {
    const { limits } = this.#options;
    for (const [index, key] of keys.entries()) checkKey(key, limits, `keys[${index}]`);
    const deadlineMs = this.#deadlineOf(options);
    const batchBytes = GET_MANY_WINDOW_MIN * limits.valueBytesMax;
    let largest = limits.valueBytesMax;
    for (let start = 0; start < keys.length; ) {
      // As many at a time as have room if none is larger than the largest so far.
      const window = Math.min(GET_MANY_WINDOW_MAX, Math.max(GET_MANY_WINDOW_MIN, Math.floor(batchBytes / largest)));
      const some = keys.slice(start, start + window);
      const room = some.length * Math.min(largest, batchBytes);
      const hold = await this.answers.reserve(room, deadlineMs, options.signal);
      try {
        const replies = await this.#getSome(some, room, { ...options, timeoutMs: undefined, deadlineMs });
        const sizes = replies.map(({ record }) => (record === undefined ? 0 : bytesOfRecord(record)));
        largest = Math.max(1024, ...sizes, start === 0 ? 0 : largest);
        this.#pages.park(hold, sizes.reduce((sum, size) => sum + size, 0), options.cut);
        yield replies.map((reply, offset) => ({ ...reply, index: start + offset }));
        start += replies.length;
      } finally {
        hold.release();
      }
    }
  }

  /**
   * The first of these keys, one at least: no more are asked for once their answers fill the room. What came before was small,
   * which says nothing of these; so only a client, whose memory is its own affair, asks for all at once: what is far takes it
   * one way. When it ends none is under way any more, also when one fails.
   */
  async #getSome(keys: readonly Bytes[], room: number, options: ReadOptions): Promise<GetReply[]> {
    const { cancellation, stop } = following(options.signal);
    const replies: GetReply[] = [];
    const left = keys.entries();
    let bytes = 0;
    const read = async (): Promise<void> => {
      while (bytes < room) {
        const next = left.next();
        if (next.done === true) return;
        const [at, key] = next.value;
        const reply = await this.get(key, { ...options, signal: cancellation });
        replies[at] = reply;
        bytes += reply.record === undefined ? 0 : bytesOfRecord(reply.record);
      }
    };
    const atOnce = this.#options.role === 'client' ? keys.length : Math.min(keys.length, GET_MANY_WINDOW_MIN);
    const reads = Array.from({ length: atOnce }, read);
    try {
      await Promise.all(reads);
      return replies;
    } catch (error) {
      cancellation.abort();
      await Promise.allSettled(reads);
      throw error;
    } finally {
      stop();
    }
  }

  /**
   * The keys of a range in order, in pages, all as of one timestamp. Without a deadline of its own each page has the router's
   * default timeout.
   */
  scan(range: KeyRange, options: ScanOptions = {}): AsyncGenerator<ScanPage> {
    return this.#pages.scan(range, options);
  }

  /** The versions of a key, newest first, in pages. */
  history(key: Bytes, options: HistoryOptions = {}): AsyncGenerator<HistoryPage> {
    return this.#pages.history(key, options);
  }

  /**
   * What changed between two moments in a range, in the order of keys, in pages; of a key that changed several times, only what
   * came of it. Without `to`: up to a moment that covers all that is acknowledged.
   */
  diff(range: KeyRange, options: DiffOptions): AsyncGenerator<DiffPage> {
    return this.#pages.diff(range, options);
  }

  /** Moments that are kept readable by name, and how far back the cluster can be read everywhere. */
  async pins(action: PinAction = { kind: 'list' }, options: CallOptions = {}): Promise<PinsReply> {
    checkPinAction(action);
    return this.#admitted('queries', 0, async () => {
      const call = this.#callOf(options);
      const { buckets } = this.#cache.placement ?? (await this.#knownPlacement(call));
      if (action.kind === 'add') this.#seen.checkNotAhead(action.timestamp, 'timestamp');
      const all = Array.from({ length: buckets }, (_, bucket) => bucket);
      const { pins, horizon } = await pinsOverBuckets(this.#dispatcher, all, action, call);
      return { horizon, pins: pins.map(({ buckets: held, ...pin }) => ({ ...pin, complete: held === buckets })) };
    });
  }

  /** A moment that shows all that was acknowledged in the buckets of these keys, and all that this router's callers have seen. */
  async readTimestamp(keys: readonly Bytes[], options: CallOptions = {}): Promise<Timestamp> {
    for (const [index, key] of keys.entries()) checkKey(key, this.#options.limits, `keys[${index}]`);
    return this.#admitted('queries', 0, async () => {
      const call = this.#callOf(options);
      const placement = this.#cache.placement ?? (await this.#knownPlacement(call));
      const buckets = [...new Set(keys.map((key) => bucketOf(key, placement.buckets)))].sort((a, b) => a - b);
      const { timestamp } = await readTimestamp(this.#dispatcher, buckets, call);
      return Math.max(timestamp, call.seen);
    });
  }

  // --- change streams

  /**
   * Every committed change of the keys of a range from some point on, in order, without end (change-streams.ts). While no replica
   * can go on it waits.
   */
  changes(range: KeyRange, options: ChangesOptions = {}): AsyncGenerator<StreamEvent> {
    return this.#changeStreams.events(range, options);
  }

  // --- for other processes, by which it is a node that holds everything

  async execute<O extends Operation>(operation: O, context: OperationContext): Promise<Answer<O['kind']>> {
    const isWrite = operation.kind === 'write';
    const bytes = isWrite ? bytesOfWrite(operation.request.mutations) : 0;
    const { deadlineMs, signal } = context;
    const hold = isPage(operation) ? await this.answers.reserve(this.#pages.pageBytes(), deadlineMs, signal) : undefined;
    try {
      const sort = isQuery(operation) ? 'queries' : isInternal(operation) ? 'transactions' : 'commands';
      return await this.#admitted(sort, bytes, () => this.#forward(operation, context));
    } finally {
      hold?.release();
    }
  }

  async #forward(operation: Operation, context: OperationContext): Promise<Answer> {
    const { deadlineMs, signal, hops, seen = 0 } = context;
    const call = { ...this.#callOf({ deadlineMs, signal }), hops, seen, renewable: true };
    if (this.#cache.placement === undefined) await this.#knownPlacement(call);
    const near = this.#nearby(operation, { seen, hops: hops + 1 });
    return near ?? forward(operation, call, this.#dispatcher, () => this.#changeStreams.reader());
  }

  /** What is in flight fails; commands that were sent, with outcome unknown. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#near?.close();
    this.#connections.close();
    this.#alarms.close();
  }

  // --- inside

  #deadlineOf({ timeoutMs, deadlineMs = Infinity }: CallOptions): number {
    if (timeoutMs !== undefined && !(timeoutMs >= 0)) {
      const message = `timeoutMs is ${timeoutMs}; expected milliseconds, 0 or more`;
      throw new TidemarkError('INVALID_ARGUMENT', 'TIMEOUT_MALFORMED', message, { details: { field: 'timeoutMs' } });
    }
    const nowMs = this.#options.env.clock.monotonicMs();
    const ownMs = timeoutMs ?? (deadlineMs === Infinity ? (this.#options.timeoutMs ?? TIMEOUT_MS) : Infinity);
    return Math.min(nowMs + ownMs, deadlineMs);
  }

  #callOf(options: CallOptions): Call {
    const deadlineMs = this.#deadlineOf(options);
    const giveUpMs = marginBefore(deadlineMs, this.#options.env.clock.monotonicMs());
    return { giveUpMs, hops: 0, seen: this.#seen.latest, signal: options.signal };
  }

  /** For requests in pages: a deadline is for all of them, the default timeout for each. */
  #callsOf(options: CallOptions): () => Call {
    const limited = options.timeoutMs !== undefined || (options.deadlineMs ?? Infinity) !== Infinity;
    if (!limited) return () => this.#callOf(options);
    const deadlineMs = this.#deadlineOf(options);
    return () => this.#callOf({ deadlineMs, signal: options.signal });
  }

  async #knownPlacement(call: Call): Promise<Placement> {
    const trail = new Trail(false);
    for (;;) {
      const { placement } = this.#cache;
      if (placement !== undefined) return placement;
      const refusal = this.#connections.refusal();
      if (refusal !== undefined) throw refusal;
      this.#dispatcher.checkTime(trail, call, () => 'the placement');
      await this.#dispatcher.pause(trail, call, undefined);
    }
  }

  async #admitted<T>(sort: Sort, bytes: number, work: () => Promise<T>): Promise<T> {
    const { routerInFlightMax, routerBytesInFlightMax } = this.#options.limits;
    const load = this.#load[sort];
    if (this.#closed) throw closedError(this.#options.role !== 'client');
    if (load.count >= routerInFlightMax || (load.count > 0 && load.bytes + bytes > routerBytesInFlightMax)) {
      this.#refusals.add();
      const message =
        `${load.count} ${sort} with ${load.bytes} bytes are in flight here; ` +
        `at most ${routerInFlightMax} with ${routerBytesInFlightMax} bytes are allowed`;
      throw new TidemarkError('RESOURCE_EXHAUSTED', 'ROUTER_BUSY', message, { retriable: true });
    }
    this.#operations.add();
    load.count += 1;
    load.bytes += bytes;
    try {
      return await work();
    } finally {
      load.count -= 1;
      load.bytes -= bytes;
    }
  }
}
