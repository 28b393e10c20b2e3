import type { Bytes } from '../lib/bytes.js';
import type { Timestamp } from '../bucket/requests.js';
import { bucketOf, type BucketId } from '../placement/map.js';
import { bucketsOfRange } from '../placement/range.js';
import type { Claim } from '../txn/locks.js';
import type { Owner } from '../txn/reservations.js';
import type { LockRange } from '../txn/transaction.js';
import type { Call } from './call.js';
import type { Dispatcher } from './dispatch.js';

/** What a claim is in each bucket that it touches. */
export function claimsByBucket({ writes, reads, ranges }: Claim, buckets: number): Map<BucketId, Claim> {
  const claims = new Map<BucketId, { writes: Bytes[]; reads: Bytes[]; ranges: LockRange[] }>();
  const claimIn = (bucket: BucketId): { writes: Bytes[]; reads: Bytes[]; ranges: LockRange[] } => {
    const claim = claims.get(bucket) ?? { writes: [], reads: [], ranges: [] };
    claims.set(bucket, claim);
    return claim;
  };
  for (const key of writes) claimIn(bucketOf(key, buckets)).writes.push(key);
  for (const key of reads) claimIn(bucketOf(key, buckets)).reads.push(key);
  for (const range of ranges) {
    for (const bucket of bucketsOfRange(range.start, range.end, buckets)) claimIn(bucket).ranges.push(range);
  }
  return claims;
}

/** Reserves in all these buckets at once; answers with a timestamp as of which everything there is as it will stay. */
export async function reserve(
  dispatcher: Dispatcher,
  claims: ReadonlyMap<BucketId, Claim>,
  owner: Owner,
  forMs: number,
  call: Call,
): Promise<Timestamp> {
  const asked = [...claims].map(async ([bucket, claim]) => {
    const { served } = await dispatcher.execute({ kind: 'reserve', bucket, request: { owner, claim, forMs } }, call);
    return served.timestamp;
  });
  return Math.max(0, ...(await Promise.all(asked)));
}
