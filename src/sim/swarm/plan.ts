import { DEFAULT_LIMITS, type Limits } from '../../env/limits.js';
import type { Timing } from '../../bucket/replica.js';
import type { DiskFaults } from '../disk.js';
import type { Latency } from '../network.js';
import type { SimRandom } from '../random.js';

/**
 * What one run of the swarm is made of, drawn from its seed. Every run leaves out some faults and some operations and
 * exaggerates others (swarm testing; Groce et al., 2012): where everything happens at once, much of it never happens.
 */
/** What happens to paths between processes. */
export const PATH_FAULTS = [
  'isolate',
  'halves',
  'bridge',
  'majorityRing',
  'someLinks',
  'oneWay',
  'flap',
  'flapNode',
  'lossy',
  'breakStreams',
  'halfBroken',
  'clientPath',
  'stallPath',
  'slowNetwork',
  'refuse',
] as const;
export type PathFault = (typeof PATH_FAULTS)[number];

/** A node whose disk was damaged does not come back. */
export const DAMAGES = ['wipeDisk', 'rotDisk', 'staleDisk'] as const;

export const FAULTS = [
  ...PATH_FAULTS,
  'crash',
  'crashAll',
  'stop',
  'pause',
  'freeze',
  'hiccups',
  'sleep',
  'bounce',
  'crashInSync',
  'crashAtStep',
  'restartLoop',
  'leaderStorm',
  'usurp',
  'transfer',
  'slowAnswers',
  'jumpClock',
  'driftClock',
  'stallDisk',
  'slowDisks',
  'failSync',
  'fillDisk',
  ...DAMAGES,
] as const;
export type Fault = (typeof FAULTS)[number];

export const WORK = [
  'put',
  'delete',
  'conditional',
  'group',
  'retry',
  'get',
  'getBounded',
  'getLocal',
  'getAsOf',
  'scan',
  'scanBounded',
  'scanLocal',
  'scanAsOf',
  'history',
  'transact',
] as const;
export type Work = (typeof WORK)[number];

export interface SwarmPlan {
  readonly nodes: number;
  readonly buckets: number;
  readonly replicas: number;
  readonly timing: Partial<Timing>;
  readonly limits: Partial<Limits>;
  readonly latency: Latency;
  readonly disk: DiskFaults;
  readonly clients: number;
  readonly workers: number;
  readonly thinkMs: number;
  /** Clients are at work for so long at a time, and then rest for a mean of `restMs`; 0: they never rest. */
  readonly waveMs: number;
  readonly restMs: number;
  /** How often a request goes to some node, as a plain client's does, instead of through the client's own router. */
  readonly gatewayChance: number;
  readonly keys: readonly string[];
  readonly valueBytesMax: number;
  readonly work: readonly (readonly [Work, number])[];
  readonly faults: readonly (readonly [Fault, number])[];
  /** Mean time from one fault to the next. */
  readonly faultEveryMs: number;
  readonly faultMs: number;
  /** Wall clocks stay within this of true time: mostly so that no two differ by more than the cluster allows. */
  readonly clockSkewMs: number;
  readonly wallRateMax: number;
  /** Monotonic clocks run between 1 - this and 1 + this. */
  readonly monotonicRateMax: number;
  readonly durationMs: number;
  /** Clients that run transactions beside the others; 0: none. */
  readonly transactions: number;
  /** Consumers of change streams. */
  readonly streams: number;
  /** Their keys lie in several buckets. */
  readonly spreadTransactions: boolean;
  /** Clients that pin moments and read as of them, where history is short. */
  readonly pinners: number;
  /** Mean time from one change of the placement to the next; 0: there is none. */
  readonly moveEveryMs: number;
  /** Mean time from one new node, or one that leaves, to the next; 0: the members stay. */
  readonly renewEveryMs: number;
  /** Linearizable reads of clients go to any replica. */
  readonly replicaReads: boolean;
  /** Clients keep hot keys. */
  readonly nearCache: boolean;
}

/** Beyond what the cluster allows: requests may be refused for it, but no promise is broken. */
const WILD_SKEW_MS = 2500;

export function hasWildClocks({ clockSkewMs, limits }: SwarmPlan): boolean {
  return 2 * clockSkewMs > (limits.maxClockOffsetMs ?? DEFAULT_LIMITS.maxClockOffsetMs);
}

/** History is so short that it ends while the run goes on. */
export function collectsHistory({ limits }: Pick<SwarmPlan, 'limits'>): boolean {
  return limits.retentionMs !== undefined;
}

