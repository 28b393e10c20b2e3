import type { CancelSignal } from '../lib/cancel.js';
import type { ScanPage } from '../router/scan.js';
import { Entry } from './entries.js';
import { Pages } from './pages.js';

/**
 * The entries of a range, and what they prove, also where there are none: that a range is empty is an answer like any other. With
 * `limit` 0 no page is read, and nothing proved.
 *
 *     const taken = db.scan({ prefix: 'room/7/' });
 *     for await (const entry of taken) throw new Error(`${entry.key} is there`);
 *     const since = taken.served?.timestamp;     // for the condition `unchanged`: still empty
 */
export class Scan extends Pages<ScanPage, Entry> {
  constructor(pagesOf: (signal: CancelSignal) => AsyncGenerator<ScanPage>, signal: CancelSignal | undefined) {
    super(pagesOf, ({ records, served }) => records.map((record) => new Entry(record, served)), signal);
  }
}
