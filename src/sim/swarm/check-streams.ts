import type { KeyRange, Record, Timestamp } from '../../bucket/requests.js';
import { comparePositions, endOf, type Change, type Position } from '../../changes/change.js';
import { decodeCursor } from '../../changes/cursor.js';
import { bucketOf } from '../../placement/map.js';
import type { StreamFrom } from '../../router/change-stream.js';
import type { VersionSeen } from './record.js';

/**
 * Holds what consumers of change streams were told against the final history of every key, in simulated runs and in those of
 * scripts/faults:
 *
 * - every change is a version of its key, with its value and, if asked for, what the version before had held;
 * - they come in the order of their positions, over all connections of a chain, none twice;
 * - up to the last mark none is missing that lies behind the beginning of the chain;
 * - nothing comes at or below a mark that was told;
 * - equal transaction ids are the changes of one commit, over all buckets, and of no other;
 * - a snapshot is the state as of its timestamp, and the tail begins there.
 *
 * A *chain* is what one consumer was told from one starting point on, over all its connections.
 */
export interface ToldChain {
  readonly name: string;
  readonly range: KeyRange;
  /** It asked for what keys held before. */
  readonly before: boolean;
  readonly from: StreamFrom;
  readonly told: readonly Told[];
}

export type Told =
  | { readonly kind: 'entries'; readonly timestamp: Timestamp; readonly entries: readonly Record[] }
  | { readonly kind: 'changes'; readonly changes: readonly Change[] }
  | { readonly kind: 'mark'; readonly timestamp: Timestamp };

/** What is known to have committed at one moment, as one. */
export interface Committed {
  readonly timestamp: Timestamp;
  readonly keys: readonly string[];
}

export interface StreamsToCheck {
  readonly chains: readonly ToldChain[];
  /** By key, newest first. */
  readonly finals: ReadonlyMap<string, readonly VersionSeen[]>;
  /** Not necessarily all. */
  readonly commits: readonly Committed[];
  readonly buckets: number;
  readonly clusterId: string;
}

export function checkStreams({ chains, finals, commits, buckets, clusterId }: StreamsToCheck): string[] {
  const truth = new Truth(chains, finals, commits);
  return chains.flatMap((chain) => new ChainCheck(chain, truth, buckets, clusterId).run());
}

/** What all chains are held against, in the orders in which it is looked for. */
class Truth {
  readonly finals: StreamsToCheck['finals'];
  readonly #versions: readonly { readonly timestamp: Timestamp; readonly key: string }[];
  readonly #commits: readonly Committed[];
  /** Key -> version -> its place in the history of the key. */
  readonly #places = new Map<string, ReadonlyMap<Timestamp, number>>();
  /** Where a change was first told to stand; all chains must agree. */
  readonly #positions = new Map<string, Position>();

  constructor(chains: readonly ToldChain[], finals: StreamsToCheck['finals'], commits: readonly Committed[]) {
    this.finals = finals;
    this.#versions = [...finals]
      .flatMap(([key, versions]) => versions.map(({ version }) => ({ timestamp: version, key })))
      .sort((a, b) => a.timestamp - b.timestamp);
    this.#commits = [...commits].sort((a, b) => a.timestamp - b.timestamp);
    for (const [key, versions] of finals) this.#places.set(key, new Map(versions.map(({ version }, place) => [version, place])));
    for (const { told } of chains) {
      for (const event of told) {
        if (event.kind !== 'changes') continue;
        for (const { at, key } of event.changes) {
          const name = nameOf(at.timestamp, key.toString());
          if (!this.#positions.has(name)) this.#positions.set(name, at);
        }
      }
    }
  }

  placeOf(key: string, version: Timestamp): number | undefined {
    return this.#places.get(key)?.get(version);
  }

  /** Undefined if no chain was told of it. */
  positionOf(key: string, version: Timestamp): Position | undefined {
    return this.#positions.get(nameOf(version, key));
  }

  /** Versions of all keys from one moment to another, both included. */
  versionsWithin(first: Timestamp, last: Timestamp): readonly { readonly timestamp: Timestamp; readonly key: string }[] {
    return within(this.#versions, first, last);
  }

  commitsWithin(first: Timestamp, last: Timestamp): readonly Committed[] {
    return within(this.#commits, first, last);
  }
}

function nameOf(timestamp: Timestamp, key: string): string {
  return `${timestamp} ${key}`;
}

interface Timed {
  readonly timestamp: Timestamp;
}

function within<T extends Timed>(sorted: readonly T[], first: Timestamp, last: Timestamp): readonly T[] {
  return sorted.slice(firstAbove(sorted, first - 1), firstAbove(sorted, last));
}

function firstAbove(sorted: readonly Timed[], timestamp: Timestamp): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle]?.timestamp ?? Infinity) > timestamp) high = middle;
    else low = middle + 1;
  }
  return low;
}