export function drawPlan(random: SimRandom): SwarmPlan {
  const nodes = random.pick([1, 1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 6, 7]);
  const replicas = random.chance(0.5) ? Math.min(3, nodes) : Math.min(random.pick([3, 4, 5, 7]), nodes);
  const isLarge = nodes > 5;
  const latencyMs = random.pick([0.3, 1, 5, 20]);
  const quiet = random.chance(0.1);
  const plan = {
    nodes,
    replicas,
    buckets: random.pick(isLarge ? [1, 2] : [1, 2, 4, 8]),
    timing: { leaseReads: random.chance(0.7), heartbeatMs: random.pick([100, 200, 200]) },
    limits: drawAllLimits(random, nodes > replicas),
    latency: {
      minMs: latencyMs / 4,
      maxMs: latencyMs,
      ...(random.chance(0.3) ? { spikeChance: random.between(0, 0.02), spikeMs: random.between(5, 300) } : {}),
    },
    disk: {
      syncMinMs: 0.2,
      syncMaxMs: random.pick([1, 5, 20]),
      surviveChance: random.pick([0, 0.5, 1]),
      lostUnderNewerChance: random.pick([0, 0.5]),
      // Of the state's batches the port promises that they survive as a whole; those of the log must bear more.
      tornChance: random.pick([0, 0.5]),
      tornStores: ['log'],
      stallChance: random.pick([0, 0, 0.001]),
      stallMs: random.between(50, 1500),
    },
    clients: 1 + random.below(3),
    workers: 1 + random.below(4),
    thinkMs: random.pick([5, 20, 60]),
    waveMs: random.pick([100, 300, 1000]),
    restMs: random.chance(0.1) ? 0 : random.pick([500, 1500, 4000]),
    gatewayChance: random.pick([0, 0.1, 0.5]),
    keys: drawKeys(random),
    valueBytesMax: random.pick([0, 0, 100, 2000]),
    work: drawMix(random, WORK, ['put', 'get', 'transact']),
    faults: quiet ? [] : drawFaults(random),
    faultEveryMs: random.pick([300, 1000, 3000]),
    faultMs: random.pick([200, 1000, 4000]),
    clockSkewMs: random.pick([150, 150, WILD_SKEW_MS]),
    wallRateMax: 0.002,
    monotonicRateMax: 0.04,
    durationMs: random.pick(isLarge ? [6000, 12_000] : [6000, 12_000, 20_000]),
    transactions: random.chance(0.3) ? 1 + random.below(3) : 0,
    streams: random.pick([0, 1, 3]),
    spreadTransactions: random.chance(0.6),
    moveEveryMs: nodes > replicas ? random.pick([0, 500, 2000]) : 0,
    replicaReads: random.chance(0.5),
    nearCache: random.chance(0.3),
  };
  const pinners = collectsHistory(plan) && random.chance(0.7) ? 2 : 0;
  return { ...plan, pinners, renewEveryMs: drawRenewal(random.fork('renewal'), plan) };
}

/** Above all keys that are drawn; those of other clients begin with it. */
export const BEYOND_KEYS = '~';

function drawKeys(random: SimRandom): string[] {
  const keys = Array.from({ length: random.pick([1, 3, 10, 30]) }, (_, at) => `k${at}`);
  const groups = random.pick([1, 2]);
  for (let group = 0; group < groups; group += 1) {
    for (const member of ['a', 'b', 'c']) keys.push(`{g${group}}${member}`);
  }
  return keys;
}

function drawMix<T extends string>(random: SimRandom, all: readonly T[], always: readonly T[], chance = 0.6): [T, number][] {
  const drawn: [T, number][] = [];
  for (const item of all) {
    if (always.includes(item) || random.chance(chance)) drawn.push([item, random.pick([1, 1, 3, 10])]);
  }
  return drawn;
}

/** Some of all, or one again and again with a few others between. */
function drawFaults(random: SimRandom): [Fault, number][] {
  if (random.chance(0.5)) return drawMix(random, FAULTS, [], 0.4);
  return [[random.pick(FAULTS), 20], ...drawMix(random, FAULTS, [], 0.15)];
}

