import type { Limits } from '../env/limits.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { checkTimestamp, TIMESTAMP_MAX } from '../mvcc/timestamp.js';
import type { Consistency, KeyRange, Timestamp } from '../bucket/requests.js';
import { checkConsistency, checkKey, checkRange } from '../bucket/validate.js';
import { bucketOf, type BucketId, type Placement } from '../placement/map.js';
import { bucketsOfRange } from '../placement/range.js';
import type { AnswerBudget, Hold } from './answer-budget.js';
import type { Call } from './call.js';
import { bytesOfChange, bytesOfRecord, checkLimit, checkMoments } from './checks.js';
import type { Dispatcher } from './dispatch.js';
import { diffPages, type DiffPage } from './diff.js';
import type { CallOptions, DiffOptions, HistoryOptions, HistoryPage, ScanOptions } from './options.js';
import { readTimestamp, scanPages, type ScanPage } from './scan.js';
import type { Seen } from './seen.js';
import type { Role } from './wire.js';

/**
 * Reads whose answers come in pages: scans, histories, diffs. Before each page room for it is reserved (answer-budget.ts), and
 * kept until its reader has taken it.
 */
export interface PagedReadsPorts {
  readonly limits: Limits;
  readonly role: Role;
  readonly dispatcher: Dispatcher;
  readonly answers: AnswerBudget;
  readonly callsOf: (options: CallOptions) => () => Call;
  readonly placement: (call: Call) => Promise<Placement>;
  readonly admitted: <T>(bytes: number, work: () => Promise<T>) => Promise<T>;
  readonly seen: Seen;
}

const LINEARIZABLE = { kind: 'linearizable' } as const;

export class PagedReads {
  readonly #ports: PagedReadsPorts;

  constructor(ports: PagedReadsPorts) {
    this.#ports = ports;
  }

