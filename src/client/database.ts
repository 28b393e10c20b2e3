import type { Env } from '../env/env.js';
import { DEFAULT_LIMITS, type Limits } from '../env/limits.js';
import { EMPTY } from '../lib/bytes.js';
import type { CancelSignal } from '../lib/cancel.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { checkTimestamp, parseTimestamp } from '../mvcc/timestamp.js';
import { ANY_STALENESS_MS } from '../bucket/requests.js';
import type { Condition, Consistency, Mutation, RequestId, Served, Timestamp } from '../bucket/requests.js';
import type { Placement } from '../placement/map.js';
import type { DiffPage } from '../router/diff.js';
import type { HedgingOptions } from '../router/hedging.js';
import type { NearCacheOptions } from '../router/near-cache.js';
import type { Pin, PinsReply } from '../router/options.js';
import { Router } from '../router/router.js';
import type { ScanPage } from '../router/scan.js';
import { ChangeFeed, streamFrom } from './changes.js';
import { Diff } from './diff.js';
import { bytesOf, contradiction, Entry, Missing, rangeOf, VersionEntry, type Data, type RangeOf } from './entries.js';
import { checkOptions } from './options.js';
import { runTransaction, type TransactionOptions } from './run-transaction.js';
import { Scan } from './scan.js';
import type { Transaction } from './transaction.js';

/**
 * The public API for TypeScript and JavaScript: a thin, typed face of the router (router/router.ts), which does the work.
 *
 *     await using db = await connect({ endpoints: ['127.0.0.1:7100'] });
 *     await db.put('user/1', JSON.stringify({ name: 'Ada' }));
 *     const user = await db.get('user/1');
 *     if (user.found) console.log(user.json(), user.version, user.served.node);
 *     for await (const entry of db.scan({ prefix: 'user/' })) console.log(entry.key.toString());
 *     for await (const change of db.changes({ prefix: 'user/' })) console.log(change.kind, change.cursor);
 *     const before = await db.asOf('-10s').get('user/1');
 *     await db.transaction(async (tx) => {
 *       const from = await tx.get('{bank}/ada');
 *       tx.put('{bank}/ada', String(Number(from.text()) - 5));
 *       tx.put('{bank}/bob', '5');
 *     });
 *
 * One Database is one session: its bounded reads see its own writes, and never go back in time for a key. It is meant to be
 * shared by everything in a process, and to be closed at the end; until then it keeps the process alive.
 *
 * Errors are TidemarkErrors. `outcome` says whether a write that failed may have taken effect.
 */
export type ClientEnv = Pick<Env, 'clock' | 'timers' | 'random' | 'network' | 'log' | 'metrics'>;

export interface DatabaseOptions {
  /** `host:port` of nodes, or of sidecars; not a mixture. */
  readonly endpoints: readonly string[];
  /** Refuse any other cluster. */
  readonly clusterId?: string | undefined;
  /** Replicas in the same zone are preferred for bounded and local reads. */
  readonly zone?: string | undefined;
  /** For each request that sets none; default 10 s. */
  readonly timeoutMs?: number | undefined;
  readonly limits?: Partial<Limits> | undefined;
  /**
   * Keep so many of the keys that bounded reads ask for most in this process: where a read's bound can be proved from there, it
   * takes no hop (`served.hops` 0, `served.node` 0). Off by default; each key that is kept costs a change stream.
   */
  readonly nearCache?: NearCacheOptions | undefined;
  /** When a second replica is asked for reads that several can serve; default: after what 95 of 100 take, for 5 % at most. */
  readonly hedging?: HedgingOptions | undefined;
}

