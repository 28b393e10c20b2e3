import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { SYSTEM_BUCKET } from '../../src/placement/map.js';
import { plan } from '../../src/placement/planner.js';
import { changed, votersWanted, type PlacementRecord } from '../../src/placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../../src/placement/record-format.js';
import { readersOf, votersOf } from '../../src/placement/replicas.js';
import { SimRandom } from '../../src/sim/random.js';
import { allOf, CALM, clusterOf, message, NOBODY, replicaLoads, settle, spread, withNode } from './support.js';

const own = (record: PlacementRecord, buckets: readonly number[], count?: number): PlacementRecord =>
  changed(record, { kind: 'ownReplicas', buckets, count });

const votersIn = ({ map }: PlacementRecord): number[] => map.map(({ replicas }) => votersOf(replicas).length);

/** At rest every bucket has as many voters as it should. */
function settledSizes(start: PlacementRecord): PlacementRecord {
  const { record } = settle(start);
  expect(votersIn(record)).to.deep.equal(record.map.map(({ id }) => votersWanted(record, id)));
  return record;
}

describe('a bucket with a number of replicas of its own', () => {
  it('has it, whatever that of the cluster is, until it is given back', () => {
    const start = settledSizes(own(clusterOf(5, 16), [3, 4], 5));
    expect(votersIn(start)).to.deep.equal(Array.from({ length: 16 }, (_, id) => (id === 3 || id === 4 ? 5 : 3)));
    const one = settledSizes(changed(start, { kind: 'replicas', count: 1 }));
    expect(votersIn(one).filter((count) => count === 5)).to.have.lengthOf(2);
    const back = settledSizes(own(one, [3]));
    expect(votersIn(back).filter((count) => count === 5)).to.have.lengthOf(1);
    expect(back.ownReplicas).to.deep.equal({ 4: 5 });
    // The cluster's present number is a number of its own as well: it stays when that one changes.
    const pinned = changed(own(back, [4], 1), { kind: 'replicas', count: 3 });
    expect(votersIn(settledSizes(pinned)).map((count) => count === 1)).to.deep.equal(Array.from({ length: 16 }, (_, id) => id === 4));
  });

  it('is the only one that moves, and by no more replicas than it gets', () => {
    for (const count of [3, 5, 8]) {
      const start = changed(clusterOf(count, 64), { kind: 'rebalance' });
      const { record: even } = settle(start);
      const { record, moves } = settle(own(even, [17], Math.min(5, count)));
      const differing = record.map.filter((place, at) => place.replicas.some((it) => even.map[at]?.replicas.every(({ id }) => id !== it.id)));
      expect(differing.length, `${count} nodes`).to.be.at.most(3);
      expect(moves).to.be.at.most(4);
      expect(spread(replicaLoads(record))).to.be.at.most(1);
    }
  });

  it('is refused if there are not so many nodes, or no such bucket; and then nothing is changed', () => {
    const record = clusterOf(4, 8);
    for (const count of [0, 5, 1.5, -1]) {
      expect(message(() => own(record, [1], count))).to.equal(`a bucket can have from 1 to 4, for there are 4 nodes, not ${count} replicas`);
    }
    expect(message(() => own(clusterOf(9, 8), [1], 8))).to.match(/from 1 to 7, in a cluster of any size/);
    for (const bucket of [8, SYSTEM_BUCKET]) {
      expect(message(() => own(record, [1, bucket], 3))).to.equal(`there is no bucket ${bucket}; there are 8`);
    }
    expect(message(() => own(record, []))).to.equal('the request names no bucket');
    expect(own(record, [1])).to.equal(record);
    const four = own(record, [1, 2], 4);
    expect(own(four, [2], 4)).to.equal(four);
    expect(four.epoch).to.equal(record.epoch + 1);
  });

  it('keeps the nodes that it needs', () => {
    const record = own(clusterOf(4, 8), [5], 4);
    for (const kind of ['drain', 'remove'] as const) {
      expect(message(() => changed(record, { kind, node: 4 }))).to.equal(
        'without node 4 there are 3 nodes for the 4 replicas of bucket 5; add a node first',
      );
    }
    expect(changed(own(record, [5]), { kind: 'drain', node: 4 }).draining).to.deep.equal([4]);
  });

  it('is hot when its own voters have too much to do', () => {
    const record = own(settledSizes(own(clusterOf(6, 8), [2], 5)), [4], 5);
    const { hotReadsPerSecond } = DEFAULT_LIMITS;
    const rates = { reads: 4 * hotReadsPerSecond, writes: 0, bytes: 0 };
    const buckets = new Map([2, 3].map((bucket) => [bucket, { bucket, ...rates }]));
    const heat = { ...CALM.heat, buckets, nodes: new Map(record.nodes.map(({ id }) => [id, { ...rates, reads: id }])) };
    const next = plan({ ...CALM, heat, record, settled: allOf(record), lost: NOBODY, unreachable: NOBODY, changesMax: 8 });
    const readers = [2, 3].map((bucket) => readersOf(next?.map[bucket]?.replicas ?? []).length);
    expect(readers).to.deep.equal([0, 1]);
  });

  it('is kept in the record, of which earlier releases read what they can mean', () => {
    const plain = clusterOf(4, 8);
    const formatOf = (record: PlacementRecord): unknown => (JSON.parse(encodeRecordOf(record).toString()) as { format: number }).format;
    const some = own(plain, [1, 7], 4);
    expect(decodeRecordOf(encodeRecordOf(some))).to.deep.equal(some);
    expect(decodeRecordOf(encodeRecordOf(plain))).to.deep.equal(plain);
    expect([formatOf(plain), formatOf(some), formatOf(own(some, [7, 1]))]).to.deep.equal([3, 4, 3]);
    const stored = JSON.parse(encodeRecordOf(some).toString()) as object;
    const read = (change: object): unknown => decodeRecordOf(Buffer.from(JSON.stringify({ ...stored, ...change })));
    expect(message(() => read({ format: 5 }))).to.equal('the placement has format 5, not 3 or 4');
    for (const ownReplicas of [null, 3, { 8: 3 }, { x: 3 }, { 1: '3' }]) {
      expect(message(() => read({ ownReplicas })), JSON.stringify(ownReplicas)).to.match(/bucket has an impossible number of replicas of its own/);
    }
  });

  it('gets it whatever else happens, and the others keep theirs', () => {
    for (let seed = 1; seed <= 60; seed += 1) {
      const random = new SimRandom(`own/${seed}`);
      let record = clusterOf(random.between(3, 8) | 0, random.pick([1, 7, 40]), random.pick([0, 2, 3]));
      for (let step = 0; step < 8; step += 1) {
        const left = record.nodes.length - record.draining.length;
        const needed = Math.max(record.replicas, ...Object.values(record.ownReplicas));
        const count = 1 + random.below(Math.min(7, left));
        if (random.chance(0.2)) record = withNode(record, random.pick(['', 'z0', 'z1']));
        else if (random.chance(0.2) && left > needed) record = changed(record, { kind: 'drain', node: random.pick(record.nodes).id });
        else if (random.chance(0.2)) record = changed(record, { kind: 'replicas', count });
        else record = own(record, record.map.map(({ id }) => id).slice(random.below(record.buckets)), random.chance(0.3) ? undefined : count);
        record = settledSizes(record);
        for (const drained of record.draining) expect(record.map.some(({ replicas }) => replicas.some(({ node }) => node === drained))).to.equal(false);
      }
    }
  });
});
