import { toMapKey, type Bytes } from '../lib/bytes.js';
import type { VersionId } from '../mvcc/records.js';
import type { Timestamp } from './requests.js';

interface Rest {
  /** The oldest version that was shown. */
  readonly above: Timestamp;
  /** The one below it. */
  readonly next: VersionId;
}

/** A page that comes so late that others took its place walks down from the newest version. */
const RESTS_KEPT = 64;

/**
 * Where pages of histories ended, so that the next page goes on there. Versions are linked from the newest down: without this,
 * each page would walk, in one turn, over all that earlier pages have shown.
 *
 * What lies below a version never changes, for new versions come on top; the links are part of the log, so they are the same in a
 * state that was installed. Only where the version above is not readable any more does what is below it not count either.
 */
export class HistoryWalks {
  readonly #rests = new Map<string, Rest>();

  /** Where a walk begins that shows versions up to `from`. */
  begin(key: Bytes, from: Timestamp, latest: VersionId, horizon: Timestamp): VersionId {
    const rest = this.#rests.get(nameOf(key, from));
    return rest !== undefined && rest.above > horizon ? rest.next : latest;
  }

  /** A page has shown versions down to `above`, and stopped before `next`. */
  stop(key: Bytes, above: Timestamp, next: VersionId): void {
    const name = nameOf(key, above - 1);
    this.#rests.delete(name);
    this.#rests.set(name, { above, next });
    for (const oldest of this.#rests.keys()) {
      if (this.#rests.size <= RESTS_KEPT) break;
      this.#rests.delete(oldest);
    }
  }
}

function nameOf(key: Bytes, from: Timestamp): string {
  return `${from}/${toMapKey(key)}`;
}
