import type { Json, Operation } from '../../../src/check/history.js';
import { ListAppendChecker } from '../../../src/check/list-append.js';
import type { Result } from '../../../src/check/result.js';
import type { Work } from '../../../src/check/work.js';

/**
 * Transactions over lists, strictly serializable (src/check/list-append.ts). Moreover, what was acknowledged must have been read
 * by somebody who began later: a list that nobody reads again may have lost anything, and the verdict is `unknown`.
 */
type Micro = readonly [f: string, key: string, value: Json];

export class ReadListChecker {
  readonly #checker = new ListAppendChecker();
  /** List -> the latest begin of a read of it. */
  readonly #lastRead = new Map<string, number>();
  /** List -> the latest end of an acknowledged append to it. */
  readonly #lastAppend = new Map<string, number>();

  add(operation: Operation): void {
    this.#checker.add(operation);
    if (operation.outcome !== 'ok') return;
    for (const [f, key] of operation.output as unknown as readonly Micro[]) {
      if (f === 'append') raise(this.#lastAppend, key, operation.end);
      else raise(this.#lastRead, key, operation.begin);
    }
  }

  *check(): Work<Result> {
    const result = yield* this.#checker.check();
    const unread = [...this.#lastAppend].filter(([key, end]) => (this.#lastRead.get(key) ?? -1) < end);
    if (unread.length === 0) return result;
    const unknown = [...result.unknown, ...unread.map(([key]) => `${key} was not read after the last acknowledged append to it`)];
    return { ...result, unknown, verdict: result.verdict === 'valid' ? 'unknown' : result.verdict };
  }
}

function raise(marks: Map<string, number>, key: string, mark: number): void {
  marks.set(key, Math.max(mark, marks.get(key) ?? -1));
}
