import type { Json } from '../../../src/check/history.js';
import {
  isTidemarkError,
  type Database,
  type Entry,
  type Missing,
  type RequestId,
  type TidemarkError,
  type Write,
  type WriteOutcome,
} from '../../../src/client/index.js';
import { BankWorkload } from './bank-workload.js';
import { Objects, timely, unchanged, type Group, type Workload } from './group.js';
import type { Answered, Caller } from './recorder.js';
import { StreamWorkload } from './stream-workload.js';

/** What the clients of a run do. Each workload is one object model of the checkers: see check.ts. */
export const WORKLOADS: Readonly<Record<string, (group: Group) => Workload>> = {
  register: (group) => new RegisterWorkload(group),
  set: (group) => new SetWorkload(group),
  counter: (group) => new CounterWorkload(group),
  append: (group) => new AppendWorkload(group),
  bank: (group) => new BankWorkload(group),
  stream: (group) => new StreamWorkload(group),
};

/** A register with read, write and compare-and-set. No value is written twice. */
class RegisterWorkload implements Workload {
  readonly #group: Group;
  readonly #keys: Objects;
  /** Key -> the value that somebody saw last. */
  readonly #seen = new Map<string, number>();

  constructor(group: Group) {
    this.#group = group;
    this.#keys = new Objects(group, 'r', { active: 2, lifeMs: 8000 });
  }

  get objects(): readonly string[] {
    return this.#keys.all;
  }

  async step(caller: Caller, database: Database): Promise<void> {
    const { recorder, random } = this.#group;
    const key = this.#keys.pick();
    const kind = random.float();
    if (kind < 0.4) return void (await this.#read(caller, database, key, false));
    const value = this.#group.values.next();
    const expected = this.#seen.get(key);
    if (kind < 0.65 || expected === undefined) {
      await recorder.record(caller, { f: 'write', key, value }, async () => {
        const { version } = await database.put(key, String(value), timely);
        this.#seen.set(key, value);
        return { version };
      });
      return undefined;
    }
    await recorder.record(caller, { f: 'cas', key, value: [expected, value] }, async () => {
      const conditions = [{ kind: 'value', key, value: String(expected) }] as const;
      const mutations = [{ kind: 'put', key, value: String(value) }] as const;
      const { applied, version } = await database.write({ conditions, mutations }, timely);
      if (!applied) return { type: 'fail', mismatch: true };
      this.#seen.set(key, value);
      return { version };
    });
    return undefined;
  }

  /** When all is over, with every version that the key had: each read before must show one that was current then. */
  read(caller: Caller, database: Database, key: string): Promise<boolean> {
    return this.#read(caller, database, key, true);
  }

  async #read(caller: Caller, database: Database, key: string, isLast: boolean): Promise<boolean> {
    const answer = await this.#group.recorder.record(caller, { f: 'read', key, isRead: true }, async () => {
      const entry = await database.get(key, timely);
      const { version } = entry;
      const value = entry.found ? Number(entry.text()) : null;
      if (value !== null) this.#seen.set(key, value);
      return isLast ? { value, version, versions: await versionsOf(database, key) } : { value, version };
    });
    return answer !== undefined;
  }
}

/** Pairs of a version and its value. */
async function versionsOf(database: Database, key: string): Promise<Json> {
  const versions: Json[] = [];
  for await (const { version, deleted, value } of database.history(key, timely)) {
    versions.push([version, deleted ? null : Number(value.toString())]);
  }
  return versions;
}

/** A set whose elements are keys: added one by one, read by a scan. */
class SetWorkload implements Workload {
  readonly #group: Group;
  readonly #sets: Objects;

  constructor(group: Group) {
    this.#group = group;
    this.#sets = new Objects(group, 's', { active: 1, lifeMs: 10_000 });
  }

  get objects(): readonly string[] {
    return this.#sets.all;
  }

  async step(caller: Caller, database: Database): Promise<void> {
    const { recorder, random } = this.#group;
    const key = this.#sets.pick();
    if (random.chance(0.1)) return void (await this.read(caller, database, key));
    const value = this.#group.values.next();
    await recorder.record(caller, { f: 'add', key, value }, async () => {
      await database.put(`${key}/${value}`, '', timely);
      return {};
    });
    return undefined;
  }

  async read(caller: Caller, database: Database, key: string): Promise<boolean> {
    const answer = await this.#group.recorder.record(caller, { f: 'read', key, isRead: true }, async () => {
      const prefix = `${key}/`;
      const value: number[] = [];
      for await (const entry of database.scan({ prefix, keysOnly: true, ...timely })) {
        value.push(Number(entry.key.toString().slice(prefix.length)));
      }
      return { value };
    });
    return answer !== undefined;
  }
}

/**
 * A counter that is read, and incremented by a write on the condition that its version is still the one that was read. A write
 * without an answer is repeated under its own request id: executed twice, the second would be refused and add once more.
 */
class CounterWorkload implements Workload {
  readonly #group: Group;
  readonly #counters: Objects;

