import type { Json, Operation } from '../../../src/check/history.js';
import { describe } from '../../../src/check/history.js';
import { Findings, type Result } from '../../../src/check/result.js';
import type { Work } from '../../../src/check/work.js';
import { checkStreams, type Committed, type ToldChain } from '../../../src/sim/swarm/check-streams.js';
import type { VersionSeen } from '../../../src/sim/swarm/record.js';
import type { From } from './stream-consumers.js';
import { ToldDecoder } from './stream-format.js';
import type { Part } from './stream-workload.js';

/**
 * Judges writers and the consumers of change streams that followed them:
 *
 * - `lost`: an acknowledged write is not in the history of its keys, or not whole, or not at its version;
 * - `split`: a part of a write of unknown outcome is there, and another is not;
 * - `invented`: a version that nobody wrote, or that was refused;
 * - `stream`: a stream is not what the histories say; src/sim/swarm/check-streams.ts, which also judges simulated runs.
 *
 * The verdict is unknown if a history was not read when all was over, or if no stream was followed over all of it.
 */
interface Followed {
  readonly name: number;
  readonly start: string;
  readonly end: string;
  readonly before: boolean;
  readonly from: From;
}

interface HistoryRead {
  readonly stream: string;
  readonly clusterId: string;
  readonly buckets: number;
  /** Newest first; a deletion has the value null. */
  readonly versions: readonly (readonly [version: number, value: string | null])[];
}

/** What belongs to the keys under one prefix. */
class Stream {
  readonly writes: Operation[] = [];
  readonly follows: Operation[] = [];
  /** Key -> its history, read last. */
  readonly histories = new Map<string, Operation>();
}

export class StreamChecker {
  readonly #streams = new Map<string, Stream>();
  #count = 0;

  add(operation: Operation): void {
    const { f, key, input, output, outcome } = operation;
    this.#count += 1;
    if (f === 'follow') this.#of((input as unknown as Followed).start).follows.push(operation);
    else if (f !== 'history') this.#of(key).writes.push(operation);
    else if (outcome === 'ok') this.#of((output as unknown as HistoryRead).stream).histories.set(key, operation);
  }

