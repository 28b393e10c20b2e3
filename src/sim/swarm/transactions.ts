import type { Json, Operation } from '../../check/history.js';
import { ListAppendChecker } from '../../check/list-append.js';
import { run } from '../../check/work.js';
import { Database } from '../../client/database.js';
import type { Transaction } from '../../client/transaction.js';
import { assert } from '../../lib/assert.js';
import { isTidemarkError, messageOf, type TidemarkError } from '../../lib/errors.js';
import type { SimCluster } from '../cluster.js';
import type { SimLoop } from '../loop.js';
import type { SimRandom } from '../random.js';
import { isExcused } from './excuses.js';
import { BEYOND_KEYS, type SwarmPlan } from './plan.js';
import type { Waves } from './waves.js';

/**
 * Clients that run transactions through the client library, and what must be true of them:
 *
 * - a bank: money moves between accounts, and every reader, of whatever sort, finds all of it;
 * - lists: transactions append to some and read others, by key or by a scan that shows which exist. The history must be strictly
 *   serializable (check/list-append.ts). A key that a scan does not show was read as empty, so phantoms are caught too.
 *
 * All keys are beside those of the other clients.
 */
export interface TransactionLoadOptions {
  readonly loop: SimLoop;
  readonly random: SimRandom;
  readonly databases: readonly Database[];
  /** Of each client: so many do one thing after the other. */
  readonly workers: number;
  readonly thinkMs: number;
  readonly waves: Pick<Waves, 'atWork'>;
  /** Keys share no partition key: transactions span buckets. */
  readonly spread: boolean;
  /** What clients may be told when nothing is wrong but what the faults broke. */
  excuses(error: TidemarkError): boolean;
}

/** Clients of a swarm run, each with its own clock. */
export function transactionsOf(cluster: SimCluster, plan: SwarmPlan, random: SimRandom, waves: Waves): TransactionLoad {
  const { loop, endpoints, limits } = cluster;
  const skew = (most: number): number => most * (2 * random.float() - 1);
  const databases = Array.from({ length: plan.transactions }, (_, at) => {
    const clock = loop.clock({ rate: 1 + skew(plan.wallRateMax) });
    clock.jumpWall(skew(plan.clockSkewMs));
    return new Database(cluster.machine(`t${at}`, clock).env, { endpoints, limits });
  });
  const excuses = (error: TidemarkError): boolean => isExcused(plan, error);
  const { thinkMs, spreadTransactions: spread } = plan;
  return new TransactionLoad({ loop, random, databases, workers: 2, thinkMs, waves, spread, excuses });
}

const ACCOUNTS = 6;
const DEPOSIT = 100;
/** Lists that are in use at a time, and appends after which others are taken. */
const LISTS = 4;
const APPENDS_PER_EPOCH = 80;
const EXCUSED = new Set(['TRANSACTION_CONFLICT', 'TRANSACTION_TIMEOUT', 'BEFORE_HORIZON']);

/** The times at which readers found the money, or that something was committed. */
const MOMENTS_KEPT = 50;

export class TransactionLoad {
  readonly problems: string[] = [];
  /** What happened how often. */
  readonly counts = new Map<string, number>();
  readonly #options: TransactionLoadOptions;
  readonly #random: SimRandom;
  readonly #operations: Operation[] = [];
  readonly #moments: number[] = [];
  readonly #running: Promise<void>[] = [];
  #stopped = false;
  #order = 0;
  #processes = 0;
  #elements = 0;

  constructor(options: TransactionLoadOptions) {
    this.#options = options;
    this.#random = options.random;
  }

