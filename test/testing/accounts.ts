import { TidemarkError, type Database } from '../../src/client/index.js';

export interface Accounts {
  /** Returns when the payment is booked. */
  deposit(owner: string, payment: string, cents: number): Promise<void>;
  balance(owner: string): Promise<number>;
}

/** Books a payment by adding it to the balance, on the condition that nobody else changed that meanwhile, until it works. */
export class HastyAccounts implements Accounts {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  async balance(owner: string): Promise<number> {
    const entry = await this.#db.get(`{${owner}}/balance`);
    return entry.found ? entry.json<number>() : 0;
  }

  async deposit(owner: string, _payment: string, cents: number): Promise<void> {
    const key = `{${owner}}/balance`;
    await untilDone(async () => {
      const entry = await this.#db.get(key, { timeoutMs: 500 });
      const before = entry.found ? entry.json<number>() : 0;
      const { applied } = await this.#db.write(
        {
          conditions: [{ kind: 'version', key, version: entry.version }],
          mutations: [{ kind: 'put', key, value: JSON.stringify(before + cents) }],
        },
        { timeoutMs: 500 },
      );
      return applied;
    });
  }
}

/** The same, but the Write also leaves the payment, and takes effect only if that is not there yet. */
export class CarefulAccounts extends HastyAccounts {
  readonly #db: Database;

  constructor(db: Database) {
    super(db);
    this.#db = db;
  }

  override async deposit(owner: string, payment: string, cents: number): Promise<void> {
    // What stands in braces is the partition key: these two are in one bucket, so one Write can change both.
    const key = `{${owner}}/balance`;
    const paid = `{${owner}}/payment/${payment}`;
    await untilDone(async () => {
      const entry = await this.#db.get(key, { timeoutMs: 500 });
      const before = entry.found ? entry.json<number>() : 0;
      const { applied, failed } = await this.#db.write(
        {
          conditions: [
            { kind: 'absent', key: paid },
            { kind: 'version', key, version: entry.version },
          ],
          mutations: [
            { kind: 'put', key: paid, value: JSON.stringify(cents) },
            { kind: 'put', key, value: JSON.stringify(before + cents) },
          ],
        },
        { timeoutMs: 500 },
      );
      return applied || failed?.condition === 0;
    });
  }
}

async function untilDone(attempt: () => Promise<boolean>): Promise<void> {
  for (;;) {
    try {
      if (await attempt()) return;
    } catch (error) {
      if (!(error instanceof TidemarkError) || !error.retriable) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20 + 80 * Math.random()));
  }
}
