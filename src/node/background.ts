import { isTidemarkError } from '../lib/errors.js';

/** Work that nobody waits for: what it cannot do now is tried again by whoever looks next. Anything unforeseen is a bug. */
export class Background {
  readonly #onBug: (error: unknown) => void;

  constructor(onBug: (error: unknown) => void) {
    this.#onBug = onBug;
  }

  run(work: () => Promise<void>): void {
    work().catch((error: unknown) => {
      if (!isTidemarkError(error)) this.#onBug(error);
    });
  }
}
