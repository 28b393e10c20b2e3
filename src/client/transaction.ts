import type { Limits } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { EMPTY, fromMapKey, printable, toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { isKeyIn } from '../lib/ordered.js';
import type { Condition, Consistency, KeyRange, Mutation, Record, Served, Timestamp } from '../bucket/requests.js';
import { checkKey, checkRange, checkValue } from '../bucket/validate.js';
import type { CallOptions } from '../router/options.js';
import type { Router } from '../router/router.js';
import { bytesOf, copyOf, Entry, Missing, rangeOf, type Data, type RangeOf } from './entries.js';
import { mergeRanges, ReadRange } from './read-ranges.js';

/**
 * One attempt of a transaction: reads of one moment, writes that wait for the commit, and what must still be so then.
 *
 * - The first read is linearizable and names the moment, the *snapshot*; all others are as of that. What this client has seen
 *   before is in it.
 * - Each key that was read is remembered with its version, each range that was scanned as far as it was; they become the
 *   conditions of the one Write that commits.
 * - Reads see what this transaction has written; a scan, what it had written when the scan began.
 *
 * Operations may run at the same time. Reads that are still under way when the transaction ends count for nothing: nobody can
 * have acted on them.
 */
export interface TransactionScanOptions extends RangeOf<Data> {
  readonly reverse?: boolean | undefined;
  readonly limit?: number | undefined;
  /** Leave the values empty. */
  readonly keysOnly?: boolean | undefined;
}

/** What an attempt needs of its surroundings. */
export interface TransactionHost {
  readonly router: Pick<Router, 'get' | 'getMany' | 'scan' | 'readTimestamp' | 'seen'>;
  readonly limits: Limits;
  /** Of each request, anew: they share one deadline. */
  callOptions(): CallOptions;
  /** Reads only: nothing is remembered, and nothing may be written. */
  readonly snapshotOnly: boolean;
}

/** The version of what this transaction has written itself, which has none yet. */
const OWN_VERSION: Timestamp = 0;

export class Transaction {
  /** 1 for the first attempt. */
  readonly attempt: number;
  readonly #host: TransactionHost;
  /** What the session had seen when the attempt began. */
  readonly #since: Timestamp;
  readonly #writes = new Map<string, Mutation>();
  readonly #versions = new Map<string, Timestamp>();
  readonly #ranges: ReadRange[] = [];
  #snapshot: Promise<Timestamp> | undefined;
  #timestamp: Timestamp | undefined;
  #bytes = 0;
  #linearizableKey: string | undefined;
  #ended = false;
  #failure: TidemarkError | undefined;

  constructor(host: TransactionHost, attempt: number) {
    this.#host = host;
    this.#since = host.router.seen;
    this.attempt = attempt;
  }

  /** The moment that all reads show; undefined before the first one. */
  get timestamp(): Timestamp | undefined {
    return this.#timestamp;
  }

  async get(key: Data): Promise<Entry | Missing> {
    this.#checkOpen();
    const bytes = bytesOf(key);
    checkKey(bytes, this.#host.limits);
    const own = this.#writes.get(toMapKey(bytes));
    if (own !== undefined) return this.#ownEntry(own);
    return this.#noted(async () => {
      const { record, served } = await this.#read(bytes);
      this.#remember(bytes, record);
      return record === undefined ? new Missing(bytes, served) : new Entry(record, served);
    });
  }

  /** In the order of the keys. */
  async *getMany(keys: readonly Data[]): AsyncGenerator<Entry | Missing> {
    this.#checkOpen();
    const { limits, router } = this.#host;
    const all = keys.map(bytesOf);
    for (const [index, key] of all.entries()) checkKey(key, limits, `keys[${index}]`);
    const asked = all.filter((key) => !this.#writes.has(toMapKey(key)));
    const found = new Map<string, Entry | Missing>();
    if (asked.length > 0) {
      const consistency = await this.#noted(() => this.#snapshotOf(asked));
      const batches = router.getMany(asked, { ...this.#host.callOptions(), consistency });
      for await (const batch of this.#notedEach(batches)) {
        for (const { index, record, served } of batch) {
          const key = asked[index] ?? EMPTY;
          this.#remember(key, record);
          found.set(toMapKey(key), record === undefined ? new Missing(key, served) : new Entry(record, served));
        }
      }
    }
    for (const key of all) {
      const own = this.#writes.get(toMapKey(key));
      const entry = own === undefined ? found.get(toMapKey(key)) : this.#ownEntry(own);
      if (entry !== undefined) yield entry;
    }
  }

  /** In the order of the keys. What is behind the last entry that was taken counts as not read. */
  async *scan(options: TransactionScanOptions = {}): AsyncGenerator<Entry> {
    this.#checkOpen();
    const { limit = Infinity, reverse = false, keysOnly = false } = options;
    const { start, end } = rangeOf(options);
    const range = { start: copyOf(start), end: copyOf(end) };
    checkRange(range, this.#host.limits);
    if (limit < 1) return;
    const own = this.#ownIn(range, reverse);
    const read = this.#newRange(range, reverse);
    let taken = 0;
    for await (const entry of merge(this.#stored({ range, reverse, keysOnly, limit: limit + own.length }), own, reverse)) {
      read.reached(entry.kind === 'stored' ? entry.record.key : entry.mutation.key);
      this.#checkOpen();
      const shown = entry.kind === 'stored' ? new Entry(entry.record, entry.served) : this.#ownEntry(entry.mutation);
      if (!shown.found) continue;
      yield shown;
      taken += 1;
      if (taken >= limit) return;
    }
    read.finished();
  }

  put(key: Data, value: Data): void {
    checkValue(bytesOf(value), this.#host.limits);
    this.#write({ kind: 'put', key: copyOf(key), value: copyOf(value) });
  }

  /** Deleting a key that does not exist succeeds. */
  delete(key: Data): void {
    this.#write({ kind: 'delete', key: copyOf(key) });
  }

  // --- for whoever runs it

  /** Why an operation of it failed, if one did. */
  get failure(): TidemarkError | undefined {
    return this.#failure;
  }

  /** From now on every operation is refused. */
  end(): void {
    this.#ended = true;
  }

  get mutations(): Mutation[] {
    return [...this.#writes.values()];
  }

  /** What must still be so for the reads to be the truth when it commits. */
  conditions(): Condition[] {
    const since = this.#timestamp ?? 0;
    const ranges = mergeRanges(this.#ranges.flatMap((range) => range.covered() ?? []));
    const conditions: Condition[] = [];
    for (const [mapKey, version] of this.#versions) {
      const key = fromMapKey(mapKey);
      if (mutant('transaction-forgets-reads')) break;
      if (!ranges.some((range) => isKeyIn(key, range))) conditions.push({ kind: 'version', key, version });
    }
    if (mutant('transaction-forgets-ranges')) return conditions;
    for (const range of ranges) conditions.push({ kind: 'unchanged', range, since });
    return conditions;
  }

  /** All that was read is one key, by a linearizable read: no check could make that truer. */
  get isOneRead(): boolean {
    const isOnly = this.#versions.size === 1 && this.#ranges.length === 0 && this.#writes.size === 0;
    return isOnly && this.#linearizableKey !== undefined && this.#versions.has(this.#linearizableKey);
  }

  // --- reads

  /** A key, as of the snapshot; the first read finds out which that is. */
  async #read(key: Bytes): Promise<{ record: Record | undefined; served: Served }> {
    const { router } = this.#host;
    if (this.#snapshot === undefined) {
      const first = router.get(key, { ...this.#host.callOptions(), namesNow: true });
      this.#begin(first.then(({ served }) => Math.max(served.timestamp, this.#since)));
      const reply = await first;
      if (reply.served.timestamp >= this.#since) {
        this.#linearizableKey = toMapKey(key);
        return reply;
      }
    }
    return router.get(key, { ...this.#host.callOptions(), consistency: await this.#asOf() });
  }

  async #asOf(): Promise<Consistency> {
    const timestamp = await this.#snapshot;
    assert(timestamp !== undefined, 'a snapshot was begun');
    if (mutant('transaction-reads-on')) return { kind: 'linearizable' };
    return { kind: 'asOf', timestamp };
  }

  #snapshotOf(keys: readonly Bytes[]): Promise<Consistency> {
    if (this.#snapshot === undefined) this.#begin(this.#host.router.readTimestamp(keys, this.#host.callOptions()));
    return this.#asOf();
  }

  #begin(timestamp: Promise<Timestamp>): void {
    this.#snapshot = timestamp.then((known) => {
      this.#timestamp = known;
      return known;
    });
    // Whoever waits for it hears of a failure; nobody may.
    this.#snapshot.catch(() => undefined);
  }

  /** What the store holds in a range, as of the snapshot. */
  async *#stored(options: { range: KeyRange; reverse: boolean; keysOnly: boolean; limit: number }): AsyncGenerator<Item> {
    const { range, limit, ...rest } = options;
    const asked = { ...rest, limit: limit === Infinity ? undefined : limit, ...this.#host.callOptions() };
    const isFirst = this.#snapshot === undefined;
    let name: (timestamp: Timestamp) => void = () => undefined;
    let fail: (error: unknown) => void = () => undefined;
    if (isFirst) {
      this.#begin(
        new Promise<Timestamp>((resolve, reject) => {
          name = resolve;
          fail = reject;
        }),
      );
    }
    const consistency: Consistency = isFirst ? { kind: 'linearizable' } : await this.#noted(() => this.#asOf());
    const pages = this.#host.router.scan(range, { ...asked, consistency });
    try {
      for await (const { records, served } of this.#notedEach(pages)) {
        name(served.timestamp);
        for (const record of records) yield { kind: 'stored', record, served };
      }
    } catch (error) {
      fail(error);
      throw error;
    }
  }

  #newRange(range: KeyRange, reverse: boolean): ReadRange {
    const read = new ReadRange(range, reverse);
    if (this.#host.snapshotOnly) return read;
    if (this.#ranges.length >= this.#host.limits.writeRangesMax) this.#refuse(`more than ${this.#ranges.length} scans`);
    this.#count(range.start.length + range.end.length);
    this.#ranges.push(read);
    return read;
  }

  #remember(key: Bytes, record: Record | undefined): void {
    if (this.#host.snapshotOnly || this.#ended) return;
    const mapKey = toMapKey(key);
    if (this.#versions.has(mapKey)) return;
    this.#count(key.length);
    this.#versions.set(mapKey, record?.version ?? 0);
  }

  /** An operation that fails is remembered: it decides whether the transaction is tried again. */
  async #noted<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof TidemarkError) this.#failure ??= error;
      throw error;
    }
  }

  async *#notedEach<T>(pages: AsyncGenerator<T>): AsyncGenerator<T> {
    try {
      for (;;) {
        const page = await this.#noted(() => pages.next());
        if (page.done === true) return;
        yield page.value;
      }
    } finally {
      await pages.return(undefined);
    }
  }

  // --- writes

  #write(mutation: Mutation): void {
    this.#checkOpen();
    checkKey(mutation.key, this.#host.limits);
    if (this.#host.snapshotOnly) {
      const message = `'${printable(mutation.key)}' cannot be written: the transaction was begun with the option snapshot`;
      throw new TidemarkError('FAILED_PRECONDITION', 'READ_ONLY', message);
    }
    const mapKey = toMapKey(mutation.key);
    const before = this.#writes.get(mapKey);
    // If it is refused, and its caller goes on without it, what was written before stays.
    if (before === undefined) this.#count(bytesOfMutation(mutation));
    else this.#count(bytesOfMutation(mutation) - bytesOfMutation(before), 0);
    this.#writes.delete(mapKey);
    this.#writes.set(mapKey, mutation);
  }

  /** What is to be remembered until the commit: a key with its value, or a range, unless it takes the place of another. */
  #count(bytes: number, items = 1): void {
    const { writeMutationsMax, writeBytesMax } = this.#host.limits;
    if (this.#versions.size + this.#ranges.length + this.#writes.size + items > writeMutationsMax) {
      this.#refuse(`more than ${writeMutationsMax} keys (a scan counts as one)`);
    }
    if (this.#bytes + bytes > writeBytesMax) this.#refuse(`more than ${writeBytesMax} bytes`);
    this.#bytes += bytes;
  }

  #refuse(what: string): never {
    const error = new TidemarkError('INVALID_ARGUMENT', 'TRANSACTION_TOO_LARGE', `a transaction cannot hold ${what}`);
    this.#failure ??= error;
    throw error;
  }

  /** A copy: what its caller does with it is not written. */
  #ownEntry(mutation: Mutation): Entry | Missing {
    const key = copyOf(mutation.key);
    if (mutation.kind === 'delete') return new Missing(key, this.#ownServed());
    return new Entry({ key, value: copyOf(mutation.value), version: OWN_VERSION }, this.#ownServed());
  }

  /** Nobody has served what this transaction has written itself. */
  #ownServed(): Served {
    return { node: 0, timestamp: this.#timestamp ?? 0, consistency: 'asOf', hops: 0 };
  }

  #ownIn(range: KeyRange, reverse: boolean): Mutation[] {
    const own = this.mutations.filter(({ key }) => isKeyIn(key, range));
    return own.sort((a, b) => a.key.compare(b.key) * (reverse ? -1 : 1));
  }

  #checkOpen(): void {
    if (!this.#ended) return;
    const message = 'the transaction is over: every operation of it must be awaited before its function returns';
    throw new TidemarkError('FAILED_PRECONDITION', 'TRANSACTION_ENDED', message);
  }
}

type Item =
  | { readonly kind: 'stored'; readonly record: Record; readonly served: Served }
  | { readonly kind: 'own'; readonly mutation: Mutation };

/** What is stored and what was written, in order; where both have a key, the latter. */
async function* merge(stored: AsyncGenerator<Item>, own: readonly Mutation[], reverse: boolean): AsyncGenerator<Item> {
  const sign = reverse ? -1 : 1;
  let at = 0;
  for await (const item of stored) {
    if (item.kind !== 'stored') continue;
    let isHidden = false;
    for (let mutation = own[at]; mutation !== undefined; mutation = own[at]) {
      const order = mutation.key.compare(item.record.key) * sign;
      if (order > 0) break;
      isHidden = order === 0;
      at += 1;
      yield { kind: 'own', mutation };
    }
    if (!isHidden) yield item;
  }
  for (const mutation of own.slice(at)) yield { kind: 'own', mutation };
}

function bytesOfMutation(mutation: Mutation): number {
  return mutation.key.length + (mutation.kind === 'put' ? mutation.value.length : 0);
}

