import { Packr } from 'msgpackr';
import { assert } from '../lib/assert.js';
import { toBytes, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Config, LogIndex, ReplicaId } from './types.js';

/**
 * Who belongs to a group: quorum arithmetic, changes, the form in which configurations are logged, and the stack of
 * configurations that the log holds.
 *
 * A configuration takes effect when its entry is appended, committed or not, so that any two configurations that can decide
 * at the same time have intersecting quorums. Hence the two rules that the leader keeps (see Leadership): one change at a
 * time, and a joint configuration is left only when it is committed.
 */
export type ConfigChange =
  | { readonly addVoter: ReplicaId }
  | { readonly addLearner: ReplicaId }
  | { readonly remove: ReplicaId };

export const NO_CONFIG: Config = { voters: [], outgoing: [], learners: [], learnersNext: [] };

export function isJoint(config: Config): boolean {
  return config.outgoing.length > 0;
}

/** Counts in decisions, and so may stand for election. */
export function isVoter(config: Config, id: ReplicaId): boolean {
  return config.voters.includes(id) || config.outgoing.includes(id);
}

/** Every replica that receives the log, each once. */
export function members(config: Config): ReplicaId[] {
  return sorted([...config.voters, ...config.outgoing, ...config.learners]);
}

/** Every replica whose vote counts, each once. */
export function electorate(config: Config): ReplicaId[] {
  return sorted([...config.voters, ...config.outgoing]);
}

// Reused by every call of `majority`: this is on the path of each acknowledgement. Nothing outlives a call.
const scratch: number[] = [];

/** The highest value that a majority of `ids` has reached; Infinity for no ids. */
function majority(ids: readonly ReplicaId[], valueOf: (id: ReplicaId) => number): number {
  const count = ids.length;
  if (count === 0) return Infinity;
  for (let i = 0; i < count; i += 1) {
    const value = valueOf(ids[i] ?? 0);
    let at = i;
    for (; at > 0 && (scratch[at - 1] ?? 0) > value; at -= 1) scratch[at] = scratch[at - 1] ?? 0;
    scratch[at] = value;
  }
  return scratch[count - 1 - Math.floor(count / 2)] ?? 0;
}

/** The highest value that a quorum (in a joint configuration: of both halves) has reached; 0 without voters. */
export function quorumValue(config: Config, valueOf: (id: ReplicaId) => number): number {
  if (config.voters.length === 0) return 0;
  const voters = mutant('read-replica-counts') ? [...config.voters, ...config.learners] : config.voters;
  const outgoing = mutant('joint-half-decides') ? [] : config.outgoing;
  return Math.min(majority(voters, valueOf), majority(outgoing, valueOf));
}

/** `lost` means that the missing votes can no longer make a quorum. */
export function countVotes(config: Config, votes: ReadonlyMap<ReplicaId, boolean>): 'won' | 'lost' | 'open' {
  if (config.voters.length === 0) return 'lost';
  if (quorumValue(config, (id) => (votes.get(id) === true ? 1 : 0)) === 1) return 'won';
  return quorumValue(config, (id) => (votes.get(id) === false ? 0 : 1)) === 1 ? 'open' : 'lost';
}

/**
 * The configuration that follows from all changes at once. If at most one voter comes or goes, old and new majorities
 * intersect and the result is final; otherwise it is joint and `leaveJoint` gives the final one.
 */
export function changeConfig(config: Config, changes: readonly ConfigChange[]): Config {
  assert(!isJoint(config), 'a joint configuration must be left before the next change');
  const voters = new Set(config.voters);
  const learners = new Set(config.learners);
  for (const change of changes) {
    if ('addVoter' in change) {
      voters.add(checkedId(change.addVoter));
      learners.delete(change.addVoter);
    } else if ('addLearner' in change) {
      learners.add(checkedId(change.addLearner));
      voters.delete(change.addLearner);
    } else {
      voters.delete(checkedId(change.remove));
      learners.delete(change.remove);
    }
  }
  if (voters.size === 0) throw invalid('a group needs at least one voter');
  const kept = config.voters.filter((id) => voters.has(id)).length;
  const differing = config.voters.length - kept + voters.size - kept;
  if (differing <= 1) {
    const next = { voters: sorted(voters), outgoing: [], learners: sorted(learners), learnersNext: [] };
    if (differing === 0 && equalIds(next.learners, config.learners)) throw invalid('the change changes nothing');
    return next;
  }
  return {
    voters: sorted(voters),
    outgoing: config.voters,
    learners: sorted([...learners].filter((id) => !config.voters.includes(id))),
    learnersNext: sorted([...learners].filter((id) => config.voters.includes(id))),
  };
}

export function leaveJoint(config: Config): Config {
  assert(isJoint(config), 'only a joint configuration can be left');
  const learners = sorted([...config.learners, ...config.learnersNext]);
  return { voters: config.voters, outgoing: [], learners, learnersNext: [] };
}

