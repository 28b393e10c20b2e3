import type { Env } from '../env/env.js';
import { cancelledError, checkWanted } from '../lib/cancel.js';
import { TidemarkError, isTidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../bucket/requests.js';
import { formatTimestamp } from '../mvcc/timestamp.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Alarms } from './alarms.js';
import type { Call } from './call.js';
import { closedError } from './closing.js';
import type { Connections } from './connections.js';
import type { Hedging } from './hedging.js';
import { NodeLoads } from './node-loads.js';
import { isTooLate } from './margin.js';
import { isInternal, type Answer, type Operation, type OperationContext } from './operations.js';
import type { PlacementCache } from './placement-cache.js';
import { ReplicaChoice } from './replica-choice.js';
import { ReplicaReads, type Asked, type ReplicaReadsOptions } from './replica-reads.js';
import { Trail } from './trail.js';

/**
 * Brings one operation to a node that can execute it, and its answer back, or says why that was not possible.
 *
 * Rounds: within a round every replica is asked at most once, the believed leader first, so that redirects cannot go in
 * circles. When nobody is left to ask, it waits, longer each time, or until somebody is heard to lead; then a new round begins.
 * A replica that leaves an attempt unanswered for ATTEMPT_TIMEOUT_MS (doubled each time) is passed over like one that refuses.
 *
 * A write keeps its request id through all attempts, so it cannot apply twice. Once an attempt may have taken effect, only an
 * answer settles the matter; without one the outcome is reported as unknown, whatever the last error said.
 *
 * Example: node 2 led bucket 17 and was killed. The stream breaks: outcome unknown, node 2 is dropped as leader. Node 1 says
 * NOT_LEADER, leader unknown; node 3 the same; pause of about 20 ms, and so on; after the election node 3 pushes that it leads;
 * the pause ends early; node 3 answers with the stored result of the first attempt, or with that of this one.
 */
export interface DispatcherOptions {
  readonly env: Pick<Env, 'clock' | 'random'>;
  readonly alarms: Alarms;
  readonly cache: PlacementCache;
  readonly connections: Connections;
  /** This process counts as a hop for what it sends on. */
  readonly isHop: boolean;
  readonly zone: string;
  readonly linearizableAnywhere: 'hot' | 'always';
  readonly hedging: Hedging;
  /** The cluster's present time, about. */
  readonly now: () => Timestamp;
  /** The router has been closed: nothing is tried any more. */
  readonly isClosed: () => boolean;
  /** Told of every attempt that failed and will be followed by another. */
  readonly retried: () => void;
  /** Told of every answer: over how many hops it came, those of attempts that failed before included. */
  readonly answered: (hops: number) => void;
}

type KeyOperation = Extract<Operation, { readonly bucket: BucketId }>;

/** How long one replica may take before another is asked; doubled each time. */
const ATTEMPT_TIMEOUT_MS = 1000;
const PAUSE_MIN_MS = 10;
const PAUSE_MAX_MS = 250;

export class Dispatcher {
  /** Of which more than the leader may be asked. */
  readonly reads: ReplicaReads;
  readonly #options: DispatcherOptions;
  readonly #loads: NodeLoads;
  readonly #choice: ReplicaChoice;
  #rotation = 0;

  constructor(options: DispatcherOptions) {
    const { env, cache, connections, zone } = options;
    this.#options = options;
    this.#loads = new NodeLoads(env.clock);
    this.#choice = new ReplicaChoice({ env, cache, connections, loads: this.#loads, zone });
    const attempt: ReplicaReadsOptions['attempt'] = (node, operation, call, trail) => this.attempt(node, operation, call, trail);
    this.reads = new ReplicaReads({ ...options, choice: this.#choice, loads: this.#loads, attempt });
  }

  get cache(): PlacementCache {
    return this.#options.cache;
  }

  /** An operation on one bucket. Rejects with TidemarkErrors. */
  async execute<O extends KeyOperation>(operation: O, call: Call): Promise<Answer<O['kind']>> {
    const { bucket } = operation;
    const anywhere = this.reads.of(operation, call);
    let trail: Trail | undefined;
    let failed = 0;
    for (;;) {
      const read = trail?.needsLeader === true ? undefined : anywhere;
      const asked = await (read === undefined ? this.#askLeader(operation, call, trail) : this.reads.ask(read, call, trail));
      if (asked.answer !== undefined) {
        this.answered(failed + this.hopsTo(asked.answer.served.node));
        return asked.answer as Answer<O['kind']>;
      }
      failed += asked.failures.length;
      trail ??= new Trail(anywhere === undefined);
      for (const { node, error } of asked.failures) {
        if (call.renewable === true && !trail.mayHaveApplied && isBornAhead(error)) throw error;
        if (this.#waitsOn(operation, error, trail, call)) trail.waits(node);
        else this.note(node, error, trail, [bucket]);
      }
      if (asked.failures.length === 0) await this.pause(trail, call, bucket);
      // The leader needs to ask nobody.
      else if (read?.sort === 'confirmed') trail.preferLeader();
      this.checkTime(trail, call, () => `bucket ${bucket}`);
    }
  }

  /**
   * The leader has waited for locks, or for other buckets, as long as this try let it, and nothing was done: it is asked again as
   * long as there is time. What it asks others itself is its own business.
   */
  #waitsOn({ kind }: KeyOperation, error: unknown, trail: Trail, { giveUpMs }: Call): boolean {
    if (!isTidemarkError(error) || error.outcome !== 'none' || kind === 'prepare') return false;
    if (error.reason !== 'TRANSACTION_CONFLICT' && error.reason !== 'NOT_PREPARED') return false;
    if (isTooLate(giveUpMs, this.#options.env.clock.monotonicMs())) throw trail.settle(error);
    this.#options.retried();
    return true;
  }

  async #askLeader(operation: KeyOperation, call: Call, trail: Trail | undefined): Promise<Asked> {
    const { bucket } = operation;
    const node = this.leader(bucket, trail);
    if (node === undefined) return { failures: [] };
    const { epoch } = this.cache;
    try {
      const answer = await this.attempt(node, operation, call, trail);
      // By a newer map, which may have come with the answer, it may not lead any more.
      if (provesLeader(operation) && this.cache.epoch === epoch) this.cache.noteLeader(bucket, node);
      return { answer, failures: [] };
    } catch (error) {
      return { failures: [{ node, error }] };
    }
  }

  answered(hops: number): void {
    this.#options.answered(hops);
  }

  /** From whoever asks: a client and a sidecar are beside it, and a node has been asked itself. */
  hopsTo(node: NodeId): number {
    const { connections } = this.#options;
    return connections.selfNode !== 0 && node !== connections.selfNode ? 2 : 1;
  }

  /** One try at one node, within the time for one try. */
  async attempt<O extends Operation>(node: NodeId, operation: O, call: Call, trail?: Trail): Promise<Answer<O['kind']>> {
    const { connections, cache, env, isHop } = this.#options;
    checkWanted(call.signal);
    const handle = connections.handleOf(node);
    if (handle === undefined) {
      const message = `the placement has no address for node ${node}`;
      throw new TidemarkError('UNAVAILABLE', 'NOT_CONNECTED', message, { retriable: true });
    }
    const alone = (cache.placement?.nodes.length ?? 0) <= 1;
    const attemptMs = alone ? Infinity : ATTEMPT_TIMEOUT_MS * 2 ** (trail?.timeouts ?? 0);
    this.#loads.begin(node);
    try {
      return await handle.execute(operation, {
        epoch: cache.epoch,
        deadlineMs: Math.min(call.giveUpMs, env.clock.monotonicMs() + attemptMs),
        hops: call.hops + (isHop && node !== connections.selfNode ? 1 : 0),
        seen: call.seen,
        signal: call.signal,
      } satisfies OperationContext);
    } finally {
      this.#loads.end(node);
    }
  }

  /** The believed leader, else a voting replica that was not asked in this round; undefined if there is none. */
  leader(bucket: BucketId, trail?: Trail): NodeId | undefined {
    const { cache } = this.#options;
    const leader = cache.leaderOf(bucket);
    if (leader !== 0 && (trail?.asked.has(leader) !== true || mutant('dead-leader-kept'))) return leader;
    const voters = cache.replicasOf(bucket).filter((replica) => !replica.learner);
    return this.#pick(
      voters.map(({ node }) => node),
      trail,
    );
  }

  /** See ReplicaChoice. */
  distance(node: NodeId): number {
    return this.#choice.distance(node);
  }

  /** In turn; a node that is likely not to answer only if all are. */
  #pick(nodes: readonly NodeId[], trail: Trail | undefined): NodeId | undefined {
    const { connections } = this.#options;
    const reachable = nodes.filter((node) => connections.isHealthy(node));
    const left = (reachable.length > 0 ? reachable : nodes).filter((node) => trail?.asked.has(node) !== true);
    this.#rotation += 1;
    return left[this.#rotation % left.length];
  }

  /** Learns from a failed attempt. Throws if no other attempt can help. */
  note(node: NodeId, error: unknown, trail: Trail, buckets: readonly BucketId[]): void {
    if (!isTidemarkError(error)) throw error;
    const { cache, connections, retried } = this.#options;
    const unsettled = trail.mayHaveApplied;
    trail.failed(node, connections.addressOf(node), error);
    if (this.#options.isClosed()) throw closedError(this.#options.isHop, trail.outcome);
    switch (error.reason) {
      case 'NOT_LEADER':
      case 'NOT_HOSTED':
        redirect(cache, node, error, buckets);
        // It has said which of several buckets it cannot serve; for the others it is as good as before.
        if (error.details['leaders'] !== undefined) trail.asked.delete(node);
        break;
      case 'STALE':
      case 'INTENT_MET':
        trail.staleReplica(node);
        break;
      case 'CLOCK_TOO_FAR_AHEAD':
        // It leads all the same. Its clock, or its log, comes nearer while others are asked.
        if (error.code !== 'UNAVAILABLE') throw trail.settle(error);
        break;
      case 'REQUEST_FORGOTTEN':
        throw unsettled ? withoutHorizon(error) : error;
      case 'NO_LEADER':
      case 'NO_REPLICA':
      case 'NO_NODE_REACHED':
        // Another router has tried until its time was up, which is nearly ours.
        throw trail.settle(error);
      default: {
        // Whether an overloaded node has done the earlier attempt, only that node can tell: ask again.
        const again = error.code === 'UNAVAILABLE' || (error.code === 'RESOURCE_EXHAUSTED' && unsettled);
        if (!again) throw trail.settle(error);
        for (const bucket of buckets) cache.dropLeader(bucket, node);
      }
    }
    retried();
  }

  /** Waits before a new round: longer each time, and no longer than until somebody is heard to lead the bucket. */
  async pause(trail: Trail, call: Call, bucket: BucketId | undefined): Promise<void> {
    const { env, alarms, cache } = this.#options;
    const longMs = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** Math.min(trail.rounds, 10));
    const untilMs = Math.min(call.giveUpMs, env.clock.monotonicMs() + longMs * (0.5 + env.random.float() / 2));
    trail.newRound();
    await new Promise<void>((resolve) => {
      const stops: (() => void)[] = [];
      const done = (): void => {
        for (const stop of stops) stop();
        resolve();
      };
      const alarm = alarms.at(untilMs, done);
      stops.push(() => alarm.cancel());
      if (bucket !== undefined) stops.push(cache.onLeader(bucket, done));
      if (cache.placement === undefined) stops.push(cache.watch(done));
      const { signal } = call;
      if (signal !== undefined) {
        signal.addEventListener('abort', done);
        stops.push(() => signal.removeEventListener('abort', done));
      }
      // No alarm rings any more.
      if (this.#options.isClosed()) done();
    });
  }

  /** Throws when the caller went away, when the router was closed, and when it is time to give up. */
  checkTime(trail: Trail, call: Call, what: () => string): void {
    if (this.#options.isClosed()) throw closedError(this.#options.isHop, trail.outcome);
    if (call.signal?.aborted === true) throw cancelledError(trail.outcome);
    if (this.#options.env.clock.monotonicMs() < call.giveUpMs) return;
    const { cache, connections } = this.#options;
    if (cache.placement === undefined) {
      const message = `no node could be reached in time: ${connections.troubles()}`;
      throw new TidemarkError('UNAVAILABLE', 'NO_NODE_REACHED', message, { retriable: true, outcome: trail.outcome });
    }
    const reason = trail.needsLeader ? 'NO_LEADER' : 'NO_REPLICA';
    const far = trail.resolved === 0 ? '' : `, at best complete up to ${formatTimestamp(trail.resolved)} (${trail.resolved})`;
    const message = `${what()} could not be served in time${far}; tried ${trail.summary()}`;
    const details = trail.resolved === 0 ? {} : { resolved: String(trail.resolved) };
    throw new TidemarkError('UNAVAILABLE', reason, message, { retriable: true, outcome: trail.outcome, details });
  }
}

/** The session was born in the future of the node that was asked, whose clock is the detail `now`; nothing was done. */
export function isBornAhead(error: unknown): error is TidemarkError {
  return isTidemarkError(error) && error.reason === 'CLOCK_TOO_FAR_AHEAD' && error.details['field'] === 'id.born';
}

/**
 * The horizon tells whoever made the request id that the command may be sent again in a session begun after it: nothing was
 * done. Not so if an earlier attempt may have been the one that was forgotten.
 */
function withoutHorizon({ code, reason, message, outcome }: TidemarkError): TidemarkError {
  return new TidemarkError(code, reason, message, { outcome });
}

/** Only the leader answers these. */
function provesLeader(operation: KeyOperation): boolean {
  if (operation.kind === 'get') return operation.consistency.kind === 'linearizable' && !operation.anyReplica;
  return operation.kind === 'write' || operation.kind === 'reserve' || isInternal(operation);
}

/** What NOT_LEADER and NOT_HOSTED say about who leads. */
function redirect(cache: PlacementCache, node: NodeId, error: TidemarkError, buckets: readonly BucketId[]): void {
  const { leaders, leader } = error.details as { readonly leaders?: string; readonly leader?: string };
  if (leaders !== undefined) {
    for (const pair of leaders.split(',')) {
      const [bucket = -1, known = 0] = pair.split('=').map(Number);
      if (buckets.includes(bucket)) replace(cache, bucket, node, known);
    }
    return;
  }
  for (const bucket of buckets) replace(cache, bucket, node, buckets.length === 1 ? Number(leader ?? 0) : 0);
}

function replace(cache: PlacementCache, bucket: BucketId, wrong: NodeId, leader: NodeId): void {
  cache.dropLeader(bucket, wrong);
  if (Number.isSafeInteger(leader) && leader > 0 && leader !== wrong && cache.node(leader) !== undefined) {
    cache.noteRedirect(bucket, leader);
  }
}
