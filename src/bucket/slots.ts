import { EMPTY, type Bytes } from '../lib/bytes.js';
import { isTidemarkError } from '../lib/errors.js';
import { decodeRecord, pointerKey, type Slot } from '../mvcc/records.js';
import { collectedKey } from './collect.js';
import { eachEntry } from './pages.js';
import { sessionsRange } from './state.js';
import type { StateStore } from './state-store.js';
import { VersionScan } from './version-scan.js';

/**
 * Slots that do not count. A slot that holds anything and that no meta record names (a new one before its snapshot is
 * installed, the old one from then on) carries a mark, set and removed in the very batches that make it so:
 *
 *   u <slot u32>  ->  nothing
 *
 * So the next start finds what a crash has left without a walk through all records of the store.
 */
const UNNAMED_TAG = 0x75; // 'u'
const SWEEP_RECORDS_AT_ONCE = 500;
const SWEEP_BYTES_AT_ONCE = 512 * 1024;

function unnamedKey(slot: Slot): Bytes {
  const out = Buffer.allocUnsafe(5);
  out[0] = UNNAMED_TAG;
  out.writeUInt32BE(slot, 1);
  return out;
}

/** To be called in the turn of the first write to a slot without a name, or in that in which a slot loses its name. */
export function markUnnamed(store: StateStore, slot: Slot): void {
  store.put(unnamedKey(slot), EMPTY);
}

/** To be called in the turn in which a meta record names the slot. */
export function unmark(store: StateStore, slot: Slot): void {
  store.del(unnamedKey(slot));
}

/** The slots that carry the mark. */
export async function unnamedSlots(store: StateStore): Promise<Slot[]> {
  const slots: Slot[] = [];
  await eachEntry(store, { gte: unnamedKey(0), lt: Buffer.from([UNNAMED_TAG + 1]) }, (key) => slots.push(key.readUInt32BE(1)));
  return slots;
}

/** Deletes everything of a slot that carries the mark, piece by piece; resolves when nothing of it is on disk. */
export async function sweepSlot(store: StateStore, slot: Slot): Promise<void> {
  if (store.get(unnamedKey(slot)) === undefined) return;
  const scan = await versionsOnDisk(store, slot);
  let records = 0;
  for (let more = true; more; ) {
    const page = await scan.next({ limit: SWEEP_RECORDS_AT_ONCE, bytesMax: SWEEP_BYTES_AT_ONCE });
    for (const [key, value] of page.entries) {
      const named = keyOf(value);
      if (named !== undefined) store.del(pointerKey(slot, named));
      store.del(key);
    }
    more = page.more;
    records += page.entries.length;
    // Each flush is a sync, and where records lie far apart a page holds few of them.
    if (records < SWEEP_RECORDS_AT_ONCE && more) continue;
    records = 0;
    await store.flush();
  }
  const sessions = sessionsRange(slot);
  for (let more = true; more; ) {
    const page = await store.page({ ...sessions, limit: SWEEP_RECORDS_AT_ONCE });
    for (const [key] of page.entries) store.del(key);
    more = page.more;
    if (!more) {
      store.del(collectedKey(slot));
      unmark(store, slot);
    }
    await store.flush();
  }
}

/**
 * The user key of a record; undefined if it is rotten. Nothing is lost by that: it was to be deleted, and though its pointer
 * stays, nobody will look for it, for the number of a slot is never used again.
 */
function keyOf(value: Bytes): Bytes | undefined {
  try {
    return decodeRecord(value).key;
  } catch (error) {
    if (isTidemarkError(error) && error.code === 'DATA_LOSS') return undefined;
    throw error;
  }
}

/** All records of a slot that are applied by now, read from disk: to merge the overlay into every page would cost more. */
export async function versionsOnDisk(store: StateStore, slot: Slot): Promise<VersionScan> {
  await store.flush();
  return new VersionScan({ page: (options) => store.pageOnDisk(options) }, slot);
}
