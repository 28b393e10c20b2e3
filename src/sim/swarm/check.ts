import type { KeyCondition, RangeCondition, Timestamp, WriteResult } from '../../bucket/requests.js';
import { compose } from '../../mvcc/timestamp.js';
import { bucketOf } from '../../placement/map.js';
import { WALL_START_MS } from '../clock.js';
import { Marks, type Mark } from './marks.js';
import { brief, nameOf, nameOfRead } from './names.js';
import type { Attempt, Command, Done, GetDone, HistoryDone, Recorder, ScanDone, VersionSeen } from './record.js';

/**
 * The checker of a swarm run. The cluster names a version for everything that it wrote and a timestamp for everything that it
 * read, so nothing has to be searched for: the final history of each key is the order of its writes, and each answer must
 * agree with it.
 *
 * - Each acknowledged command is in the history of each of its keys exactly once, at its timestamp, whole; a refused or
 *   certainly failed one is not; one of unknown outcome is there once or not at all, on all its keys or on none.
 * - Conditions held (or did not) just before the command's timestamp. Of a command over several buckets that was refused, this
 *   says nothing of other conditions than the one that is named, and the timestamp is of its bucket.
 * - Every read, of whatever consistency, is the truth as of the timestamp that it names.
 * - Real time: what began when something else was over comes after it. For a linearizable read or a command this means the key;
 *   for timestamps the bucket: nothing that begins later commits at or below a timestamp that was named.
 * - Sessions: one client's later commands have higher timestamps, also in other buckets; its bounded reads do not go back.
 *
 * With versions totally ordered per key these rules are together equivalent to linearizability of that key.
 */
export interface CheckOptions {
  readonly recorder: Recorder;
  /** Of every key: all its versions, newest first, read when the run was over. */
  readonly finals: ReadonlyMap<string, readonly VersionSeen[]>;
  readonly buckets: number;
  /** How much a node's wall clock may differ from true time. */
  readonly clockSkewMs: number;
  /** If history is collected: how long it is kept at least. */
  readonly retentionMs?: number | undefined;
}

export function check(options: CheckOptions): string[] {
  return new Checker(options).run();
}

class Checker {
  readonly #options: CheckOptions;
  readonly #problems: string[] = [];
  /** By key, ascending. */
  readonly #versions = new Map<string, VersionSeen[]>();
  /** Who wrote `key` at a version. */
  readonly #writers = new Map<string, Command>();
  /** What proves how far the latest version of a key, or time in a bucket, or what a client saw, had come. */
  readonly #keyMarks = new Map<string, Marks>();
  readonly #bucketMarks = new Map<number, Marks>();
  readonly #clientMarks = new Map<string, Marks>();

  constructor(options: CheckOptions) {
    this.#options = options;
    for (const [key, versions] of options.finals) this.#versions.set(key, [...versions].reverse());
  }

  run(): string[] {
    const { commands, reads, broken } = this.#options.recorder;
    this.#problems.push(...broken);
    this.#checkOrder();
    for (const command of commands) this.#checkOutcome(command);
    this.#checkAuthors();
    for (const command of commands) for (const attempt of command.attempts) this.#mark(command, attempt);
    for (const read of reads) this.#markRead(read);
    for (const command of commands) this.#checkCommand(command);
    for (const read of reads) this.#checkRead(read);
    return this.#problems;
  }

