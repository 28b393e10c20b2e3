import { expect } from 'chai';
import type { Database } from '../../src/client/index.js';

/** Somebody else, who writes and reads all the time and must not notice what is done to the cluster. */
export class Canary {
  readonly #database: Database;
  readonly #name: string;
  #round = 0;
  #stopping = false;
  readonly #work: Promise<void>;

  constructor(database: Database, name = 'canary') {
    this.#database = database;
    this.#name = name;
    this.#work = this.#sing();
    this.#work.catch(() => undefined);
  }

  get rounds(): number {
    return this.#round;
  }

  async #sing(): Promise<void> {
    while (!this.#stopping) {
      const key = `${this.#name}/${this.#round % 50}`;
      const value = String(this.#round);
      await this.#database.put(key, value);
      expect((await this.#database.get(key)).text()).to.equal(value);
      this.#round += 1;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Rejects with the first error that it met. At least one round is sung after this call. */
  async stop(): Promise<void> {
    const round = this.#round;
    while (this.#round < round + 2) {
      await Promise.race([this.#work, new Promise((resolve) => setTimeout(resolve, 5))]);
    }
    this.#stopping = true;
    await this.#work;
  }
}
