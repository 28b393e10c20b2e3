import type { Json } from '../../../src/check/history.js';
import type { Database, Entry, Missing, Timestamp } from '../../../src/client/index.js';
import { FIRST_BALANCE } from './bank.js';
import { timely, unchanged, type Group, type Workload } from './group.js';
import type { Answered, Caller } from './recorder.js';

/**
 * A bank: accounts in several buckets, money that moves from one to another in one transaction, and readers that see all
 * accounts of one moment, which they choose, or which the store chooses. bank.ts judges what they were told.
 */
const ACCOUNTS = 6;
const BUCKETS = 3;
const LIFE_MS = 15_000;
/** Moments of earlier answers that are read again, as long as their bank is in use. */
const MOMENTS_MAX = 64;

export class BankWorkload implements Workload {
  readonly #group: Group;
  readonly #used = new Set<string>();
  /** Of the bank in use. */
  #moments: Timestamp[] = [];

  constructor(group: Group) {
    this.#group = group;
  }

  get objects(): readonly string[] {
    return [...this.#used];
  }

  async step(caller: Caller, database: Database): Promise<void> {
    const { id, random, nowMs } = this.#group;
    const bank = `bank${id}-${Math.floor(nowMs() / LIFE_MS)}`;
    if (!this.#used.has(bank)) this.#moments = [];
    this.#used.add(bank);
    const luck = random.float();
    if (luck < 0.6) return this.#transfer(caller, database, bank);
    if (luck < 0.7) return void (await this.read(caller, database, bank));
    if (luck < 0.8) return void (await this.#readStrictly(caller, database, bank));
    if (luck < 0.9) return this.#readAsOf(caller, database, bank, database.now());
    if (this.#moments.length > 0) return this.#readAsOf(caller, database, bank, random.pick(this.#moments));
    return undefined;
  }

  #accountsOf(bank: string): string[] {
    return Array.from({ length: ACCOUNTS }, (_, n) => `${bank}/{${this.#group.tags[n % BUCKETS]}}${n}`);
  }

  async #transfer(caller: Caller, database: Database, bank: string): Promise<void> {
    const { recorder, random } = this.#group;
    const accounts = this.#accountsOf(bank);
    const from = random.pick(accounts);
    const to = random.pick(accounts.filter((account) => account !== from));
    const amount = 1 + random.below(20);
    await recorder.record(caller, { f: 'transfer', key: bank, value: { from, to, amount } }, async () => {
      const [payer, payee] = await entriesOf(database.getMany([from, to], timely));
      if (payer === undefined || payee === undefined || balanceOf(payer) < amount) return { type: 'fail' };
      const left = balanceOf(payer) - amount;
      const grown = balanceOf(payee) + amount;
      const { applied, version } = await database.write(
        {
          conditions: [unchanged(payer), unchanged(payee)],
          mutations: [
            { kind: 'put', key: from, value: String(left) },
            { kind: 'put', key: to, value: String(grown) },
          ],
        },
        timely,
      );
      if (!applied) return { type: 'fail' };
      this.#remember(version);
      return { value: { from, to, amount, left, grown }, version };
    });
  }

  #remember(moment: Timestamp): void {
    this.#moments.push(moment);
    if (this.#moments.length > MOMENTS_MAX) this.#moments.shift();
  }

  /** All accounts by a scan, which chooses its moment: at or after all that was acknowledged before it began. */
  async read(caller: Caller, database: Database, bank: string): Promise<boolean> {
    const answer = await this.#group.recorder.record(caller, { f: 'scan', key: bank, isRead: true }, async () => {
      const found = await entriesOf(database.scan({ prefix: `${bank}/`, ...timely }));
      const byKey = new Map(found.map((entry) => [entry.key.toString(), entry]));
      const accounts = this.#accountsOf(bank).map((account) => seen(account, byKey.get(account)));
      // Without an account it names no moment.
      const asOf = found[0]?.served.timestamp ?? null;
      if (asOf !== null) this.#remember(asOf);
      return { value: { asOf, accounts } };
    });
    return answer !== undefined;
  }

  /** A Write that changes nothing, on the condition that all accounts are as they were read: they are so at its timestamp. */
  async #readStrictly(caller: Caller, database: Database, bank: string): Promise<void> {
    await this.#group.recorder.record(caller, { f: 'strict', key: bank, isRead: true }, async (): Promise<Answered> => {
      const names = this.#accountsOf(bank);
      const entries = await entriesOf(database.getMany(names, timely));
      const { applied, version } = await database.write({ conditions: entries.map(unchanged) }, timely);
      if (!applied) return { type: 'fail' };
      return { value: { asOf: version, accounts: names.map((name, n) => seen(name, entries[n])) } };
    });
  }

  async #readAsOf(caller: Caller, database: Database, bank: string, asOf: Timestamp): Promise<void> {
    await this.#group.recorder.record(caller, { f: 'as-of', key: bank, isRead: true }, async () => {
      const names = this.#accountsOf(bank);
      const entries = await entriesOf(database.asOf(asOf).getMany(names, timely));
      this.#remember(asOf);
      return { value: { asOf, accounts: names.map((name, n) => seen(name, entries[n])) } };
    });
  }
}

async function entriesOf<E>(entries: AsyncIterable<E>): Promise<E[]> {
  const all: E[] = [];
  for await (const entry of entries) all.push(entry);
  return all;
}

/** Balance and version; an account that nobody has written has its first balance, and version 0. */
function seen(account: string, entry: Entry | Missing | undefined): Json {
  return [account, balanceOf(entry), entry?.found === true ? entry.version : 0];
}

function balanceOf(entry: Entry | Missing | undefined): number {
  return entry?.found === true ? Number(entry.text()) : FIRST_BALANCE;
}
