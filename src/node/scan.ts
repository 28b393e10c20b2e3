import type { Clock } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { EMPTY, type Bytes } from '../lib/bytes.js';
import { keyAfter } from '../lib/ordered.js';
import { checkWanted } from '../lib/cancel.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import type { Consistency, KeyRange, Record, Served, Timestamp } from '../bucket/requests.js';
import { checkReadable } from '../bucket/retention.js';
import type { StateStore } from '../bucket/state-store.js';
import type { Strides } from '../bucket/strides.js';
import {
  compareVersions,
  decodePointer,
  decodeRecord,
  pointerOfKey,
  pointerRange,
  versionKey,
  type Pointer,
  type Slot,
} from '../mvcc/records.js';
import { readRecord } from '../mvcc/reader.js';
import { earlier, formatTimestamp, TIMESTAMP_MAX } from '../mvcc/timestamp.js';
import type { Operation, OperationContext, Result } from '../router/operations.js';

/**
 * One page of a scan over any replicas of this node, in key order.
 *
 * Pointers of all buckets lie together, ordered by key, so the page is one pass over a range that leaves out what belongs to
 * other slots. Values are looked up in between pages of pointers, a bounded number in one turn.
 *
 * Among many tombstones and pointers of others a page ends after so many pointers, perhaps without a record, and says where to go
 * on: whoever asked may give up meanwhile, and would find nothing done when it asks again.
 */
type ScanOperation = Extract<Operation, { kind: 'scan' }>;

interface ScanOptions {
  readonly nodeId: number;
  readonly limits: Limits;
  readonly clock: Clock;
  readonly state: StateStore;
}

/** Never more in one turn than it can look up. */
const POINTERS_PER_TURN = 256;
const POINTERS_MAX = 8192;

export async function scanPage(
  operation: ScanOperation,
  replicas: readonly Replica[],
  options: ScanOptions,
  strides: Strides,
  context: Pick<OperationContext, 'deadlineMs' | 'seen' | 'signal'>,
): Promise<{ result: Result['scan']; served: Served }> {
  const { deadlineMs, seen = 0 } = context;
  const { timestamp, consistency, asOf } = await openAll(operation, replicas, deadlineMs, seen);
  const slots = new Map(replicas.map((replica): [Slot, Replica] => [replica.state.slot, replica]));
  const result = await collect(operation, slots, options, { timestamp, keysOnly: operation.keysOnly, strides }, context);
  // What was read is void if meanwhile a snapshot took the place of a replica's state or its horizon passed the timestamp.
  for (const [slot, replica] of slots) {
    if (replica.state.slot !== slot || replica.installing) throw replica.notLeader();
  }
  if (!mutant('horizon-not-rechecked')) checkReadable(timestamp, replicas);
  return { result, served: { node: options.nodeId, timestamp: asOf, consistency, hops: 0 } };
}

/** Passes every replica's gate; the scan sees all of them at one timestamp. */
async function openAll(
  { consistency, range }: Pick<ScanOperation, 'consistency' | 'range'>,
  replicas: readonly Replica[],
  deadlineMs: number,
  atLeast: Timestamp,
): Promise<{ timestamp: Timestamp; asOf: Timestamp; consistency: Consistency['kind'] }> {
  switch (consistency.kind) {
    case 'asOf':
      // Each gate looks at its own bucket's horizon; who is refused should be told what can be read of all of them.
      checkReadable(consistency.timestamp, replicas);
      await Promise.all(replicas.map(({ reads }) => reads.openRange(range, consistency, deadlineMs)));
      return { timestamp: consistency.timestamp, asOf: consistency.timestamp, consistency: 'asOf' };
    case 'local': {
      const views = await Promise.all(replicas.map(({ reads }) => reads.openRange(range, consistency, deadlineMs)));
      return { timestamp: TIMESTAMP_MAX, asOf: Math.min(...views.map(({ served }) => served.timestamp)), consistency: 'local' };
    }
    case 'bounded': {
      const timestamp = await openBounded(consistency.maxStalenessMs, replicas, range, deadlineMs, atLeast);
      return { timestamp, asOf: timestamp, consistency: 'bounded' };
    }
    case 'linearizable':
      throw new TidemarkError('INVALID_ARGUMENT', 'SCAN_NEEDS_TIMESTAMP', 'a linearizable scan is read as of a timestamp');
  }
}

