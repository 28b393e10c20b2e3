import { toMapKey, type Bytes } from '../lib/bytes.js';
import { transactionKey, type LockRange, type TransactionId, type TransactionKey } from './transaction.js';

/**
 * Who has locked what in one bucket, as its leader sees it: by what is prepared, and by what it has proposed to prepare. It is
 * derived from the replicated state when a term begins, and dies with the term.
 *
 * Written keys are locked exclusively, keys and ranges that were read are shared. Who meets a lock waits if it is *older* than
 * all that it would wait for, and dies if it is younger (wait-die): whoever waits for somebody is older, so no circle of waiting
 * can close. A plain write holds nothing while it waits, so it may always wait.
 */
export interface Holder {
  readonly id: TransactionId;
  readonly first: number;
}

/** What somebody wants to do. */
export interface Claim {
  readonly writes: readonly Bytes[];
  readonly reads: readonly Bytes[];
  readonly ranges: readonly LockRange[];
}

interface Held extends Claim {
  readonly holder: Holder;
}

export class Locks {
  readonly #held = new Map<TransactionKey, Held>();
  readonly #exclusive = new Map<string, Holder>();
  readonly #shared = new Map<string, Set<Holder>>();
  readonly #ranges = new Map<TransactionKey, Held>();

  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  get count(): number {
    return this.#held.size;
  }

  has(id: TransactionId): boolean {
    return this.#held.has(transactionKey(id));
  }

  take(holder: Holder, claim: Claim): void {
    const key = transactionKey(holder.id);
    const held = { holder, ...claim };
    this.#held.set(key, held);
    for (const write of claim.writes) this.#exclusive.set(toMapKey(write), holder);
    for (const read of claim.reads) {
      const mapKey = toMapKey(read);
      const holders = this.#shared.get(mapKey) ?? new Set();
      this.#shared.set(mapKey, holders.add(holder));
    }
    if (claim.ranges.length > 0) this.#ranges.set(key, held);
  }

  /** Answers with the keys that were locked for writing. */
  release(id: TransactionId): readonly Bytes[] {
    const key = transactionKey(id);
    const held = this.#held.get(key);
    if (held === undefined) return [];
    this.#held.delete(key);
    this.#ranges.delete(key);
    for (const write of held.writes) this.#exclusive.delete(toMapKey(write));
    for (const read of held.reads) {
      const mapKey = toMapKey(read);
      const holders = this.#shared.get(mapKey);
      holders?.delete(held.holder);
      if (holders?.size === 0) this.#shared.delete(mapKey);
    }
    return held.writes;
  }

  /** All that stand in the way of a claim. */
  conflicts({ writes, reads, ranges }: Claim): Holder[] {
    if (this.isEmpty) return [];
    const found = new Set<Holder>();
    for (const key of writes) {
      const mapKey = toMapKey(key);
      const writer = this.#exclusive.get(mapKey);
      if (writer !== undefined) found.add(writer);
      for (const reader of this.#shared.get(mapKey) ?? []) found.add(reader);
      for (const held of this.#ranges.values()) if (held.ranges.some((range) => isIn(mapKey, range))) found.add(held.holder);
    }
    for (const key of reads) {
      const writer = this.#exclusive.get(toMapKey(key));
      if (writer !== undefined) found.add(writer);
    }
    for (const range of ranges) {
      for (const [mapKey, writer] of this.#exclusive) if (isIn(mapKey, range)) found.add(writer);
    }
    return [...found];
  }
}

/** Whether `a` began before `b`; two that began in the same moment are told apart by their request. */
export function isOlder(a: Holder, b: Holder): boolean {
  return (a.first - b.first || a.id.session - b.id.session || a.id.sequence - b.id.sequence) < 0;
}

function isIn(mapKey: string, { start, end }: LockRange): boolean {
  return mapKey >= toMapKey(start) && (end.length === 0 || mapKey < toMapKey(end));
}
