import { expect } from 'chai';
import type { NodeId } from '../../src/placement/map.js';
import { changed, type PlacementRecord } from '../../src/placement/record.js';
import { wantedOf, type Wanted } from '../../src/placement/wanted.js';
import { allOf, CALM, clusterOf, message, NOBODY, settle, withNode } from './support.js';

function wanted(record: PlacementRecord, away: readonly NodeId[] = [], lost: ReadonlySet<NodeId> = NOBODY): Wanted {
  return wantedOf({ ...CALM, record, settled: allOf(record), lost, unreachable: new Set(away), changesMax: 8 });
}

const NONE: Wanted = { tooFewVoters: 0, tooManyVoters: 0, onDraining: 0, onLost: 0, crowded: 0, short: 0, steps: 0 };

describe('what a placement lacks', () => {
  it('is nothing when the planner has come to rest, and something before', () => {
    const start = clusterOf(5, 16);
    expect(wanted(start)).to.deep.equal(NONE);
    for (const record of [
      changed(start, { kind: 'replicas', count: 5 }),
      changed(start, { kind: 'replicas', count: 1 }),
      changed(start, { kind: 'ownReplicas', buckets: [7], count: 4 }),
      changed(start, { kind: 'drain', node: 2 }),
      withNode(start),
    ]) {
      expect(wanted(record).steps).to.be.greaterThan(0);
      expect(wanted(settle(record).record)).to.deep.equal(NONE);
    }
  });

  it('is counted by what it is', () => {
    const five = { ...clusterOf(5, 16), replicas: 5 };
    expect(wanted(five)).to.include({ tooFewVoters: 16, tooManyVoters: 0, steps: 32 });
    expect(wanted(clusterOf(5, 16, 0, 5))).to.deep.equal(NONE);
    const one = { ...clusterOf(5, 16), ownReplicas: { 7: 1 } };
    expect(wanted(one)).to.include({ tooFewVoters: 0, tooManyVoters: 1, steps: 2 });
    // Of a node that goes, the replica of the system bucket as well.
    const three = clusterOf(3, 8);
    expect(wanted({ ...three, draining: [3] })).to.include({ onDraining: 9, onLost: 0 });
    expect(wanted(three, [3], new Set([3]))).to.include({ onDraining: 0, onLost: 9, short: 0 });
    // The first placement does not look at zones.
    const zoned = clusterOf(6, 12, 3);
    expect(wanted(zoned).crowded).to.be.greaterThan(0);
    expect(wanted(settle(zoned).record)).to.include({ crowded: 0 });
  });

  it('is a voter that has no node to go to while one is away', () => {
    const own = changed(clusterOf(5, 16), { kind: 'ownReplicas', buckets: [7], count: 5 });
    const four = [1, 2, 3, 4].map((node) => ({ id: node, node, learner: false }));
    const map = own.map.map((place) => (place.id === 7 ? { ...place, replicas: four } : place));
    expect(wanted({ ...own, map }, [5])).to.include({ tooFewVoters: 1, onLost: 0 });
  });

  it('is the share of a node that is away, if it could have it', () => {
    const grown = withNode(clusterOf(3, 16));
    expect(wanted(grown)).to.include({ short: 0, tooFewVoters: 1, steps: 13 });
    expect(wanted(grown, [4])).to.include({ short: 12, tooFewVoters: 1, steps: 13 });
    // As founded, nothing is spread.
    expect(wanted(clusterOf(4, 1), [4])).to.deep.equal(NONE);
    // Two of three voters are alone in their zones: those of the third zone have less, and could not have more.
    let zoned = clusterOf(3, 12, 3);
    for (let more = 0; more < 3; more += 1) zoned = withNode(zoned, 'z0');
    const { record } = settle(zoned);
    expect(wanted(record, [4])).to.include({ short: 0, crowded: 0 });
  });

  it('counts nodes that cannot be reached as none that can take the place of a drained one', () => {
    const record = clusterOf(4, 8);
    const drain = (node: NodeId, ...away: NodeId[]) => (): unknown => changed(record, { kind: 'drain', node }, { away: new Set(away) });
    expect(message(drain(3, 4))).to.equal(
      'without node 3 there are 2 nodes for the 3 replicas of each bucket, as node 4 cannot be reached; add a node first',
    );
    expect(message(drain(3, 1, 4))).to.match(/there are 1 nodes for .* as nodes 1, 4 cannot be reached/);
    expect(drain(3)()).to.have.deep.property('draining', [3]);
    // It is the one that is drained, and need not be there.
    expect(drain(4, 4)()).to.have.deep.property('draining', [4]);
  });
});