class ChainCheck {
  readonly #chain: ToldChain;
  readonly #truth: Truth;
  readonly #buckets: number;
  readonly #problems: string[] = [];
  /** Changes told, by timestamp and key: the id of their transaction. */
  readonly #told = new Map<string, string>();
  /** Commits of one bucket: the id of their transaction. */
  readonly #transactions = new Map<string, string>();
  /** Id of a transaction -> when it committed, and how many changes were told of it. */
  readonly #ids = new Map<string, { readonly timestamp: Timestamp; changes: number }>();
  readonly #entries: Record[] = [];
  #snapshot: Timestamp | undefined;
  /** Undefined until it is known where the chain begins. */
  #start: Position | undefined;
  #position: Position = endOf(0);
  #mark = 0;

  constructor(chain: ToldChain, truth: Truth, buckets: number, clusterId: string) {
    this.#chain = chain;
    this.#truth = truth;
    this.#buckets = buckets;
    const { from, range } = chain;
    if (from.kind === 'timestamp') this.#beginAt(endOf(from.timestamp));
    if (from.kind !== 'cursor') return;
    const cursor = decodeCursor(from.cursor, clusterId, range);
    if (cursor.kind === 'tail') this.#beginAt(cursor.position);
    else this.#beginAt(endOf(cursor.timestamp));
  }

