/**
 * What every checker answers.
 *
 * - `invalid`: `findings` has at least one thing that cannot have happened if the system keeps its promise.
 * - `unknown`: nothing was found, but something was not looked at; `unknown` says what and why. It is no pass.
 * - `valid`: everything was looked at and nothing was found.
 */
export type Verdict = 'valid' | 'invalid' | 'unknown';

export interface Result {
  readonly verdict: Verdict;
  readonly findings: readonly Finding[];
  readonly unknown: readonly string[];
  /** What was looked at, for a summary line: `{ operations: 1000, keys: 10 }`. */
  readonly counts: Readonly<Record<string, number>>;
}

export interface Finding {
  /** A stable word for programs: `not-linearizable`, `lost`, `G-single`. */
  readonly kind: string;
  readonly key?: string;
  /** One line that says what is wrong. */
  readonly title: string;
  /** The evidence, line by line. */
  readonly details: readonly string[];
}

/** Collects findings; a flood of one kind is counted but not kept. */
export class Findings {
  readonly unknown: string[] = [];
  readonly #kept: Finding[] = [];
  readonly #counts = new Map<string, number>();
  readonly #wanted: (kind: string) => boolean;

  /** Kinds that are not wanted are no findings. */
  constructor(wanted: (kind: string) => boolean = () => true) {
    this.#wanted = wanted;
  }


  add(kind: string, key: string | undefined, title: string, details: readonly string[] = []): void {
    if (!this.#wanted(kind)) return;
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    if (count <= KEPT_OF_A_KIND) this.#kept.push(key === undefined ? { kind, title, details } : { kind, key, title, details });
  }

  result(counts: Readonly<Record<string, number>>): Result {
    const findings = [...this.#kept];
    for (const [kind, count] of this.#counts) {
      if (count <= KEPT_OF_A_KIND) continue;
      findings.push({ kind, title: `${count - KEPT_OF_A_KIND} more of this kind (${kind})`, details: [] });
    }
    const verdict = findings.length > 0 ? 'invalid' : this.unknown.length > 0 ? 'unknown' : 'valid';
    return { verdict, findings, unknown: this.unknown, counts };
  }
}

const KEPT_OF_A_KIND = 20;