  start(): void {
    for (const db of this.#options.databases) {
      for (let worker = 0; worker < this.#options.workers; worker += 1) this.#running.push(this.#work(db));
    }
  }

  /** No new transactions; fulfilled when the last one is over. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  /** When all is healed: reads everything once more, and says what is wrong. */
  async finish(): Promise<string[]> {
    const [db] = this.#options.databases;
    assert(db !== undefined, 'somebody runs transactions');
    const timeoutMs = 60_000;
    const prefix = this.#prefix('bank');
    await this.#audit(() => db.transaction((tx) => this.#sum(tx.scan({ prefix })), { timeoutMs }));
    const last = Math.floor(this.#elements / APPENDS_PER_EPOCH);
    for (let epoch = 0; epoch <= last; epoch += 1) await this.#append(db, { epoch, appends: 0, scans: true, timeoutMs });
    const checker = new ListAppendChecker('strict-serializable');
    for (const operation of this.#operations) checker.add(operation);
    const { verdict, findings, unknown } = run(checker.check());
    this.#count('checked', this.#operations.length);
    for (const { kind, title, details } of findings) this.problems.push([`lists: ${kind}: ${title}`, ...details].join('\n    '));
    if (verdict !== 'valid' && findings.length === 0) this.problems.push(`lists: ${verdict}: ${unknown.join('; ')}`);
    return this.problems;
  }

  async #work(db: Database): Promise<void> {
    while (!this.#stopped) {
      await this.#options.waves.atWork();
      await this.#sleep(this.#options.thinkMs * 2 * this.#random.float());
      if (this.#stopped) return;
      try {
        await this.#step(db);
      } catch (error) {
        this.problems.push(`a transaction ended: ${messageOf(error)}`);
      }
    }
  }

  #step(db: Database): Promise<void> {
    const random = this.#random;
    const timeoutMs = random.pick([500, 3000, 10_000]);
    const prefix = this.#prefix('bank');
    switch (random.below(8)) {
      case 0:
      case 1:
        return this.#transfer(db, timeoutMs);
      case 2:
        return this.#audit(() => db.transaction((tx) => this.#sum(tx.scan({ prefix })), { timeoutMs }));
      case 3:
        return this.#audit(() => db.transaction((tx) => this.#sum(tx.scan({ prefix })), { timeoutMs, snapshot: true }));
      case 4: {
        // On any replica, and as of some moment that was.
        const isPast = random.chance(0.5) && this.#moments.length > 0;
        const moment = isPast ? { asOf: random.pick(this.#moments) } : { maxStalenessMs: 2000 };
        return this.#audit(() => this.#sum(db.scan({ prefix, timeoutMs, ...moment })));
      }
      default: {
        const epoch = Math.floor(this.#elements / APPENDS_PER_EPOCH);
        return this.#append(db, { epoch, appends: random.below(3), scans: random.chance(0.3), timeoutMs });
      }
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.loop.timers.after(ms, resolve);
    });
  }

  /** Keys of one kind; in one bucket, unless they are to be spread. */
  #prefix(kind: string): string {
    return BEYOND_KEYS + (this.#options.spread ? `txn/${kind}/` : `{txn}/${kind}/`);
  }

  #count(what: string, by = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + by);
  }

  // --- the bank

  async #transfer(db: Database, timeoutMs: number): Promise<void> {
    const random = this.#random;
    const from = random.below(ACCOUNTS);
    const to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
    const account = (number: number): string => `${this.#prefix('bank')}${number}`;
    await this.#told('transfer', () =>
      db.transaction(
        async (tx) => {
          const [source, target] = await Promise.all([tx.get(account(from)), tx.get(account(to))]);
          if (source.found !== target.found) throw new Error(`of accounts ${from} and ${to} there is only one`);
          if (!source.found) {
            for (let number = 0; number < ACCOUNTS; number += 1) tx.put(account(number), String(DEPOSIT));
            return;
          }
          const amount = Math.min(1 + random.below(30), Number(source.text()));
          tx.put(account(from), String(Number(source.text()) - amount));
          tx.put(account(to), String(Number(target.text()) + amount));
        },
        { timeoutMs, committed: ({ version }) => this.#noteMoment(version) },
      ),
    );
  }

  /** The money, and how many accounts hold it. */
  async #sum(entries: AsyncIterable<{ text(): string | undefined }>): Promise<{ sum: number; count: number }> {
    let sum = 0;
    let count = 0;
    for await (const entry of entries) {
      sum += Number(entry.text());
      count += 1;
    }
    // Also in an attempt that will not commit: each shows one moment.
    const isRight = count === 0 || (count === ACCOUNTS && sum === ACCOUNTS * DEPOSIT);
    if (!isRight) this.problems.push(`bank: a reader found ${sum} in ${count} accounts`);
    return { sum, count };
  }

  async #audit(read: () => Promise<unknown>): Promise<void> {
    await this.#told('audit', read);
  }

