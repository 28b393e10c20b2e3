import { expect } from 'chai';
import fc from 'fast-check';
import type { PlannerInput } from '../../src/placement/draft.js';
import type { Rates } from '../../src/placement/heat.js';
import type { HeatSummary } from '../../src/placement/heat-summary.js';
import { Cooling, readReplicasKept, readReplicasWanted } from '../../src/placement/hot.js';
import { SYSTEM_BUCKET, type BucketId, type NodeId } from '../../src/placement/map.js';
import { plan } from '../../src/placement/planner.js';
import { changed, isAsFounded, moveReplica, type PlacementRecord } from '../../src/placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../../src/placement/record-format.js';
import { leaderOf, readersOf, votersOf } from '../../src/placement/replicas.js';
import { SimRandom } from '../../src/sim/random.js';
import { allOf, CALM, clusterOf, NOBODY } from './support.js';

const RULES = { hotReadsPerSecond: 1000, readReplicasMax: 4, coolMs: 60_000 };

type Asked = ReadonlyMap<BucketId, { readonly reads: number; readonly writes?: number }>;
const reads = (...pairs: readonly (readonly [BucketId, number])[]): Asked => new Map(pairs.map(([id, count]) => [id, { reads: count }]));

/** As nodes would report it, if reads went to all replicas alike and writes to those who should lead. */
function heatOf(record: PlacementRecord, asked: Asked): HeatSummary {
  const nodes = new Map<NodeId, { reads: number; writes: number; bytes: number }>();
  const of = (node: NodeId): { reads: number; writes: number; bytes: number } => {
    const known = nodes.get(node) ?? { reads: 0, writes: 0, bytes: 0 };
    nodes.set(node, known);
    return known;
  };
  const buckets = new Map<BucketId, Rates & { bucket: BucketId }>();
  for (const [bucket, { reads: count, writes = 0 }] of asked) {
    const replicas = record.map[bucket]?.replicas ?? [];
    for (const { node } of replicas) of(node).reads += count / replicas.length;
    of(leaderOf(replicas) ?? 0).writes += writes;
    buckets.set(bucket, { bucket, reads: count, writes, bytes: 0 });
  }
  return { buckets, nodes, keys: [] };
}

const voterNodes = (record: PlacementRecord): string =>
  JSON.stringify(record.map.map(({ replicas }) => votersOf(replicas).map(({ node }) => node).sort((a, b) => a - b)));
const readersIn = (record: PlacementRecord, bucket: BucketId): NodeId[] =>
  readersOf(record.map[bucket]?.replicas ?? []).map(({ node }) => node).sort((a, b) => a - b);

type More = Partial<Omit<PlannerInput, 'record' | 'settled' | 'heat'>>;

function next(record: PlacementRecord, asked: Asked, more: More = {}): PlacementRecord | undefined {
  const rest = { ...CALM, lost: NOBODY, unreachable: NOBODY, changesMax: 8, cool: new Set<number>(), rules: RULES };
  return plan({ ...rest, record, settled: allOf(record), heat: heatOf(record, asked), ...more });
}

/** Plans until nothing is left to do, which must come. */
function settle(start: PlacementRecord, asked: Asked, more: More = {}): { record: PlacementRecord; steps: number } {
  let record = start;
  for (let steps = 0; steps < 3000; steps += 1) {
    const planned = next(record, asked, more);
    if (planned === undefined) return { record, steps };
    check(planned);
    record = planned;
  }
  throw new Error('the planner does not come to an end');
}

function check(record: PlacementRecord): void {
  expect(decodeRecordOf(encodeRecordOf(record))).to.deep.equal(record);
  for (const { replicas } of [record.system, ...record.map]) {
    expect(new Set(replicas.map(({ node }) => node)).size, 'one replica of a bucket on a node').to.equal(replicas.length);
    expect(readersOf(replicas).length).to.be.at.most(RULES.readReplicasMax);
  }
  expect(readersOf(record.system.replicas)).to.deep.equal([]);
}