/** One timestamp for all: what everybody has resolved, if that is recent enough; else leaders may promise a later one. */
async function openBounded(
  maxStalenessMs: number,
  replicas: readonly Replica[],
  range: KeyRange,
  deadlineMs: number,
  atLeast: Timestamp,
): Promise<Timestamp> {
  const hybrid = replicas[0]?.hybrid;
  if (hybrid === undefined) return 0;
  const now = hybrid.physicalNow();
  const oldest = Math.max(1, atLeast, earlier(now, maxStalenessMs));
  const resolvedOf = (some: readonly Replica[]): Timestamp => Math.min(...some.map((replica) => replica.resolved()));
  const resolved = resolvedOf(replicas);
  if (resolved >= oldest) return resolved;
  const followers = replicas.filter(({ raft }) => !raft.canServe());
  const timestamp = Math.min(Math.max(now, atLeast), resolvedOf(followers));
  if (timestamp < oldest) {
    const seen = resolved === 0 ? 'no moment yet' : `up to ${formatTimestamp(resolved)} only`;
    const message = `this node's replicas are complete ${seen}, not within ${maxStalenessMs} ms of now`;
    throw new TidemarkError('UNAVAILABLE', 'STALE', message, { retriable: true, details: { resolved: String(resolved) } });
  }
  await Promise.all(replicas.map(({ reads }) => reads.openRange(range, { kind: 'asOf', timestamp }, deadlineMs)));
  return timestamp;
}

async function collect(
  { range, reverse, limit }: ScanOperation,
  slots: ReadonlyMap<Slot, Replica>,
  { limits, clock, state }: ScanOptions,
  versions: Wanted,
  { deadlineMs, signal }: Pick<OperationContext, 'deadlineMs' | 'signal'>,
): Promise<Result['scan']> {
  const wanted = Math.min(limit, limits.pageEntriesMax);
  const records: Record[] = [];
  let bytes = 0;
  let looked = 0;
  let previous: Bytes | undefined;
  let { gte, lt } = pointerRange(range.start, range.end);
  // Other slots' pointers are passed over, so read more than is wanted, and ever more where little is found.
  for (let pointers = Math.max(32, wanted * 3); ; pointers *= 2) {
    checkWanted(signal);
    if (clock.monotonicMs() >= deadlineMs) {
      throw new TidemarkError('UNAVAILABLE', 'TIMED_OUT', 'time ran out amid a page of a scan', { retriable: true });
    }
    const page = await state.page({ gte, lt, reverse, limit: Math.min(POINTERS_PER_TURN, pointers) });
    for (const [pointerBytes, data] of page.entries) {
      const { key, slot } = pointerOfKey(pointerBytes);
      // Never between two slots' pointers of one key, of which one may be the one that counts.
      if (looked >= POINTERS_MAX && previous?.equals(key) === false) {
        return { records, more: true, resume: reverse ? previous : key };
      }
      looked += 1;
      previous = key;
      const replica = slots.get(slot);
      const found = replica && recordAt(replica, key, decodePointer(data), versions);
      const record = found instanceof Promise ? await found : found;
      if (record !== undefined) {
        if (records.length === wanted || bytes >= limits.pageBytesMax) return { records, more: true };
        records.push(record);
        bytes += record.key.length + record.value.length;
      }
    }
    const last = page.entries.at(-1)?.[0];
    if (!page.more || last === undefined) return { records, more: false };
    if (reverse) lt = last;
    else gte = keyAfter(last);
  }
}

interface Wanted {
  readonly timestamp: Timestamp;
  readonly keysOnly: boolean;
  readonly strides: Strides;
}

/** At once where the pointer tells, which it mostly does. */
function recordAt(
  replica: Replica,
  key: Bytes,
  pointer: Pointer,
  wanted: Wanted,
): Record | undefined | Promise<Record | undefined> {
  const { state } = replica;
  const { timestamp, keysOnly } = wanted;
  if (pointer.timestamp <= timestamp) {
    if (pointer.deleted) return undefined;
    if (keysOnly) return { key, value: EMPTY, version: pointer.timestamp };
    const data = state.store.get(versionKey(state.slot, pointer));
    if (data !== undefined) return { key, value: decodeRecord(data).value, version: pointer.timestamp };
    state.checkStands();
    // The page with the pointer is a little old: since then the key was written, and what the pointer names collected.
    const latest = state.pointer(key);
    const isNewer = latest === undefined || compareVersions(latest, pointer) > 0;
    if (!isNewer || pointer.timestamp > state.horizon) readRecord(state.store, state.slot, pointer);
    return latest && recordAt(replica, key, latest, wanted);
  }
  return earlierAt(replica, key, pointer, wanted);
}

async function earlierAt({ state }: Replica, key: Bytes, pointer: Pointer, wanted: Wanted): Promise<Record | undefined> {
  const { timestamp, keysOnly, strides } = wanted;
  const found = await strides.versionAsOf(state, pointer, timestamp);
  if (found === undefined || found.record.deleted) return undefined;
  return { key, value: keysOnly ? EMPTY : found.record.value, version: found.id.timestamp };
}
