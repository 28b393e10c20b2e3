import type { Served } from '../bucket/requests.js';
import { following, type Cancellation, type CancelSignal } from '../lib/cancel.js';
import { isTidemarkError } from '../lib/errors.js';

/**
 * What the pages of an answer hold, one after the other, and what they prove, also where they are empty. It is left with `break`,
 * as any other loop.
 */
export class Pages<P extends { readonly served: Served }, T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #items: AsyncGenerator<T, undefined>;
  readonly #itemsOf: (page: P) => readonly T[];
  #served: Served | undefined;
  /** Undefined before it is begun. */
  #cancellation: Cancellation | undefined;
  #isLeft = false;

  constructor(
    pagesOf: (signal: CancelSignal) => AsyncGenerator<P>,
    itemsOf: (page: P) => readonly T[],
    signal: CancelSignal | undefined,
  ) {
    this.#itemsOf = itemsOf;
    this.#items = this.#read(pagesOf, signal);
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
    this.#isLeft = true;
    // The page that it waits for is called off, or the generator would end only then.
    this.#cancellation?.abort();
    await this.#items.return(undefined);
    return { done: true, value: undefined };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async *#read(
    pagesOf: (signal: CancelSignal) => AsyncGenerator<P>,
    signal: CancelSignal | undefined,
  ): AsyncGenerator<T, undefined> {
    const { cancellation, stop } = following(signal);
    this.#cancellation = cancellation;
    try {
      for await (const page of pagesOf(cancellation)) {
        this.#served = page.served;
        yield* this.#itemsOf(page);
      }
    } catch (error) {
      if (!this.#isLeft || !isTidemarkError(error)) throw error;
    } finally {
      stop();
    }
    return undefined;
  }
}