describe('a hot bucket', () => {
  it('gets as many read replicas as its reads need, also at the first epoch, and nothing else is moved', () => {
    const start = clusterOf(8, 16);
    expect(settle(start, reads([5, 3000])).steps, 'each of three serves a thousand').to.equal(0);
    for (const [rate, count] of [[3001, 1], [4500, 2], [7000, 4], [100_000, 4]] as const) {
      const { record, steps } = settle(start, reads([5, rate]));
      expect(readersIn(record, 5)).to.have.lengthOf(count);
      expect(steps, 'at once').to.equal(1);
      expect(voterNodes(record)).to.equal(voterNodes(start));
      expect(isAsFounded(record)).to.equal(true);
      expect(record.map.filter((place, at) => place !== start.map[at])).to.have.lengthOf(1);
    }
  });

  it('gets them on the coolest nodes, not on those that are drained or out of reach, and in other zones first', () => {
    const start = clusterOf(8, 16);
    expect(start.map[0]?.replicas.map(({ node }) => node)).to.deep.equal([1, 2, 3]);
    // Buckets 3 and 4 are on nodes 4 to 7.
    const asked = reads([0, 3500], [3, 2900], [4, 2900]);
    expect(readersIn(settle(start, asked).record, 0)).to.deep.equal([8]);
    expect(readersIn(settle(start, asked, { unreachable: new Set([8]) }).record, 0)).to.not.include(8);
    const drained = { ...start, draining: [8] };
    expect(readersIn(next(drained, asked) ?? drained, 0)).to.not.include(8);
    const zoned = clusterOf(6, 6, 3);
    expect(zoned.map[0]?.replicas.map(({ node }) => node)).to.deep.equal([1, 2, 3]);
    const far = { ...zoned, nodes: zoned.nodes.map((node) => (node.id === 6 ? { ...node, zone: 'far' } : node)) };
    expect(readersIn(settle(far, reads([0, 3500])).record, 0)).to.deep.equal([6]);
  });

  it('gets none where nobody is cooler than those that serve it', () => {
    const start = clusterOf(5, 10);
    const everywhere = new Map(start.map.map(({ id }) => [id, { reads: 3500 }]));
    const { record } = settle(start, everywhere);
    expect(record.map.filter(({ replicas }) => replicas.length > 3).length).to.be.at.most(5);
  });

  it('is helped though others are on their way, as many as may be', () => {
    const start = clusterOf(6, 32);
    const settled = new Set([...allOf(start)].filter((id) => id < 8 || id >= 16));
    const heat = heatOf(start, reads([0, 4000], [1, 4000], [2, 4000]));
    const more = { ...CALM, lost: NOBODY, unreachable: NOBODY, changesMax: 8, cool: new Set<number>(), rules: RULES };
    const planned = plan({ ...more, record: start, settled: new Set([...settled, SYSTEM_BUCKET]), heat });
    expect(planned?.map.filter(({ replicas }) => replicas.length > 3)).to.have.lengthOf(2);
  });

  it('keeps its read replicas until it has been cool for long enough, then loses what it does not need', () => {
    const { record: hot } = settle(clusterOf(8, 16), reads([5, 7000]));
    expect(settle(hot, reads([5, 100])).steps).to.equal(0);
    const { record: cooler } = settle(hot, reads([5, 2400]), { cool: new Set([5]) });
    expect(readersIn(cooler, 5)).to.have.lengthOf(2);
    const { record: cold } = settle(hot, reads(), { cool: new Set([5]) });
    expect(readersIn(cold, 5)).to.deep.equal([]);
    expect(settle(cold, reads()).steps).to.equal(0);
  });

  it('loses at once those that are beyond what there may be', () => {
    const { record: hot } = settle(clusterOf(8, 16), reads([5, 7000]));
    const planned = next(hot, reads([5, 7000]), { rules: { ...RULES, readReplicasMax: 1 } });
    expect(readersIn(planned ?? hot, 5)).to.have.lengthOf(1);
  });

  it('loses those on nodes that are lost or drained, and gets others', () => {
    const asked = reads([5, 5000]);
    const { record: hot } = settle(clusterOf(8, 16), asked);
    const [gone = 0] = readersIn(hot, 5);
    for (const [start, lost] of [[hot, new Set([gone])], [{ ...hot, draining: [gone] }, NOBODY]] as const) {
      const { record } = settle(start, asked, { lost });
      expect(readersIn(record, 5)).to.have.lengthOf(2);
      expect(record.map.some(({ replicas }) => replicas.some(({ node }) => node === gone))).to.equal(false);
    }
  });

  it('gets others for those on nodes that are away, not for those that are silent for a moment', () => {
    const asked = reads([5, 5000]);
    const { record: hot } = settle(clusterOf(8, 16), asked);
    const [gone = 0, kept = 0] = readersIn(hot, 5);
    const unreachable = new Set([gone]);
    expect(next(hot, asked, { unreachable })).to.equal(undefined);
    const { record, steps } = settle(hot, asked, { unreachable, away: unreachable });
    expect(steps, 'one goes, then another comes').to.equal(2);
    expect(readersIn(record, 5)).to.have.lengthOf(2).and.to.include(kept).and.not.to.include(gone);
    expect(voterNodes(record)).to.equal(voterNodes(hot));
    expect(settle(record, asked).steps, 'when it is back there are enough').to.equal(0);
  });

  it('makes a voter of a read replica where a voter is needed on its node', () => {
    const asked = reads([0, 5000]);
    const { record: hot } = settle(clusterOf(5, 5), asked);
    const readers = readersOf(hot.map[0]?.replicas ?? []);
    expect(readers.map(({ node }) => node)).to.deep.equal([4, 5]);
    const moved = moveReplica(hot, 0, 1, 4);
    expect(moved.map[0]?.replicas).to.deep.equal([{ ...readers[0], learner: false }, ...(hot.map[0]?.replicas ?? []).filter(({ node }) => node !== 1 && node !== 4)]);
    expect(() => moveReplica(hot, 0, 1, 2)).to.throw('node 2 has a replica of bucket 0 already');
    expect(moveReplica(hot, 0, 4, 1), 'a voter is on the one, and none on the other').to.equal(hot);
    expect(() => moveReplica(hot, 0, 4, 5)).to.throw('node 4 has no voting replica of bucket 0');
    // All nodes have one: only a read replica can take the place of what is drained.
    const { record: drained } = settle({ ...hot, draining: [1] }, asked);
    expect(votersOf(drained.map[0]?.replicas ?? []).map(({ id }) => id)).to.include.oneOf(readers.map(({ id }) => id));
    const { record: five } = settle(changed(hot, { kind: 'replicas', count: 5 }), asked);
    expect(readersIn(five, 0)).to.deep.equal([]);
    expect(votersOf(five.map[0]?.replicas ?? []).map(({ id }) => id)).to.include.members(readers.map(({ id }) => id));
  });

  it('does not flap while its heat varies around a threshold', () => {
    const random = new SimRandom('flapping');
    for (const around of [3000, 4000, 5000]) {
      let record = clusterOf(8, 4);
      const cooling = new Cooling();
      let changes = 0;
      for (let second = 0; second < 1200; second += 1) {
        const asked = reads([1, around * random.between(0.85, 1.15)]);
        const cool = cooling.look(record, heatOf(record, asked), RULES, second * 1000);
        const planned = next(record, asked, { cool });
        if (planned === undefined) continue;
        changes += 1;
        record = planned;
      }
      expect(changes, `around ${around}`).to.be.at.most(2);
    }
  });

  it('may always keep what it should have', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1e5, noNaN: true }), fc.integer({ min: 1, max: 7 }), (rate, voters) => {
        expect(readReplicasKept(rate, voters, RULES)).to.be.at.least(readReplicasWanted(rate, voters, RULES));
      }),
    );
  });
});