  constructor(group: Group) {
    this.#group = group;
    this.#counters = new Objects(group, 'c', { active: 1, lifeMs: 25_000 });
  }

  get objects(): readonly string[] {
    return this.#counters.all;
  }

  async step(caller: Caller, database: Database): Promise<void> {
    const { recorder, random } = this.#group;
    const key = this.#counters.pick();
    if (random.chance(0.3)) return void (await this.read(caller, database, key));
    await recorder.record(caller, { f: 'increment', key, value: 1 }, () => this.#increment(database, key));
    return undefined;
  }

  async #increment(database: Database, key: string): Promise<Answered> {
    const id = this.#newId(database);
    for (let sequence = 1; sequence <= ROUNDS_MAX; sequence += 1) {
      const entry = await database.get(key, timely);
      const conditions = [unchanged(entry)];
      const mutations = [{ kind: 'put', key, value: String(numberOf(entry) + 1) }] as const;
      const write = { conditions, mutations };
      const { applied } = await this.#decided(database, write, { ...id, sequence, lowest: sequence });
      if (applied) return { rounds: sequence };
    }
    // Each round was refused, which is certain: nothing was added.
    return { type: 'fail' };
  }

  /** Once an attempt is unknown, only an answer decides: that a later one had no effect says nothing of the first. */
  async #decided(database: Database, write: Write, id: RequestId): Promise<WriteOutcome> {
    let unknown: TidemarkError | undefined;
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      try {
        return await database.write(write, { id, ...timely });
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        if (error.outcome === 'unknown') unknown ??= error;
        if (unknown === undefined) throw error;
      }
    }
    throw unknown ?? new RangeError('no attempt was made');
  }

  /** As the client library gives it, or one that the caller makes up, born now. */
  #newId(database: Database): RequestId {
    const id = database.newRequestId();
    return this.#group.random.chance(0.5) ? id : { ...id, born: database.now() };
  }

  async read(caller: Caller, database: Database, key: string): Promise<boolean> {
    const answer = await this.#group.recorder.record(caller, { f: 'read', key, isRead: true }, async () => {
      return { value: numberOf(await database.get(key, timely)) };
    });
    return answer !== undefined;
  }
}

const ROUNDS_MAX = 10;
const ATTEMPTS_MAX = 4;

/**
 * Transactions that read lists and append to them, as Elle checks them: they read all their keys, and write on the condition
 * that no key has another version meanwhile. The lists lie in two buckets.
 */
class AppendWorkload implements Workload {
  readonly #group: Group;
  readonly #lists: Objects;

  constructor(group: Group) {
    this.#group = group;
    this.#lists = new Objects(group, 'l', { active: 4, lifeMs: 8000, buckets: 2 });
  }

  get objects(): readonly string[] {
    return this.#lists.all;
  }

  async step(caller: Caller, database: Database): Promise<void> {
    const { random, values } = this.#group;
    const count = 1 + random.below(4);
    const micros: Micro[] = [];
    for (let n = 0; n < count; n += 1) {
      const key = this.#lists.pick();
      if (random.chance(0.5)) micros.push(['r', key, null]);
      else micros.push(['append', key, values.next()]);
    }
    await this.#transact(caller, database, micros);
  }

  read(caller: Caller, database: Database, key: string): Promise<boolean> {
    return this.#transact(caller, database, [['r', key, null]]);
  }

  async #transact(caller: Caller, database: Database, micros: readonly Micro[]): Promise<boolean> {
    const isRead = micros.every(([f]) => f === 'r');
    const answer = await this.#group.recorder.record(caller, { f: 'txn', key: `group ${this.#group.id}`, value: micros, isRead }, async () => {
      const entries = new Map<string, Entry | Missing>();
      for await (const entry of database.getMany([...new Set(micros.map(([, key]) => key))], timely)) {
        entries.set(entry.key.toString(), entry);
      }
      const lists = new Map([...entries].map(([key, entry]) => [key, listOf(entry)]));
      const value = micros.map(([f, key, element]): Micro => {
        const list = lists.get(key) ?? [];
        if (f === 'r') return [f, key, [...list]];
        lists.set(key, [...list, element as number]);
        return [f, key, element];
      });
      const conditions = [...entries.values()].map(unchanged);
      const changed = [...lists].filter(([key]) => micros.some(([f, other]) => f === 'append' && other === key));
      const mutations = changed.map(([key, list]) => ({ kind: 'put', key, value: JSON.stringify(list) }) as const);
      const { applied } = await database.write({ conditions, mutations }, timely);
      return applied ? { value } : { type: 'fail' };
    });
    return answer?.type === 'ok';
  }
}

type Micro = readonly [f: 'r' | 'append', key: string, value: Json];

function listOf(entry: Entry | Missing): number[] {
  return entry.found ? entry.json<number[]>() : [];
}

function numberOf(entry: Entry | Missing): number {
  return entry.found ? Number(entry.text()) : 0;
}
