import type { Operation } from '../../../src/check/history.js';
import { LinearizabilityChecker } from '../../../src/check/register.js';
import type { Result, Verdict } from '../../../src/check/result.js';
import { WindowChecker } from '../../../src/check/window.js';
import type { Work } from '../../../src/check/work.js';

/**
 * Registers whose last reads also tell all versions that their key ever had (`"versions": [[version, value], ...]`): beside
 * linearizability, every read and every write is held against these. That needs no search, and it finds what no read shows,
 * such as an acknowledged write that was lost before anybody read it.
 */
export class RegisterChecker {
  readonly #order = new LinearizabilityChecker();
  readonly #window = new WindowChecker();
  readonly #operations: Operation[] = [];
  /** Keys whose versions are known. */
  readonly #told = new Set<string>();

  add(operation: Operation): void {
    this.#order.add(operation);
    this.#operations.push(operation);
  }

  line(text: string): void {
    if (!text.includes('"versions":[')) return;
    const { key, versions } = JSON.parse(text) as { readonly key: string; readonly versions: readonly [number, number | null][] };
    if (this.#told.has(key)) return;
    this.#told.add(key);
    for (const [version, value] of versions) this.#window.addVersion({ key, version, value });
  }

  *check(): Work<Result> {
    const order = yield* this.#order.check();
    const untold = new Set<string>();
    for (const operation of this.#operations) {
      if (this.#told.has(operation.key)) this.#window.add(operation);
      else untold.add(operation.key);
    }
    const window = yield* this.#window.check();
    const findings = [...order.findings, ...window.findings];
    const unknown = [...order.unknown, ...window.unknown];
    if (untold.size > 0) unknown.push(`nobody read the versions of ${untold.size} keys in the end`);
    const verdict: Verdict = findings.length > 0 ? 'invalid' : unknown.length > 0 ? 'unknown' : 'valid';
    return { verdict, findings, unknown, counts: { ...order.counts, versionsOfKeys: this.#told.size } };
  }
}
