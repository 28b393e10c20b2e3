import type { Mutation, PlacedCondition, WriteRequest } from '../bucket/requests.js';
import { bucketOf, type BucketId } from '../placement/map.js';
import { bucketsOfCondition } from '../router/checks.js';

/** What one bucket has to do in a Write. */
export interface Part {
  readonly bucket: BucketId;
  readonly conditions: readonly PlacedCondition[];
  readonly mutations: readonly Mutation[];
}

export interface Parts {
  /** The home's. */
  readonly own: Part;
  readonly others: readonly Part[];
}

interface OpenPart extends Part {
  readonly conditions: PlacedCondition[];
  readonly mutations: Mutation[];
}

/** How a Write is spread over buckets; undefined if all of it is in its home. */
export function partsOf({ conditions, mutations }: WriteRequest, home: BucketId, buckets: number): Parts | undefined {
  const [only] = conditions;
  if (conditions.length + mutations.length === 1 && only?.kind !== 'unchanged') return undefined;
  const own: OpenPart = { bucket: home, conditions: [], mutations: [] };
  const others = new Map<BucketId, OpenPart>();
  const partOf = (bucket: BucketId): OpenPart => {
    if (bucket === home) return own;
    const known = others.get(bucket);
    if (known !== undefined) return known;
    const part: OpenPart = { bucket, conditions: [], mutations: [] };
    others.set(bucket, part);
    return part;
  };
  for (const [position, condition] of conditions.entries()) {
    for (const bucket of bucketsOfCondition(condition, buckets)) partOf(bucket).conditions.push({ position, condition });
  }
  for (const mutation of mutations) partOf(bucketOf(mutation.key, buckets)).mutations.push(mutation);
  return others.size === 0 ? undefined : { own, others: [...others.values()] };
}
