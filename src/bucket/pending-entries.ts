import { TidemarkError } from '../lib/errors.js';
import type { LogIndex, Term } from '../raft/types.js';

/**
 * Entries that their leader has proposed and waits for, where the caller wants to know no more than that they are applied. What
 * they ask for may be asked again, so nothing is remembered over terms: a caller whose entry was lost is told so.
 */
interface Waiting {
  readonly term: Term;
  readonly resolve: () => void;
  readonly reject: (error: TidemarkError) => void;
}

export class PendingEntries {
  readonly #byIndex = new Map<LogIndex, Waiting>();

  get size(): number {
    return this.#byIndex.size;
  }

  /** Resolves when the entry that was proposed at `index` in `term` is applied. */
  wait(index: LogIndex, term: Term): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#byIndex.set(index, { term, resolve, reject });
    });
  }

  /** The entry at `index` was applied; if it is of another term, what was proposed there is lost. */
  applied(index: LogIndex, term: Term): void {
    const waiting = this.#byIndex.get(index);
    if (waiting === undefined) return;
    this.#byIndex.delete(index);
    if (waiting.term === term) waiting.resolve();
    else waiting.reject(lost('another leader wrote in its place'));
  }

  /** Nobody here will learn what becomes of them. */
  abandon(reason: string): void {
    for (const { reject } of this.#byIndex.values()) reject(lost(reason));
    this.#byIndex.clear();
  }
}

function lost(reason: string): TidemarkError {
  const message = `a change of what a bucket retains may be lost: ${reason}`;
  return new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', message, { retriable: true, outcome: 'unknown' });
}
