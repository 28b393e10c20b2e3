import type { Served, Timestamp } from '../bucket/requests.js';
import type { Bytes } from '../lib/bytes.js';
import type { CancelSignal } from '../lib/cancel.js';
import type { DiffPage } from '../router/diff.js';
import { Pages } from './pages.js';

export interface Change {
  readonly kind: 'added' | 'changed' | 'removed';
  readonly key: Bytes;
  /** What `from` shows; undefined for an added key. */
  readonly before: { readonly value: Bytes; readonly version: Timestamp } | undefined;
  /** What `to` shows; undefined for a removed key. */
  readonly after: { readonly value: Bytes; readonly version: Timestamp } | undefined;
  readonly served: Served;
}

/** What changed between two moments, and which these are, also where nothing changed. */
export class Diff extends Pages<DiffPage, Change> {
  readonly from: Timestamp;

  constructor(
    from: Timestamp,
    pagesOf: (signal: CancelSignal) => AsyncGenerator<DiffPage>,
    signal: CancelSignal | undefined,
  ) {
    super(pagesOf, changesOf, signal);
    this.from = from;
  }

  /** Undefined before the first page was read. */
  get to(): Timestamp | undefined {
    return this.served?.timestamp;
  }
}

function changesOf({ changes, served }: DiffPage): Change[] {
  return changes.map(({ key, before, after }): Change => {
    const kind = before === undefined ? 'added' : after === undefined ? 'removed' : 'changed';
    return { kind, key, before, after, served };
  });
}