  /**
   * The keys of a range in order, in pages, all as of one timestamp. Without a deadline of its own each page has the router's
   * default timeout.
   */
  async *scan(range: KeyRange, options: ScanOptions = {}): AsyncGenerator<ScanPage> {
    const { limits } = this.#ports;
    const { reverse = false, keysOnly = false } = options;
    const consistency: Consistency = options.consistency ?? LINEARIZABLE;
    checkRange(range, limits);
    checkConsistency(consistency);
    const limit = checkLimit(options.limit);
    const callOf = this.#ports.callsOf(options);
    const { buckets } = await this.#ports.placement(callOf());
    if (consistency.kind === 'asOf') this.#ports.seen.checkNotAhead(consistency.timestamp, 'as_of');
    const touched = bucketsOfRange(range.start, range.end, buckets);
    const atLeast = this.#ports.seen.checkAtLeast(options.atLeast, consistency);
    const sessionSeen = (): Timestamp => Math.max(atLeast, ...touched.map((each) => this.#ports.seen.inSession(each)));
    const seen = consistency.kind === 'bounded' ? sessionSeen() : this.#ports.seen.latest;
    const operation = { kind: 'scan', buckets: touched, range, reverse, keysOnly, limit, consistency } as const;
    const pages = scanPages(this.#ports.dispatcher, operation, limits.pageEntriesMax, () => ({ ...callOf(), seen }));
    const shares = Math.max(1, Math.min(this.#ports.dispatcher.cache.placement?.nodes.length ?? 1, touched.length));
    const pageBytes = Math.min(this.pageBytes(shares), 3 * limit * (limits.keyBytesMax + limits.valueBytesMax));
    for (;;) {
      const hold = await this.#ports.answers.reserve(pageBytes, callOf().giveUpMs, options.signal);
      try {
        const page = await this.#ports.admitted(0, () => pages.next());
        if (page.done === true) return;
        const { records, served } = page.value;
        if (consistency.kind !== 'asOf') for (const bucket of touched) this.#ports.seen.note(bucket, served.timestamp);
        this.park(hold, records.reduce((sum, record) => sum + bytesOfRecord(record), 0), options.cut);
        yield page.value;
      } finally {
        hold.release();
      }
    }
  }

  /** The versions of a key, newest first, in pages. */
  async *history(key: Bytes, options: HistoryOptions = {}): AsyncGenerator<HistoryPage> {
    const { limits } = this.#ports;
    const { newest = TIMESTAMP_MAX, oldest = 0, consistency = LINEARIZABLE } = options;
    checkConsistency(consistency);
    checkKey(key, limits);
    checkTimestamp(newest, 'newest');
    checkTimestamp(oldest, 'oldest');
    if (oldest > newest) {
      const message = `the range is inverted: oldest ${oldest} is above newest ${newest}`;
      throw new TidemarkError('INVALID_ARGUMENT', 'RANGE_INVERTED', message, { details: { field: 'oldest' } });
    }
    let left = checkLimit(options.limit);
    let from = newest;
    const callOf = this.#ports.callsOf(options);
    while (left > 0) {
      const hold = await this.#ports.answers.reserve(this.pageBytes(), callOf().giveUpMs, options.signal);
      try {
        const { result, served } = await this.#ports.admitted(key.length, async () => {
          const call = callOf();
          const placement = await this.#ports.placement(call);
          const bucket = bucketOf(key, placement.buckets);
          const limit = Math.min(left, limits.pageEntriesMax);
          if (consistency.kind === 'asOf') this.#ports.seen.checkNotAhead(consistency.timestamp, 'as_of');
          const operation = { kind: 'history', bucket, key, from, to: oldest, limit, consistency } as const;
          const answer = await this.#ports.dispatcher.execute(operation, call);
          if (consistency.kind !== 'asOf') this.#ports.seen.note(bucket, answer.served.timestamp);
          return answer;
        });
        const { versions, more } = result;
        left -= versions.length;
        this.park(hold, versions.reduce((sum, { value }) => sum + value.length, 0), options.cut);
        // Whoever takes the versions may empty their list.
        const last = versions.at(-1);
        yield { versions, served };
        if (!more || last === undefined || last.version <= oldest) return;
        from = last.version - 1;
      } finally {
        hold.release();
      }
    }
  }

  /**
   * What changed between two moments in a range, in the order of keys, in pages; of a key that changed several times, only what
   * came of it. Without `to`: up to a moment that covers all that is acknowledged.
   */
  async *diff(range: KeyRange, { from, to, ...options }: DiffOptions): AsyncGenerator<DiffPage> {
    const { limits } = this.#ports;
    checkRange(range, limits);
    checkMoments(from, to ?? TIMESTAMP_MAX);
    const callOf = this.#ports.callsOf(options);
    const { buckets } = await this.#ports.placement(callOf());
    const touched = bucketsOfRange(range.start, range.end, buckets);
    if (to !== undefined) this.#ports.seen.checkNotAhead(to, 'to');
    const until = to ?? Math.max(from, await this.#latest(touched, callOf()));
    const operation = { kind: 'diff', buckets: touched, range, from, to: until, limit: limits.pageEntriesMax } as const;
    const pages = diffPages(this.#ports.dispatcher, operation, callOf);
    const shares = Math.max(1, Math.min(this.#ports.dispatcher.cache.placement?.nodes.length ?? 1, touched.length));
    for (;;) {
      const hold = await this.#ports.answers.reserve(2 * this.pageBytes(shares), callOf().giveUpMs, options.signal);
      try {
        const page = await this.#ports.admitted(0, () => pages.next());
        if (page.done === true) return;
        this.park(hold, page.value.changes.reduce((sum, change) => sum + bytesOfChange(change), 0), options.cut);
        yield page.value;
      } finally {
        hold.release();
      }
    }
  }

  /** A moment that covers all that these buckets have acknowledged. What its caller reads next is not older. */
  async #latest(buckets: readonly BucketId[], call: Call): Promise<Timestamp> {
    const { timestamp } = await readTimestamp(this.#ports.dispatcher, buckets, call);
    for (const bucket of buckets) this.#ports.seen.note(bucket, timestamp);
    return timestamp;
  }

  /**
   * The most that a page from so many nodes may take: the value that fills a page may be large. On its way to a caller a reply
   * with a part of it exists twice more, encoded and in the buffer of the connection.
   */
  pageBytes(nodes = 1): number {
    const { pageBytesMax, valueBytesMax } = this.#ports.limits;
    const copies = this.#ports.role === 'client' ? 0 : 2;
    return (nodes + copies) * (pageBytesMax + valueBytesMax);
  }

  /** An answer is there for the caller to take. */
  park(hold: Hold, bytes: number, cut: (() => void) | undefined): void {
    const { pageBytesMax, valueBytesMax } = this.#ports.limits;
    if (this.#ports.role === 'client') hold.release();
    else {
      hold.resize(bytes + 2 * Math.min(bytes, pageBytesMax + valueBytesMax));
      hold.park(cut);
    }
  }
}
