import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { randomIdentity, sleep } from '../env/time.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import type { DecideResult, PrepareResult, ResolveRequest, Timestamp, WriteRequest, WriteResult } from '../bucket/requests.js';
import { forgotten } from '../bucket/sessions.js';
import { TIMESTAMP_MAX, type HybridClock } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import type { Term } from '../raft/types.js';
import {
  transactionKey,
  type CommittedRecord,
  type Outcome,
  type Prepared,
  type TransactionId,
  type TransactionKey,
} from '../txn/transaction.js';
import type { NodeHandle, OperationContext } from '../router/operations.js';
import { isTooLate } from '../router/margin.js';
import { Background } from './background.js';
import type { Part, Parts } from './parts.js';

/**
 * Transactions over several buckets, as one node sees them (txn/transaction.ts says what the steps are).
 *
 * - As home: a Write over several buckets is coordinated by the leader of its home, in memory. A retry finds the result that is
 *   stored, or joins the coordination that is under way. If this process dies, or loses its office, before the decision, the
 *   attempt will never be committed; behind it, the record tells the next leader what is left to do.
 * - As a participant: a leader that has had an intent for a while asks home what became of it, by itself.
 *
 * Invariants
 * - An attempt is *alive* from before its first prepare is sent until its decision is settled, and only in one term of its home.
 * - An abort is only sent when no decision of the attempt was proposed, a commit only when it is applied at home.
 * - A record is forgotten only when every participant has applied the resolution, and said so as a confirmed leader.
 *
 * Example: keys a, b, c in buckets 1, 2, 3. Home is 1. Prepares go to 2 and 3 in parallel, at timestamps 70 and 75; home decides
 * at 80: its versions, the result and the record are one entry. The client has its answer. 2 and 3 resolve at 80; home forgets.
 * That is two entries for each participant, one for home, and a share of one that forgets many.
 */
export interface TransactionsOptions {
  readonly env: Pick<Env, 'clock' | 'random' | 'timers'>;
  readonly limits: Limits;
  readonly hybrid: HybridClock;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  /** This node's router. */
  readonly handle: () => NodeHandle;
  readonly onBug: (error: unknown) => void;
}

interface Coordination {
  readonly name: string;
  readonly term: Term;
  readonly replica: Replica;
  readonly request: WriteRequest;
  readonly parts: Parts;
  readonly seen: Timestamp;
  /** Of whoever waits for longest. */
  deadlineMs: number;
  /** When its first attempt, or that of its owner, began: its age. */
  first: Timestamp;
  /** Attempts begin above it: up to there, by its clock, a participant takes them for too old. */
  tooOld: Timestamp;
  promise: Promise<WriteResult> | undefined;
}

/** The request ends so, or another attempt may do better. */
type AttemptResult = DecideResult | { readonly kind: 'failed'; readonly error: TidemarkError };

/** A caller whose time was up asks again under the same id a moment later, and is as old as he was. */
const AGE_KEPT_MS = 5000;
const BACKOFF_MIN_MS = 2;
const BACKOFF_MAX_MS = 100;
const RESOLVE_TIMEOUT_MS = 5000;
/** Records that nobody needs any more wait for others of their bucket, so that one entry forgets many. */
const FORGET_EVERY_MS = 1000;
const FORGET_AT_ONCE = 256;
const ASK_AT_ONCE = 256;

export class Transactions {
  readonly #options: TransactionsOptions;
  readonly #background: Background;
  readonly #running = new Map<string, Coordination>();
  /** Of those whose time was up, the latest last. */
  readonly #ages = new Map<string, { readonly first: Timestamp; readonly untilMs: number }>();
  /** Attempts under way, with the term in which each of them is decided or never. */
  readonly #alive = new Map<TransactionKey, Term>();
  /** Committed ones whose participants are being told, or were told, until the record is gone. */
  readonly #told = new Set<TransactionKey>();
  readonly #toForget = new Map<Replica, TransactionId[]>();
  #forgetDueMs = 0;
  readonly #asking = new Set<TransactionKey>();
  /** Since when this leader has known of an intent, in monotonic milliseconds. */
  readonly #knownSinceMs = new WeakMap<Prepared, number>();

