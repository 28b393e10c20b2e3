import type { Limits } from '../env/limits.js';
import type { Bytes } from '../lib/bytes.js';
import { keyAfter } from '../lib/ordered.js';
import type { Replica } from '../bucket/replica.js';
import type { Change, Served, Timestamp } from '../bucket/requests.js';
import { checkReadable } from '../bucket/retention.js';
import type { StateStore } from '../bucket/state-store.js';
import type { Strides } from '../bucket/strides.js';
import { decodePointer, pointerOfKey, pointerRange, type Pointer, type Slot } from '../mvcc/records.js';
import type { Found } from '../mvcc/reader.js';
import type { Operation, Result } from '../router/operations.js';

/**
 * One page of what changed between two moments, over any replicas of this node, in key order. A pass over the pointers of the
 * range: of a key whose latest version is not above `from` nothing more is read. Where little has changed a page ends after so
 * many pointers, perhaps without a change, and says where to go on.
 */
type DiffOperation = Extract<Operation, { kind: 'diff' }>;

const POINTERS_PER_TURN = 256;
const POINTERS_MAX = 8192;

export async function diffPage(
  { range, from, to, limit }: DiffOperation,
  replicas: readonly Replica[],
  { limits, state, nodeId }: { readonly limits: Limits; readonly state: StateStore; readonly nodeId: number },
  strides: Strides,
  deadlineMs: number,
): Promise<{ result: Result['diff']; served: Served }> {
  checkReadable(from, replicas);
  await Promise.all(replicas.map(({ reads }) => reads.openRange(range, { kind: 'asOf', timestamp: to }, deadlineMs)));
  const slots = new Map(replicas.map((replica): [Slot, Replica] => [replica.state.slot, replica]));
  const wanted = Math.min(limit, limits.pageEntriesMax);
  const changes: Change[] = [];
  let bytes = 0;
  let looked = 0;
  let resume: Bytes | undefined;
  let { gte } = pointerRange(range.start, range.end);
  const { lt } = pointerRange(range.start, range.end);
  for (let more = true; more; ) {
    const page = await state.page({ gte, lt, limit: POINTERS_PER_TURN });
    for (const [pointerBytes, data] of page.entries) {
      const { key, slot } = pointerOfKey(pointerBytes);
      const replica = slots.get(slot);
      const pointer = decodePointer(data);
      if (replica === undefined || pointer.timestamp <= from) continue;
      const change = await changeOf(replica, key, pointer, { from, to, strides });
      if (change === undefined) continue;
      if (changes.length === wanted || bytes >= limits.pageBytesMax) {
        resume = key;
        break;
      }
      changes.push(change);
      bytes += key.length + (change.before?.value.length ?? 0) + (change.after?.value.length ?? 0);
    }
    looked += page.entries.length;
    const last = page.entries.at(-1)?.[0];
    more = page.more && last !== undefined && resume === undefined;
    if (last === undefined || !more) break;
    gte = keyAfter(last);
    if (looked < POINTERS_MAX) continue;
    // Another slot may have the same key: it is looked at again.
    resume = pointerOfKey(last).key;
    if (resume.equals(range.start)) resume = keyAfter(resume);
    break;
  }
  for (const [slot, replica] of slots) if (replica.state.slot !== slot || replica.installing) throw replica.notLeader();
  checkReadable(from, replicas);
  const end = resume;
  const result = { changes: end === undefined ? changes : changes.filter(({ key }) => key.compare(end) < 0), resume };
  return { result, served: { node: nodeId, timestamp: to, consistency: 'asOf', hops: 0 } };
}

async function changeOf(
  { state }: Replica,
  key: Bytes,
  pointer: Pointer,
  { from, to, strides }: { readonly from: Timestamp; readonly to: Timestamp; readonly strides: Strides },
): Promise<Change | undefined> {
  const after = await strides.versionAsOf(state, pointer, to);
  if (after === undefined || after.id.timestamp <= from) return undefined;
  const before = await strides.versionAsOf(state, after.record.previous, from);
  const change = { key, before: shown(before), after: shown(after) };
  return change.before === undefined && change.after === undefined ? undefined : change;
}

function shown(found: Found | undefined): Change['after'] {
  return found === undefined || found.record.deleted ? undefined : { value: found.record.value, version: found.id.timestamp };
}
