import type { Limits } from '../env/limits.js';
import type { Timers } from '../env/time.js';
import { EMPTY, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { isKeyIn } from '../lib/ordered.js';
import type { KeyRange } from '../bucket/requests.js';
import { checkReadable } from '../bucket/retention.js';
import type { BucketState } from '../bucket/state.js';
import {
  decodeRecord,
  NO_VERSION,
  versionKey,
  type TransactionTag,
  type VersionId,
  type VersionRecord,
} from '../mvcc/records.js';
import { later, type Timestamp } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import {
  bytesOfChange,
  comparePositions,
  endOf,
  wholeTimestamp,
  type Before,
  type Change,
  type FeedPage,
  type Position,
} from './change.js';
import type { Catalogue } from './catalogue.js';

/**
 * The changes of some buckets of this node, page by page, in the order of their positions.
 *
 * A feed reads only up to the *mark*, the least resolved timestamp of its buckets: everything at or below it is applied here, and
 * nothing more will ever appear there, on no replica. A record that comes later with a timestamp below others is above the mark,
 * so a page that was read is final. Nothing is kept between pages; the asker names where to go on.
 *
 *     names of records in (after, mark]      the latest are known in memory (bucket/recent-versions.ts), older ones are
 *                                            looked up in the store (catalogue.ts)
 *     record, and its predecessor's if the before-image is wanted: point reads
 *
 * What was read is void if meanwhile a snapshot took the place of the state or the horizon passed where the page began: both are
 * looked at again in the turn that answers. A record that is missing then is no fault of the disk.
 */
export interface FeedReplica {
  readonly bucket: BucketId;
  readonly state: BucketState;
  readonly installing: boolean;
  /** Everything at or below is applied here, and nothing more will appear at or below. */
  resolved(): Timestamp;
  /** Where it leads, it resolves as much as it may now. */
  closeNow(): void;
  notLeader(): TidemarkError;
}

export interface FeedRequest {
  readonly range: KeyRange;
  readonly after: Position;
  /** Read before-images. */
  readonly before: boolean;
  readonly limit: number;
}

export interface FeedPorts {
  readonly limits: Pick<Limits, 'pageEntriesMax' | 'pageBytesMax'>;
  readonly timers: Timers;
  readonly catalogue: Catalogue;
}

/** Point reads of one turn: some ten microseconds each. */
const READS_PER_TURN = 200;
/** Records that one page looks at in vain, because their keys are of no interest. */
const LOOKED_AT_MAX = 4000;

export async function readFeed(
  replicas: readonly FeedReplica[],
  request: FeedRequest,
  { limits, timers, catalogue }: FeedPorts,
): Promise<FeedPage> {
  const views = replicas.map(viewOf);
  checkViews(views, request.after);
  const mark = markOf(replicas);
  const end = endOf(mark);
  if (comparePositions(request.after, end) >= 0) return { changes: [], upTo: request.after, mark };
  const page = new Page(request, Math.min(request.limit, limits.pageEntriesMax), limits.pageBytesMax);
  const names = await catalogue.namesBehind(replicas, request.after, mark);
  const byBucket = new Map(views.map((view) => [view.replica.bucket, view]));
  let lookedAt = 0;
  for (const at of names.positions) {
    const view = byBucket.get(at.bucket);
    if (view === undefined) continue;
    page.look(view, at);
    lookedAt += 1;
    if (page.isFull || lookedAt === LOOKED_AT_MAX) break;
    if (lookedAt % READS_PER_TURN !== 0) continue;
    await new Promise<void>((resolve) => {
      timers.turnEnd(resolve);
    });
    checkViews(views, request.after);
  }
  if (!mutant('feed-horizon-not-rechecked')) checkViews(views, request.after);
  if (page.missing !== undefined) throw page.missing;
  const isCut = (page.isFull || lookedAt === LOOKED_AT_MAX) && page.last !== undefined && !mutant('feed-page-claims-all');
  return { changes: page.changes, upTo: isCut && page.last !== undefined ? page.last : names.upTo, mark };
}

/** The least timestamp up to which all of these replicas are complete. */
export function markOf(replicas: readonly FeedReplica[]): Timestamp {
  return Math.min(...replicas.map((replica) => resolvedOf(replica)));
}

export function resolvedOf(replica: FeedReplica): Timestamp {
  const resolved = replica.resolved();
  return mutant('feed-beyond-resolved') ? later(resolved, 300) : resolved;
}

/** A replica, and the slot of the state that is being read. */
interface FeedView {
  readonly replica: FeedReplica;
  readonly slot: number;
}

function viewOf(replica: FeedReplica): FeedView {
  return { replica, slot: replica.state.slot };
}

function checkViews(views: readonly FeedView[], after: Position): void {
  for (const { replica, slot } of views) {
    if (replica.installing || replica.state.slot !== slot) throw replica.notLeader();
  }
  // Of the records of one timestamp some may be behind the position, others not: the horizon must not have passed any of them.
  const asked = wholeTimestamp(after);
  if (!mutant('feed-ignores-horizon')) checkReadable(asked, views.map(({ replica }) => replica));
}

class Page {
  readonly changes: Change[] = [];
  /** The last record that was looked at. */
  last: Position | undefined;
  /** A record that is named but not there: the disk's fault, unless it turns out that the page is void. */
  missing: TidemarkError | undefined;
  readonly #request: FeedRequest;
  readonly #countMax: number;
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(request: FeedRequest, countMax: number, bytesMax: number) {
    this.#request = request;
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
  }

  get isFull(): boolean {
    return this.changes.length >= this.#countMax || this.#bytes >= this.#bytesMax || this.missing !== undefined;
  }

  look({ replica, slot }: FeedView, at: Position): void {
    const { state } = replica;
    const record = recordOf(state, slot, at);
    if (record === undefined) {
      const message = `version ${at.timestamp} of bucket ${at.bucket} is named but not on disk`;
      this.missing = new TidemarkError('DATA_LOSS', 'RECORD_MISSING', message);
      return;
    }
    this.last = at;
    const { range } = this.#request;
    if (!isKeyIn(record.key, mutant('stream-range-open') ? { ...range, end: EMPTY } : range)) return;
    const { key, deleted, value, previous, transaction } = record;
    const before = this.#request.before ? beforeOf(state, slot, previous) : undefined;
    const change: Change = { at, key, deleted, value, before, transaction: transactionOf(at, transaction) };
    this.changes.push(change);
    this.#bytes += bytesOfChange(change);
  }
}

function recordOf(state: BucketState, slot: number, id: VersionId): VersionRecord | undefined {
  const data = state.store.get(versionKey(slot, id));
  return data === undefined ? undefined : decodeRecord(data);
}

/**
 * Of a record above the horizon the predecessor is kept, unless it is a tombstone: so one that is missing means that there was
 * nothing.
 */
function beforeOf(state: BucketState, slot: number, previous: VersionId): Before | undefined {
  if (previous.timestamp === NO_VERSION.timestamp) return undefined;
  const record = recordOf(state, slot, previous);
  return record === undefined || record.deleted ? undefined : { version: previous.timestamp, value: record.value };
}

/** A transaction over several buckets has a name; a commit within one bucket is one entry of its log. */
function transactionOf({ bucket, index }: Position, tag: TransactionTag | undefined): Bytes {
  return Buffer.from(tag === undefined ? `${bucket}-${index}` : `t${tag.session}-${tag.sequence}`);
}
