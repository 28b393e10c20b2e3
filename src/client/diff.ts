import type { Served, Timestamp } from '../bucket/requests.js';
import type { Bytes } from '../lib/bytes.js';
import type { DiffPage } from '../router/diff.js';

export interface Change {
  readonly kind: 'added' | 'changed' | 'removed';
  readonly key: Bytes;
  /** What `from` shows; undefined for an added key. */
  readonly before: { readonly value: Bytes; readonly version: Timestamp } | undefined;
  /** What `to` shows; undefined for a removed key. */
  readonly after: { readonly value: Bytes; readonly version: Timestamp } | undefined;
  readonly served: Served;
}

/**
 * What changed between two moments, and which these are, also where nothing changed. It is left with `break`, as any other loop.
 */
export class Diff implements AsyncIterableIterator<Change>, AsyncDisposable {
  readonly from: Timestamp;
  readonly #changes: AsyncGenerator<Change, undefined>;
  #served: Served | undefined;

  constructor(from: Timestamp, pages: AsyncGenerator<DiffPage>) {
    this.from = from;
    this.#changes = this.#read(pages);
  }

  /** Of the last page that was read. Undefined before the first. */
  get served(): Served | undefined {
    return this.#served;
  }

  /** Undefined before the first page was read. */
  get to(): Timestamp | undefined {
    return this.#served?.timestamp;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Change, undefined>> {
    return this.#changes.next();
  }

  async return(): Promise<IteratorResult<Change, undefined>> {
    await this.#changes.return(undefined);
    return { done: true, value: undefined };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async *#read(pages: AsyncGenerator<DiffPage>): AsyncGenerator<Change, undefined> {
    for await (const { changes, served } of pages) {
      this.#served = served;
      for (const { key, before, after } of changes) {
        const kind = before === undefined ? 'added' : after === undefined ? 'removed' : 'changed';
        yield { kind, key, before, after, served };
      }
    }
    return undefined;
  }
}