  run(): string[] {
    for (const event of this.#chain.told) {
      switch (event.kind) {
        case 'entries':
          this.#entriesTold(event.timestamp, event.entries);
          break;
        case 'changes':
          for (const change of event.changes) this.#changeTold(change);
          break;
        case 'mark':
          if (event.timestamp < this.#mark) this.#report(`the mark goes back from ${this.#mark} to ${event.timestamp}`);
          this.#mark = Math.max(this.#mark, event.timestamp);
          if (this.#start === undefined) this.#beginAt(endOf(event.timestamp));
      }
    }
    this.#checkSnapshot();
    this.#checkComplete();
    this.#checkTransactions();
    return this.#problems;
  }

  #beginAt(start: Position): void {
    this.#start = start;
    this.#position = start;
  }

  #report(what: string): void {
    if (this.#problems.length < 5) this.#problems.push(`stream ${this.#chain.name} from ${this.#chain.from.kind}: ${what}`);
  }

  #entriesTold(timestamp: Timestamp, entries: readonly Record[]): void {
    if (this.#snapshot !== undefined && this.#snapshot !== timestamp && this.#chain.told.length > 0) {
      // A connection that ended before it had told anything begins anew, with another snapshot.
      this.#report(`its snapshot is as of ${this.#snapshot} and of ${timestamp}`);
    }
    if (this.#mark > 0 || this.#told.size > 0) this.#report('a snapshot begins behind changes');
    this.#snapshot = timestamp;
    if (this.#start === undefined) this.#beginAt(endOf(timestamp));
    this.#entries.push(...entries);
  }

  #changeTold(change: Change): void {
    const { at, key, deleted, value, before, transaction } = change;
    const name = `${key.toString()} at ${at.timestamp}`;
    if (this.#start === undefined) {
      // From now on: the mark that says from when comes first.
      this.#report(`${name} comes before it is known where the stream begins`);
      this.#beginAt(endOf(0));
    }
    if (comparePositions(at, this.#position) <= 0) {
      this.#report(`${name} comes behind ${this.#position.timestamp}: again, or late`);
    }
    this.#position = at;
    if (at.timestamp <= this.#mark) this.#report(`${name} comes behind the mark ${this.#mark}`);
    if (!isWithin(key, this.#chain.range)) this.#report(`${name} is not in its range`);
    if (bucketOf(key, this.#buckets) !== at.bucket) this.#report(`${name} is told of bucket ${at.bucket}`);
    const known = this.#truth.positionOf(key.toString(), at.timestamp);
    if (known !== undefined && comparePositions(known, at) !== 0) {
      this.#report(`${name} stands elsewhere than another stream says`);
    }
    const versions = this.#truth.finals.get(key.toString()) ?? [];
    const place = this.#truth.placeOf(key.toString(), at.timestamp);
    const version = place === undefined ? undefined : versions[place];
    if (place === undefined || version === undefined) {
      this.#report(`${name} is no version of its key`);
      return;
    }
    if (version.deleted !== deleted || version.value !== value.toString()) this.#report(`${name} is told with another value`);
    if (this.#chain.before) this.#checkBefore(name, versions[place + 1], before);
    const id = transaction.toString('latin1');
    this.#told.set(nameOf(at.timestamp, key.toString()), id);
    const commit = `${at.timestamp} ${at.bucket} ${at.index}`;
    if ((this.#transactions.get(commit) ?? id) !== id) this.#report(`${name} has another transaction id than its commit`);
    this.#transactions.set(commit, id);
    const same = this.#ids.get(id);
    if (same === undefined) this.#ids.set(id, { timestamp: at.timestamp, changes: 1 });
    else if (same.timestamp === at.timestamp) same.changes += 1;
    else this.#report(`${name} has the transaction id of a commit at ${same.timestamp}`);
  }

  #checkBefore(name: string, previous: VersionSeen | undefined, before: Change['before']): void {
    const expected = previous === undefined || previous.deleted ? undefined : previous;
    if (before?.version !== expected?.version || before?.value.toString() !== expected?.value) {
      this.#report(`${name} is told with the before-image ${before?.version}, which was ${expected?.version}`);
    }
  }

  /** The entries told are the state, up to the last of them or, if the tail has begun, all of it. */
  #checkSnapshot(): void {
    const timestamp = this.#snapshot;
    const { from, range } = this.#chain;
    const isWhole = this.#mark > 0 || this.#told.size > 0;
    if (from.kind === 'cursor' || (timestamp === undefined && from.kind !== 'beginning')) return;
    const asOf = timestamp ?? this.#start?.timestamp ?? 0;
    const last = this.#entries.at(-1)?.key.toString() ?? '';
    const state: { readonly key: string; readonly text: string }[] = [];
    for (const [key, versions] of this.#truth.finals) {
      const found = versions.find(({ version }) => version <= asOf);
      const isTold = isWithin(Buffer.from(key), range) && (isWhole || key <= last);
      if (found !== undefined && !found.deleted && isTold) state.push({ key, text: `${key}@${found.version}=${found.value}` });
    }
    const told = this.#entries.map(({ key, version, value }) => `${key.toString()}@${version}=${value.toString()}`);
    const expected = state.sort((a, b) => (a.key < b.key ? -1 : 1)).map(({ text }) => text);
    if (told.join() !== expected.join()) {
      const missing = expected.filter((entry) => !told.includes(entry));
      const sizes = `${told.length} entries, not ${expected.length}`;
      this.#report(`its snapshot as of ${asOf} has ${sizes}; missing: ${missing.slice(0, 3).join()}`);
    }
  }

  #checkComplete(): void {
    const start = this.#start;
    if (start === undefined) return;
    for (const { timestamp, key } of this.#truth.versionsWithin(start.timestamp, this.#mark)) {
      if (this.#told.has(nameOf(timestamp, key)) || !isWithin(Buffer.from(key), this.#chain.range)) continue;
      // Where a stream begins within a commit, others tell what of it lies behind.
      const position = this.#truth.positionOf(key, timestamp);
      const isBehind = timestamp > start.timestamp || (position !== undefined && comparePositions(position, start) > 0);
      if (isBehind) this.#report(`${key} at ${timestamp} is missing, behind ${start.timestamp}, though ${this.#mark} is marked`);
    }
  }

  /** What is known to have been one commit has one id, over all buckets, which nothing else has. */
  #checkTransactions(): void {
    for (const { timestamp, keys } of this.#truth.commitsWithin(this.#start?.timestamp ?? 0, this.#position.timestamp)) {
      const ids = keys.map((key) => this.#told.get(nameOf(timestamp, key))).filter((id) => id !== undefined);
      const [id] = ids;
      if (id === undefined) continue;
      if (new Set(ids).size > 1) this.#report(`the commit of ${keys.join()} at ${timestamp} has several transaction ids`);
      else if (this.#ids.get(id)?.changes !== ids.length) {
        this.#report(`what is not of the commit of ${keys.join()} at ${timestamp} has its transaction id`);
      }
    }
  }
}

/** Not the code under test. */
function isWithin(key: Buffer, { start, end }: KeyRange): boolean {
  return Buffer.compare(key, start) >= 0 && (end.length === 0 || Buffer.compare(key, end) < 0);
}
