import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { NO_HEAT } from '../../src/placement/heat-summary.js';
import { SYSTEM_BUCKET, type BucketId, type NodeId } from '../../src/placement/map.js';
import { plan } from '../../src/placement/planner.js';
import { initialRecord, joined, type PlacementRecord } from '../../src/placement/record.js';
import type { Replicas } from '../../src/placement/replicas.js';

export const NOBODY: ReadonlySet<NodeId> = new Set();
/** Nothing is hot, nobody is away, and every bucket has a leader. */
export const CALM = {
  heat: NO_HEAT,
  cool: new Set<number>(),
  rules: DEFAULT_LIMITS,
  away: NOBODY,
  led: { has: () => true },
  last: new Map<BucketId, Replicas>(),
};

export function clusterOf(count: number, buckets: number, zones = 0, replicas = Math.min(3, count)): PlacementRecord {
  const nodes = Array.from({ length: count }, (_, at) => ({
    id: at + 1,
    address: `host-${at + 1}:1`,
    zone: zones === 0 ? '' : `z${at % zones}`,
    host: '',
  }));
  return initialRecord('test', nodes, buckets, replicas);
}

export const allOf = (record: PlacementRecord): Set<number> => new Set([SYSTEM_BUCKET, ...record.map.map(({ id }) => id)]);

interface Run {
  readonly record: PlacementRecord;
  readonly moves: number;
}

/** Plans until nothing is left to do; each step is done before the next. */
export function settle(start: PlacementRecord, options: { lost?: ReadonlySet<NodeId>; changesMax?: number } = {}): Run {
  const { lost = NOBODY, changesMax = 8 } = options;
  let record = start;
  let moves = 0;
  for (let steps = 0; steps < 10_000; steps += 1) {
    const next = plan({ ...CALM, record, settled: allOf(record), lost, unreachable: NOBODY, changesMax });
    if (next === undefined) return { record, moves };
    expect(next.epoch).to.equal(record.epoch + 1);
    let changed = 0;
    for (const [before, after] of pairs(record, next)) {
      if (before === after) continue;
      changed += 1;
      const kept = after.filter((id) => before.includes(id)).length;
      expect(before.length - kept, 'at most one replica goes at a time').to.be.at.most(1);
      moves += after.length - kept;
    }
    expect(changed).to.be.within(1, changesMax);
    check(next);
    record = next;
  }
  throw new Error('the planner does not come to an end');
}

function* pairs(a: PlacementRecord, b: PlacementRecord): Generator<[readonly number[], readonly number[]]> {
  for (const [at, place] of [a.system, ...a.map].entries()) {
    const other = [b.system, ...b.map][at];
    if (place === other || other === undefined) continue;
    yield [place.replicas.map(({ id }) => id), other.replicas.map(({ id }) => id)];
  }
}

function check(record: PlacementRecord): void {
  for (const { replicas } of [record.system, ...record.map]) {
    expect(new Set(replicas.map(({ node }) => node)).size, 'one replica of a bucket on a node').to.equal(replicas.length);
    expect(replicas.length).to.be.at.least(1);
  }
}

function loads(record: PlacementRecord, of: (nodes: readonly NodeId[]) => readonly NodeId[]): number[] {
  const counts = new Map(record.nodes.map(({ id }) => [id, 0]));
  for (const { replicas } of record.map) {
    for (const node of of(replicas.map((replica) => replica.node))) counts.set(node, (counts.get(node) ?? 0) + 1);
  }
  return [...counts.values()];
}

export const spread = (counts: readonly number[]): number => Math.max(...counts) - Math.min(...counts);
export const replicaLoads = (record: PlacementRecord): number[] => loads(record, (nodes) => nodes);
export const leaderLoads = (record: PlacementRecord): number[] => loads(record, (nodes) => nodes.slice(0, 1));

export const withNode = (record: PlacementRecord, zone = '', host = ''): PlacementRecord => {
  const id = record.lastNode + 1;
  return joined(record, { uuid: `u${id}`, address: `host-${id}:1`, zone, host }).record;
};

/** With which it was refused. */
export function message(change: () => unknown): string {
  try {
    change();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('it was not refused');
}
