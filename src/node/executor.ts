import type { Clock, Metrics, Timers } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import type { ReserveRequest, Served, Timestamp, WriteRequest } from '../bucket/requests.js';
import type { StateStore } from '../bucket/state-store.js';
import { Strides } from '../bucket/strides.js';
import { rangesOf } from '../bucket/range-conditions.js';
import { checkWrite } from '../bucket/validate.js';
import { Catalogue } from '../changes/catalogue.js';
import { readFeed } from '../changes/feed.js';
import { MarkWatch } from '../changes/mark-watch.js';
import type { HybridClock } from '../mvcc/timestamp.js';
import type { HeatMeter } from '../placement/heat.js';
import type { BucketId, NodeId } from '../placement/map.js';
import { bytesOfWrite } from '../router/checks.js';
import {
  isQuery,
  type Answer,
  type NodeHandle,
  type Operation,
  type OperationContext,
  type OperationKind,
  type Query,
} from '../router/operations.js';
import { lockWaitBefore } from '../router/margin.js';
import { Admission } from './admission.js';
import { diffPage } from './diff.js';
import type { Holds } from './holds.js';
import { changePins } from './pins.js';
import { scanPage } from './scan.js';
import { partsOf } from './parts.js';
import { isClose, type StreamHolds } from './stream-holds.js';
import type { Transactions } from './transactions.js';

/**
 * Executes operations on the replicas of this node: where every request ends, whichever way it came (a client's pipeline,
 * the sidecar's, another node's gateway, or this node's own).
 */
export interface ExecutorOptions {
  readonly nodeId: NodeId;
  readonly limits: Limits;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly state: StateStore;
  readonly hybrid: HybridClock;
  readonly transactions: Transactions;
  readonly holds: Holds;
  readonly streamHolds: StreamHolds;
  /** Counts what was served. */
  readonly heat: HeatMeter;
  replica(bucket: BucketId): Replica | undefined;
  /** How many data buckets there are. */
  readonly buckets: number;
  /** Of the placement that this node knows. */
  readonly epoch: () => number;
  /** A record on this node's disk is bad or missing: it must stop, for what else is wrong nobody knows. */
  onCorrupt(error: TidemarkError): void;
}

export class Executor implements NodeHandle {
  readonly #options: ExecutorOptions;
  readonly #commands: Admission;
  readonly #queries: Admission;
  /** Apart from commands, of which all may wait for what is asked here. */
  readonly #transactions: Admission;
  readonly #catalogue: Catalogue;
  readonly #marks: MarkWatch;

  constructor(options: ExecutorOptions) {
    const { limits, metrics, state, clock, timers } = options;
    this.#options = options;
    this.#catalogue = new Catalogue(state);
    this.#marks = new MarkWatch(clock, timers, limits.markWaitersMax);
    this.#commands = new Admission('commands', limits.commandsInFlightMax, limits.commandBytesInFlightMax, metrics);
    this.#queries = new Admission('queries', limits.queriesInFlightMax, limits.queryBytesInFlightMax, metrics);
    this.#transactions = new Admission('transactions', limits.transactionRequestsInFlightMax, Infinity, metrics);
  }

  async execute<O extends Operation>(operation: O, context: OperationContext): Promise<Answer<O['kind']>> {
    try {
      if (operation.kind === 'awaitMark') return await this.#awaitMark(operation, context);
      if (isQuery(operation)) {
        return await this.#queries.run(this.#answerBytesOf(operation), () => this.#query(operation, context));
      }
      if (operation.kind === 'pins') return await this.#commands.run(0, () => this.#pins(operation, context));
      if (operation.kind === 'reserve') {
        const { bucket, request } = operation;
        return await this.#commands.run(0, () => this.#reserve(bucket, request, context));
      }
      if (operation.kind !== 'write') return await this.#transactions.run(0, () => this.#transact(operation, context));
      const { bucket, request } = operation;
      return await this.#commands.run(bytesOfWrite(request.mutations), () => this.#write(bucket, request, context));
    } catch (error) {
      if (!isTidemarkError(error) || error.code !== 'DATA_LOSS') throw error;
      this.#options.onCorrupt(error);
      throw mutant('damage-told') ? error : this.#stopsFor(error);
    }
  }

