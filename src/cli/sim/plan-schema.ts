import { z } from 'zod';
import type { Timing } from '../../bucket/replica.js';
import { DEFAULT_LIMITS, type Limits } from '../../env/limits.js';
import { SIM_TIMING } from '../../sim/cluster.js';
import type { DiskFaults } from '../../sim/disk.js';
import type { Latency } from '../../sim/network.js';
import { FAULTS, WORK, type SwarmPlan } from '../../sim/swarm/plan.js';
import { fields, oneOf, whole } from '../config-schema.js';

/** What `--plan` may hold. Every field says what it expects; that completes the sentence "plan.field: expected ...". */

const NODES_MAX = 7;
const BUCKETS_MAX = 64;
const COUNT_MAX = 1000;
const TIME_MS_MAX = 3_600_000;

function number(min: number, max: number) {
  const error = `a number from ${min} to ${max}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
}

const chance = number(0, 1);
const timeMs = number(0, TIME_MS_MAX);

/** Names with weights, `[["crash", 1], ["pause", 3]]`. */
function mix<const Names extends readonly [string, ...string[]]>(names: Names) {
  const example = `pairs of a name and a weight, such as [["${names[0]}", 1]]`;
  const pair = z.tuple([oneOf(...names), number(0, 1e6)], { error: `a name and a weight, such as ["${names[0]}", 1]` });
  return z.array(pair, { error: example });
}

const latency = {
  minMs: timeMs,
  maxMs: timeMs,
  spikeChance: chance.exactOptional(),
  spikeMs: timeMs.exactOptional(),
} satisfies { readonly [Field in keyof Required<Latency>]: z.ZodType };

const disk = {
  syncMinMs: timeMs.exactOptional(),
  syncMaxMs: timeMs.exactOptional(),
  readMinMs: timeMs.exactOptional(),
  readMaxMs: timeMs.exactOptional(),
  stallChance: chance.exactOptional(),
  stallMs: timeMs.exactOptional(),
  surviveChance: chance.exactOptional(),
  lostUnderNewerChance: chance.exactOptional(),
  tornChance: chance.exactOptional(),
  tornStores: z.array(z.enum(['log', 'state'], { error: "'log' or 'state'" }), { error: 'a list of stores' }).exactOptional(),
  syncFailChance: chance.exactOptional(),
  rotChance: chance.exactOptional(),
  capacityBytes: whole(1, Number.MAX_SAFE_INTEGER).exactOptional(),
} satisfies { readonly [Field in keyof Required<DiskFaults>]: z.ZodType };

const timing = {
  heartbeatMs: whole(1, 60_000).exactOptional(),
  electionTimeoutMs: whole(1, 300_000).exactOptional(),
  electionJitterMs: whole(0, 300_000).exactOptional(),
  driftBound: number(0, 0.5).exactOptional(),
  leaseReads: z.boolean({ error: 'true or false' }).exactOptional(),
} satisfies { readonly [Field in keyof Timing]: z.ZodType };

const limits = Object.fromEntries(
  Object.keys(DEFAULT_LIMITS).map((name) => [name, whole(1, Number.MAX_SAFE_INTEGER).exactOptional()]),
) as { readonly [Name in keyof Limits]: z.ZodExactOptional<z.ZodInt> };

const plan = {
  nodes: whole(1, NODES_MAX),
  buckets: whole(1, BUCKETS_MAX),
  replicas: whole(1, NODES_MAX),
  timing: fields(timing),
  limits: fields(limits),
  latency: fields(latency),
  disk: fields(disk),
  clients: whole(1, COUNT_MAX),
  workers: whole(1, COUNT_MAX),
  thinkMs: timeMs,
  waveMs: timeMs,
  restMs: timeMs,
  gatewayChance: chance,
  keys: z.array(z.string({ error: 'a text' }).min(1, { error: 'a text that is not empty' }), { error: 'a list of keys' })
    .min(1, { error: 'at least one key' }),
  valueBytesMax: whole(0, 1_000_000),
  work: mix(WORK),
  faults: mix(FAULTS),
  faultEveryMs: number(1, TIME_MS_MAX),
  faultMs: timeMs,
  clockSkewMs: timeMs,
  wallRateMax: number(0, 0.5),
  monotonicRateMax: number(0, 0.5),
  durationMs: timeMs,
  transactions: whole(0, COUNT_MAX),
  pinners: whole(0, COUNT_MAX),
  moveEveryMs: timeMs,
  renewEveryMs: timeMs,
  replicaReads: z.boolean({ error: 'true or false' }),
  nearCache: z.boolean({ error: 'true or false' }),
  streams: whole(0, COUNT_MAX),
  spreadTransactions: z.boolean({ error: 'true or false' }),
} satisfies { readonly [Field in keyof SwarmPlan]: z.ZodType };

const schema = fields(plan).partial();

/** Fields of a plan, or a line for each mistake. */
export function parsePlan(text: string): Partial<SwarmPlan> | readonly string[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return [`plan: expected a JSON object with fields of a plan: ${error instanceof Error ? error.message : String(error)}`];
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    return parsed.error.issues.flatMap((issue) => {
      if (issue.code !== 'unrecognized_keys') return [lineOf(issue.path, issue.message, value)];
      return issue.keys.map((key) => `${nameOf([...issue.path, key])}: is not known; expected ${issue.message}`);
    });
  }
  const found = withoutUndefined(parsed.data);
  const mistakes = contradictions(found);
  return mistakes.length > 0 ? mistakes.map(({ path, expected }) => lineOf(path, expected, value)) : found;
}

interface Contradiction {
  readonly path: readonly string[];
  readonly expected: string;
}

/** Fields that are good by themselves and cannot be together. */
function contradictions({ nodes, replicas, latency, disk, timing }: Partial<SwarmPlan>): Contradiction[] {
  const found: Contradiction[] = [];
  const atMost = (path: readonly string[], value: number | undefined, max: number | undefined, what: string): void => {
    if (value !== undefined && max !== undefined && value > max) found.push({ path, expected: `at most ${what}, ${max}` });
  };
  atMost(['replicas'], replicas, nodes, 'the number of nodes');
  atMost(['latency', 'minMs'], latency?.minMs, latency?.maxMs, 'maxMs');
  atMost(['disk', 'syncMinMs'], disk?.syncMinMs, disk?.syncMaxMs, 'syncMaxMs');
  atMost(['disk', 'readMinMs'], disk?.readMinMs, disk?.readMaxMs, 'readMaxMs');
  if (timing !== undefined) {
    const { heartbeatMs, electionTimeoutMs } = { ...SIM_TIMING, ...timing };
    const expected = `less than electionTimeoutMs, ${electionTimeoutMs}`;
    if (heartbeatMs >= electionTimeoutMs) found.push({ path: ['timing', 'heartbeatMs'], expected });
  }
  return found;
}

function withoutUndefined(plan: z.infer<typeof schema>): Partial<SwarmPlan> {
  return Object.fromEntries(Object.entries(plan).filter(([, value]) => value !== undefined));
}

function nameOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>((name, part) => (typeof part === 'number' ? `${name}[${part}]` : `${name}.${String(part)}`), 'plan');
}

function lineOf(path: readonly PropertyKey[], expected: string, value: unknown): string {
  let got: unknown = value;
  for (const part of path) got = (got as Readonly<Record<PropertyKey, unknown>> | undefined)?.[part];
  return `${nameOf(path)}: expected ${expected}, ${got === undefined ? 'and is missing' : `got ${JSON.stringify(got)}`}`;
}