  #noteMoment(timestamp: number): void {
    this.#moments.push(timestamp);
    if (this.#moments.length > MOMENTS_KEPT) this.#moments.shift();
  }

  // --- lists

  async #append(db: Database, options: { epoch: number; appends: number; scans: boolean; timeoutMs: number }): Promise<void> {
    const { epoch, appends, scans, timeoutMs } = options;
    const random = this.#random;
    const lists = Array.from({ length: LISTS }, (_, list) => `${epoch}-${list}`);
    const targets = lists.filter(() => random.chance(0.5)).slice(0, appends);
    const elements = targets.map(() => {
      this.#elements += 1;
      return this.#elements;
    });
    const reads = scans ? lists : lists.filter((list) => targets.includes(list) || random.chance(0.4));
    if (reads.length === 0) return;
    const [process, begin] = [this.#nextProcess(), this.#nextOrder()];
    const steps = (found: ReadonlyMap<string, Json>): Json => [
      ...reads.map((list): Json => ['r', list, found.get(list) ?? []]),
      ...targets.map((list, at): Json => ['append', list, elements[at] ?? 0]),
    ];
    const work = async (tx: Transaction): Promise<Json> => {
      const found = await this.#readLists(tx, epoch, reads, scans);
      for (const [at, list] of targets.entries()) {
        const before = (found.get(list) ?? []) as readonly Json[];
        tx.put(`${this.#prefix('list')}${list}`, JSON.stringify([...before, elements[at] ?? 0]));
      }
      return steps(found);
    };
    const outcome = await this.#told('lists', () => db.transaction(work, { timeoutMs }));
    const output = outcome.result;
    this.#operations.push({
      process,
      f: 'txn',
      key: '',
      input: steps(new Map()),
      output,
      outcome: output !== undefined ? 'ok' : outcome.outcome === 'none' ? 'fail' : 'info',
      mismatch: false,
      version: undefined,
      begin,
      end: output === undefined && outcome.outcome === 'unknown' ? Infinity : this.#nextOrder(),
      beginNs: begin,
      endNs: Infinity,
    });
  }

  async #readLists(tx: Transaction, epoch: number, lists: readonly string[], scans: boolean): Promise<Map<string, Json>> {
    const found = new Map<string, Json>();
    const prefix = this.#prefix('list');
    const note = (key: Buffer, text: string | undefined): void => {
      if (text !== undefined) found.set(key.toString().slice(prefix.length), JSON.parse(text) as Json);
    };
    if (scans) {
      const range = { prefix: `${prefix}${epoch}-`, reverse: this.#random.chance(0.3) };
      for await (const entry of tx.scan(range)) note(entry.key, entry.text());
    } else if (this.#random.chance(0.3)) {
      for await (const entry of tx.getMany(lists.map((list) => prefix + list))) note(entry.key, entry.text());
    } else {
      for (const list of lists) {
        const entry = await tx.get(prefix + list);
        note(entry.key, entry.text());
      }
    }
    return found;
  }

  #nextProcess(): number {
    this.#processes += 1;
    return this.#processes;
  }

  #nextOrder(): number {
    this.#order += 1;
    return this.#order;
  }

  /** Runs it, and notes how it ended; what no fault can explain is a problem. */
  async #told<T>(what: string, work: () => Promise<T>): Promise<{ result?: T; outcome: 'ok' | 'none' | 'unknown' }> {
    try {
      const result = await work();
      this.#count(`${what} ok`);
      return { result, outcome: 'ok' };
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.#count(`${what} ${error.outcome} ${error.reason}`);
      if (!EXCUSED.has(error.reason) && !this.#options.excuses(error)) {
        this.problems.push(`a ${what} was told ${error.code} / ${error.reason}: ${error.message}`);
      }
      return { outcome: error.outcome };
    }
  }
}
