import type { Clock, Random, Timers } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { randomIdentity } from '../env/time.js';
import { printable, type Bytes } from '../lib/bytes.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Condition, KeyRange, Served, Timestamp } from '../bucket/requests.js';
import { claimOf } from '../bucket/claims.js';
import { isTooLate } from '../router/margin.js';
import type { CallOptions, WriteReply } from '../router/options.js';
import type { Router } from '../router/router.js';
import type { Claim } from '../txn/locks.js';
import type { Owner } from '../txn/reservations.js';
import { invalidOption } from './options.js';
import { pause } from './pause.js';
import { Transaction, type TransactionHost } from './transaction.js';

/**
 * Runs a function as a transaction: attempt by attempt, until one commits.
 *
 * An attempt reads one snapshot and collects writes (transaction.ts); its commit is one conditional Write, which is atomic and
 * whose conditions are what was read. If something of that has changed the attempt has failed: nothing was written, and after a
 * pause, longer each time and random, the function is called again. It must therefore do nothing that cannot be repeated.
 *
 * - A transaction that has only read commits too: its conditions are checked, all at one moment. Not if it has read one key and
 *   nothing else, which is linearizable by itself, nor with the option `snapshot`.
 * - What the function throws ends the transaction, but only once what it has read is known to be the truth: what it threw may
 *   come from a snapshot that was too old. If that cannot be found out, the reason is what is thrown, with the other as cause.
 * - A commit whose outcome is not known is repeated under its request id until the time is up; then it is reported as that.
 * - One that has lost RESERVE_AFTER times to others reserves what it used last before it goes on (txn/reservations.ts), for twice
 *   as long as its longest attempt took: its next attempt is as good as sure to commit, if it uses the same.
 */
export interface TransactionOptions {
  /** For all attempts together, the time that the function takes included; default 30 s. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Attempts before it is a TransactionConflict; default 20. */
  readonly attemptsMax?: number | undefined;
  /** Only reads, all as of one moment, which is not checked at the end: a scan of that moment may be behind what others saw. */
  readonly snapshot?: boolean | undefined;
  /** Called when it has committed, if there was anything to commit. */
  readonly committed?: ((commit: Commit) => void) | undefined;
}

export interface Commit {
  /** The commit timestamp: the version of every key that was put. */
  readonly version: Timestamp;
  readonly served: Served;
  readonly attempts: number;
}

/** Others changed what it had read, in every attempt. Nothing was written; the same transaction may succeed later. */
export class TransactionConflict extends TidemarkError {
  readonly attempts: number;
  /** What was changed last: a key or a range. */
  readonly key: Bytes | undefined;
  readonly range: KeyRange | undefined;

  constructor(attempts: number, { condition, version }: Conflict) {
    const [what, details] = nameOf(condition);
    const now = version === 0 ? 'it does not exist any more' : `it was changed at ${version}`;
    const message = `the transaction was tried ${attempts} times, and others changed what it had read, the last ${what}: ${now}`;
    super('ABORTED', 'TRANSACTION_CONFLICT', message, {
      retriable: true,
      details: { ...details, attempts: String(attempts), version: String(version) },
    });
    this.attempts = attempts;
    this.key = condition.kind === 'unchanged' ? undefined : condition.key;
    this.range = condition.kind === 'unchanged' ? condition.range : undefined;
  }
}

interface Conflict {
  readonly condition: Condition;
  /** The present version of the key, or of a change in the range. */
  readonly version: Timestamp;
}

export interface TransactionEnv {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
}

const TIMEOUT_MS = 30_000;
const ATTEMPTS_MAX = 20;
const PAUSE_MIN_MS = 4;
const PAUSE_MAX_MS = 500;
const RESERVE_AFTER = 3;
const RESERVE_MS_MIN = 1000;
/** What is not let go of by then ends by itself. */
const RELEASE_TIMEOUT_MS = 1000;

export async function runTransaction<T>(
  env: TransactionEnv,
  router: Router,
  limits: Limits,
  work: (tx: Transaction) => Promise<T> | T,
  options: TransactionOptions,
): Promise<T> {
  return new Run(env, router, limits, options).run(work);
}

/** How an attempt ended: with the result, or so that it may be tried again. */
type Ending<T> = { readonly result: T } | Failed;
type Failed = { readonly again: TidemarkError } | { readonly conflict: Conflict };