export interface RequestOptions {
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface WriteOptions extends RequestOptions {
  /** For callers that retry over their own restarts: the same id (of `newRequestId`) never applies twice. */
  readonly id?: RequestId | undefined;
  /** The token of a session: the write comes after all that it has seen. */
  readonly atLeast?: Timestamp | undefined;
}

export interface ReadOptions extends RequestOptions {
  /** Default `linearizable`; `bounded` if there is `maxStalenessMs`. */
  readonly consistency?: 'linearizable' | 'bounded' | 'local' | undefined;
  readonly maxStalenessMs?: number | undefined;
  /** A timestamp, or text as in `asOf()`. */
  readonly asOf?: Timestamp | string | undefined;
  /** The token of a session (see `session()`): as of that moment or later, from any replica. Implies `bounded`. */
  readonly atLeast?: Timestamp | undefined;
}

export interface ScanOptions extends ReadOptions {
  /** Keys that begin so. Not together with `start` or `end`. */
  readonly prefix?: Data | undefined;
  /** Inclusive. */
  readonly start?: Data | undefined;
  /** Exclusive. */
  readonly end?: Data | undefined;
  readonly reverse?: boolean | undefined;
  readonly limit?: number | undefined;
  /** Leave the values empty. */
  readonly keysOnly?: boolean | undefined;
}

export interface HistoryOptions extends RequestOptions {
  readonly newest?: Timestamp | string | undefined;
  readonly oldest?: Timestamp | string | undefined;
  readonly limit?: number | undefined;
  /** As it was at a moment, from any replica; versions above are left out. */
  readonly asOf?: Timestamp | string | undefined;
}

export interface ChangesOptions {
  /** Keys that begin so. Not together with `start` or `end`. */
  readonly prefix?: Data | undefined;
  /** Inclusive. */
  readonly start?: Data | undefined;
  /** Exclusive. */
  readonly end?: Data | undefined;
  /**
   * `now` (the default); `beginning`: a snapshot of what there is, then what changes; the cursor of an event; or a moment as in
   * `asOf()`: what was committed after it.
   */
  readonly from?: Timestamp | string | undefined;
  /** Tell what each key held before. */
  readonly before?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type ConditionOf<K> =
  | { readonly kind: 'exists' | 'absent'; readonly key: K }
  | { readonly kind: 'version'; readonly key: K; readonly version: Timestamp }
  | { readonly kind: 'value'; readonly key: K; readonly value: K }
  | (RangeOf<K> & { readonly kind: 'unchanged'; readonly since: Timestamp });

export type MutationOf<K> =
  | { readonly kind: 'put'; readonly key: K; readonly value: K }
  | { readonly kind: 'delete'; readonly key: K };

export interface Write {
  readonly conditions?: readonly ConditionOf<Data>[] | undefined;
  readonly mutations?: readonly MutationOf<Data>[] | undefined;
}

export interface Written {
  /** The commit timestamp: the version of every key that was put. */
  readonly version: Timestamp;
  readonly served: Served;
}

export interface WriteOutcome extends Written {
  /** False: a condition did not hold, and nothing was written. */
  readonly applied: boolean;
  /**
   * A condition that did not hold, the first where all are in one bucket, and the present version of its key (0: it does not
   * exist); of a range, the timestamp of a change in it.
   */
  readonly failed?: { readonly condition: number; readonly version: Timestamp };
}

export interface DiffOptions extends RequestOptions, RangeOf<Data> {
  readonly from: Timestamp | string;
  readonly to?: Timestamp | string | undefined;
}

export interface PinOptions extends RequestOptions {
  /** A timestamp or ISO 8601 text; never, if it is left out. */
  readonly expires?: Timestamp | string | undefined;
}

/** Reads as of one moment. */
export interface Snapshot {
  readonly timestamp: Timestamp;
  get(key: Data, options?: RequestOptions): Promise<Entry | Missing>;
  getMany(keys: readonly Data[], options?: RequestOptions): AsyncGenerator<Entry | Missing>;
  scan(options?: Omit<ScanOptions, keyof ReadOptions> & RequestOptions): Scan;
  history(key: Data, options?: Omit<HistoryOptions, 'asOf'>): AsyncGenerator<VersionEntry>;
}

export class Database implements AsyncDisposable {
  readonly #env: ClientEnv;
  readonly #limits: Limits;
  readonly #router: Router;

  constructor(env: ClientEnv, options: DatabaseOptions) {
    const { endpoints, clusterId, zone, timeoutMs, limits, nearCache, hedging } = options;
    checkOptions(options);
    this.#env = env;
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    const from = { seeds: endpoints, clusterId, zone, timeoutMs, nearCache, hedging };
    this.#router = new Router({ env, limits: this.#limits, role: 'client', ...from });
  }

  /** Resolves when a node has answered. Requests may be made before. */
  async ready(options: RequestOptions = {}): Promise<void> {
    await this.#router.ready(options);
  }

  /** Which buckets are where, as far as known; behind a sidecar, that it has them all. */
  get placement(): Placement | undefined {
    return this.#router.placement;
  }

