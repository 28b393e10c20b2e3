import { diffPage } from './diff.js';
import type { Call } from './call.js';
import type { Dispatcher } from './dispatch.js';
import type { FeedReader } from './feed-reader.js';
import type { Answer, Operation, OperationKind } from './operations.js';
import { pinsOverBuckets } from './pins.js';
import { readTimestamp, scanPage } from './scan.js';

/**
 * Does for another process what it asked of this one, which holds no data: what is of one bucket goes where that bucket is;
 * what is of many is put together from all the nodes that have a part in it, as if it had come from one.
 */
export async function forward(
  operation: Operation,
  call: Call,
  dispatcher: Dispatcher,
  reader: () => FeedReader,
): Promise<Answer> {
  switch (operation.kind) {
    case 'scan': {
      const { records, more, resume, served } = await scanPage(dispatcher, operation, call);
      return { result: { records, more, resume }, served };
    }
    case 'diff': {
      const { changes, resume, served } = await diffPage(dispatcher, operation, call);
      return { result: { changes, resume }, served };
    }
    case 'pins': {
      const { node, ...result } = await pinsOverBuckets(dispatcher, operation.buckets, operation.action, call);
      return { result, served: { node, timestamp: result.horizon, consistency: 'linearizable', hops: call.hops + 1 } };
    }
    case 'changes':
      return reader().page(operation, call);
    case 'awaitMark':
      return reader().awaitMark(operation, call);
    case 'readTimestamp': {
      const { timestamp, served } = await readTimestamp(dispatcher, operation.buckets, call);
      return { result: { timestamp }, served };
    }
    default:
      return dispatcher.execute(operation, call);
  }
}

/** Their answers may be large. */
export function isPage({ kind }: Operation): boolean {
  return PAGES.has(kind);
}

const PAGES: ReadonlySet<OperationKind> = new Set(['scan', 'history', 'diff', 'changes'] as const);