  /** What is lost here is not lost: others have a good copy, and whoever asked is to ask them. */
  #stopsFor(cause: TidemarkError): TidemarkError {
    const message = `node ${this.#options.nodeId} stops, for its disk is damaged: ${cause.message}`;
    return new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', message, { retriable: true, outcome: cause.outcome, cause });
  }

  /** The most that is in memory while it is read. A single value is read in one turn and handed on at once. */
  #answerBytesOf({ kind }: Operation): number {
    const { pageBytesMax, valueBytesMax } = this.#options.limits;
    if (kind === 'changes') return pageBytesMax + 2 * valueBytesMax;
    return kind === 'scan' || kind === 'history' || kind === 'diff' ? pageBytesMax + valueBytesMax : 0;
  }

  /** Nobody is kept waiting any more. */
  close(): void {
    this.#marks.close();
  }

  async #write(bucket: BucketId, request: WriteRequest, context: OperationContext): Promise<Answer<'write'>> {
    const { limits, hybrid, buckets, transactions, heat } = this.#options;
    const { hops, seen } = context;
    checkWrite(request, limits);
    // A session's later writes come after what it has seen, whichever buckets that was in.
    if (seen !== undefined && !mutant('write-ignores-session')) hybrid.merge(seen, 'the highest timestamp seen');
    // Who read a range as of a timestamp writes after it.
    for (const { since } of rangesOf(request.conditions)) hybrid.merge(since, 'conditions.unchanged.since');
    // A session is forgotten by the time of its birth: one of the far future would never be.
    hybrid.check(request.id.born, 'id.born');
    const replica = this.#replica(bucket);
    const parts = partsOf(request, bucket, buckets);
    const result = await (parts === undefined
      ? replica.commands.write(request, this.#lockWaitMs(context))
      : transactions.write(replica, request, parts, { ...context, deadlineMs: this.#lockWaitMs(context) }));
    heat.write(bucket, bytesOfWrite(request.mutations));
    const served: Served = {
      node: this.#options.nodeId,
      timestamp: result.timestamp,
      consistency: 'linearizable',
      hops: hops + 1,
    };
    return { result, served };
  }

  async #reserve(bucket: BucketId, request: ReserveRequest, context: OperationContext): Promise<Answer> {
    const { nodeId } = this.#options;
    const timestamp = await this.#replica(bucket).commands.reserve(request, this.#lockWaitMs(context));
    return answer<'reserve'>({}, { node: nodeId, timestamp, consistency: 'linearizable', hops: 0 }, context);
  }

  /** Until when a command waits for locks: who asked is to hear that nothing was done. */
  #lockWaitMs({ deadlineMs }: OperationContext): number {
    return lockWaitBefore(deadlineMs, this.#options.clock.monotonicMs());
  }

  async #transact(operation: Internal, context: OperationContext): Promise<Answer> {
    const { nodeId, hybrid, limits, transactions } = this.#options;
    const { deadlineMs, seen } = context;
    const replica = this.#replica(operation.bucket);
    const served: Served = { node: nodeId, timestamp: 0, consistency: 'linearizable', hops: 0 };
    switch (operation.kind) {
      case 'prepare': {
        const { request } = operation;
        const conditions = request.conditions.map(({ condition }) => condition);
        checkWrite({ conditions, mutations: request.mutations }, limits);
        if (seen !== undefined && !mutant('write-ignores-session')) hybrid.merge(seen, 'the highest timestamp seen');
        for (const { since } of rangesOf(conditions)) hybrid.merge(since, 'conditions.unchanged.since');
        return answer<'prepare'>(await replica.commands.prepare(request, this.#lockWaitMs(context)), served, context);
      }
      case 'resolve':
        await replica.commands.resolve(operation.request, deadlineMs);
        return answer<'resolve'>({}, served, context);
      case 'outcomes': {
        const outcomes = await transactions.answer(replica, operation.ids, operation.asOf, deadlineMs);
        return answer<'outcomes'>({ outcomes }, served, context);
      }
    }
  }

  /** Not counted among the queries: it takes no work while it waits. */
  async #awaitMark(operation: Extract<Operation, { kind: 'awaitMark' }>, context: OperationContext): Promise<Answer> {
    const { buckets, above, waitMs, needs } = operation;
    const { clock, streamHolds } = this.#options;
    streamHolds.needs(needs.stream, needs.above);
    const replicas = this.#replicas(buckets, isComplete);
    const untilMs = Math.min(context.deadlineMs, clock.monotonicMs() + waitMs);
    const result = await this.#marks.wait(replicas, above, untilMs);
    return answer<'awaitMark'>(result, this.#servedAt(result.mark), context);
  }

  #servedAt(timestamp: Timestamp): Served {
    return { node: this.#options.nodeId, timestamp, consistency: 'asOf', hops: 0 };
  }

  async #query(operation: Exclude<Query, { kind: 'awaitMark' }>, context: OperationContext): Promise<Answer> {
    const { deadlineMs, seen } = context;
    // No answer depends on it: what a scan or a bounded read must not fall behind, they are told as well.
    if (seen !== undefined) this.#options.hybrid.hear(seen);
    switch (operation.kind) {
      case 'get': {
        const { key, consistency, anyReplica } = operation;
        const { reads } = this.#replica(operation.bucket);
        const isHere = consistency.kind === 'linearizable' && anyReplica;
        const view = await (isHere
          ? reads.openKeyHere(key, deadlineMs, seen, context.signal)
          : reads.openKey(key, consistency, deadlineMs, seen));
        const record = await reads.get(key, view, this.#strides());
        this.#options.heat.read(operation.bucket, key, record?.value.length ?? 0);
        return answer<'get'>({ record }, view.served, context);
      }
      case 'history': {
        const { reads } = this.#replica(operation.bucket);
        const view = await reads.openKey(operation.key, operation.consistency, deadlineMs);
        const { limits } = this.#options;
        const limit = Math.min(operation.limit, limits.pageEntriesMax);
        const wanted = { ...operation, limit, bytesMax: limits.pageBytesMax };
        const result = await reads.history(operation.key, view, wanted, this.#strides());
        this.#options.heat.read(operation.bucket, operation.key, 0);
        return answer<'history'>(result, view.served, context);
      }
      case 'readTimestamp': {
        const replicas = this.#replicas(operation.buckets, ({ raft }) => raft.canServe());
        const clocks = await Promise.all(replicas.map(({ reads }) => reads.readTimestamp(deadlineMs)));
        const timestamp = Math.max(0, ...clocks);
        const { nodeId } = this.#options;
        const served: Served = { node: nodeId, timestamp, consistency: 'linearizable', hops: 0 };
        return answer<'readTimestamp'>({ timestamp }, served, context);
      }
      case 'scan': {
        const { consistency } = operation;
        const replicas = this.#replicas(operation.buckets, ({ reads }) => reads.canOpen(consistency));
        const { result, served } = await scanPage(operation, replicas, this.#options, this.#strides(), context);
        if (served.consistency !== 'local') this.#hold(served.timestamp, result.more);
        return answer<'scan'>(result, served, context);
      }
      case 'diff': {
        const asOfTo = { kind: 'asOf', timestamp: operation.to } as const;
        const replicas = this.#replicas(operation.buckets, ({ reads }) => reads.canOpen(asOfTo));
        const { result, served } = await diffPage(operation, replicas, this.#options, this.#strides(), deadlineMs);
        this.#hold(operation.from, result.resume !== undefined);
        return answer<'diff'>(result, served, context);
      }
      case 'changes': {
        const { limits, timers, streamHolds } = this.#options;
        const { needs } = operation;
        streamHolds.needs(needs.stream, needs.above);
        const replicas = this.#replicas(operation.buckets, isComplete);
        const result = await readFeed(replicas, operation, { limits, timers, catalogue: this.#catalogue });
        return answer<'changes'>(result, this.#servedAt(result.mark), context);
      }
    }
  }

  #strides(): Strides {
    const { timers } = this.#options;
    return new Strides(() => new Promise((resolve) => void timers.turnEnd(resolve)));
  }

  async #pins({ buckets, action }: Extract<Operation, { kind: 'pins' }>, context: OperationContext): Promise<Answer> {
    const { nodeId, limits, hybrid } = this.#options;
    const replicas = this.#replicas(buckets, ({ raft }) => raft.canServe());
    const { deadlineMs } = context;
    const result = await changePins(action, replicas, { limits, now: hybrid.physicalNow(), deadlineMs });
    const served: Served = { node: nodeId, timestamp: result.horizon, consistency: 'linearizable', hops: 0 };
    return answer<'pins'>(result, served, context);
  }

  /** A read in pages as of a moment that will not be kept for long holds the horizon back until its last page. */
  #hold(timestamp: Timestamp, more: boolean): void {
    const { holds, hybrid, limits } = this.#options;
    if (!more) holds.done(timestamp);
    else if (!isClose(timestamp, hybrid.physicalNow(), limits)) holds.touch(timestamp);
  }

  /** All of these buckets' replicas; one refusal names every bucket that has to be asked elsewhere. */
  #replicas(buckets: readonly BucketId[], able: (replica: Replica) => boolean): Replica[] {
    const replicas: Replica[] = [];
    const elsewhere: string[] = [];
    let resolved = Infinity;
    for (const bucket of buckets) {
      const replica = this.#options.replica(bucket);
      if (replica !== undefined && able(replica)) {
        replicas.push(replica);
        continue;
      }
      elsewhere.push(`${bucket}=${this.#leaderElsewhere(replica)}`);
      resolved = Math.min(resolved, replica?.resolved() ?? 0);
    }
    if (elsewhere.length === 0) return replicas;
    const message = `node ${this.#options.nodeId} cannot serve ${elsewhere.length} of ${buckets.length} buckets`;
    throw new TidemarkError('UNAVAILABLE', 'NOT_LEADER', message, {
      retriable: true,
      details: { leaders: elsewhere.join(','), resolved: String(resolved) },
    });
  }

  #leaderElsewhere(replica: Replica | undefined): NodeId {
    const leader = replica?.leaderNode ?? 0;
    return leader === this.#options.nodeId ? 0 : leader;
  }

  #replica(bucket: BucketId): Replica {
    const replica = this.#options.replica(bucket);
    if (replica !== undefined) return replica;
    const { nodeId, epoch } = this.#options;
    const message = `node ${nodeId} hosts no replica of bucket ${bucket} at epoch ${epoch()} of the placement`;
    const details = { epoch: String(epoch()) };
    throw new TidemarkError('UNAVAILABLE', 'NOT_HOSTED', message, { retriable: true, details });
  }
}

type Internal = Extract<Operation, { kind: 'prepare' | 'resolve' | 'outcomes' }>;

/** Has a state, and hears by when it is complete. */
function isComplete(replica: Replica): boolean {
  return !replica.installing && replica.resolved() > 0;
}

function answer<K extends OperationKind>(
  result: Answer<K>['result'],
  served: Served,
  { hops }: OperationContext,
): Answer<K> {
  return { result, served: { ...served, hops: hops + 1 } };
}