  /** The cluster's present time, approximately: good for choosing a moment in the past. */
  now(): Timestamp {
    return this.#router.now();
  }

  /**
   * An id of its own for one command, to be kept until its outcome is known. Its session may serve for more: each further command
   * takes the next `sequence`, and as `lowest` the lowest one that is still without an answer.
   */
  newRequestId(): RequestId {
    return this.#router.newRequestId();
  }

  async put(key: Data, value: Data, options: WriteOptions = {}): Promise<Written> {
    const { timestamp, served } = await this.#router.put(bytesOf(key), bytesOf(value), options);
    return { version: timestamp, served };
  }

  /** Deleting a key that does not exist succeeds. */
  async delete(key: Data, options: WriteOptions = {}): Promise<Written> {
    const { timestamp, served } = await this.#router.delete(bytesOf(key), options);
    return { version: timestamp, served };
  }

  /** Checks all conditions and, if they hold, applies all mutations, atomically, whichever buckets their keys are in. */
  async write({ conditions = [], mutations = [] }: Write, options: WriteOptions = {}): Promise<WriteOutcome> {
    const reply = await this.#router.write(conditions.map(conditionOf), mutations.map(mutationOf), options);
    const { applied, timestamp, failedCondition, failedVersion, served } = reply;
    const written = { applied, version: timestamp, served };
    return applied ? written : { ...written, failed: { condition: failedCondition, version: failedVersion } };
  }

  /**
   * Runs a function whose reads and writes are one atomic step (run-transaction.ts). It is called again when somebody else has
   * changed what it had read, so it must do nothing else that cannot be repeated. What it returns is the result.
   *
   * Rejects with TransactionConflict when that happened too often, and with what the function throws, once what it had read is
   * known to be so; nothing was written then.
   * Any error with outcome `unknown`: it may have been.
   */
  async transaction<T>(work: (tx: Transaction) => Promise<T> | T, options: TransactionOptions = {}): Promise<T> {
    return runTransaction(this.#env, this.#router, this.#limits, work, options);
  }

  async get(key: Data, options: ReadOptions = {}): Promise<Entry | Missing> {
    const bytes = bytesOf(key);
    const { record, served } = await this.#router.get(bytes, { ...options, consistency: this.#consistencyOf(options) });
    return record === undefined ? new Missing(bytes, served) : new Entry(record, served);
  }

  /** In the order of the keys. */
  async *getMany(keys: readonly Data[], options: ReadOptions = {}): AsyncGenerator<Entry | Missing> {
    const all = keys.map(bytesOf);
    const batches = this.#router.getMany(all, { ...options, consistency: this.#consistencyOf(options) });
    for await (const batch of batches) {
      for (const { index, record, served } of batch) {
        yield record === undefined ? new Missing(all[index] ?? EMPTY, served) : new Entry(record, served);
      }
    }
  }

  /** In the order of the keys, all as of one timestamp, which its `served` names, also if nothing was found. */
  scan(options: ScanOptions = {}): Scan {
    return new Scan((signal) => this.#pages(options, signal), options.signal);
  }

  async *#pages(options: ScanOptions, signal: CancelSignal): AsyncGenerator<ScanPage> {
    const { reverse, limit, keysOnly, timeoutMs, atLeast } = options;
    if (limit === 0) return;
    const consistency = this.#consistencyOf(options);
    yield* this.#router.scan(rangeOf(options), { consistency, atLeast, reverse, limit, keysOnly, timeoutMs, signal });
  }

  /** The versions of a key, newest first. */
  async *history(key: Data, options: HistoryOptions = {}): AsyncGenerator<VersionEntry> {
    const { newest, oldest, asOf, ...rest } = options;
    if (rest.limit === 0) return;
    const pages = this.#router.history(bytesOf(key), {
      ...rest,
      consistency: asOf === undefined ? undefined : { kind: 'asOf', timestamp: this.#momentOf(asOf, 'asOf') },
      newest: newest === undefined ? undefined : this.#momentOf(newest, 'newest'),
      oldest: oldest === undefined ? undefined : this.#momentOf(oldest, 'oldest'),
    });
    for await (const { versions, served } of pages) {
      for (const version of versions) yield new VersionEntry(version, served);
    }
  }

