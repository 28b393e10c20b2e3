import type { Served } from '../bucket/requests.js';

/**
 * What the pages of an answer hold, one after the other, and what they prove, also where they are empty. It is left with `break`,
 * as any other loop.
 */
export class Pages<P extends { readonly served: Served }, T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #items: AsyncGenerator<T, undefined>;
  readonly #itemsOf: (page: P) => readonly T[];
  #served: Served | undefined;

  constructor(pages: AsyncGenerator<P>, itemsOf: (page: P) => readonly T[]) {
    this.#itemsOf = itemsOf;
    this.#items = this.#read(pages);
  }

  /** Of the last page that was read: the timestamp is that of all. Undefined before the first. */
  get served(): Served | undefined {
    return this.#served;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    return this.#items.next();
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    await this.#items.return(undefined);
    return { done: true, value: undefined };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async *#read(pages: AsyncGenerator<P>): AsyncGenerator<T, undefined> {
    for await (const page of pages) {
      this.#served = page.served;
      yield* this.#itemsOf(page);
    }
    return undefined;
  }
}
