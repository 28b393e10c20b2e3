import { TidemarkError } from '../lib/errors.js';
import { describe, shown, type Json, type Operation } from './history.js';
import { unfit } from './register.js';
import { Findings, type Result } from './result.js';
import type { Work } from './work.js';

/**
 * Holds a history of registers against the exact list of versions that each key had. With the order of versions given, nothing
 * has to be searched: a read must show a version that was current at some moment between its begin and its end.
 *
 * When a version became current is not known exactly, but bounded by what was seen: not before its write began, and not after its
 * write was acknowledged or a read that showed it ended. So a read is
 *
 * - `stale` if a later version was current, by such a proof, before it began;
 * - `from-the-future` if its version, or an earlier one, had not begun to be written when it ended;
 * - `phantom` if the key never had what it shows.
 *
 * And of writes: each acknowledged one is there (`missing`), once, unless another put the same value (`shared`); none that failed
 * is (`refused-but-there`); a compare-and-set follows the value that it named (`bad-swap`); the order of versions is not against
 * real time (`order`). Operations name their version (`"version": 7` at their end; 0 is a key without any), or are found by
 * their value; those whose value several versions have are held to any of them and prove nothing.
 */
export interface KeyVersion {
  readonly key: string;
  /** Ascending with time. */
  readonly version: number;
  /** The value, `null` for a deletion. */
  readonly value: Json;
}

interface Placed {
  readonly operation: Operation;
  /** Positions in the list of versions that it may stand for; 0 is the state before the first version. */
  readonly positions: readonly number[];
}

/** The earliest or latest event that proves something, and whose it is. */
interface Proof {
  readonly at: number;
  readonly operation: Operation;
  readonly position: number;
}

interface Timeline {
  readonly key: string;
  readonly versions: readonly KeyVersion[];
  readonly byVersion: ReadonlyMap<number, number>;
  readonly byValue: ReadonlyMap<string, readonly number[]>;
}

const KEYS_A_YIELD = 16;

export class WindowChecker {
  readonly #versions = new Map<string, KeyVersion[]>();
  readonly #operations = new Map<string, Operation[]>();
  #count = 0;

  addVersion(version: KeyVersion): void {
    const versions = this.#versions.get(version.key);
    if (versions === undefined) this.#versions.set(version.key, [version]);
    else versions.push(version);
  }

  add(operation: Operation): void {
    this.#count += 1;
    if (!['read', 'write', 'cas'].includes(operation.f)) throw unfit(operation, 'a register has read, write and cas');
    const operations = this.#operations.get(operation.key);
    if (operations === undefined) this.#operations.set(operation.key, [operation]);
    else operations.push(operation);
  }