  #fail(what: string): void {
    this.#problems.push(what);
  }

  // --- writes

  #checkOrder(): void {
    for (const [key, versions] of this.#versions) {
      for (let at = 1; at < versions.length; at += 1) {
        const [before, after] = [versions[at - 1], versions[at]];
        if (before !== undefined && after !== undefined && before.version >= after.version) {
          this.#fail(`the history of ${key} is not in order: ${before.version}, ${after.version}`);
        }
      }
    }
  }

  /** What an `ok` says must be in the history; and all that say it say the same. */
  #checkOutcome(command: Command): void {
    const answered = command.attempts.filter(({ outcome }) => outcome === 'ok');
    const first = answered[0]?.result;
    if (first === undefined) return;
    for (const { result } of answered) {
      if (JSON.stringify(result) === JSON.stringify(first)) continue;
      this.#fail(`${nameOf(command)} was retried and has two results: ${JSON.stringify([first, result])}`);
    }
    if (!first.applied) return;
    for (const { key, value } of command.changes) {
      const there = this.#at(key, first.timestamp);
      const name = `${nameOf(command)} at ${first.timestamp}`;
      if (there === undefined) this.#fail(`${name} was acknowledged; ${key} has no such version`);
      else if (there.deleted !== (value === undefined) || there.value !== (value ?? '')) {
        this.#fail(`${name}: ${key} holds ${brief(there)} instead`);
      }
      this.#claim(key, first.timestamp, command);
    }
  }

  #claim(key: string, version: Timestamp, command: Command): void {
    const name = `${key}@${version}`;
    const other = this.#writers.get(name);
    if (other !== undefined && other !== command) this.#fail(`${nameOf(other)} and ${nameOf(command)} both wrote ${name}`);
    this.#writers.set(name, command);
  }

  /** Everything that is in a history was written by a command that may have been, once, and whole. */
  #checkAuthors(): void {
    const byValue = new Map<string, Command>();
    for (const command of this.#options.recorder.commands) {
      for (const { key, value } of command.changes) if (value !== undefined) byValue.set(`${key}=${value}`, command);
    }
    const appliedAt = new Map<Command, Timestamp>();
    for (const [key, versions] of this.#versions) {
      for (const { version, deleted, value } of versions) {
        if (deleted) continue;
        const command = byValue.get(`${key}=${value}`);
        if (command === undefined) {
          this.#fail(`${key} holds ${value.slice(0, 20)}, which nobody wrote`);
          continue;
        }
        const before = appliedAt.get(command);
        const name = nameOf(command);
        if (before !== undefined && before !== version) this.#fail(`${name} applied twice: ${before} and ${version}`);
        appliedAt.set(command, version);
        if (!mayHaveApplied(command)) this.#fail(`${name} was not applied, it was said; ${key} has it at ${version}`);
        this.#claim(key, version, command);
      }
    }
    for (const [command, version] of appliedAt) this.#checkWhole(command, version);
    this.#assignDeletes();
  }

  #checkWhole(command: Command, version: Timestamp): void {
    for (const { key, value } of command.changes) {
      const there = this.#at(key, version);
      if (there?.deleted !== (value === undefined)) {
        this.#fail(`${nameOf(command)} is torn: at ${version} ${key} has ${brief(there)}`);
      } else {
        this.#claim(key, version, command);
      }
    }
  }

  /** Deletes carry no value that would name their command; those of unknown outcome are told apart by nothing but number. */
  #assignDeletes(): void {
    const unknown = this.#options.recorder.commands.filter(
      (command) => mayHaveApplied(command) && !hasAnswer(command) && command.changes.every(({ value }) => value === undefined),
    );
    const open = new Map<string, number>();
    for (const { changes } of unknown) for (const { key } of changes) open.set(key, (open.get(key) ?? 0) + 1);
    for (const [key, versions] of this.#versions) {
      const orphans = versions.filter(({ version, deleted }) => deleted && !this.#writers.has(`${key}@${version}`)).length;
      const most = open.get(key) ?? 0;
      if (orphans > most) this.#fail(`${key} has ${orphans} deletes more than were acknowledged, of ${most} that may be`);
    }
  }

  #checkCommand(command: Command): void {
    const began = command.attempts[0];
    if (began === undefined) return;
    const result = command.attempts.find(({ outcome }) => outcome === 'ok')?.result;
    const timestamp = result?.timestamp ?? this.#appliedAt(command);
    if (timestamp === undefined) return;
    const name = `${nameOf(command)} at ${timestamp}`;
    for (const bucket of this.#bucketsProved(command, result)) {
      const mark = this.#marksOf(this.#bucketMarks, bucket).before(began.invoke);
      if (mark !== undefined && timestamp <= mark.timestamp) {
        this.#fail(`${name} began after ${mark.what} had named ${mark.timestamp}`);
      }
    }
    if (command.id === undefined) {
      const mark = this.#marksOf(this.#clientMarks, began.client).before(began.invoke);
      if (mark !== undefined && timestamp <= mark.timestamp) {
        this.#fail(`${name} is not above what its client had seen: ${mark.what} at ${mark.timestamp}`);
      }
    }
    const refusedBy = result === undefined || result.applied ? -1 : result.failedCondition;
    for (const [position, condition] of command.conditions.entries()) {
      if (refusedBy >= 0 && (position > refusedBy || (position < refusedBy && this.#isSpread(command)))) continue;
      if (condition.kind === 'unchanged') {
        const refusal = position === refusedBy ? result : undefined;
        this.#checkUnchanged(`${name}: condition ${position}`, condition, timestamp, refusal);
        continue;
      }
      const key = condition.key.toString();
      const before = this.#asOf(key, timestamp - 1);
      const held = holds(condition, before);
      if (held !== (position !== refusedBy)) {
        this.#fail(`${name}: condition ${position} (${condition.kind}) was ${held ? 'met' : 'not met'} by ${brief(before)}`);
      }
      if (position === refusedBy && (before?.version ?? 0) !== result?.failedVersion) {
        this.#fail(`${name} was refused for version ${result?.failedVersion}; there was ${brief(before)}`);
      }
    }
  }

  /** Between its timestamp and the command's nothing in the range was changed; where it refused the command, something was. */
  #checkUnchanged(name: string, condition: RangeCondition, timestamp: Timestamp, refusal: WriteResult | undefined): void {
    const { range, since } = condition;
    const [start, end] = [range.start.toString(), range.end.toString()];
    const changes = [...this.#versions]
      .filter(([key]) => key >= start && (end === '' || key < end))
      .flatMap(([key, versions]) => versions.map(({ version }) => ({ key, version })))
      .filter(({ version }) => version > since && version < timestamp);
    if (refusal === undefined) {
      for (const { key, version } of changes) this.#fail(`${name} says unchanged since ${since}; ${key} was at ${version}`);
    } else if (!changes.some(({ version }) => version === refusal.failedVersion)) {
      this.#fail(`${name} was refused for a change at ${refusal.failedVersion} since ${since}, which never was`);
    }
  }

  /** The version under which a command of unknown outcome turned up. */
  #appliedAt(command: Command): Timestamp | undefined {
    for (const { key, value } of command.changes) {
      if (value === undefined) continue;
      const found = this.#versions.get(key)?.find((version) => !version.deleted && version.value === value);
      if (found !== undefined) return found.version;
    }
    return undefined;
  }

  // --- reads

  #checkRead(read: Done): void {
    switch (read.kind) {
      case 'get':
        return this.#checkGet(read);
      case 'scan':
        return this.#checkScan(read);
      case 'history':
        return this.#checkHistory(read);
    }
  }

  #checkGet(read: GetDone): void {
    const { key, asked, proof, found } = read;
    const name = nameOfRead(read);
    const expected = this.#asOf(key, proof.timestamp);
    if (expected?.version !== found?.version || expected?.value !== found?.value) {
      this.#fail(`${name} found ${brief(found)}; as of ${proof.timestamp} it is ${brief(expected)}`);
    }
    this.#checkNotFromFuture(read, key, found?.version);
    const effective = this.#latestUpTo(key, proof.timestamp)?.version ?? 0;
    if (asked.kind === 'linearizable') this.#checkFresh(name, key, effective, read.invoke);
    if (asked.kind === 'asOf' && proof.timestamp !== asked.timestamp) this.#fail(`${name} is as of ${proof.timestamp}`);
    if (asked.kind !== 'bounded') return;
    this.#checkBound(name, key, proof.timestamp, read.invokeMs, asked.maxStalenessMs);
    const seen = this.#marksOf(this.#keyMarks, `${read.client}/${key}`).before(read.invoke);
    if (seen !== undefined && effective < seen.timestamp) {
      this.#fail(`${name} found version ${effective}; this client had ${seen.timestamp} from ${seen.what}`);
    }
  }

  #checkScan(read: ScanDone): void {
    const { asked, proofs, found, start, end, reverse, limit } = read;
    const name = nameOfRead(read);
    const [first] = proofs;
    if (first === undefined) return;
    for (const each of found) this.#checkNotFromFuture(read, each.key, each.version);
    if (asked.kind === 'local') {
      for (const { key, version, value } of found) {
        if (this.#at(key, version)?.value !== value) this.#fail(`${name} found ${key}@${version}, which never was`);
      }
      return;
    }
    const { timestamp } = first;
    if (proofs.some((proof) => proof.timestamp !== timestamp)) this.#fail(`${name}: its pages are of several moments`);
    if (asked.kind === 'asOf' && timestamp !== asked.timestamp) this.#fail(`${name} is as of ${timestamp}`);
    const keys = [...this.#versions.keys()].filter((key) => key >= start && (end === '' || key < end)).sort();
    if (reverse) keys.reverse();
    const expected = keys.flatMap((key) => {
      const version = this.#asOf(key, timestamp);
      return version === undefined ? [] : [{ key, value: version.value, version: version.version }];
    });
    if (limit > 0) expected.length = Math.min(expected.length, limit);
    const [wanted, got] = [expected, found].map((list) => list.map(({ key, version }) => `${key}@${version}`).join(' '));
    if (wanted !== got) this.#fail(`${name} as of ${timestamp} found ${got}, not ${wanted}`);
    else if (expected.some(({ value }, at) => found[at]?.value !== value)) this.#fail(`${name} found a wrong value`);
    for (const key of keys) {
      const effective = this.#latestUpTo(key, timestamp)?.version ?? 0;
      if (asked.kind === 'linearizable') this.#checkFresh(name, key, effective, read.invoke);
      if (asked.kind === 'bounded') {
        this.#checkBound(name, key, timestamp, read.invokeMs, asked.maxStalenessMs);
        const seen = this.#marksOf(this.#keyMarks, `${read.client}/${key}`).before(read.invoke);
        if (seen !== undefined && effective < seen.timestamp) {
          this.#fail(`${name} shows ${key} as of ${timestamp}; this client had ${seen.timestamp} from ${seen.what}`);
        }
      }
    }
  }

  #checkHistory(read: HistoryDone): void {
    const { key, asked, proof, versions } = read;
    const name = nameOfRead(read);
    const expected = (this.#versions.get(key) ?? []).filter(({ version }) => version <= proof.timestamp).reverse();
    if (!this.#isHistory(versions, expected, read.retMs)) {
      const [got, wanted] = [versions, expected].map((list) => list.map(brief).join(' '));
      this.#fail(`${name} as of ${proof.timestamp} shows ${got}, not ${wanted}`);
    }
    if (asked.kind === 'linearizable') this.#checkFresh(name, key, expected[0]?.version ?? 0, read.invoke);
    else if (proof.timestamp !== asked.timestamp) this.#fail(`${name} is as of ${proof.timestamp}`);
  }

  /** The newest ones, all that are not so old that they may be gone: the one that is the latest then is still there. */
  #isHistory(versions: readonly VersionSeen[], expected: readonly VersionSeen[], retMs: number): boolean {
    const { retentionMs, clockSkewMs } = this.#options;
    if (JSON.stringify(expected.slice(0, versions.length)) !== JSON.stringify(versions)) return false;
    const missing = expected[versions.length];
    if (missing === undefined) return true;
    if (retentionMs === undefined) return false;
    const horizon = compose(WALL_START_MS + Math.max(0, retMs - retentionMs + clockSkewMs), 0);
    return (versions.at(-1)?.version ?? Infinity) <= horizon || (missing.deleted && missing.version <= horizon);
  }

  #checkNotFromFuture(read: Done, key: string, version: Timestamp | undefined): void {
    const writer = version === undefined ? undefined : this.#writers.get(`${key}@${version}`);
    const began = writer?.attempts[0]?.invoke;
    if (writer === undefined || began === undefined || began < read.ret) return;
    this.#fail(`${nameOfRead(read)} found version ${version}, of ${nameOf(writer)}, which began later`);
  }

  #checkFresh(name: string, key: string, effective: Timestamp, invoke: number): void {
    const mark = this.#marksOf(this.#keyMarks, key).before(invoke);
    if (mark === undefined || effective >= mark.timestamp) return;
    const before = `${mark.what} had shown ${mark.timestamp} before it began`;
    this.#fail(`${name} is stale: it shows ${key} at ${effective}, though ${before}`);
  }

  /** It is as of a moment that was not longer ago than it may be, or as fresh as if it were. */
  #checkBound(name: string, key: string, asOf: Timestamp, invokeMs: number, maxStalenessMs: number): void {
    const sinceMs = invokeMs - maxStalenessMs - this.#options.clockSkewMs;
    if (sinceMs <= 0 || asOf >= compose(WALL_START_MS + sinceMs, 0)) return;
    const effective = this.#latestUpTo(key, asOf)?.version ?? 0;
    const mark = this.#marksOf(this.#keyMarks, key).beforeMs(sinceMs);
    if (mark === undefined || effective >= mark.timestamp) return;
    const before = `${mark.what} had shown ${mark.timestamp} more than ${maxStalenessMs} ms before`;
    this.#fail(`${name} shows ${key} at ${effective}; ${before}`);
  }

  // --- marks

  #mark(command: Command, attempt: Attempt): void {
    const { result, client, ret, retMs } = attempt;
    if (result === undefined) return;
    const mark: Mark = { ret, retMs, timestamp: result.timestamp, what: nameOf(command) };
    this.#marksOf(this.#clientMarks, client).add(mark);
    // Other participants than home come to the commit timestamp only when they resolve the transaction.
    const buckets = this.#bucketsProved(command, result);
    for (const bucket of result.applied ? buckets.slice(0, 1) : buckets) this.#marksOf(this.#bucketMarks, bucket).add(mark);
    // What a command has written, or found where a condition failed.
    const condition = result.applied ? undefined : command.conditions[result.failedCondition];
    const refused = condition === undefined || condition.kind === 'unchanged' ? undefined : condition.key.toString();
    const shown = result.applied ? command.changes.map(({ key }) => key) : refused === undefined ? [] : [refused];
    for (const key of shown) {
      this.#markKey(key, client, { ...mark, timestamp: this.#latestUpTo(key, result.timestamp)?.version ?? 0 });
    }
  }

  #markRead(read: Done): void {
    const { client, ret, retMs } = read;
    const base = { ret, retMs, what: nameOfRead(read) };
    const proofs = read.kind === 'scan' ? read.proofs : [read.proof];
    const timestamp = Math.min(...proofs.map((proof) => proof.timestamp));
    if (proofs.length === 0) return;
    const keys = read.kind === 'scan' ? [...this.#versions.keys()] : [read.key];
    const inRange = (key: string): boolean =>
      read.kind !== 'scan' || (key >= read.start && (read.end === '' || key < read.end));
    const asked = read.asked.kind;
    if (asked !== 'asOf') this.#marksOf(this.#clientMarks, client).add({ ...base, timestamp });
    for (const key of keys.filter(inRange)) {
      this.#marksOf(this.#bucketMarks, this.#bucketOf(key)).add({ ...base, timestamp });
      if (read.kind === 'scan' && asked === 'local') continue;
      // Whatever was shown was committed: later linearizable reads see it or newer.
      this.#markKey(key, asked === 'asOf' ? '' : client, { ...base, timestamp: this.#latestUpTo(key, timestamp)?.version ?? 0 });
    }
  }

  #markKey(key: string, client: string, mark: Mark): void {
    this.#marksOf(this.#keyMarks, key).add(mark);
    this.#marksOf(this.#keyMarks, `${client}/${key}`).add(mark);
  }

  #marksOf<K>(all: Map<K, Marks>, key: K): Marks {
    let marks = all.get(key);
    if (marks === undefined) all.set(key, (marks = new Marks()));
    return marks;
  }

  /** The buckets whose clocks the timestamp of a command is above; the home is the first. */
  #bucketsProved(command: Command, result: WriteResult | undefined): number[] {
    const refused = result?.applied === false ? command.conditions[result.failedCondition] : undefined;
    const keys = keysOf(refused === undefined ? command : { changes: [], conditions: [refused] });
    return [...new Set(keys.map((key) => this.#bucketOf(key)))];
  }

  #isSpread(command: Command): boolean {
    return new Set(keysOf(command).map((key) => this.#bucketOf(key))).size > 1;
  }

  // --- histories

  #bucketOf(key: string): number {
    return bucketOf(Buffer.from(key), this.#options.buckets);
  }

  #at(key: string, version: Timestamp): VersionSeen | undefined {
    return this.#versions.get(key)?.find((each) => each.version === version);
  }

  /** Tombstones included. */
  #latestUpTo(key: string, timestamp: Timestamp): VersionSeen | undefined {
    const versions = this.#versions.get(key) ?? [];
    let low = 0;
    let high = versions.length;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((versions[middle]?.version ?? Infinity) <= timestamp) low = middle + 1;
      else high = middle;
    }
    return versions[low - 1];
  }

  #asOf(key: string, timestamp: Timestamp): VersionSeen | undefined {
    const latest = this.#latestUpTo(key, timestamp);
    return latest === undefined || latest.deleted ? undefined : latest;
  }
}

function hasAnswer(command: Command): boolean {
  return command.attempts.some(({ outcome }) => outcome === 'ok');
}

function mayHaveApplied(command: Command): boolean {
  const answer = command.attempts.find(({ outcome }) => outcome === 'ok')?.result;
  return answer?.applied ?? command.attempts.some(({ outcome }) => outcome === 'unknown');
}

function keysOf({ changes, conditions }: Pick<Command, 'changes' | 'conditions'>): string[] {
  // A range stands for its first key, which shares its bucket.
  const asked = conditions.map((condition) => (condition.kind === 'unchanged' ? condition.range.start : condition.key));
  return [...changes.map(({ key }) => key), ...asked.map(String)];
}

function holds(condition: KeyCondition, before: VersionSeen | undefined): boolean {
  switch (condition.kind) {
    case 'exists':
      return before !== undefined;
    case 'absent':
      return before === undefined;
    case 'version':
      return (before?.version ?? 0) === condition.version;
    case 'value':
      return before?.value === condition.value.toString();
  }
}
