import { versionAsOf, type Found } from '../mvcc/reader.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { VersionId } from '../mvcc/records.js';
import type { BucketState } from './state.js';

/** Some three milliseconds. */
const LINKS_PER_TURN = 400;

/**
 * Looks for versions of the past, which are found from the newest down, so many in one turn and then a pause: a key may have been
 * written a million times since. One is for the reads of one request, which share their turns.
 *
 * After a pause a snapshot may have taken the place of the state, and the horizon may have risen: links are the same everywhere,
 * and whoever asked looks at the horizon again before it answers. Or the replica may have been given up, and what it held go.
 */
export class Strides {
  readonly #pause: () => Promise<void>;
  #left = LINKS_PER_TURN;

  constructor(pause: () => Promise<void>) {
    this.#pause = pause;
  }

  /** The version that was the latest at `timestamp`, tombstones included, at or below `from` in the chain of a key. */
  async versionAsOf(state: BucketState, from: VersionId, timestamp: Timestamp): Promise<Found | undefined> {
    let next = from;
    for (;;) {
      state.checkStands();
      const { found, further, links } = versionAsOf(state.store, state.slot, next, timestamp, state.horizon, this.#left);
      this.#left -= links;
      if (further === undefined) return found;
      next = further;
      await this.pause();
    }
  }

  /** A link was followed by whoever shows all versions. False when it should pause. */
  mayFollow(): boolean {
    this.#left -= 1;
    return this.#left > 0;
  }

  async pause(): Promise<void> {
    await this.#pause();
    this.#left = LINKS_PER_TURN;
  }
}