describe('cooling', () => {
  it('begins anew whenever the bucket was warm in between', () => {
    const { record } = settle(clusterOf(5, 4), reads([1, 4500]));
    const cooling = new Cooling();
    const look = (rate: number, second: number): boolean => cooling.look(record, heatOf(record, reads([1, rate])), RULES, second * 1000).has(1);
    expect(look(100, 0)).to.equal(false);
    expect(look(100, 59)).to.equal(false);
    expect(look(100, 60)).to.equal(true);
    expect(look(2500, 61)).to.equal(false);
    expect(look(100, 62)).to.equal(false);
    expect(look(100, 121)).to.equal(false);
    cooling.forget();
    expect(look(100, 122)).to.equal(false);
    expect(look(100, 182)).to.equal(true);
  });
});

describe('what nodes lead', () => {
  const ledHeat = (record: PlacementRecord, asked: Asked): Map<NodeId, number> => {
    const led = new Map(record.nodes.map(({ id }) => [id, 0]));
    for (const [bucket, { reads: count, writes = 0 }] of asked) {
      const leader = leaderOf(record.map[bucket]?.replicas ?? []) ?? 0;
      led.set(leader, (led.get(leader) ?? 0) + count / 3 + 4 * writes);
    }
    return led;
  };

  it('is made even by exchanges of preferred leaders alone', () => {
    const start = clusterOf(5, 40);
    // Node 1 should lead buckets 0, 5, 10, ...: all that is written.
    const asked = new Map([0, 5, 10, 15].map((id) => [id, { reads: 0, writes: 1000 }]));
    const { record, steps } = settle(start, asked);
    expect(Math.max(...ledHeat(record, asked).values())).to.equal(4000);
    expect(steps).to.equal(3);
    expect(voterNodes(record)).to.equal(voterNodes(start));
    expect(isAsFounded(record)).to.equal(true);
  });

  it('is left alone where it is uneven by little, or by one bucket alone', () => {
    const start = clusterOf(5, 40);
    expect(settle(start, new Map([[0, { reads: 0, writes: 5000 }]])).steps).to.equal(0);
    expect(settle(start, new Map([[0, { reads: 0, writes: 100 }], [5, { reads: 0, writes: 100 }]])).steps).to.equal(0);
  });

  it('comes to rest with the numbers of buckets that they lead', () => {
    const start = changed(clusterOf(5, 40), { kind: 'rebalance' });
    const asked = new Map([0, 5, 10, 15].map((id) => [id, { reads: 0, writes: 1000 }]));
    const { record } = settle(start, asked);
    const counts = record.nodes.map(({ id }) => record.map.filter(({ replicas }) => leaderOf(replicas) === id).length);
    expect(Math.max(...counts) - Math.min(...counts)).to.be.at.most(1);
    expect(Math.max(...ledHeat(record, asked).values())).to.equal(4000);
  });
});

