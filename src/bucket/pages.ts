import type { PageOptions, Store } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { keyAfter } from '../lib/ordered.js';

/** What is read page by page: a store, or the state with its overlay. */
export type PageReader = Pick<Store, 'page'>;

const ENTRIES_PER_PAGE = 1000;

/** Visits every entry of a range in the order of keys; of what is written meanwhile it may visit some. */
export async function eachEntry(
  reader: PageReader,
  range: Pick<PageOptions, 'gte' | 'lt' | 'bytesMax'>,
  visit: (key: Bytes, value: Bytes) => void,
): Promise<void> {
  let { gte } = range;
  for (;;) {
    const page = await reader.page({ ...range, gte, limit: ENTRIES_PER_PAGE });
    for (const [key, value] of page.entries) visit(key, value);
    const last = page.entries.at(-1)?.[0];
    if (!page.more || last === undefined) return;
    gte = keyAfter(last);
  }
}