class Run {
  readonly #env: TransactionEnv;
  readonly #router: Router;
  readonly #limits: Limits;
  readonly #options: TransactionOptions;
  readonly #deadlineMs: number;
  /** Who it is for the locks of others; undefined in its first attempt. */
  #owner: Owner | undefined;
  readonly #reserved: Claim[] = [];
  #longestMs = 0;

  constructor(env: TransactionEnv, router: Router, limits: Limits, options: TransactionOptions) {
    const { timeoutMs = TIMEOUT_MS, attemptsMax = ATTEMPTS_MAX } = options;
    if (!(timeoutMs >= 0)) throw invalidOption('timeoutMs', timeoutMs, 'milliseconds, 0 or more');
    if (!Number.isSafeInteger(attemptsMax) || attemptsMax < 1) {
      throw invalidOption('attemptsMax', attemptsMax, 'a whole number of at least 1');
    }
    this.#env = env;
    this.#router = router;
    this.#limits = limits;
    this.#options = options;
    this.#deadlineMs = env.clock.monotonicMs() + timeoutMs;
  }

  async run<T>(work: (tx: Transaction) => Promise<T> | T): Promise<T> {
    const { attemptsMax = ATTEMPTS_MAX } = this.#options;
    let lost = 0;
    try {
      for (let attempt = 1; ; attempt += 1) {
        this.#checkTime();
        const beganMs = this.#env.clock.monotonicMs();
        const tx = new Transaction(this.#host(), attempt);
        const ending = await this.#attempt(work, tx);
        if ('result' in ending) return ending.result;
        this.#longestMs = Math.max(this.#longestMs, this.#env.clock.monotonicMs() - beganMs);
        if (isLost(ending)) lost += 1;
        const failure = 'again' in ending ? ending.again : new TransactionConflict(attempt, ending.conflict);
        if (attempt >= attemptsMax) throw failure;
        this.#owner ??= { reservation: 0, first: tx.timestamp ?? this.#router.now() };
        const reserved = isLost(ending) && lost >= RESERVE_AFTER && (await this.#reserve(tx, this.#owner.first));
        if (!reserved && !(await this.#pause(attempt, 'again' in ending))) throw failure;
      }
    } finally {
      await this.#release();
    }
  }

  /** False if it was not possible. */
  async #reserve(tx: Transaction, first: Timestamp): Promise<boolean> {
    if (mutant('transaction-never-reserves')) return false;
    const claim = claimOf(tx.conditions(), tx.mutations);
    this.#owner = { first, reservation: this.#owner?.reservation || randomIdentity(this.#env.random) };
    this.#reserved.push(claim);
    const forMs = Math.min(this.#limits.reservationMsMax, Math.max(RESERVE_MS_MIN, 2 * this.#longestMs));
    return this.#router.reserve(claim, this.#owner, forMs, this.#callOptions()).then(
      () => true,
      () => false,
    );
  }

  /** Waits for it, since its caller may end the process next, and others wait for what is reserved. */
  async #release(): Promise<void> {
    const owner = this.#owner;
    if (owner === undefined || mutant('reservations-kept')) return;
    const all = this.#reserved.map((claim) => this.#router.reserve(claim, owner, 0, { timeoutMs: RELEASE_TIMEOUT_MS }));
    await Promise.allSettled(all);
  }

  async #attempt<T>(work: (tx: Transaction) => Promise<T> | T, tx: Transaction): Promise<Ending<T>> {
    let result: T;
    try {
      result = await work(tx);
    } catch (error) {
      tx.end();
      return this.#failed(tx, error);
    }
    tx.end();
    if (this.#options.snapshot === true || tx.isOneRead) return { result };
    const conditions = tx.conditions();
    const { mutations } = tx;
    if (conditions.length + mutations.length === 0) return { result };
    this.#checkTime();
    let reply: WriteReply;
    try {
      reply = await this.#router.write(conditions, mutations, { ...this.#callOptions(), owner: this.#owner });
    } catch (error) {
      if (isTidemarkError(error) && mayHelpAgain(error)) return { again: error };
      throw mutations.length === 0 ? withoutEffect(error) : error;
    }
    const conflict = conflictOf(reply, conditions);
    if (conflict !== undefined) return { conflict };
    this.#options.committed?.({ version: reply.timestamp, served: reply.served, attempts: tx.attempt });
    return { result };
  }

  /** The function threw: what it has read decides whether that counts, unless it is what the transaction itself has refused. */
  async #failed(tx: Transaction, error: unknown): Promise<Failed> {
    const { failure } = tx;
    if (failure !== undefined && mayHelpAgain(failure)) return { again: failure };
    const cause = (error as { readonly cause?: unknown } | null | undefined)?.cause;
    if (failure !== undefined && (error === failure || cause === failure)) throw error;
    const conditions = this.#options.snapshot === true || tx.isOneRead ? [] : tx.conditions();
    if (conditions.length === 0) throw error;
    let reply: WriteReply;
    try {
      reply = await this.#router.write(conditions, [], { ...this.#callOptions(), owner: this.#owner });
    } catch (unable) {
      const unchecked = notChecked(unable, error);
      if (isTidemarkError(unable) && isTidemarkError(unchecked) && mayHelpAgain(unable)) return { again: unchecked };
      throw unchecked;
    }
    const conflict = conflictOf(reply, conditions);
    if (conflict === undefined) throw error;
    return { conflict };
  }

  #host(): TransactionHost {
    const snapshotOnly = this.#options.snapshot === true;
    return { router: this.#router, limits: this.#limits, snapshotOnly, callOptions: () => this.#callOptions() };
  }

  #callOptions(): CallOptions {
    return { deadlineMs: this.#deadlineMs, signal: this.#options.signal };
  }

  #checkTime(): void {
    if (this.#options.signal?.aborted === true) {
      throw new TidemarkError('CANCELLED', 'CANCELLED', 'the caller went away; the transaction wrote nothing');
    }
    if (this.#env.clock.monotonicMs() < this.#deadlineMs) return;
    const message = 'the time of the transaction was up before it could commit; it wrote nothing';
    throw new TidemarkError('DEADLINE_EXCEEDED', 'TRANSACTION_TIMEOUT', message, { retriable: true });
  }

  /** False: there is no time left for another attempt, or, where locks were in the way, to hear what became of it. */
  async #pause(attempt: number, isLocked: boolean): Promise<boolean> {
    const { clock, timers, random } = this.#env;
    const longMs = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** Math.min(attempt - 1, 20));
    const pauseMs = longMs * random.float();
    const beginMs = clock.monotonicMs() + pauseMs;
    if (isLocked ? isTooLate(this.#deadlineMs, beginMs) : beginMs >= this.#deadlineMs) return false;
    await pause(timers, pauseMs, this.#options.signal);
    return true;
  }
}

/** Others were faster, or their locks were in the way each time that the cluster tried. */
function isLost(ending: Failed): boolean {
  return 'conflict' in ending || ending.again.reason === 'TRANSACTION_CONFLICT';
}

/** Nothing was done, and a new attempt, which reads a later moment, may fare better. */
function mayHelpAgain({ code, reason, outcome, retriable }: TidemarkError): boolean {
  if (outcome !== 'none') return false;
  if (reason === 'TRANSACTION_CONFLICT') return true;
  return reason === 'BEFORE_HORIZON' || (code === 'RESOURCE_EXHAUSTED' && retriable);
}

/** Whatever became of a check of conditions: it wrote nothing. */
function withoutEffect(error: unknown): unknown {
  if (!isTidemarkError(error) || error.outcome === 'none') return error;
  const { code, reason, message, retriable, details } = error;
  return new TidemarkError(code, reason, message, { retriable, details, cause: error });
}

/** It cannot be told whether what the function threw rests on the truth. */
function notChecked(unable: unknown, thrown: unknown): unknown {
  if (!isTidemarkError(unable)) return unable;
  const { code, reason, retriable, details } = unable;
  const message = `the function of the transaction threw, and what it had read could not be checked: ${unable.message}`;
  return new TidemarkError(code, reason, message, { retriable, details, cause: thrown });
}

function conflictOf(reply: WriteReply, conditions: readonly Condition[]): Conflict | undefined {
  const condition = reply.applied ? undefined : conditions[reply.failedCondition];
  return condition && { condition, version: reply.failedVersion };
}

function nameOf(condition: Condition): [what: string, details: Readonly<Record<string, string>>] {
  if (condition.kind !== 'unchanged') {
    const key = printable(condition.key);
    return [`key '${key}'`, { key }];
  }
  const [start, end] = [printable(condition.range.start), printable(condition.range.end)];
  return [`the range from '${start}' to ${end === '' ? 'the end' : `'${end}'`}`, { start, end }];
}