const FORMAT = 1;
const packr = new Packr({ useRecords: false });

/** The data of a config entry: [1, voters, outgoing, learners, learnersNext]. */
export function encodeConfig(config: Config): Bytes {
  return toBytes(packr.pack([FORMAT, config.voters, config.outgoing, config.learners, config.learnersNext]));
}

/** Throws RangeError for anything that `encodeConfig` cannot have written. */
export function decodeConfig(data: Bytes): Config {
  let fields: unknown;
  try {
    fields = packr.unpack(data);
  } catch (cause) {
    throw new RangeError('not a configuration', { cause });
  }
  if (!Array.isArray(fields) || fields.length !== 5 || fields[0] !== FORMAT) throw new RangeError('not a configuration');
  return configFromArrays(fields[1], fields[2], fields[3], fields[4]);
}

function configFromArrays(voters: unknown, outgoing: unknown, learners: unknown, next: unknown): Config {
  const config = {
    voters: idList(voters),
    outgoing: idList(outgoing),
    learners: idList(learners),
    learnersNext: idList(next),
  };
  const overlap = config.learners.some((id) => isVoter(config, id));
  const strayNext = config.learnersNext.some((id) => !config.outgoing.includes(id) || config.voters.includes(id));
  if (overlap || strayNext) throw new RangeError('a configuration that contradicts itself');
  return config;
}

interface Placed {
  readonly index: LogIndex;
  readonly config: Config;
}

/**
 * The configurations in force from the applied index to the end of the log. The lowest one came with the state or lies at
 * or below the applied index; each other belongs to an entry. Truncating the log brings the former one back.
 */
export class ConfigHistory {
  private stack: Placed[];

  constructor(index: LogIndex, config: Config) {
    this.stack = [{ index, config }];
  }

  /** In force now: the last one in the log. */
  get active(): Config {
    return this.top.config;
  }

  get activeIndex(): LogIndex {
    return this.top.index;
  }

  /** In force at `index`, which must not be below what was forgotten. */
  at(index: LogIndex): Config {
    return (this.stack.findLast((placed) => placed.index <= index) ?? this.bottom).config;
  }

  /** The lowest quorum value over the last configuration at or below `commit` and every later one. */
  quorumValueFrom(commit: LogIndex, valueOf: (id: ReplicaId) => number): number {
    let lowest = Infinity;
    for (let at = this.stack.length - 1; at >= 0; at -= 1) {
      const placed = this.stack[at];
      if (placed === undefined) break;
      lowest = Math.min(lowest, quorumValue(placed.config, valueOf));
      if (placed.index <= commit) break;
    }
    return lowest;
  }

  push(index: LogIndex, config: Config): void {
    assert(index > this.activeIndex, 'configurations follow one another in the log');
    this.stack.push({ index, config });
  }

  /** The log now ends before `index`. True if another configuration came into force by that. */
  truncateFrom(index: LogIndex): boolean {
    const before = this.stack.length;
    while (this.stack.length > 1 && this.activeIndex >= index) this.stack.pop();
    return this.stack.length < before;
  }

  /** Nobody will ask for configurations below `index` any more. */
  forgetBelow(index: LogIndex): void {
    while (this.stack.length > 1 && (this.stack[1]?.index ?? Infinity) <= index) this.stack.shift();
  }

  /** A snapshot became the beginning of the log; configurations of a kept suffix stay. */
  restart(index: LogIndex, config: Config, keepSuffix: boolean): void {
    const kept = keepSuffix ? this.stack.filter((placed) => placed.index > index) : [];
    this.stack = [{ index, config }, ...kept];
  }

  private get top(): Placed {
    return this.stack[this.stack.length - 1] ?? this.bottom;
  }

  private get bottom(): Placed {
    const bottom = this.stack[0];
    assert(bottom !== undefined, 'the history of configurations is never empty');
    return bottom;
  }
}

function sorted(ids: Iterable<ReplicaId>): ReplicaId[] {
  return [...new Set(ids)].sort((a, b) => a - b);
}

function equalIds(a: readonly ReplicaId[], b: readonly ReplicaId[]): boolean {
  return a.length === b.length && a.every((id, at) => id === b[at]);
}

function checkedId(id: ReplicaId): ReplicaId {
  if (!Number.isSafeInteger(id) || id <= 0) throw invalid(`not a replica id: ${id}`);
  return id;
}

function invalid(message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'INVALID_CONFIG_CHANGE', message);
}

function idList(value: unknown): ReplicaId[] {
  if (!Array.isArray(value)) throw new RangeError('not a list of replica ids');
  let last = 0;
  return value.map((id: unknown) => {
    if (typeof id !== 'number' || !Number.isSafeInteger(id) || id <= last) throw new RangeError('not a list of replica ids');
    last = id;
    return id;
  });
}
