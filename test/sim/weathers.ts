import type { SwarmPlan } from '../../src/sim/swarm/plan.js';

const WORK: Pick<SwarmPlan, 'clients' | 'workers' | 'work'> = {
  clients: 3,
  workers: 4,
  work: [
    ['put', 10],
    ['get', 10],
    ['conditional', 3],
    ['group', 3],
    ['scan', 3],
    ['getLocal', 3],
    ['getBounded', 3],
    ['getAsOf', 3],
    ['retry', 1],
    ['history', 1],
  ],
};
const THREE = { nodes: 3, replicas: 3, buckets: 2, latency: { minMs: 0.3, maxMs: 1 }, faultEveryMs: 600, transactions: 0, streams: 0 };
const TINY_LOG = { logEntriesKept: 5, snapshotChunkBytes: 300 };

/** What a run consists of, where chance alone would take many seeds to come to it; a seed draws the rest. */
export const WEATHERS = {
  any: {},
  usurpers: { ...THREE, faults: [['usurp', 1]], timing: { leaseReads: true }, faultEveryMs: 1000 },
  syncs: { ...THREE, ...WORK, faults: [['crashInSync', 1]], faultEveryMs: 300 },
  transfers: {
    ...THREE,
    ...WORK,
    faults: [
      ['slowAnswers', 1],
      ['transfer', 1],
    ],
    timing: { leaseReads: true },
    gatewayChance: 0.5,
    faultMs: 1000,
  },
  disks: {
    ...THREE,
    ...WORK,
    faults: [
      ['stallDisk', 1],
      ['slowDisks', 1],
    ],
    timing: { leaseReads: false },
    faultMs: 1000,
  },
  absences: {
    ...THREE,
    ...WORK,
    faults: [
      ['crash', 1],
      ['isolate', 1],
      ['crashInSync', 1],
    ],
    limits: TINY_LOG,
    faultMs: 1000,
  },
  pages: {
    ...THREE,
    nodes: 1,
    replicas: 1,
    buckets: 1,
    clients: 3,
    workers: 4,
    thinkMs: 1,
    work: [
      ['put', 1],
      ['scan', 1],
    ],
    faults: [],
    durationMs: 1200,
  },
  streams: {
    ...THREE,
    streams: 3,
    clients: 2,
    workers: 2,
    thinkMs: 20,
    work: [
      ['put', 3],
      ['delete', 1],
      ['group', 3],
    ],
    faults: [['crash', 1]],
    limits: { pageEntriesMax: 2 },
    clockSkewMs: 150,
    durationMs: 3000,
  },
  clocks: {
    ...THREE,
    ...WORK,
    faults: [
      ['usurp', 1],
      ['jumpClock', 1],
      ['leaderStorm', 1],
    ],
    clockSkewMs: 2500,
  },
  transactions: {
    ...THREE,
    buckets: 4,
    clients: 3,
    workers: 4,
    thinkMs: 5,
    durationMs: 6000,
    keys: ['a', 'b', 'c', 'd', 'e', 'f'],
    work: [
      ['transact', 10],
      ['get', 5],
      ['put', 3],
      ['scan', 3],
      ['getAsOf', 3],
      ['scanAsOf', 2],
      ['getBounded', 2],
      ['getLocal', 1],
      ['history', 1],
      ['retry', 1],
    ],
    faults: [
      ['crash', 2],
      ['transfer', 2],
      ['leaderStorm', 1],
      ['isolate', 1],
      ['slowAnswers', 1],
      ['pause', 1],
    ],
    faultMs: 600,
  },
  histories: {
    ...THREE,
    ...WORK,
    keys: ['k0', 'k1', '{g0}a', '{g0}b'],
    work: [...WORK.work, ['delete', 5], ['getAsOf', 10], ['scanAsOf', 10], ['scanLocal', 3]],
    faults: [
      ['crash', 1],
      ['isolate', 1],
      ['stallDisk', 1],
    ],
    limits: { ...TINY_LOG, retentionMs: 1000, pageEntriesMax: 1 },
    durationMs: 12_000,
    faultMs: 1000,
  },
} satisfies Readonly<Record<string, Partial<SwarmPlan>>>;
