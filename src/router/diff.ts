import type { Bytes } from '../lib/bytes.js';
import type { Change, Served } from '../bucket/requests.js';
import type { Call } from './call.js';
import type { Dispatcher } from './dispatch.js';
import type { Operation } from './operations.js';
import { malformedAnswer, scatter } from './scatter.js';

/** What changed between two moments, merged over all nodes that have a share in it, page by page, in key order. */
type DiffOperation = Extract<Operation, { readonly kind: 'diff' }>;

export interface DiffPage {
  readonly changes: readonly Change[];
  /** Where the next page begins; undefined: this was the last one. */
  readonly resume: Bytes | undefined;
  readonly served: Served;
}

/** One page: everything up to where all nodes have looked. It may be empty and still not be the last one. */
export async function diffPage(dispatcher: Dispatcher, operation: DiffOperation, call: Call): Promise<DiffPage> {
  const where = dispatcher.reads.isAnywhere({ kind: 'asOf', timestamp: operation.to }) ? 'anywhere' : 'leader';
  const parts = await scatter(dispatcher, operation.buckets, where, (buckets) => ({ ...operation, buckets }), call);
  let bound: Bytes | undefined;
  for (const { answer } of parts) {
    const { resume } = answer.result;
    if (resume !== undefined && (bound === undefined || resume.compare(bound) < 0)) bound = resume;
  }
  if (bound !== undefined && bound.compare(operation.range.start) <= 0) throw malformedAnswer('a page ends where it began');
  const end = bound;
  const all = parts.flatMap(({ answer }) => answer.result.changes);
  const changes = all.filter(({ key }) => end === undefined || key.compare(end) < 0).sort((a, b) => a.key.compare(b.key));
  const served = parts[0]?.answer.served;
  if (served === undefined) throw malformedAnswer('no node has served');
  return { changes, resume: bound, served: { ...served, hops: Math.max(...parts.map(({ answer }) => answer.served.hops)) } };
}

/** All pages; makes a new call for each. */
export async function* diffPages(dispatcher: Dispatcher, first: DiffOperation, callOf: () => Call): AsyncGenerator<DiffPage> {
  let operation = first;
  for (;;) {
    const page = await diffPage(dispatcher, operation, callOf());
    yield page;
    if (page.resume === undefined) return;
    operation = { ...operation, range: { ...operation.range, start: page.resume } };
  }
}
