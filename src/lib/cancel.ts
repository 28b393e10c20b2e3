import { TidemarkError, type Outcome } from './errors.js';

/**
 * Word that nobody waits for an answer any more. `CancelSignal` is the part of AbortSignal that is used here, so that callers may
 * hand in one of those; a `Cancellation` says the same and costs next to nothing where nobody listens, which is nearly always:
 * one is made for every query.
 */
export interface CancelSignal {
  readonly aborted: boolean;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

export class Cancellation implements CancelSignal {
  #aborted = false;
  #listeners: (() => void)[] | undefined;

  get aborted(): boolean {
    return this.#aborted;
  }

  /** Calls each listener once. */
  abort(): void {
    this.#aborted = true;
    const listeners = this.#listeners;
    this.#listeners = undefined;
    if (listeners !== undefined) for (const listener of listeners) listener();
  }

  addEventListener(_type: 'abort', listener: () => void): void {
    (this.#listeners ??= []).push(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    const at = this.#listeners?.indexOf(listener) ?? -1;
    if (at >= 0) this.#listeners?.splice(at, 1);
  }
}

/**
 * One's own cancellation, which comes with that of the signal. Where many listen it listens for them: an AbortSignal takes more
 * than ten for a leak, and warns. `stop` ends it.
 */
export function following(
  signal: CancelSignal | undefined,
): { readonly cancellation: Cancellation; readonly stop: () => void } {
  const cancellation = new Cancellation();
  const abort = (): void => cancellation.abort();
  if (signal?.aborted === true) abort();
  else signal?.addEventListener('abort', abort);
  return { cancellation, stop: () => signal?.removeEventListener('abort', abort) };
}

export function cancelledError(outcome: Outcome = 'none'): TidemarkError {
  return new TidemarkError('CANCELLED', 'CANCELLED', 'the caller went away', { outcome });
}

/** Throws CANCELLED if nobody waits any more. */
export function checkWanted(signal: CancelSignal | undefined): void {
  if (signal?.aborted === true) throw cancelledError();
}