  /**
   * Every committed change of the keys of a range, once, in the order of commit timestamps over all keys, with marks that say up
   * to when it is complete. Without end, until it is left:
   *
   *     for await (const change of db.changes({ prefix: 'user/', from: cursor })) {
   *       if (change.kind !== 'mark') await handle(change.kind, change.key, change.value);
   *       cursor = change.cursor;      // where to go on after a restart
   *     }
   *
   * It waits for nodes that are away, and reads on at others. Throws INVALID_ARGUMENT for a cursor that is none, and OUT_OF_RANGE
   * (detail `earliestReadable`) when what changed behind it is not kept any more.
   */
  changes(options: ChangesOptions = {}): ChangeFeed {
    const { from = 'now', before = false, signal } = options;
    return new ChangeFeed(this.#router, this.#env.timers, {
      range: rangeOf(options),
      from: streamFrom(from, (text) => this.#momentOf(text, 'from')),
      before,
      signal,
    });
  }

  /** The past: a timestamp, ISO 8601 text, or a span before now such as `-10s`, which is counted from this call. */
  asOf(moment: Timestamp | string): Snapshot {
    const asOf = this.#momentOf(moment, 'asOf');
    return {
      timestamp: asOf,
      get: (key, options) => this.get(key, { ...options, asOf }),
      getMany: (keys, options) => this.getMany(keys, { ...options, asOf }),
      scan: (options) => this.scan({ ...options, asOf }),
      history: (key, options) => this.history(key, { ...options, asOf }),
    };
  }

  /**
   * What changed between two moments, in the order of keys; of a key that changed several times, only what came of it. Moments as
   * in `asOf()`; without `to`, up to a moment that covers all that is acknowledged, which the result names.
   */
  diff({ from, to, timeoutMs, signal, ...range }: DiffOptions): Diff {
    const since = this.#momentOf(from, 'from');
    const until = to === undefined ? undefined : this.#momentOf(to, 'to');
    const asked = rangeOf(range);
    const pagesOf = (left: CancelSignal): AsyncGenerator<DiffPage> =>
      this.#router.diff(asked, { from: since, to: until, timeoutMs, signal: left });
    return new Diff(since, pagesOf, signal);
  }

  /**
   * Keeps a moment readable under a name, until it expires or is removed. With the same moment it may be pinned again, which sets
   * when it expires; another one under a name that is there is ALREADY_EXISTS / PIN_EXISTS. One that would expire later than pins
   * can hold is INVALID_ARGUMENT / PIN_TOO_LONG.
   */
  async pin(name: string, moment: Timestamp | string, { expires, ...options }: PinOptions = {}): Promise<Pin> {
    const timestamp = this.#momentOf(moment, 'moment');
    const until = expires === undefined ? 0 : this.#momentOf(expires, 'expires');
    const { pins } = await this.#router.pins({ kind: 'add', name, timestamp, expires: until }, options);
    const pin = pins.find((each) => each.name === name);
    return pin ?? { name, timestamp, expires: until, lost: false, complete: true };
  }

  /** Removing a pin that does not exist succeeds. */
  async unpin(name: string, options: RequestOptions = {}): Promise<void> {
    await this.#router.pins({ kind: 'remove', name }, options);
  }

  /** All pins, and the earliest timestamp that can be read everywhere. */
  async pins(options: RequestOptions = {}): Promise<PinsReply> {
    return this.#router.pins({ kind: 'list' }, options);
  }