  constructor(options: TransactionsOptions) {
    this.#options = options;
    this.#background = new Background(options.onBug);
  }

  // --- home: coordination

  /** Carries out a Write over several buckets, of which this replica leads the home; or joins the one under way. */
  async write(replica: Replica, request: WriteRequest, parts: Parts, context: OperationContext): Promise<WriteResult> {
    const { raft, bucket, state } = replica;
    if (!raft.canServe()) throw replica.notLeader();
    const known = state.sessions.lookup(request.id);
    if (known.kind === 'done') return known.result;
    const name = `${bucket}/${request.id.session}:${request.id.sequence}`;
    const { deadlineMs, seen = 0 } = context;
    const running = this.#running.get(name);
    if (running?.promise !== undefined && running.term === raft.term && !mutant('retry-in-flight-runs-again')) {
      running.deadlineMs = Math.max(running.deadlineMs, deadlineMs);
      return running.promise;
    }
    // Before anything is prepared, which would be locked for nothing.
    if (known.kind === 'unknown') throw forgotten(request.id, state);
    const { term } = raft;
    const first = request.owner?.first ?? this.#ages.get(name)?.first ?? 0;
    const fixed = { name, term, replica, request, parts, seen };
    const coordination: Coordination = { ...fixed, deadlineMs, first, tooOld: 0, promise: undefined };
    this.#running.set(name, coordination);
    coordination.promise = this.#coordinate(coordination).finally(() => {
      if (this.#running.get(name) === coordination) this.#running.delete(name);
    });
    return coordination.promise;
  }

  async #coordinate(coordination: Coordination): Promise<WriteResult> {
    const { env, hybrid } = this.#options;
    const { replica, request, parts } = coordination;
    const refused = await replica.commands.refuse(request.id, parts.own.conditions);
    if (refused !== undefined) return refused;
    let locked: Exclude<AttemptResult, { kind: 'done' }> | undefined;
    for (let tries = 0; ; tries += 1) {
      const isShort = isTooLate(coordination.deadlineMs, env.clock.monotonicMs());
      const now = hybrid.now();
      // Of this request alone: a participant's clock that is far ahead must not carry this node's away.
      const start = Math.min(TIMESTAMP_MAX, Math.max(now, coordination.tooOld + 1));
      if (coordination.first === 0) coordination.first = now;
      const { session, sequence } = request.id;
      const id = { session, sequence, attempt: randomIdentity(env.random) };
      const key = transactionKey(id);
      this.#alive.set(key, coordination.term);
      let result: AttemptResult;
      try {
        result = await this.#attempt(coordination, id, start);
      } finally {
        this.#alive.delete(key);
      }
      const committed = result.kind === 'done' && result.committed;
      if (!committed) this.#abort(parts.others, { id, start, commit: 0 });
      if (result.kind === 'done') return result.result;
      if (result.kind === 'failed' && (!result.error.retriable || result.error.reason === 'NOT_LEADER')) throw result.error;
      // Of a last try whose time is short it may not be told any more that it met locks, as those before did.
      if (result.kind === 'locked' || result.error.reason === 'TRANSACTION_CONFLICT') locked = result;
      else if (!isShort) locked = undefined;
      const pauseMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(tries, 10)) * (0.5 + env.random.float());
      if (env.clock.monotonicMs() + pauseMs >= coordination.deadlineMs) {
        this.#keepAge(coordination);
        throw this.#failure(coordination, locked ?? result);
      }
      await sleep(env.timers, pauseMs);
    }
  }

  /** Throws only what leaves it unknown whether this attempt is committed. */
  async #attempt(coordination: Coordination, id: TransactionId, start: Timestamp): Promise<AttemptResult> {
    const { replica, request, parts, term, first } = coordination;
    const failed = (error: unknown): AttemptResult => {
      if (!isTidemarkError(error)) throw error;
      // Of a forgotten request only what was before is unknown: nothing of this attempt was proposed, and its locks may go.
      if (error.outcome === 'unknown' && error.reason !== 'REQUEST_FORGOTTEN') throw error;
      // Also where this is not the leader any more: it has proposed nothing, or the outcome would be unknown.
      return { kind: 'failed', error };
    };
    const replies = await this.#prepareAll(coordination, id, start);
    let after = 0;
    let hopeless: AttemptResult | undefined;
    for (const reply of replies) {
      if (reply.kind === 'prepared') after = Math.max(after, reply.timestamp);
      else if (reply.kind === 'failed') hopeless = hopeless === undefined || !reply.error.retriable ? reply : hopeless;
      else if (reply.kind !== 'refused') hopeless ??= { kind: 'locked' };
      if (reply.kind === 'ended') coordination.tooOld = Math.max(coordination.tooOld, reply.upTo);
    }
    const [refusal] = replies.flatMap((reply) => (reply.kind === 'refused' ? [reply.result] : []));
    try {
      if (refusal !== undefined) {
        return { kind: 'done', committed: false, result: await replica.commands.conclude(request.id, refusal, term) };
      }
      if (hopeless !== undefined && !mutant('decide-unprepared')) return hopeless;
      const participants = parts.others.map(({ bucket }) => bucket);
      const { conditions, mutations } = parts.own;
      const reservation = request.owner?.reservation ?? 0;
      const decide = { id, start, first, reservation, request: request.id, participants, after, conditions, mutations };
      const decided = await replica.commands.decide(decide, term, coordination.deadlineMs);
      if (decided.kind === 'done' && decided.committed) {
        this.#tell(replica, { id, start, timestamp: decided.result.timestamp, participants });
      }
      return decided;
    } catch (error) {
      const result = failed(error);
      return result;
    }
  }

  /** What all say; or some, if one of them ends the request: caller and locks need not wait for those that are slow. */
  #prepareAll(coordination: Coordination, id: TransactionId, start: Timestamp): Promise<readonly PrepareReply[]> {
    const { others } = coordination.parts;
    const replies: PrepareReply[] = [];
    return new Promise((resolve, reject) => {
      const heard = (reply: PrepareReply): void => {
        replies.push(reply);
        const isFinal = reply.kind === 'refused' || (reply.kind === 'failed' && !reply.error.retriable);
        if (isFinal || replies.length === others.length) resolve(replies);
      };
      for (const part of others) this.#prepare(coordination, part, id, start).then(heard, reject);
    });
  }

  /** A failure leaves nothing but, perhaps, intents of an attempt that is never committed: its outcome is none. */
  async #prepare(
    { replica, request: { owner }, seen, deadlineMs, first }: Coordination,
    { bucket, conditions, mutations }: Part,
    id: TransactionId,
    start: Timestamp,
  ): Promise<PrepareReply> {
    const reservation = owner?.reservation ?? 0;
    const request = { id, home: replica.bucket, start, first, reservation, conditions, mutations };
    try {
      const context = { ...this.#context(deadlineMs), seen };
      const { result } = await this.#options.handle().execute({ kind: 'prepare', bucket, request }, context);
      return result;
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      const message = `bucket ${bucket} could not prepare its part of the write: ${error.message}`;
      const { code, retriable, details } = error;
      // That nobody could do it in time is no word about home, which whoever asked for the write will ask again.
      const reason = code === 'UNAVAILABLE' ? 'NOT_PREPARED' : error.reason;
      return { kind: 'failed', error: new TidemarkError(code, reason, message, { retriable, details }) };
    }
  }

  #keepAge({ name, first }: Coordination): void {
    const now = this.#options.env.clock.monotonicMs();
    for (const [old, { untilMs }] of this.#ages) {
      if (untilMs > now) break;
      this.#ages.delete(old);
    }
    this.#ages.delete(name);
    this.#ages.set(name, { first, untilMs: now + AGE_KEPT_MS });
  }

  #failure({ request, replica }: Coordination, result: Exclude<AttemptResult, { kind: 'done' }>): TidemarkError {
    if (result.kind === 'failed') return result.error;
    const message =
      `the write ${request.id.sequence} over several buckets, whose home is bucket ${replica.bucket}, met locks of older ` +
      'transactions at every attempt until its deadline; try again later';
    return new TidemarkError('ABORTED', 'TRANSACTION_CONFLICT', message, { retriable: true });
  }

  #context(deadlineMs: number): OperationContext {
    return { epoch: 0, deadlineMs, hops: 0 };
  }

  /** Lets the locks of an attempt go that will never be committed. Who does not hear of it asks later. */
  #abort(parts: readonly Part[], request: ResolveRequest): void {
    for (const { bucket } of parts) this.#background.run(() => this.#resolveAt(bucket, request));
  }

  async #resolveAt(bucket: BucketId, request: ResolveRequest): Promise<void> {
    const context = this.#context(this.#options.env.clock.monotonicMs() + RESOLVE_TIMEOUT_MS);
    await this.#options.handle().execute({ kind: 'resolve', bucket, request }, context);
  }

  // --- home: behind the decision

  /** Has every participant resolve a committed transaction; then its record may go. */
  #tell(replica: Replica, { id, start, timestamp, participants }: CommittedRecord): void {
    const key = transactionKey(id);
    if (this.#told.has(key)) return;
    this.#told.add(key);
    this.#background.run(async () => {
      try {
        const all = participants.map((bucket) => this.#resolveAt(bucket, { id, start, commit: timestamp }));
        await (mutant('record-forgotten-early') ? Promise.race(all) : Promise.all(all));
      } catch (error) {
        this.#told.delete(key);
        throw error;
      }
      const ids = this.#toForget.get(replica);
      if (ids === undefined) this.#toForget.set(replica, [id]);
      else ids.push(id);
      if ((ids?.length ?? 0) >= FORGET_AT_ONCE) this.#forget(replica);
    });
  }

  #forget(replica: Replica): void {
    const ids = this.#toForget.get(replica) ?? [];
    this.#toForget.delete(replica);
    this.#background.run(async () => {
      try {
        await replica.commands.forget(ids);
      } finally {
        for (const id of ids) this.#told.delete(transactionKey(id));
      }
    });
  }

  /** What became of attempts whose home this is: as of a timestamp, which is promised, or as of now. */
  async answer(replica: Replica, ids: readonly TransactionId[], asOf: Timestamp, deadlineMs: number): Promise<Outcome[]> {
    const now = asOf === 0;
    // Before it is asked who leads. If that is this replica, what is not alive was decided here by then, or never will be; if it
    // loses its office as it is confirmed, what dies with that may be decided all the same, and only the next leader knows.
    const alive = ids.map((id) => this.#isAlive(id, replica.raft.term));
    await replica.reads.open(now ? { kind: 'linearizable' } : { kind: 'asOf', timestamp: asOf }, deadlineMs);
    return ids.map((id, at): Outcome => {
      const record = replica.state.home.find(id);
      if (record !== undefined) return { kind: 'committed', timestamp: record.timestamp };
      // As of a past moment it is not asked who leads now; all that is known is that nothing more commits up to then.
      const isAlive = mutant('alive-asked-late') ? this.#isAlive(id, replica.raft.term) : alive[at] === true;
      return !now || isAlive ? { kind: 'pending' } : { kind: 'over' };
    });
  }

  #isAlive(id: TransactionId, term: Term): boolean {
    return this.#alive.get(transactionKey(id)) === term && !mutant('live-attempts-aborted');
  }

  // --- participants

  /** Asks the homes of transactions what became of them. */
  async outcomes(asked: readonly Prepared[], asOf: Timestamp, deadlineMs: number): Promise<ReadonlyMap<Prepared, Outcome>> {
    const found = await Promise.all([...byHome(asked)].map(([home, list]) => this.#outcomesAt(home, list, asOf, deadlineMs)));
    return new Map(found.flat());
  }

  async #outcomesAt(
    home: BucketId,
    asked: readonly Prepared[],
    asOf: Timestamp,
    deadlineMs: number,
  ): Promise<(readonly [Prepared, Outcome])[]> {
    const ids = asked.map(({ id }) => id);
    const context = this.#context(deadlineMs);
    const { result } = await this.#options.handle().execute({ kind: 'outcomes', bucket: home, ids, asOf }, context);
    return asked.flatMap((prepared, at) => {
      const outcome = result.outcomes[at];
      return outcome === undefined ? [] : [[prepared, outcome] as const];
    });
  }

  /** Looks for what nobody else will do: records whose participants were not told, and intents that nobody comes back to. */
  tick(): void {
    const now = this.#options.env.clock.monotonicMs();
    if (now >= this.#forgetDueMs) {
      this.#forgetDueMs = now + FORGET_EVERY_MS;
      for (const replica of [...this.#toForget.keys()]) this.#forget(replica);
    }
    for (const replica of this.#options.replicas.values()) {
      const { raft, state, installing } = replica;
      if (installing || !raft.canServe()) continue;
      for (const record of state.home.records()) this.#tell(replica, record);
      if (state.participant.count > 0 && !mutant('orphans-left')) this.#recover(replica);
    }
  }

  #recover(replica: Replica): void {
    const { env, limits } = this.#options;
    const nowMs = env.clock.monotonicMs();
    const old: Prepared[] = [];
    for (const prepared of replica.state.participant.prepared()) {
      const sinceMs = this.#knownSinceMs.get(prepared);
      if (sinceMs === undefined) this.#knownSinceMs.set(prepared, nowMs);
      else if (nowMs - sinceMs >= limits.intentPatienceMs && !this.#asking.has(transactionKey(prepared.id))) old.push(prepared);
      if (old.length === ASK_AT_ONCE) break;
    }
    // Each home by itself: one that nobody leads keeps no intents but its own.
    for (const [home, list] of byHome(old)) this.#background.run(() => this.#resolveOld(replica, home, list));
  }

  async #resolveOld(replica: Replica, home: BucketId, old: readonly Prepared[]): Promise<void> {
    const deadlineMs = this.#options.env.clock.monotonicMs() + RESOLVE_TIMEOUT_MS;
    for (const { id } of old) this.#asking.add(transactionKey(id));
    try {
      const outcomes = await this.#outcomesAt(home, old, 0, deadlineMs);
      const resolved = outcomes.map(async ([{ id, start }, outcome]) => {
        if (outcome.kind === 'pending') return;
        const commit = outcome.kind === 'committed' ? outcome.timestamp : 0;
        await replica.commands.resolve({ id, start, commit }, deadlineMs);
      });
      await Promise.all(resolved);
    } finally {
      for (const { id } of old) this.#asking.delete(transactionKey(id));
    }
  }
}

function byHome(asked: readonly Prepared[]): ReadonlyMap<BucketId, readonly Prepared[]> {
  const lists = new Map<BucketId, Prepared[]>();
  for (const prepared of asked) {
    const list = lists.get(prepared.home);
    if (list === undefined) lists.set(prepared.home, [prepared]);
    else list.push(prepared);
  }
  return lists;
}

type PrepareReply = PrepareResult | { readonly kind: 'failed'; readonly error: TidemarkError };
