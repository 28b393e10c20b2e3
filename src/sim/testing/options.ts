import type { Timing } from '../../bucket/replica.js';
import type { Limits } from '../../env/limits.js';
import type { DiskFaults } from '../disk.js';
import type { Latency } from '../network.js';
import { DAMAGES, drawPlan, FAULTS, type Fault, type SwarmPlan } from '../swarm/plan.js';
import type { SimRandom } from '../random.js';
import { malformed } from './check-options.js';

export type Seed = string | number;

/** What may happen by chance: nothing, a mix that the seed draws, some of the faults evenly, or each with its weight. */
export type Faults = 'none' | 'swarm' | readonly Fault[] | { readonly [Name in Fault]?: number };

export interface ClusterOptions {
  /** 1 to 7; default 3. */
  readonly nodes?: number;
  /** Default 4. */
  readonly buckets?: number;
  /** Of each bucket; default 3, or as many as there are nodes. */
  readonly replicas?: number;
  /** Default `none`: then nothing breaks but what the test breaks. */
  readonly faults?: Faults;
  /**
   * For so long random faults happen, and then are healed, unless `world.heal()` does it before; default 30,000. It has to end:
   * some mixes that a seed draws leave no quorum while they last, and what tries until it works would try for ever.
   */
  readonly forMs?: number;
  /** Mean time from one random fault to the next; default 1000, and with `swarm` what the seed draws. */
  readonly faultEveryMs?: number;
  /** How long they last: up to twice this; default 1000, and with `swarm` what the seed draws. */
  readonly faultMs?: number;
  /** How long each message takes; default 0.1 to 1 ms, and with `swarm` what the seed draws. */
  readonly latency?: Latency;
  /** Of every node; default a sync in about 1 ms, and with `swarm` what the seed draws. */
  readonly disk?: DiskFaults;
  /** Nodes' wall clocks are up to so far from true time; default 150. */
  readonly clockSkewMs?: number;
  readonly timing?: Partial<Timing>;
  readonly limits?: Partial<Limits>;
  /** Simulated time after which a test that has not ended fails; default ten minutes. */
  readonly timeoutMs?: number;
}

const NODES_MAX = 7;
const BUCKETS_MAX = 256;
const CALM = { latency: { minMs: 0.1, maxMs: 1 }, disk: {}, faultEveryMs: 1000, faultMs: 1000 };

/** All nodes are to be there again when all is healed. */
const ALLOWED: readonly Fault[] = FAULTS.filter((name) => !DAMAGES.some((damage) => damage === name));

/** The plan of one run: what the test asks for, and for the rest the defaults or what the seed draws. */
export function planOf(options: ClusterOptions, random: SimRandom): SwarmPlan {
  const { nodes = 3, buckets = 4, faults = 'none' } = options;
  const { replicas = Math.min(3, nodes), clockSkewMs = 150 } = options;
  whole('nodes', nodes, NODES_MAX);
  whole('buckets', buckets, BUCKETS_MAX);
  whole('replicas', replicas, nodes);
  const drawn = drawPlan(random);
  const base = faults === 'swarm' ? drawn : { ...drawn, ...CALM };
  const { faultEveryMs = base.faultEveryMs, faultMs = base.faultMs, latency = base.latency, disk = base.disk } = options;
  return {
    ...base,
    nodes,
    buckets,
    replicas,
    faults: mixOf(faults, drawn),
    faultEveryMs,
    faultMs,
    latency,
    disk,
    clockSkewMs,
    timing: options.timing ?? {},
    limits: options.limits ?? {},
  };
}

function mixOf(faults: Faults, drawn: SwarmPlan): SwarmPlan['faults'] {
  if (faults === 'none') return [];
  if (faults === 'swarm') return drawn.faults.filter(([name]) => ALLOWED.includes(name));
  if (typeof faults !== 'object' || faults === null) {
    throw malformed('faults', `'none', 'swarm', or some of ${ALLOWED.join(', ')}`, faults);
  }
  const mix = Array.isArray(faults) ? (faults as readonly Fault[]).map((name) => [name, 1] as const) : Object.entries(faults);
  for (const [name, weight] of mix) {
    if (!ALLOWED.some((fault) => fault === name)) {
      throw new RangeError(`faults: there is no '${name}'; expected 'none', 'swarm', or some of ${ALLOWED.join(', ')}`);
    }
    if (!(weight >= 0)) throw malformed(`faults.${name}`, 'a weight of 0 or more', weight);
  }
  return mix as SwarmPlan['faults'];
}

function whole(name: string, value: number, max: number): void {
  if (Number.isSafeInteger(value) && value >= 1 && value <= max) return;
  throw malformed(name, `a whole number from 1 to ${max}`, value);
}

/** `1..50`, `7`, or seeds by themselves. */
export function seedsOf(seeds: string | readonly Seed[], name: string): Iterable<Seed> {
  if (typeof seeds !== 'string') {
    if (Array.isArray(seeds) && seeds.length > 0) return seeds as readonly Seed[];
    throw malformed(name, 'seeds like 1..50, or a list with at least one', seeds);
  }
  const match = /^(\d{1,12})(?:\.\.(\d{1,12}))?$/.exec(seeds);
  const [first, last] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
  if (match === null || last < first) throw new RangeError(`${name}: expected seeds like 1..50, or one like 7, not '${seeds}'`);
  return range(first, last);
}

/** One by one, for there may be more than fit into a list. */
function* range(first: number, last: number): Iterable<Seed> {
  for (let seed = first; seed <= last; seed += 1) yield seed;
}