  /**
   * A session of reads and writes that can be handed on: whoever begins one with the token of another sees all that it saw and
   * wrote, through any replica, sidecar or process, and never goes back behind it.
   *
   *     const { token } = session;                          // in one process, with a request to another, there:
   *     const user = await db.session(token).get('user/1');
   */
  session(token: Timestamp = 0): Session {
    return new Session(this, (...scan) => this.#pages(...scan), checkTimestamp(token, 'token'));
  }

  /** Requests under way fail; writes among them with outcome unknown. */
  async close(): Promise<void> {
    await this.#router.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #momentOf(moment: Timestamp | string, field: string): Timestamp {
    return parseTimestamp(String(moment), this.now(), field);
  }

  #consistencyOf({ consistency, maxStalenessMs, asOf, atLeast }: ReadOptions): Consistency {
    if (asOf !== undefined) {
      if (consistency !== undefined || maxStalenessMs !== undefined || atLeast !== undefined) {
        throw contradiction('asOf', 'consistency, maxStalenessMs or atLeast');
      }
      return { kind: 'asOf', timestamp: this.#momentOf(asOf, 'asOf') };
    }
    if (maxStalenessMs !== undefined) {
      if (consistency !== undefined && consistency !== 'bounded') throw contradiction('maxStalenessMs', `'${consistency}'`);
      return { kind: 'bounded', maxStalenessMs };
    }
    if (atLeast !== undefined) {
      if (consistency !== undefined && consistency !== 'bounded') throw contradiction('atLeast', `'${consistency}'`);
      return { kind: 'bounded', maxStalenessMs: ANY_STALENESS_MS };
    }
    if (consistency !== 'bounded') return { kind: consistency ?? 'linearizable' };
    throw new TidemarkError('INVALID_ARGUMENT', 'STALENESS_MISSING', "consistency 'bounded' needs maxStalenessMs");
  }
}

/**
 * A session that can be handed on. Its token is the highest timestamp that it has seen; its reads are as of the token or later,
 * from any replica, and its writes come after it. Two requests that are under way at the same time do not wait for each other.
 *
 * What it adds to a Database, which is a session by itself: the token can go to another process, and reads cover all keys, also
 * in buckets that this process has never asked.
 */
type SessionReadOptions = Omit<ReadOptions, 'asOf' | 'atLeast' | 'consistency'>;
type PagesOfScan = (options: ScanOptions, signal: CancelSignal) => AsyncGenerator<ScanPage>;

export class Session {
  readonly #db: Database;
  readonly #pagesOf: PagesOfScan;
  #token: Timestamp;

  constructor(db: Database, pagesOf: PagesOfScan, token: Timestamp) {
    this.#db = db;
    this.#pagesOf = pagesOf;
    this.#token = token;
  }

  /** A whole number. 0: the session has seen nothing yet. */
  get token(): Timestamp {
    return this.#token;
  }

  async put(key: Data, value: Data, options?: WriteOptions): Promise<Written> {
    return this.#saw(await this.#db.put(key, value, { ...options, atLeast: this.#token }));
  }

  async delete(key: Data, options?: WriteOptions): Promise<Written> {
    return this.#saw(await this.#db.delete(key, { ...options, atLeast: this.#token }));
  }

  async write(write: Write, options?: WriteOptions): Promise<WriteOutcome> {
    return this.#saw(await this.#db.write(write, { ...options, atLeast: this.#token }));
  }

  async get(key: Data, options?: SessionReadOptions): Promise<Entry | Missing> {
    return this.#saw(await this.#db.get(key, { ...options, atLeast: this.#token }));
  }

  async *getMany(keys: readonly Data[], options?: SessionReadOptions): AsyncGenerator<Entry | Missing> {
    for await (const entry of this.#db.getMany(keys, { ...options, atLeast: this.#token })) yield this.#saw(entry);
  }

  scan(options?: Omit<ScanOptions, keyof ReadOptions> & RequestOptions): Scan {
    return new Scan((signal) => this.#pages(options, signal), options?.signal);
  }

  /** The token is taken when the scan begins; and a page without records has been seen as well. */
  async *#pages(options: ScanOptions | undefined, signal: CancelSignal): AsyncGenerator<ScanPage> {
    for await (const page of this.#pagesOf({ ...options, atLeast: this.#token }, signal)) {
      if (page.records.length > 0 || !mutant('token-misses-empty')) this.#token = Math.max(this.#token, page.served.timestamp);
      yield page;
    }
  }

  #saw<T extends { readonly served: Served; readonly version: Timestamp }>(answer: T): T {
    this.#token = Math.max(this.#token, answer.served.timestamp, answer.version);
    return answer;
  }
}

function conditionOf(condition: ConditionOf<Data>): Condition {
  if (condition.kind === 'unchanged') return { kind: 'unchanged', range: rangeOf(condition), since: condition.since };
  const key = bytesOf(condition.key);
  switch (condition.kind) {
    case 'version':
      return { kind: 'version', key, version: condition.version };
    case 'value':
      return { kind: 'value', key, value: bytesOf(condition.value) };
    default:
      return { kind: condition.kind, key };
  }
}

function mutationOf(mutation: MutationOf<Data>): Mutation {
  const key = bytesOf(mutation.key);
  return mutation.kind === 'put' ? { kind: 'put', key, value: bytesOf(mutation.value) } : { kind: 'delete', key };
}
