import type { Served } from '../bucket/requests.js';
import type { ScanPage } from '../router/scan.js';
import { Entry } from './entries.js';

/**
 * The entries of a range, and what they prove, also where there are none: that a range is empty is an answer like any other.
 *
 *     const taken = db.scan({ prefix: 'room/7/' });
 *     for await (const entry of taken) throw new Error(`${entry.key} is there`);
 *     const since = taken.served?.timestamp;     // for the condition `unchanged`: still empty
 *
 * It is left with `break`, as any other loop.
 */
export class Scan implements AsyncIterableIterator<Entry>, AsyncDisposable {
  readonly #entries: AsyncGenerator<Entry, undefined>;
  #served: Served | undefined;

  constructor(pages: AsyncGenerator<ScanPage>) {
    this.#entries = this.#read(pages);
  }

  /** Of the last page that was read: the timestamp is that of all. Undefined before the first, so for ever with `limit` 0. */
  get served(): Served | undefined {
    return this.#served;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Entry, undefined>> {
    return this.#entries.next();
  }

  async return(): Promise<IteratorResult<Entry, undefined>> {
    await this.#entries.return(undefined);
    return { done: true, value: undefined };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async *#read(pages: AsyncGenerator<ScanPage>): AsyncGenerator<Entry, undefined> {
    for await (const { records, served } of pages) {
      this.#served = served;
      for (const record of records) yield new Entry(record, served);
    }
    return undefined;
  }
}
