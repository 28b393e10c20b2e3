import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import {
  decodePointer,
  decodeRecord,
  pointerKey,
  versionKey,
  type Pointer,
  type Slot,
  type VersionId,
  type VersionRecord,
} from './records.js';

/** Point reads of the state store, at once, applied writes included. */
export interface PointReader {
  get(key: Bytes): Bytes | undefined;
}

export function readPointer(state: PointReader, slot: Slot, key: Bytes): Pointer | undefined {
  const data = state.get(pointerKey(slot, key));
  return data === undefined ? undefined : decodePointer(data);
}

/** A record that must be there, for a pointer or a link above the horizon names it. */
export function readRecord(state: PointReader, slot: Slot, id: VersionId): VersionRecord {
  const data = state.get(versionKey(slot, id));
  if (data === undefined) {
    throw new TidemarkError('DATA_LOSS', 'RECORD_MISSING', `version ${id.timestamp} is named but not on disk`);
  }
  return decodeRecord(data);
}

/** A record with its name. */
export interface Found {
  readonly id: VersionId;
  readonly record: VersionRecord;
}

/**
 * The versions of a key from `from` (a pointer or a previous link) down, newest first, as far as they can be read: down to the
 * one that is the latest at the horizon. Below, and if that one is a deletion, each replica may or may not have collected them
 * yet; so they are left out, and a missing version at or below the horizon means that there was none.
 */
export function* walk(state: PointReader, slot: Slot, from: VersionId, horizon: number): Generator<Found> {
  let id = from;
  while (id.timestamp > 0) {
    const isLast = id.timestamp <= horizon;
    if (isLast && state.get(versionKey(slot, id)) === undefined) return;
    const record = readRecord(state, slot, id);
    if (isLast && record.deleted) return;
    yield { id, record };
    if (isLast) return;
    id = record.previous;
  }
}

export interface LookedUp {
  /** Undefined: there was none, or it is further back. */
  readonly found: Found | undefined;
  /** Where to look further, if `links` were not enough. */
  readonly further: VersionId | undefined;
  /** How many were followed. */
  readonly links: number;
}

/** The version of a key that was the latest at `timestamp`, tombstones included, if it lies within so many links. */
export function versionAsOf(
  state: PointReader,
  slot: Slot,
  latest: VersionId,
  timestamp: number,
  horizon: number,
  linksMax: number,
): LookedUp {
  let links = 0;
  for (const found of walk(state, slot, latest, horizon)) {
    if (found.id.timestamp <= timestamp) return { found, further: undefined, links };
    links += 1;
    if (links >= linksMax) return { found: undefined, further: found.record.previous, links };
  }
  return { found: undefined, further: undefined, links };
}
