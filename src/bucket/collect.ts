import { mutant } from '../lib/mutants.js';
import { compareVersions, decodeRecord, pointerKey, versionKey, versionOfKey, type Slot } from '../mvcc/records.js';
import type { Bytes } from '../lib/bytes.js';
import { readUint64, writeUint64 } from '../lib/ordered.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketState } from './state.js';
import type { StateStore } from './state-store.js';

/**
 * Garbage collection of one bucket: what no moment from the horizon on can show is deleted. The horizon is raised by an entry of
 * the log before; each replica collects by itself, when it likes.
 *
 * When the horizon has passed a record, the version before it goes: every moment that can be read shows this record or a later
 * one. When the record is a deletion it goes too, for a missing version says the same; and if it is still the latest of its key,
 * the pointer goes with it, in one batch. All of that for one record happens in one turn, and the pointer is looked at in that
 * turn, for the record is from a page that is a little old.
 *
 * Records are met in the order of time, so a version is gone before the deletion that follows it: what is left of a key never
 * shows a version that was deleted, whatever is derived from it (bucket/snapshot.ts derives pointers). Who leaves one record of a
 * bucket out leaves out all later ones, too.
 *
 *   g <slot u32>  ->  timestamp u64: all of the slot up to there was collected; a hint that saves work after a restart
 *
 * Example: a put at 10, b at 20, deleted at 30. Horizon 25: 10 goes. Horizon 40: 20 goes, then 30 and the pointer.
 */
const COLLECTED_TAG = 0x67; // 'g'

export interface Collected {
  readonly versions: number;
  /** About: of the record that took the place, mostly. */
  readonly bytes: number;
}

const NOTHING: Collected = { versions: 0, bytes: 0 };

/** To be called with every record of the bucket's slot at or below its horizon, in order. */
export function collectRecord(state: BucketState, recordKey: Bytes, data: Bytes): Collected {
  const { store, slot } = state;
  const id = versionOfKey(recordKey);
  const record = decodeRecord(data);
  let versions = 0;
  if (record.previous.timestamp > 0) {
    store.del(versionKey(slot, record.previous));
    versions += 1;
  }
  if (record.deleted) {
    const pointer = state.pointer(record.key);
    const isLatest = pointer !== undefined && compareVersions(pointer, id) === 0;
    if (isLatest || mutant('collect-unchecked-pointer')) store.del(pointerKey(slot, record.key));
    store.del(recordKey);
    versions += 1;
  }
  return versions === 0 ? NOTHING : { versions, bytes: versions * (recordKey.length + data.length) };
}

export function collectedKey(slot: Slot): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = COLLECTED_TAG;
  out.writeUInt32BE(slot, 1);
  return out;
}

export function collectedUpTo(store: StateStore, slot: Slot): Timestamp {
  const data = store.get(collectedKey(slot));
  return data === undefined ? 0 : readUint64(data, 0);
}

export function noteCollected(store: StateStore, slot: Slot, timestamp: Timestamp): void {
  const data = Buffer.allocUnsafe(8);
  writeUint64(data, timestamp, 0);
  store.put(collectedKey(slot), data);
}
