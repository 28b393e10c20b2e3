import type { Bytes } from '../../lib/bytes.js';
import { decodeRecord, slotOfVersionKey, versionOfKey } from '../../mvcc/records.js';
import type { Timestamp } from '../../mvcc/timestamp.js';
import type { Node } from '../../node/node.js';
import type { BucketState } from '../../bucket/state.js';
import type { VersionSeen } from './record.js';

/**
 * Remembers every version that any replica ever stored, for runs in which history is collected, and watches what is collected: a
 * version may only be deleted when no moment from its replica's horizon on shows it, and no pin holds one that does.
 */
const VERSION_TAG = 0x76;

export class Archive {
  readonly problems: string[] = [];
  /** By key, ascending. */
  readonly #versions = new Map<string, VersionSeen[]>();
  collected = 0;

  /** Listens to what a node that is up stores and deletes. */
  attach(node: Node): void {
    const { replicas, store } = node.hosting;
    const put = store.put.bind(store);
    store.put = (key: Bytes, value: Bytes) => {
      if (key[0] === VERSION_TAG) this.#note(key, value);
      put(key, value);
    };
    const del = store.del.bind(store);
    store.del = (key: Bytes) => {
      if (key[0] === VERSION_TAG) {
        const slot = slotOfVersionKey(key);
        const owner = [...replicas.values()].find(({ state }) => state.slot === slot);
        const data = owner === undefined || owner.installing ? undefined : store.get(key);
        if (owner !== undefined && data !== undefined) this.#check(owner.state, key, data);
      }
      del(key);
    };
  }

  #note(recordKey: Bytes, data: Bytes): void {
    const { key, deleted, value } = decodeRecord(data);
    const version = versionOfKey(recordKey).timestamp;
    const name = key.toString();
    const versions = this.#versions.get(name) ?? [];
    this.#versions.set(name, versions);
    let at = versions.length;
    while (at > 0 && (versions[at - 1]?.version ?? 0) > version) at -= 1;
    const known = versions[at - 1];
    const seen = { version, deleted, value: value.toString() };
    if (known?.version !== version) versions.splice(at, 0, seen);
    else if (known.deleted !== deleted || known.value !== seen.value) this.#fail(`${name}@${version} was stored with two values`);
  }

  #check({ bucket, horizon, meta }: BucketState, recordKey: Bytes, data: Bytes): void {
    this.collected += 1;
    const { key, deleted } = decodeRecord(data);
    const version = versionOfKey(recordKey).timestamp;
    const name = `bucket ${bucket} collected ${key.toString()}@${version}`;
    const next = this.#versions.get(key.toString())?.find((each) => each.version > version)?.version ?? Infinity;
    // A deletion says no more than that nothing is there.
    const shownUpTo = deleted ? version : next - 1;
    if (shownUpTo >= horizon && !(deleted && version <= horizon)) {
      this.#fail(`${name}, which is the latest up to ${shownUpTo}, with its horizon at ${horizon}`);
    }
    for (const pin of meta.pins) {
      if (pin.lost || deleted || pin.timestamp < version || pin.timestamp >= next) continue;
      this.#fail(`${name}, which pin ${pin.name} at ${pin.timestamp} shows`);
    }
  }

  /**
   * All versions of the keys, newest first: what was read in the end, and what has been collected. What was read must be the
   * newest of them, and lack nothing above the horizon.
   */
  complete(finals: ReadonlyMap<string, readonly VersionSeen[]>, horizon: Timestamp): Map<string, readonly VersionSeen[]> {
    const all = new Map<string, readonly VersionSeen[]>();
    for (const [key, read] of finals) {
      const known = [...(this.#versions.get(key) ?? [])].reverse();
      const tail = known.slice(read.length);
      if (JSON.stringify(known.slice(0, read.length)) !== JSON.stringify(read)) {
        this.#fail(`the history of ${key} is not what was stored: ${show(read)}, not ${show(known)}`);
      }
      const oldest = read.at(-1)?.version ?? Infinity;
      const [missing] = tail;
      if (missing !== undefined && oldest > horizon && !(missing.deleted && missing.version <= horizon)) {
        this.#fail(`the history of ${key} ends at ${oldest}, before ${missing.version}, with the horizon at ${horizon}`);
      }
      all.set(key, [...read, ...tail]);
    }
    return all;
  }

  /** All versions of all keys that clients wrote, newest first; those of the system bucket begin with `!`. */
  all(): Map<string, readonly VersionSeen[]> {
    const ofClients = [...this.#versions].filter(([key]) => !key.startsWith('!'));
    return new Map(ofClients.map(([key, versions]) => [key, [...versions].reverse()]));
  }

  #fail(problem: string): void {
    if (this.problems.length < 20) this.problems.push(problem);
  }
}

function show(versions: readonly VersionSeen[]): string {
  return versions.map(({ version, deleted }) => `${version}${deleted ? 'x' : ''}`).join(' ');
}
