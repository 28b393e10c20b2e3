import type { Bytes } from '../lib/bytes.js';
import type { Claim } from '../txn/locks.js';
import type { LockRange, Prepared } from '../txn/transaction.js';
import type { Condition, Mutation } from './requests.js';

/** What a command wants to lock: what it writes, and what its conditions have read. */
export function claimOf(conditions: readonly Condition[], mutations: readonly Mutation[]): Claim {
  const reads: Bytes[] = [];
  const ranges: LockRange[] = [];
  for (const condition of conditions) {
    if (condition.kind === 'unchanged') ranges.push(condition.range);
    else reads.push(condition.key);
  }
  return { writes: mutations.map(({ key }) => key), reads, ranges };
}

/** What a transaction that is prepared has locked. */
export function claimOfPrepared({ intents, reads, ranges }: Prepared): Claim {
  return { writes: intents.map(({ key }) => key), reads, ranges };
}
