import { decodeCursor } from '../../changes/cursor.js';
import { comparePositions, endOf, type Change, type Position } from '../../changes/change.js';
import type { KeyRange, Record, Timestamp } from '../../bucket/requests.js';
import { bucketOf } from '../../placement/map.js';
import type { Chain } from './consumers.js';
import type { VersionSeen } from './record.js';

/**
 * Holds what consumers of change streams were told against the final history of every key:
 *
 * - every change is a version of its key, with its value and, if asked for, what the version before had held;
 * - they come in the order of their positions, over all connections of a chain, none twice;
 * - up to the last mark none is missing that lies behind the beginning of the chain;
 * - nothing comes at or below a mark that was told;
 * - equal transaction ids are the changes of one commit;
 * - a snapshot is the state as of its timestamp, and the tail begins there.
 */
export interface StreamsToCheck {
  readonly chains: readonly Chain[];
  /** By key, newest first. */
  readonly finals: ReadonlyMap<string, readonly VersionSeen[]>;
  readonly buckets: number;
  readonly clusterId: string;
}

export function checkStreams({ chains, finals, buckets, clusterId }: StreamsToCheck): string[] {
  return chains.flatMap((chain) => new ChainCheck(chain, finals, buckets, clusterId).run());
}

class ChainCheck {
  readonly #chain: Chain;
  readonly #finals: StreamsToCheck['finals'];
  readonly #buckets: number;
  readonly #problems: string[] = [];
  /** Positions told, by timestamp and key. */
  readonly #told = new Set<string>();
  readonly #transactions = new Map<string, string>();
  readonly #entries: Record[] = [];
  #snapshot: Timestamp | undefined;
  /** Undefined until it is known where the chain begins. */
  #start: Position | undefined;
  #position: Position = endOf(0);
  #mark = 0;

  constructor(chain: Chain, finals: StreamsToCheck['finals'], buckets: number, clusterId: string) {
    this.#chain = chain;
    this.#finals = finals;
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
    const versions = this.#finals.get(key.toString()) ?? [];
    const place = versions.findIndex(({ version }) => version === at.timestamp);
    const version = versions[place];
    if (version === undefined) {
      this.#report(`${name} is no version of its key`);
      return;
    }
    if (version.deleted !== deleted || version.value !== value.toString()) this.#report(`${name} is told with another value`);
    if (this.#chain.before) this.#checkBefore(name, versions[place + 1], before);
    this.#told.add(`${at.timestamp} ${key.toString()}`);
    const commit = `${at.timestamp} ${at.bucket} ${at.index}`;
    const id = transaction.toString();
    if ((this.#transactions.get(commit) ?? id) !== id) this.#report(`${name} has another transaction id than its commit`);
    this.#transactions.set(commit, id);
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
    for (const [key, versions] of this.#finals) {
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
    for (const [key, versions] of this.#finals) {
      if (!isWithin(Buffer.from(key), this.#chain.range)) continue;
      for (const { version } of versions) {
        if (version > start.timestamp && version <= this.#mark && !this.#told.has(`${version} ${key}`)) {
          this.#report(`${key} at ${version} is missing, behind ${start.timestamp}, though ${this.#mark} is marked`);
        }
      }
    }
  }
}

/** Not the code under test. */
function isWithin(key: Buffer, { start, end }: KeyRange): boolean {
  return Buffer.compare(key, start) >= 0 && (end.length === 0 || Buffer.compare(key, end) < 0);
}
