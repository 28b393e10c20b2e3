import type { Bytes } from '../lib/bytes.js';
import { keyAfter } from '../lib/ordered.js';
import { mutant } from '../lib/mutants.js';
import type { Consistency, KeyRange, Record, Served, Timestamp } from '../bucket/requests.js';
import type { BucketId } from '../placement/map.js';
import type { Call } from './call.js';
import type { Dispatcher } from './dispatch.js';
import type { Answer, Operation } from './operations.js';
import { malformedAnswer, scatter, type Part } from './scatter.js';

/**
 * Scans over buckets on several nodes, page by page, in key order.
 *
 * All pages of a scan show one timestamp T, and say the same of what that proves. A linearizable scan takes T as the highest
 * clock of the confirmed leaders of all its buckets, so that it holds everything acknowledged before the scan began. A bounded
 * one takes the lowest timestamp at which its replicas answered a first page. Only `local` makes no such promise: each replica
 * shows what it has.
 *
 * Nothing is kept between pages but T and where to go on: for each page every node is asked for its share and a little more,
 * and what lies beyond the point up to which all nodes are known is dropped. Example, three nodes, limit 6, each asked for 3:
 *
 *     node 1  a d g …     node 2  b c e …     node 3  f h i …        (… = has more)
 *     known up to e (the least of g, e, i): a b c d e, and there is more; the next page starts behind e.
 *
 * A node that has looked at much and found little says how far it has come: a page may be empty and still not be the last one.
 */
export type ScanOperation = Extract<Operation, { readonly kind: 'scan' }>;

export interface ScanPage {
  readonly records: readonly Record[];
  readonly more: boolean;
  /** Where the next page begins (in reverse: ends), if that is not behind the last record. */
  readonly resume?: Bytes | undefined;
  readonly served: Served;
}

type MergedPage = Omit<ScanPage, 'served'>;

const SHARE_SLACK = 1.25;
const SHARE_EXTRA = 8;

/** All pages. Makes a new call for each page. */
export async function* scanPages(
  dispatcher: Dispatcher,
  first: ScanOperation,
  pageLimit: number,
  callOf: () => Call,
): AsyncGenerator<ScanPage> {
  let operation = first;
  let left = first.limit;
  let proved: Consistency['kind'] | undefined;
  while (left > 0) {
    const page = await scanPage(dispatcher, { ...operation, limit: Math.min(left, pageLimit) }, callOf());
    const { records, served } = page;
    left -= records.length;
    proved ??= served.consistency;
    // Whoever takes the records may empty their list.
    const end = endOf(page, operation.reverse);
    yield { ...page, served: { ...served, consistency: proved } };
    if (end === undefined) return;
    const stays = operation.consistency.kind === 'local' || mutant('scan-moves-on');
    const consistency = stays ? operation.consistency : asOf(served.timestamp);
    operation = { ...operation, consistency, range: rangeBeyond(operation.range, end, operation.reverse) };
  }
}

/** One page, merged over all nodes that have a share in it. */
export async function scanPage(dispatcher: Dispatcher, operation: ScanOperation, call: Call): Promise<ScanPage> {
  switch (operation.consistency.kind) {
    case 'linearizable': {
      const clocks = await readTimestamp(dispatcher, operation.buckets, call);
      // What the session has seen may be of other buckets.
      const timestamp = Math.max(clocks.timestamp, call.seen);
      const page = await mergedPage(dispatcher, { ...operation, consistency: asOf(timestamp) }, call);
      // Over several buckets it is a snapshot, in which writes of strangers may appear out of order; in one bucket it is more.
      return operation.buckets.length > 1 ? page : { ...page, served: { ...page.served, consistency: 'linearizable' } };
    }
    case 'bounded': {
      const parts = await pageParts(dispatcher, operation, call);
      const timestamps = parts.map(({ answer }) => answer.served.timestamp);
      const timestamp = Math.min(...timestamps);
      const oneMoment = timestamps.every((each) => each === timestamp);
      const page = oneMoment ? parts : await pageParts(dispatcher, { ...operation, consistency: asOf(timestamp) }, call);
      const merged = mergeParts(page, operation);
      return { ...merged, served: { ...merged.served, consistency: 'bounded' } };
    }
    default:
      return mergedPage(dispatcher, operation, call);
  }
}

/** A timestamp that covers everything which these buckets have acknowledged. */
export async function readTimestamp(
  dispatcher: Dispatcher,
  buckets: readonly BucketId[],
  call: Call,
): Promise<{ timestamp: Timestamp; served: Served }> {
  const parts = await scatter(dispatcher, buckets, 'leader', (some) => ({ kind: 'readTimestamp', buckets: some }), call);
  const timestamp = Math.max(...parts.map(({ answer }) => answer.result.timestamp));
  return { timestamp, served: { ...servedBy(parts), timestamp } };
}

