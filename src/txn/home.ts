import { assert } from '../lib/assert.js';
import { transactionKey, type CommittedRecord, type TransactionId, type TransactionKey } from './transaction.js';

/**
 * The records of committed transactions whose home this bucket is. Part of the replicated state: changed in apply only.
 *
 * A record stays until every participant has logged that it resolved the transaction: until then somebody may ask. That it is
 * gone means that nobody has an intent of it any more, or that the attempt was never committed.
 */
export class Home {
  readonly #records = new Map<TransactionKey, CommittedRecord>();

  get count(): number {
    return this.#records.size;
  }

  find(id: TransactionId): CommittedRecord | undefined {
    return this.#records.get(transactionKey(id));
  }

  records(): Iterable<CommittedRecord> {
    return this.#records.values();
  }

  /** Apply only. */
  commit(record: CommittedRecord): void {
    const key = transactionKey(record.id);
    assert(!this.#records.has(key), `attempt ${key} is committed twice`);
    this.#records.set(key, record);
  }

  /** Apply only. */
  forget(ids: readonly TransactionId[]): void {
    for (const id of ids) this.#records.delete(transactionKey(id));
  }

  freeze(): readonly CommittedRecord[] {
    return [...this.#records.values()];
  }

  restore(records: readonly CommittedRecord[]): void {
    for (const record of records) this.commit(record);
  }
}
