import { TidemarkError } from '../lib/errors.js';
import type { FeedPage } from '../changes/change.js';
import { bytesOfChange, bytesOfRecord } from './checks.js';
import type { Answer, Operation, Result } from './operations.js';

/**
 * Cuts an answer to what fits into a message. A page of one node fits; one that a sidecar has put together from many may not.
 * Whoever asked goes on behind what is left of it, as it does behind any page.
 *
 * Throws FAILED_PRECONDITION / ANSWER_TOO_LARGE if not even one entry fits, which limits that agree do not let happen: that fails
 * one request, where a message over the limit would end the stream, and all others with it.
 */
export function fitted(operation: Operation, answer: Answer, bytesMax: number): Answer {
  switch (operation.kind) {
    case 'get': {
      const { record } = answer.result as Result['get'];
      if (record !== undefined) countThatFits([record], bytesOfRecord, bytesMax);
      return answer;
    }
    case 'history': {
      const { versions } = answer.result as Result['history'];
      const count = countThatFits(versions, ({ value }) => value.length, bytesMax);
      return count === versions.length ? answer : { ...answer, result: { versions: versions.slice(0, count), more: true } };
    }
    case 'scan': {
      const { records } = answer.result as Result['scan'];
      const count = countThatFits(records, bytesOfRecord, bytesMax);
      return count === records.length ? answer : { ...answer, result: { records: records.slice(0, count), more: true } };
    }
    case 'diff': {
      const { changes } = answer.result as Result['diff'];
      const count = countThatFits(changes, bytesOfChange, bytesMax);
      const next = changes[count];
      return next === undefined ? answer : { ...answer, result: { changes: changes.slice(0, count), resume: next.key } };
    }
    case 'changes': {
      const page = answer.result as Result['changes'];
      const count = countThatFits(page.changes, bytesOfFeedChange, bytesMax);
      const last = page.changes[count - 1];
      if (count === page.changes.length || last === undefined) return answer;
      return { ...answer, result: { ...page, changes: page.changes.slice(0, count), upTo: last.at } };
    }
    default:
      return answer;
  }
}

/** At most what is told beside the keys and values of an entry: versions, positions, names, lengths. */
const ENTRY_BYTES = 128;

function countThatFits<T>(entries: readonly T[], bytesOf: (entry: T) => number, bytesMax: number): number {
  let bytes = 0;
  for (const [index, entry] of entries.entries()) {
    bytes += ENTRY_BYTES + bytesOf(entry);
    if (bytes <= bytesMax) continue;
    if (index > 0) return index;
    const message = `an answer of ${bytes} bytes fits into no message, which takes ${bytesMax}: limits.messageBytesMax is low`;
    throw new TidemarkError('FAILED_PRECONDITION', 'ANSWER_TOO_LARGE', message, { details: { limit: String(bytesMax) } });
  }
  return entries.length;
}

function bytesOfFeedChange({ key, value, before }: FeedPage['changes'][number]): number {
  return key.length + value.length + (before?.value.length ?? 0);
}