async function mergedPage(dispatcher: Dispatcher, operation: ScanOperation, call: Call): Promise<ScanPage> {
  return mergeParts(await pageParts(dispatcher, operation, call), operation);
}

/** As of a timestamp that followers may not have heard of yet the leaders are asked, which can always serve it. */
function pageParts(dispatcher: Dispatcher, operation: ScanOperation, call: Call): Promise<Part<ScanOperation>[]> {
  const nodes = Math.max(1, Math.min(dispatcher.cache.placement?.nodes.length ?? 1, operation.buckets.length));
  const share = nodes === 1 ? operation.limit : Math.ceil((operation.limit / nodes) * SHARE_SLACK) + SHARE_EXTRA;
  const limit = Math.min(operation.limit, share);
  const where = dispatcher.reads.isAnywhere(operation.consistency) ? 'anywhere' : 'leader';
  return scatter(dispatcher, operation.buckets, where, (buckets) => ({ ...operation, buckets, limit }), call);
}

function mergeParts(parts: readonly Part<ScanOperation>[], { range, reverse, limit }: ScanOperation): ScanPage {
  const pages = parts.map(({ answer }) => answer.result);
  const merged = mergePages(pages, reverse, limit);
  const { resume } = merged;
  const hasCome = reverse ? range.end.length === 0 || resume?.compare(range.end) === -1 : resume?.compare(range.start) === 1;
  if (resume !== undefined && !hasCome) throw malformedAnswer('a page ends where it began');
  return { ...merged, served: servedBy(parts) };
}

/** Everything before it is known, in reverse itself too; undefined: this was the last page. */
function endOf({ records, more, resume }: MergedPage, reverse: boolean): Bytes | undefined {
  if (!more) return undefined;
  if (resume !== undefined) return resume;
  const last = records.at(-1);
  if (last === undefined) throw malformedAnswer('an empty page says that there is more');
  return reverse ? last.key : keyAfter(last.key);
}

/** The records of all pages in order, up to the limit and to the point up to which all pages are complete. */
export function mergePages(pages: readonly MergedPage[], reverse: boolean, limit: number): MergedPage {
  const sign = reverse ? -1 : 1;
  let bound: Bytes | undefined;
  for (const page of pages) {
    const end = mutant('scan-merge-unbounded') ? undefined : endOf(page, reverse);
    if (end !== undefined && (bound === undefined || end.compare(bound) * sign < 0)) bound = end;
  }
  const heads = pages.map(() => 0);
  const merged: Record[] = [];
  for (;;) {
    let best = -1;
    let record: Record | undefined;
    for (const [index, { records }] of pages.entries()) {
      const head = records[heads[index] ?? 0];
      if (head !== undefined && (record === undefined || head.key.compare(record.key) * sign < 0)) {
        best = index;
        record = head;
      }
    }
    const isKnown = record !== undefined && (bound === undefined || record.key.compare(bound) * sign <= (reverse ? 0 : -1));
    if (record === undefined || !isKnown) {
      return { records: merged, more: bound !== undefined, ...resumeAt(bound, merged, reverse) };
    }
    if (merged.length >= limit) return { records: merged, more: true };
    merged.push(record);
    heads[best] = (heads[best] ?? 0) + 1;
  }
}

/** Left out where it is behind the last record, which says it as well. */
function resumeAt(bound: Bytes | undefined, merged: readonly Record[], reverse: boolean): Pick<MergedPage, 'resume'> {
  if (bound === undefined) return {};
  const last = merged.at(-1)?.key;
  const behind = last === undefined || reverse ? last : keyAfter(last);
  return behind?.equals(bound) === true ? {} : { resume: bound };
}

/** What several nodes' answers prove together. The node is the one that served most buckets. */
function servedBy(parts: readonly Part<ScanOperation | Extract<Operation, { kind: 'readTimestamp' }>>[]): Served {
  let most: Part<ScanOperation | Extract<Operation, { kind: 'readTimestamp' }>> | undefined;
  let timestamp = Infinity;
  let hops = 0;
  for (const part of parts) {
    const { served }: Pick<Answer, 'served'> = part.answer;
    if (most === undefined || part.buckets.length > most.buckets.length) most = part;
    timestamp = Math.min(timestamp, served.timestamp);
    hops = Math.max(hops, served.hops);
  }
  if (most === undefined) throw malformedAnswer('no node has served');
  const { node, consistency } = most.answer.served;
  return { node, timestamp, consistency, hops };
}

function rangeBeyond({ start, end }: KeyRange, known: Bytes, reverse: boolean): KeyRange {
  return reverse ? { start, end: known } : { start: known, end };
}

function asOf(timestamp: Timestamp): Consistency {
  return { kind: 'asOf', timestamp };
}
