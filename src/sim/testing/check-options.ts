import { DEFAULT_LIMITS, type Limits } from '../../env/limits.js';
import type { Timing } from '../../bucket/replica.js';
import { SIM_TIMING } from '../cluster.js';
import type { DiskFaults } from '../disk.js';
import type { Latency } from '../network.js';

/**
 * What a test asks of its world, held against what there is. JavaScript callers have no types: a name that nobody knows would be
 * a run without the fault that it was to have, and a NaN an error of the simulator, or a promise that Tidemark seems to break.
 */
interface Rule {
  /** Completes "expected ...". */
  readonly expected: string;
  readonly holds: (value: unknown) => boolean;
}

function number(expected: string, holds: (value: number) => boolean): Rule {
  return { expected, holds: (value) => typeof value === 'number' && holds(value) };
}

const isTime = (value: number): boolean => value >= 0 && Number.isFinite(value);
const time = number('milliseconds, 0 or more', isTime);
const chance = number('a number from 0 to 1', (value) => value >= 0 && value <= 1);
const aboveZero = number('a number above 0', (value) => value > 0);
const truth: Rule = { expected: 'true or false', holds: (value) => typeof value === 'boolean' };
const stores: Rule = {
  expected: "a list of 'log' or 'state'",
  holds: (value) => Array.isArray(value) && value.every((store) => store === 'log' || store === 'state'),
};

const LATENCY = { minMs: time, maxMs: time, spikeChance: chance, spikeMs: time } satisfies Record<keyof Latency, Rule>;

const DISK = {
  syncMinMs: time,
  syncMaxMs: time,
  readMinMs: time,
  readMaxMs: time,
  stallChance: chance,
  stallMs: time,
  surviveChance: chance,
  lostUnderNewerChance: chance,
  tornChance: chance,
  tornStores: stores,
  syncFailChance: chance,
  rotChance: chance,
  capacityBytes: aboveZero,
} satisfies Record<keyof DiskFaults, Rule>;

const TIMING = {
  heartbeatMs: aboveZero,
  electionTimeoutMs: aboveZero,
  electionJitterMs: time,
  driftBound: number('a number from 0 to 0.5', (value) => value >= 0 && value <= 0.5),
  leaseReads: truth,
} satisfies Record<keyof Timing, Rule>;

const wholeFromOne = number('a whole number of 1 or more', (value) => Number.isSafeInteger(value) && value >= 1);
const LIMITS = Object.fromEntries(Object.keys(DEFAULT_LIMITS).map((name) => [name, wholeFromOne])) as Record<keyof Limits, Rule>;

const inFull: Rule = { expected: '', holds: () => true };
const OPTIONS: Readonly<Record<string, Rule>> = {
  seed: { expected: 'a number or a text', holds: (value) => typeof value === 'string' || Number.isFinite(value) },
  seeds: inFull,
  twice: truth,
  nodes: inFull,
  buckets: inFull,
  replicas: inFull,
  faults: inFull,
  forMs: time,
  faultEveryMs: aboveZero,
  faultMs: aboveZero,
  latency: inFull,
  disk: inFull,
  clockSkewMs: time,
  timing: inFull,
  limits: inFull,
  timeoutMs: aboveZero,
};

/** Throws a RangeError that names the option. What is whole by itself, such as `nodes`, is looked at where it is used. */
export function checkOptions(options: unknown): void {
  const { latency, disk, timing, limits } = fieldsOf('options', options, OPTIONS);
  if (latency !== undefined) checkLatency('latency', latency);
  if (disk !== undefined) {
    const { syncMinMs, syncMaxMs, readMinMs, readMaxMs } = fieldsOf('disk', disk, DISK);
    inOrder('disk.syncMinMs', syncMinMs, 'syncMaxMs', syncMaxMs);
    inOrder('disk.readMinMs', readMinMs, 'readMaxMs', readMaxMs);
  }
  if (limits !== undefined) fieldsOf('limits', limits, LIMITS);
  if (timing === undefined) return;
  const { heartbeatMs, electionTimeoutMs } = { ...SIM_TIMING, ...(fieldsOf('timing', timing, TIMING) as Partial<Timing>) };
  if (heartbeatMs < electionTimeoutMs) return;
  throw malformed('timing.heartbeatMs', `less than electionTimeoutMs, ${electionTimeoutMs}`, heartbeatMs);
}

export function checkLatency(name: string, latency: unknown): void {
  const { minMs, maxMs } = fieldsOf(name, latency, LATENCY);
  for (const [field, value] of [['minMs', minMs], ['maxMs', maxMs]] as const) {
    if (value === undefined) throw malformed(`${name}.${field}`, time.expected, value);
  }
  inOrder(`${name}.minMs`, minMs, 'maxMs', maxMs);
}

/** A number that may be below 0, such as a step of a clock. */
export function checkStep(name: string, value: unknown): void {
  if (!Number.isFinite(value)) throw malformed(name, 'a number', value);
}

export function malformed(name: string, expected: string, value: unknown): RangeError {
  // JSON knows neither NaN nor undefined.
  const shown = typeof value === 'number' || value === undefined ? String(value) : JSON.stringify(value);
  return new RangeError(`${name}: expected ${expected}, not ${shown}`);
}

/** The fields of an object, each of which there is, and is as its rule says. */
function fieldsOf(name: string, value: unknown, rules: Readonly<Record<string, Rule>>): Readonly<Record<string, unknown>> {
  const known = Object.keys(rules).join(', ');
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw malformed(name, `an object with some of ${known}`, value);
  }
  const fields = value as Readonly<Record<string, unknown>>;
  for (const [field, each] of Object.entries(fields)) {
    const rule = Object.hasOwn(rules, field) ? rules[field] : undefined;
    if (rule === undefined) throw new RangeError(`${name}: there is no '${field}'; expected some of ${known}`);
    if (each === undefined || rule.holds(each)) continue;
    throw malformed(name === 'options' ? field : `${name}.${field}`, rule.expected, each);
  }
  return fields;
}

function inOrder(name: string, low: unknown, other: string, high: unknown): void {
  if (typeof low !== 'number' || typeof high !== 'number' || low <= high) return;
  throw malformed(name, `at most ${other}, ${high}`, low);
}
