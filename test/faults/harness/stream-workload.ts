import type { Json } from '../../../src/check/history.js';
import type { Database } from '../../../src/client/index.js';
import { timely, type Company, type Group, type Workload } from './group.js';
import type { Asked, Answered, Caller } from './recorder.js';
import { StreamConsumers, type ChainState } from './stream-consumers.js';

/**
 * Writers of keys in several buckets, by puts, deletes, Writes and transactions, and beside them consumers that follow these keys
 * by change streams. When all is over every consumer catches up, one more follows everything from the first write on, and the
 * history of every key is read. streams.ts judges what they were told.
 */
const BUCKETS = 4;
const KEYS_PER_BUCKET = 3;

/** What is read in the end. Chains come first (objects are read in the order of their names): the history has all that they tell. */
const CHAIN = 'chain ';
const HISTORY = 'history';

/** A key and the number that it got; null deletes it. */
export type Part = readonly [key: string, number: number | null];

export class StreamWorkload implements Workload {
  readonly #group: Group;
  readonly #consumers: StreamConsumers;
  readonly #prefix: string;
  /** The lowest version that was acknowledged here: a stream from there on tells everything that this process wrote. */
  #first = Infinity;
  /** A write of when all was over. */
  #fence: number | undefined;
  readonly #catchingUp = new Map<string, ChainState>();

  constructor(group: Group) {
    this.#group = group;
    this.#prefix = `stream${group.id}/`;
    this.#consumers = new StreamConsumers(group, this.#prefix, this.#keys);
  }

  get #keys(): string[] {
    const numbers = Array.from({ length: KEYS_PER_BUCKET }, (_, n) => n);
    return this.#group.tags.slice(0, BUCKETS).flatMap((tag) => numbers.map((n) => `${this.#prefix}{${tag}}${n}`));
  }

  get objects(): readonly string[] {
    const chains = this.#consumers.current;
    if (this.#first < Infinity) chains.push(this.#consumers.whole(this.#first));
    return [...chains.map((chain) => CHAIN + JSON.stringify(chain)), HISTORY];
  }

  accompany(company: Company): Promise<unknown> {
    return this.#consumers.run(company);
  }

  async step(caller: Caller, database: Database): Promise<void> {
    const { random, values, tags } = this.#group;
    const keys = this.#keys;
    const number = values.next();
    const luck = random.float();
    if (luck < 0.3) return void (await this.#put(caller, database, random.pick(keys), number));
    if (luck < 0.4) return this.#delete(caller, database, random.pick(keys));
    // Of one bucket, or of several; the first is put, so that the number says what became of it.
    const tag = luck < 0.5 ? `{${random.pick(tags.slice(0, BUCKETS))}}` : '';
    const chosen = keys.filter((key) => key.includes(tag) && random.chance(tag === '' ? 0.35 : 0.8));
    if (chosen.length === 0) chosen.push(random.pick(keys));
    const parts = chosen.map((key, place): Part => [key, place > 0 && random.chance(0.2) ? null : number]);
    if (luck < 0.8) return this.#write(caller, database, parts);
    return this.#transact(caller, database, parts);
  }

  /** The version that it got; undefined if it is not known to have been written. */
  async #put(caller: Caller, database: Database, key: string, number: number): Promise<number | undefined> {
    let written: number | undefined;
    await this.#record(caller, { f: 'put', key: this.#prefix, value: [[key, number]] }, async () => {
      const { version } = await database.put(key, String(number), timely);
      written = version;
      return { version };
    });
    return written;
  }

  async #delete(caller: Caller, database: Database, key: string): Promise<void> {
    await this.#record(caller, { f: 'delete', key: this.#prefix, value: [[key, null]] }, async () => {
      const { version } = await database.delete(key, timely);
      return { version };
    });
  }

  async #write(caller: Caller, database: Database, parts: readonly Part[]): Promise<void> {
    await this.#record(caller, { f: 'write', key: this.#prefix, value: parts }, async () => {
      const mutations = parts.map(([key, number]) => {
        return number === null ? ({ kind: 'delete', key } as const) : ({ kind: 'put', key, value: String(number) } as const);
      });
      const { version } = await database.write({ mutations }, timely);
      return { version };
    });
  }

  async #transact(caller: Caller, database: Database, parts: readonly Part[]): Promise<void> {
    await this.#record(caller, { f: 'transaction', key: this.#prefix, value: parts }, async () => {
      let version: number | undefined;
      const committed = (commit: { readonly version: number }): void => void (version = commit.version);
      await database.transaction(
        async (tx) => {
          for (const [key, number] of parts) {
            await tx.get(key);
            if (number === null) tx.delete(key);
            else tx.put(key, String(number));
          }
        },
        { ...timely, committed },
      );
      return { version };
    });
  }

  #record(caller: Caller, asked: Asked, act: () => Promise<Answered>): Promise<Answered | undefined> {
    return this.#group.recorder.record(caller, asked, async () => {
      const answer = await act();
      const version = answer['version'];
      if (typeof version === 'number') this.#first = Math.min(this.#first, version);
      return answer;
    });
  }

  async read(caller: Caller, database: Database, object: string): Promise<boolean> {
    const [key = ''] = this.#keys;
    if (this.#fence === undefined) {
      const version = await this.#put(caller, database, key, this.#group.values.next());
      if (version === undefined) return false;
      this.#fence = version;
    }
    if (object === HISTORY) return this.#readHistory(caller, database);
    const chain = this.#catchingUp.get(object) ?? (JSON.parse(object.slice(CHAIN.length)) as ChainState);
    this.#catchingUp.set(object, chain);
    return this.#consumers.catchUp(caller, database, chain, this.#fence);
  }

  async #readHistory(caller: Caller, database: Database): Promise<boolean> {
    for (const key of this.#keys) {
      const answer = await this.#group.recorder.record(caller, { f: 'history', key, isRead: true }, async () => {
        const versions: Json[] = [];
        for await (const each of database.history(key, timely)) {
          versions.push([each.version, each.deleted ? null : each.text()]);
        }
        const { clusterId = '', buckets = 0 } = database.placement ?? {};
        return { value: { stream: this.#prefix, clusterId, buckets, versions } };
      });
      if (answer === undefined) return false;
    }
    return true;
  }
}
