import { expect } from 'chai';
import { isTidemarkError, type Database, type RequestId } from '../../src/client/index.js';

/**
 * A key whose only writer counts upwards, and the check that its reads are linearizable: a read sees at least what was
 * acknowledged, and at least what any other read had returned, before it was sent. A write without an answer is repeated under
 * its request id, so that writes never overlap.
 */
let sessions = 0;

export class Register {
  readonly key: Buffer;
  /** The last number whose write was acknowledged. */
  acknowledged = 0;
  #begun = 0;
  /** The highest number that a finished read has returned. */
  #seen = 0;
  readonly #session: number;
  #born = 0;

  constructor(key: string) {
    this.key = Buffer.from(key);
    sessions += 1;
    this.#session = process.pid * 1_000_000 + sessions;
  }

  async writeNext(database: Database): Promise<void> {
    this.#begun += 1;
    if (this.#born === 0) this.#born = database.now();
    const id: RequestId = { session: this.#session, born: this.#born, sequence: this.#begun, lowest: this.#begun };
    for (;;) {
      try {
        await database.put(this.key, String(this.#begun), { id });
        break;
      } catch (error) {
        if (!isTidemarkError(error) || error.code !== 'UNAVAILABLE') throw error;
      }
    }
    this.acknowledged = this.#begun;
  }

  async read(get: (key: Buffer) => Promise<{ readonly value: Buffer }>): Promise<void> {
    const least = Math.max(this.acknowledged, this.#seen);
    const { value } = await get(this.key);
    const number = Number(value.toString());
    expect(number, `a read of '${this.key.toString()}' that was sent after ${least} was known`).to.be.within(least, this.#begun);
    this.#seen = Math.max(this.#seen, number);
  }
}
