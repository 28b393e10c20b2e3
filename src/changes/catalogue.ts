import type { PageReader } from '../bucket/pages.js';
import type { RecentOfBucket } from '../bucket/recent-versions.js';
import { Heap } from '../lib/heap.js';
import { keyAfter } from '../lib/ordered.js';
import {
  periodBounds,
  periodOf,
  slotOfVersionKey,
  startOfPeriod,
  versionOfKey,
  type Slot,
  type VersionId,
} from '../mvcc/records.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import { comparePositions, endOf, positionOf, wholeTimestamp, type Position } from './change.js';

/**
 * Where the records of a span of time are, over all buckets of a node: their names, in order, without their values.
 *
 * The latest ones are kept in memory as they are applied. Older ones lie in the store by period, within it by slot, within that
 * by time. A reader that is behind would have to look into each slot for the next few records, over and over; so a span is read
 * as a whole, all slots in one pass over whole periods, and only names are kept: of 8,000 records a second a period is 65,000
 * names. A few such *windows* are remembered: whoever reads one page will soon want the next, and perhaps does not read alone.
 *
 * Memory: at most WINDOWS_MAX windows of at most NAMES_MAX names. A period with more than that is read in several windows, of
 * which each is a pass over all of it.
 *
 * A pass ends, at the end of a period, when it has read so many pages, though it has found nothing: buckets that are seldom
 * written to would else take one pass over all that the node keeps. Who asks for what a pass under way looks for waits for that
 * one: a router that has given up asks again.
 *
 * What a window holds is final, since it ends at or below the mark of its buckets when it was made.
 */
export interface CatalogueReplica {
  readonly bucket: BucketId;
  readonly state: { readonly slot: Slot; readonly recent: RecentOfBucket };
}

export interface Names {
  /** In order, all behind the position that was asked for. */
  readonly positions: readonly Position[];
  /** No name up to here is missing. */
  readonly upTo: Position;
}

const WINDOWS_MAX = 4;
const NAMES_MAX = 65_536;
/** Names that are given at a time; when a window has so many, it ends with the period that it is in. */
const NAMES_ENOUGH = 4096;
const PAGES_ENOUGH = 64;
const PAGE_ENTRIES = 1000;
const PAGE_BYTES = 1024 * 1024;

interface Window {
  /** The slots whose records it names. */
  readonly of: string;
  readonly after: Position;
  readonly upTo: Position;
  readonly positions: readonly Position[];
}

export class Catalogue {
  readonly #reader: PageReader;
  readonly #namesMax: number;
  readonly #pagesEnough: number;
  /** The one that was used last is at the end. */
  #windows: readonly Window[] = [];
  readonly #passes = new Map<string, Promise<Window>>();

  constructor(reader: PageReader, namesMax = NAMES_MAX, pagesEnough = PAGES_ENOUGH) {
    this.#reader = reader;
    this.#namesMax = namesMax;
    this.#pagesEnough = pagesEnough;
  }

  /** Names behind `after`, at most to the end of `mark`, at or below which none may be missing yet. */
  async namesBehind(replicas: readonly CatalogueReplica[], after: Position, mark: Timestamp): Promise<Names> {
    const whole = wholeTimestamp(after);
    if (replicas.every(({ state }) => state.recent.from <= whole)) return recentNames(replicas, after, mark);
    const of = replicas.map(({ bucket, state }) => `${bucket}=${state.slot}`).join();
    const known = this.#windows.find((window) => window.of === of && isInside(window, after));
    const window = known ?? (await this.#pass(of, replicas, after, mark));
    this.#windows = [...this.#windows.filter((other) => other !== window), window].slice(-WINDOWS_MAX);
    const first = placeBehind(window.positions, after);
    const positions = window.positions.slice(first, first + NAMES_ENOUGH);
    const isLast = first + NAMES_ENOUGH >= window.positions.length;
    return { positions, upTo: isLast ? window.upTo : (positions.at(-1) ?? after) };
  }

  /** One that began before may end at an earlier mark. */
  #pass(of: string, replicas: readonly CatalogueReplica[], after: Position, mark: Timestamp): Promise<Window> {
    const name = [of, after.timestamp, after.bucket, after.index, after.position].join();
    const known = this.#passes.get(name);
    if (known !== undefined) return known;
    const pass = this.#read(of, replicas, after, mark).finally(() => this.#passes.delete(name));
    this.#passes.set(name, pass);
    return pass;
  }