/** Mostly as they are; some so small that what they bound happens all the time. */
function drawLimits(random: SimRandom): Partial<Limits> {
  const drawn: { -readonly [K in keyof Limits]?: number } = {};
  const maybe = (name: keyof Limits, values: readonly number[]): void => {
    if (random.chance(0.35)) drawn[name] = random.pick(values);
  };
  if (random.chance(0.7)) drawn.logEntriesKept = random.pick([5, 20, 100]);
  maybe('logBytesKept', [2000]);
  maybe('logStoreBytesMax', [1, 3000, 20_000]);
  maybe('appendBytesMax', [200, 2000]);
  maybe('appendsInFlightMax', [1, 2]);
  maybe('appendBytesInFlightMax', [500, 5000]);
  maybe('proposalsPerBucketMax', [1, 4]);
  maybe('overlayBytesMax', [500, 5000]);
  maybe('snapshotChunkBytes', [100, 1000]);
  maybe('snapshotChunksInFlightMax', [1]);
  maybe('snapshotsAtOnceMax', [1]);
  maybe('pageEntriesMax', [1, 3]);
  maybe('pageBytesMax', [1, 300]);
  maybe('sessionResultsMax', [4, 64]);
  maybe('sessionLifetimeMs', [500, 3000]);
  maybe('sessionsPerBucketMax', [1, 3, 20]);
  maybe('preparedPerBucketMax', [1, 3]);
  maybe('recordsPerBucketMax', [1, 3]);
  maybe('endedAttemptsPerBucketMax', [1, 3]);
  maybe('lockWaitersPerBucketMax', [1, 3]);
  maybe('transactionLifeMs', [3000]);
  maybe('retentionMs', [1000, 4000]);
  maybe('horizonHoldMsMax', [1000]);
  if (random.chance(0.3)) {
    // A queue must hold what may be in flight of one snapshot, and an append.
    drawn.appendBytesMax = Math.min(drawn.appendBytesMax ?? 20_000, 20_000);
    drawn.snapshotChunkBytes = 1000;
    drawn.peerQueueBytesMax = 50_000;
  }
  if (random.chance(0.3)) {
    drawn.sessionRetentionMs = random.pick([4000, 8000]);
    drawn.sessionLifetimeMs = Math.min(drawn.sessionLifetimeMs ?? 1000, 1000);
  }
  return drawn;
}

/** Some runs are so easily heated that read replicas come and go. */
function drawHeat(random: SimRandom): Partial<Limits> {
  if (random.chance(0.5)) return {};
  return { hotReadsPerSecond: random.pick([1, 4]), coolMs: random.pick([500, 3000]), readReplicasMax: random.pick([1, 3]) };
}

function drawAllLimits(random: SimRandom, hasRoomForReaders: boolean): Partial<Limits> {
  const drawn = drawLimits(random);
  const heat = hasRoomForReaders ? drawHeat(random.fork('heat')) : {};
  return { ...drawn, ...heat, ...drawPace(random.fork('pace'), drawn), ...drawReading(random.fork('reading')) };
}

/** In some runs hardly anything is read of a log in one turn. */
function drawReading(random: SimRandom): Partial<Limits> {
  return random.chance(0.35) ? { logEntriesReadPerTurn: random.pick([1, 3, 20]) } : {};
}

/**
 * Some runs hand snapshots out so slowly that writes, moves and faults overtake them. Where next to nothing of the log may be
 * kept meanwhile they are not the slowest: what is written before one has arrived would have to follow in another, for ever.
 */
function drawPace(random: SimRandom, { logStoreBytesMax = Infinity }: Partial<Limits>): Partial<Limits> {
  if (!random.chance(0.3)) return {};
  const drawn = random.pick([30_000, 300_000]);
  return { snapshotBytesPerSecond: logStoreBytesMax < 20_000 ? 300_000 : drawn };
}

/** To come and go takes a node some seconds. */
function drawRenewal(random: SimRandom, { nodes, durationMs }: Pick<SwarmPlan, 'nodes' | 'durationMs'>): number {
  const isLong = nodes > 2 && durationMs > 6000;
  return isLong && random.chance(0.25) ? random.pick([1000, 3000]) : 0;
}

/** One item of a mix, by weight; undefined if the mix is empty. */
export function pickFrom<T>(random: SimRandom, mix: readonly (readonly [T, number])[]): T | undefined {
  const total = mix.reduce((sum, [, weight]) => sum + weight, 0);
  let at = random.float() * total;
  for (const [item, weight] of mix) {
    at -= weight;
    if (at < 0) return item;
  }
  return undefined;
}

/** For the report of a failed run: only what differs from the defaults. */
export function describePlan(plan: SwarmPlan): string {
  const limits = Object.entries(plan.limits).filter(([name, value]) => DEFAULT_LIMITS[name as keyof Limits] !== value);
  return JSON.stringify({ ...plan, keys: plan.keys.length, limits: Object.fromEntries(limits) });
}