  *check(): Work<Result> {
    const findings = new Findings();
    const total = this.#operations.size;
    let done = 0;
    for (const [key, operations] of this.#operations) {
      checkKey(timelineOf(key, this.#versions.get(key) ?? []), operations, findings);
      done += 1;
      if (done % KEYS_A_YIELD !== 0) continue;
      if ((yield { stage: 'Windows', done, total }) !== true) continue;
      findings.unknown.push(`${total - done} keys were not compared with their versions: the check was given up`);
      break;
    }
    return findings.result({ operations: this.#count, keys: total });
  }
}

function timelineOf(key: string, unsorted: readonly KeyVersion[]): Timeline {
  const versions = [...unsorted].sort((a, b) => a.version - b.version);
  const byVersion = new Map<number, number>([[0, 0]]);
  const byValue = new Map<string, number[]>([['null', [0]]]);
  for (const [at, { version, value }] of versions.entries()) {
    if (byVersion.has(version)) {
      const message = `version ${version} of key ${JSON.stringify(key)} is there twice`;
      throw new TidemarkError('INVALID_ARGUMENT', 'BAD_HISTORY', message);
    }
    byVersion.set(version, at + 1);
    const positions = byValue.get(nameOf(value));
    if (positions === undefined) byValue.set(nameOf(value), [at + 1]);
    else positions.push(at + 1);
  }
  return { key, versions, byVersion, byValue };
}

/** Stores hold bytes: what was written as the number 5 may come back as the text "5". */
function nameOf(value: Json | undefined): string {
  if (value === undefined || value === null) return 'null';
  return typeof value === 'string' ? `=${value}` : `=${JSON.stringify(value)}`;
}

function checkKey(timeline: Timeline, operations: readonly Operation[], findings: Findings): void {
  const writes: Placed[] = [];
  const reads: Placed[] = [];
  for (const operation of operations) {
    const { f, outcome } = operation;
    const value = f === 'read' ? operation.output : writtenBy(operation);
    const placed = { operation, positions: positionsOf(timeline, operation, value) };
    if (f !== 'read') writes.push(placed);
    else if (outcome === 'ok') reads.push(placed);
  }
  checkWrites(timeline, writes, findings);
  const may = writes.filter(({ operation }) => operation.outcome !== 'fail');
  const began = beginnings(timeline, may);
  const current = ends(timeline, [...may, ...reads]);
  for (const { operation, positions } of may) {
    const [position = 0] = positions;
    const later = position === 0 || positions.length > 1 ? undefined : began[position - 1];
    if (later === undefined || later.at < operation.end) continue;
    findings.add('order', timeline.key, `version ${label(timeline, later.position)} comes before ${label(timeline, position)}`, [
      `yet this had ended: ${describe(operation)}`,
      `before this began: ${describe(later.operation)}`,
    ]);
  }
  for (const read of reads) checkRead(timeline, read, began, current, findings);
}

function writtenBy({ f, input }: Operation): Json | undefined {
  return f === 'cas' ? (input as readonly Json[])[1] : input;
}

function positionsOf(timeline: Timeline, operation: Operation, value: Json | undefined): readonly number[] {
  const { byVersion, byValue, versions } = timeline;
  const { version } = operation;
  const ofValue = byValue.get(nameOf(value)) ?? [];
  // A write is never the state before the first version.
  if (version === undefined) return operation.f === 'read' ? ofValue : ofValue.filter((position) => position > 0);
  const position = byVersion.get(version);
  if (position === undefined) return [];
  const held = position === 0 ? null : versions[position - 1]?.value;
  return nameOf(held) === nameOf(value) ? [position] : [];
}

/** At each position, the latest begin of a write of that version or an earlier one: none of them was current before. */
function beginnings({ versions }: Timeline, writes: readonly Placed[]): (Proof | undefined)[] {
  const proofs: (Proof | undefined)[] = Array.from({ length: versions.length + 1 }, () => undefined);
  for (const { operation, positions } of writes) {
    const [position = 0] = positions;
    if (positions.length === 1) proofs[position] = { at: operation.begin, operation, position };
  }
  for (let at = 1; at < proofs.length; at += 1) {
    const [before, own] = [proofs[at - 1], proofs[at]];
    if (own === undefined || (before !== undefined && before.at > own.at)) proofs[at] = before;
  }
  return proofs;
}

/** At each position, the earliest end of what shows that version or a later one: one of them was current by then. */
function ends({ versions }: Timeline, shows: readonly Placed[]): (Proof | undefined)[] {
  const proofs: (Proof | undefined)[] = Array.from({ length: versions.length + 2 }, () => undefined);
  for (const { operation, positions } of shows) {
    const [position = 0] = positions;
    const known = proofs[position];
    if (positions.length !== 1 || operation.end === Infinity || (known !== undefined && known.at <= operation.end)) continue;
    proofs[position] = { at: operation.end, operation, position };
  }
  for (let at = proofs.length - 2; at >= 0; at -= 1) {
    const [own, after] = [proofs[at], proofs[at + 1]];
    if (own === undefined || (after !== undefined && after.at < own.at)) proofs[at] = after;
  }
  return proofs;
}

function checkRead(
  timeline: Timeline,
  { operation, positions }: Placed,
  began: readonly (Proof | undefined)[],
  current: readonly (Proof | undefined)[],
  findings: Findings,
): void {
  const { key } = timeline;
  if (positions.length === 0) {
    const named = operation.version === undefined ? '' : ` as version ${operation.version}`;
    findings.add('phantom', key, `a read shows ${shown(operation.output ?? null)}${named}, which the key never had`, [
      describe(operation),
    ]);
    return;
  }
  const later = (position: number): Proof | undefined => {
    const proof = current[position + 1];
    return proof !== undefined && proof.at < operation.begin ? proof : undefined;
  };
  const early = (position: number): Proof | undefined => {
    const proof = began[position];
    return proof !== undefined && proof.at > operation.end ? proof : undefined;
  };
  if (positions.some((position) => later(position) === undefined && early(position) === undefined)) return;
  const position = positions.at(-1) ?? 0;
  const [after, before] = [later(position), early(position)];
  if (after !== undefined) {
    const title = `a read shows ${label(timeline, position)} though ${label(timeline, after.position)} was current`;
    findings.add('stale', key, title, [
      `the read: ${describe(operation)}`,
      `had ended before it: ${describe(after.operation)}`,
    ]);
  } else if (before !== undefined) {
    findings.add('from-the-future', key, `a read shows ${label(timeline, position)}, which was not written yet`, [
      `the read: ${describe(operation)}`,
      `began after it: ${describe(before.operation)}`,
    ]);
  }
}

function checkWrites(timeline: Timeline, writes: readonly Placed[], findings: Findings): void {
  const { key, versions } = timeline;
  const claims = new Map<number, Operation>();
  const others = new Set(writes.filter(({ operation }) => operation.outcome !== 'fail').flatMap(({ positions }) => positions));
  for (const { operation, positions } of writes) {
    const value = shown(writtenBy(operation) ?? null);
    const [position = 0] = positions;
    if (operation.outcome === 'fail') {
      if (positions.length === 0 || positions.some((at) => others.has(at))) continue;
      findings.add('refused-but-there', key, `${value} failed to be written, but ${label(timeline, position)} has it`, [
        describe(operation),
      ]);
      continue;
    }
    if (operation.outcome === 'ok' && positions.length === 0) {
      const named = operation.version === undefined ? '' : ` as version ${operation.version}`;
      findings.add('missing', key, `${value} was acknowledged${named}, but the key never had it`, [describe(operation)]);
      continue;
    }
    if (positions.length !== 1) continue;
    const other = operation.outcome === 'ok' ? claims.get(position) : undefined;
    if (other !== undefined) {
      const details = [describe(other), describe(operation)];
      findings.add('shared', key, `two acknowledged writes stand for ${label(timeline, position)}`, details);
    }
    if (operation.outcome === 'ok') claims.set(position, operation);
    const old = operation.f === 'cas' ? (operation.input as readonly Json[])[0] : undefined;
    const previous = position < 2 ? null : (versions[position - 2]?.value ?? null);
    if (operation.f === 'cas' && nameOf(old) !== nameOf(previous)) {
      const title = `${label(timeline, position)} was swapped for ${shown(old ?? null)}, but follows ${shown(previous)}`;
      findings.add('bad-swap', key, title, [describe(operation)]);
    }
  }
}

function label({ versions }: Timeline, position: number): string {
  const version = versions[position - 1];
  return version === undefined ? 'the key without a version' : `version ${version.version} (${shown(version.value)})`;
}