  async #read(of: string, replicas: readonly CatalogueReplica[], after: Position, mark: Timestamp): Promise<Window> {
    const buckets = new Map(replicas.map(({ bucket, state }) => [state.slot, bucket]));
    const names = new LowestNames(this.#namesMax, endOf(mark));
    let period = periodOf(after.timestamp);
    const { lt, ...bounds } = periodBounds(period, periodOf(mark));
    let { gte } = bounds;
    for (let pages = 1; ; pages += 1) {
      const page = await this.#reader.page({ gte, lt, limit: PAGE_ENTRIES, bytesMax: PAGE_BYTES });
      for (const [key] of page.entries) {
        const id = versionOfKey(key);
        if (periodOf(id.timestamp) > period) {
          period = periodOf(id.timestamp);
          // All periods before this one are read to their ends.
          if (names.count >= NAMES_ENOUGH || pages >= this.#pagesEnough) names.cut(endOf(startOfPeriod(period) - 1));
          if (names.isCut) return { of, after, upTo: names.bound, positions: names.take() };
        }
        const bucket = buckets.get(slotOfVersionKey(key));
        if (bucket === undefined) continue;
        const at = positionOf(bucket, id);
        if (comparePositions(at, after) > 0) names.add(at);
      }
      const last = page.entries.at(-1)?.[0];
      if (!page.more || last === undefined) return { of, after, upTo: names.bound, positions: names.take() };
      gte = keyAfter(last);
    }
  }
}

/** The lowest of the names that are added, in bounded memory. */
class LowestNames {
  readonly #max: number;
  readonly #names: Position[] = [];
  #bound: Position;
  #isCut = false;

  constructor(max: number, bound: Position) {
    this.#max = max;
    this.#bound = bound;
  }

  /** Of what was added, all up to here is kept. */
  get bound(): Position {
    return this.#bound;
  }

  /** Something above the bound was left out that could be had. */
  get isCut(): boolean {
    return this.#isCut;
  }

  get count(): number {
    return this.#names.length;
  }

  add(at: Position): void {
    if (comparePositions(at, this.#bound) > 0) return;
    this.#names.push(at);
    if (this.#names.length < 2 * this.#max) return;
    this.#names.sort(comparePositions);
    this.#names.length = this.#max;
    const last = this.#names.at(-1);
    if (last !== undefined) this.cut(last);
  }

  cut(bound: Position): void {
    this.#isCut = true;
    if (comparePositions(bound, this.#bound) < 0) this.#bound = bound;
  }

  take(): readonly Position[] {
    return this.#names.sort(comparePositions);
  }
}

/** Whether what follows `after` is in the window, and not only its end. */
function isInside({ after: first, upTo }: Window, after: Position): boolean {
  return comparePositions(first, after) <= 0 && comparePositions(after, upTo) < 0;
}

/** Where the first name behind `after` is. */
function placeBehind(positions: readonly Position[], after: Position): number {
  let low = 0;
  let high = positions.length;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const at = positions[middle];
    if (at !== undefined && comparePositions(at, after) <= 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** From memory: the names of all buckets, merged. */
function recentNames(replicas: readonly CatalogueReplica[], after: Position, mark: Timestamp): Names {
  const heads = new Heap<Head>((a, b) => comparePositions(a.at, b.at) < 0);
  const advance = (bucket: BucketId, rest: Iterator<VersionId>): void => {
    for (let next = rest.next(); next.done !== true; next = rest.next()) {
      const at = positionOf(bucket, next.value);
      if (comparePositions(at, after) <= 0) continue;
      heads.push({ at, rest });
      return;
    }
  };
  for (const { bucket, state } of replicas) advance(bucket, state.recent.between(after.timestamp, mark));
  const positions: Position[] = [];
  for (let head = heads.pop(); head !== undefined; head = heads.pop()) {
    if (positions.length === NAMES_ENOUGH) return { positions, upTo: positions.at(-1) ?? after };
    positions.push(head.at);
    advance(head.at.bucket, head.rest);
  }
  return { positions, upTo: endOf(mark) };
}

interface Head {
  readonly at: Position;
  readonly rest: Iterator<VersionId>;
}