  /** Of a prefix, or of a key under it. */
  #of(key: string): Stream {
    const prefix = key.slice(0, key.indexOf('/') + 1);
    const known = this.#streams.get(prefix) ?? new Stream();
    this.#streams.set(prefix, known);
    return known;
  }

  *check(): Work<Result> {
    const findings = new Findings();
    const counts = { connections: 0, chains: 0, changes: 0, withinCommits: 0 };
    let done = 0;
    for (const [prefix, stream] of this.#streams) {
      const check = new StreamCheck(prefix, stream, findings);
      check.run();
      counts.connections += stream.follows.length;
      counts.chains += check.chains.length;
      counts.changes += check.changes;
      counts.withinCommits += check.withinCommits;
      done += 1;
      yield { stage: 'Streams', done, total: this.#streams.size };
    }
    return findings.result({ operations: this.#count, streams: this.#streams.size, ...counts });
  }
}

class StreamCheck {
  chains: readonly ToldChain[] = [];
  changes = 0;
  /** Connections that ended in the midst of a commit, of which the rest came later. */
  withinCommits = 0;
  readonly #prefix: string;
  readonly #stream: Stream;
  readonly #findings: Findings;
  readonly #finals = new Map<string, readonly VersionSeen[]>();
  /** Number -> where it was put, and at which version. */
  readonly #placed = new Map<string, { readonly key: string; readonly version: number }[]>();
  /** `version key` of all versions that somebody wrote. */
  readonly #authored = new Set<string>();
  readonly #commits: Committed[] = [];
  #clusterId = '';
  #buckets = 1;

  constructor(prefix: string, stream: Stream, findings: Findings) {
    this.#prefix = prefix;
    this.#stream = stream;
    this.#findings = findings;
  }

  run(): void {
    const { writes, histories } = this.#stream;
    if (!this.#takeHistories(histories)) return;
    for (const write of writes) this.#checkWrite(write);
    this.#checkAuthors();
    this.#checkStreams();
  }

  #takeHistories(histories: Stream['histories']): boolean {
    const lastEnd = this.#stream.writes.reduce((last, { end }) => (Number.isFinite(end) ? Math.max(last, end) : last), -1);
    const keys = new Set(this.#stream.writes.flatMap((write) => partsOf(write).map(([key]) => key)));
    const unread = [...keys].filter((key) => (histories.get(key)?.begin ?? -1) < lastEnd);
    if (unread.length > 0) {
      this.#findings.unknown.push(`the history of ${unread.slice(0, 3).join()} was not read after the last write under ${this.#prefix}`);
      return false;
    }
    for (const [key, { output }] of histories) {
      const { clusterId, buckets, versions } = output as unknown as HistoryRead;
      this.#clusterId = clusterId;
      this.#buckets = buckets;
      this.#finals.set(key, versions.map(([version, value]) => ({ version, deleted: value === null, value: value ?? '' })));
      for (const [version, value] of versions) {
        if (value === null) continue;
        const places = this.#placed.get(value);
        if (places === undefined) this.#placed.set(value, [{ key, version }]);
        else places.push({ key, version });
      }
    }
    return true;
  }

  #checkWrite(write: Operation): void {
    const parts = partsOf(write);
    const number = parts.find((part) => part[1] !== null)?.[1];
    const found = number === undefined ? [] : (this.#placed.get(String(number)) ?? []);
    const version = write.version ?? found[0]?.version;
    if (version === undefined || write.outcome === 'fail' || (write.outcome === 'info' && number !== undefined && found.length === 0)) {
      if (write.outcome === 'ok') this.#add('lost', write, 'nothing of it is there');
      return;
    }
    const missing = parts.filter(([key, put]) => this.#valueAt(key, version) !== (put === null ? null : String(put)));
    const elsewhere = found.filter((each) => each.version !== version);
    if (missing.length === 0 && elsewhere.length === 0) {
      for (const [key] of parts) this.#authored.add(`${version} ${key}`);
      this.#commits.push({ timestamp: version, keys: parts.map(([key]) => key) });
      return;
    }
    const which = [...missing.map(([key]) => key), ...elsewhere.map(({ key }) => key)].join();
    this.#add(write.outcome === 'ok' ? 'lost' : 'split', write, `at ${version} it is not whole: ${which}`);
  }

  #add(kind: string, write: Operation, what: string): void {
    this.#findings.add(kind, this.#prefix, `${write.f}: ${what}`, [describe(write)]);
  }

  /** Undefined: there is no such version; null: it is a deletion. */
  #valueAt(key: string, version: number): string | null | undefined {
    const found = this.#finals.get(key)?.find((each) => each.version === version);
    return found?.deleted === true ? null : found?.value;
  }

  /** A deletion of unknown outcome may have become any that nobody else made. */
  #checkAuthors(): void {
    const doubtful = new Map<string, number>();
    for (const write of this.#stream.writes) {
      const parts = partsOf(write);
      if (write.outcome !== 'info' || parts.some(([, number]) => number !== null)) continue;
      for (const [key] of parts) doubtful.set(key, (doubtful.get(key) ?? 0) + 1);
    }
    for (const [key, versions] of this.#finals) {
      for (const { version, deleted, value } of versions) {
        if (this.#authored.has(`${version} ${key}`)) continue;
        const left = doubtful.get(key) ?? 0;
        if (deleted && left > 0) doubtful.set(key, left - 1);
        else this.#findings.add('invented', key, `${deleted ? 'a deletion' : value} at version ${version}, which nobody wrote`);
      }
    }
  }

  #checkStreams(): void {
    const follows = this.#stream.follows.filter(({ output }) => Array.isArray(output));
    const decoder = new ToldDecoder(follows.map(toldOf), this.#buckets);
    const chains = new Map<number, ToldChain & { readonly told: ToldChain['told'][number][] }>();
    for (const follow of follows) {
      const { name, start, end, before, from } = follow.input as unknown as Followed;
      let chain = chains.get(name);
      if (chain === undefined) {
        const range = { start: Buffer.from(start), end: Buffer.from(end) };
        chains.set(name, (chain = { name: String(name), range, before, from, told: [] }));
      }
      const told = decoder.decode(toldOf(follow));
      for (const event of told) chain.told.push(event);
      this.changes += told.filter(({ kind }) => kind === 'changes').length;
    }
    this.chains = [...chains.values()];
    this.withinCommits = countWithinCommits(follows);
    const streams = { chains: this.chains, finals: this.#finals, commits: this.#commits };
    const problems = checkStreams({ ...streams, buckets: this.#buckets, clusterId: this.#clusterId });
    for (const problem of problems) this.#findings.add('stream', this.#prefix, problem);
    if (!this.chains.some((chain) => this.#isWhole(chain))) {
      this.#findings.unknown.push(`no stream under ${this.#prefix} was followed from its first write to its last`);
    }
  }

  #isWhole({ from, told, range }: ToldChain): boolean {
    const versions = [...this.#finals].flatMap(([, all]) => all.map(({ version }) => version));
    const acknowledged = this.#commits.map(({ timestamp }) => timestamp);
    const last = told.reduce((mark, event) => (event.kind === 'mark' ? event.timestamp : mark), 0);
    const isAll = range.start.toString() === this.#prefix;
    return isAll && from.kind === 'timestamp' && from.timestamp < Math.min(...acknowledged) && last >= Math.max(...versions);
  }
}

function partsOf({ input }: Operation): readonly Part[] {
  return input as unknown as readonly Part[];
}

function toldOf({ output }: Operation): readonly Json[] {
  return output as readonly Json[];
}

/** How often the next connection of a chain began with the rest of the commit with whose beginning the one before had ended. */
function countWithinCommits(follows: readonly Operation[]): number {
  const ended = new Map<number, Json>();
  let count = 0;
  for (const follow of follows) {
    const { name } = follow.input as unknown as Followed;
    const told = toldOf(follow);
    const first = idOf(told[0]);
    if (first !== undefined && ended.get(name) === first) count += 1;
    if (told.length > 0) ended.set(name, idOf(told.at(-1)) ?? null);
  }
  return count;
}

function idOf(event: Json | undefined): Json | undefined {
  return Array.isArray(event) && event[0] === 'c' ? (event as readonly Json[])[5] : undefined;
}
