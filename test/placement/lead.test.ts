import { expect } from 'chai';
import { plan } from '../../src/placement/planner.js';
import { changed, type PlacementRecord } from '../../src/placement/record.js';
import { leaderOf, votersOf } from '../../src/placement/replicas.js';
import { SimRandom } from '../../src/sim/random.js';
import { allOf, CALM, clusterOf, leaderLoads, message, NOBODY, settle, spread } from './support.js';

const lead = (record: PlacementRecord, bucket: number, node: number, away = NOBODY): PlacementRecord =>
  changed(record, { kind: 'lead', bucket, node }, { away });

const leaderIn = ({ map }: PlacementRecord, bucket: number): number => leaderOf(map[bucket]?.replicas ?? []) ?? 0;

function isContent(record: PlacementRecord): boolean {
  const around = { settled: allOf(record), lost: NOBODY, unreachable: NOBODY, changesMax: 8 };
  return plan({ ...CALM, record, ...around }) === undefined;
}

describe('a bucket that is given another leader', () => {
  it('keeps it, and leaders stay evenly spread', () => {
    const random = new SimRandom('lead');
    for (let run = 0; run < 300; run += 1) {
      const nodes = random.pick([2, 3, 4, 5, 7]);
      const buckets = random.pick([1, 6, 16, 64, 256]);
      const { record: start } = settle(changed(clusterOf(nodes, buckets), { kind: 'rebalance' }));
      const bucket = Math.floor(random.float() * buckets);
      const { node } = random.pick(votersOf(start.map[bucket]?.replicas ?? []));
      const record = lead(start, bucket, node);
      expect(leaderIn(record, bucket)).to.equal(node);
      expect(record.epoch).to.equal(start.epoch + (leaderIn(start, bucket) === node ? 0 : 1));
      // Where each node leads few buckets there may be none to give in return, and evenness counts for more.
      if (buckets >= 8 * nodes) {
        const what = `${nodes} nodes, ${buckets} buckets, ${bucket} to ${node}`;
        expect(spread(leaderLoads(record)), what).to.be.at.most(1);
        expect(isContent(record), `the planner leaves it so: ${what}`).to.equal(true);
      }
      for (const [at, place] of record.map.entries()) {
        const ids = (record_: PlacementRecord): number[] => (record_.map[at]?.replicas ?? []).map(({ id }) => id).sort();
        expect(ids(record), `the replicas of bucket ${place.id}`).to.deep.equal(ids(start));
      }
    }
  });

  it('gives none in return to a node that cannot be reached', () => {
    const { record: start } = settle(changed(clusterOf(3, 24), { kind: 'rebalance' }));
    const bucket = start.map.findIndex(({ replicas }) => leaderOf(replicas) === 1);
    expect(leaderLoads(lead(start, bucket, 2))).to.deep.equal([8, 8, 8]);
    expect(leaderLoads(lead(start, bucket, 2, new Set([1])))).to.deep.equal([7, 9, 8]);
  });

  it('may be the system bucket', () => {
    const start = clusterOf(3, 4);
    const next = changed(start, { kind: 'lead', bucket: start.system.id, node: 3 });
    expect(leaderOf(next.system.replicas)).to.equal(3);
  });

  it('is refused what it cannot have', () => {
    const record = { ...clusterOf(5, 16), draining: [2] };
    expect(message(() => lead(record, 0, 4))).to.match(/node 4 has no voting replica of bucket 0; nodes 1, 2, 3 have/);
    expect(message(() => lead(record, 0, 9))).to.match(/node 9 is no member of the cluster; its members are 1, 2, 3, 4, 5/);
    expect(message(() => lead(record, 0, 2))).to.match(/node 2 is being drained/);
    expect(message(() => lead(record, 99, 1))).to.match(/there is no bucket 99; there are 16/);
    expect(message(() => lead(clusterOf(3, 16), 0, 3, new Set([2, 3])))).to.equal('node 3 cannot be reached');
  });
});