describe('the planner with heat', () => {
  it('comes to rest whatever happens, never changes voters because of heat, and keeps to the cap', function () {
    this.timeout(60_000);
    for (let seed = 1; seed <= 60; seed += 1) {
      const random = new SimRandom(`heat/${seed}`);
      let record = clusterOf(random.between(1, 9) | 0, random.pick([1, 7, 40]), random.pick([0, 2, 3]));
      for (let step = 0; step < 8; step += 1) {
        const asked: Asked = new Map(
          record.map
            .filter(() => random.chance(0.4))
            .map(({ id }) => [id, { reads: random.pick([0, 10, 900, 3500, 20_000]), writes: random.pick([0, 1, 700]) }]),
        );
        const ids = record.nodes.map(({ id }) => id);
        const lost = random.chance(0.2) && ids.length - record.draining.length > record.replicas + 1 ? new Set([random.pick(ids)]) : NOBODY;
        if (random.chance(0.3) && ids.length - record.draining.length > record.replicas + 1) {
          record = changed(record, { kind: 'drain', node: random.pick(ids) });
        } else if (random.chance(0.3)) {
          for (const node of record.draining) record = changed(record, { kind: 'undrain', node });
        }
        // What is to be done without heat comes to rest first: from then on the heat alone acts.
        ({ record } = settle(record, new Map(), { lost }));
        const before = voterNodes(record);
        const cool = new Set(record.map.map(({ id }) => id).filter(() => random.chance(0.5)));
        ({ record } = settle(record, asked, { lost, cool, changesMax: 1 + random.below(10) }));
        expect(voterNodes(record), `seed ${seed}`).to.equal(before);
        expect(next(record, asked, { lost, cool }), 'at rest').to.equal(undefined);
      }
    }
  });
});
