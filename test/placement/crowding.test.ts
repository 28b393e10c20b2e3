import { expect } from 'chai';
import type { NodeId, NodeInfo } from '../../src/placement/map.js';
import { changed, moveReplica, type PlacementRecord } from '../../src/placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../../src/placement/record-format.js';
import { votersOf } from '../../src/placement/replicas.js';
import { SimRandom } from '../../src/sim/random.js';
import { clusterOf, NOBODY, replicaLoads, settle, spread, withNode } from './support.js';

type Labels = Pick<NodeInfo, 'zone' | 'host'>;

function labelled(record: PlacementRecord, of: (id: NodeId) => Labels): PlacementRecord {
  return { ...record, nodes: record.nodes.map((node) => ({ ...node, ...of(node.id) })) };
}

const nodesOf = ({ map, system }: PlacementRecord): NodeId[][] =>
  [system, ...map].map(({ replicas }) => votersOf(replicas).map(({ node }) => node));

/** Pairs of the nodes that are in one zone, and, before these, on one host: counted the plain way. */
function pairs({ nodes }: PlacementRecord, ids: readonly NodeId[]): { readonly hosts: number; readonly zones: number } {
  const labels = ids.map((id) => nodes.find((node) => node.id === id));
  const same = (field: keyof Labels): number =>
    labels.reduce((sum, a, at) => sum + labels.slice(0, at).filter((b) => a?.[field] !== '' && a?.[field] === b?.[field]).length, 0);
  return { hosts: same('host'), zones: same('zone') };
}

const crowding = (record: PlacementRecord, ids: readonly NodeId[]): number => {
  const { hosts, zones } = pairs(record, ids);
  return hosts * 100 + zones;
};

function subsets(ids: readonly NodeId[], size: number): NodeId[][] {
  if (size === 0) return [[]];
  return ids.flatMap((id, at) => subsets(ids.slice(at + 1), size - 1).map((rest) => [id, ...rest]));
}

/** All choices of so many nodes that may keep voters by which least is shared. */
function bestChoices(record: PlacementRecord, size: number, lost: ReadonlySet<NodeId> = NOBODY): NodeId[][] {
  const usable = record.nodes.map(({ id }) => id).filter((id) => !record.draining.includes(id) && !lost.has(id));
  const all = subsets(usable, size).map((ids) => ({ ids, crowd: crowding(record, ids) }));
  const least = Math.min(...all.map(({ crowd }) => crowd));
  return all.filter(({ crowd }) => crowd === least).map(({ ids }) => ids);
}

function expectApart(record: PlacementRecord, what: string, lost?: ReadonlySet<NodeId>): void {
  const least = new Map<number, number>();
  for (const ids of nodesOf(record)) {
    if (!least.has(ids.length)) least.set(ids.length, crowding(record, bestChoices(record, ids.length, lost)[0] ?? []));
    expect(crowding(record, ids), `${what}: nodes ${ids.join()}`).to.equal(least.get(ids.length));
  }
}

/** Hosts are in zones; some nodes say neither. */
function draw(random: SimRandom): Labels {
  const zone = random.pick(['', 'z0', 'z1', 'z2']);
  return { zone, host: random.pick(['', `${zone}h0`, `${zone}h1`, `${zone}h2`]) };
}

describe('replicas of a bucket', () => {
  it('keep to different hosts, also in one zone, and also where the first placement did not look', () => {
    const start = labelled(clusterOf(6, 60), (id) => ({ zone: '', host: `h${id % 3}` }));
    const { record } = settle(start);
    for (const ids of nodesOf(record).slice(1)) expect(pairs(record, ids).hosts).to.equal(0);
    expect(spread(replicaLoads(record))).to.be.at.most(1);
    // Two more on a machine that has two.
    const { record: grown } = settle(withNode(withNode(record, '', 'h1'), '', 'h1'));
    for (const ids of nodesOf(grown).slice(1)) expect(pairs(grown, ids).hosts).to.equal(0);
    const { record: drained } = settle(changed(grown, { kind: 'drain', node: 3 }));
    for (const ids of nodesOf(drained).slice(1)) expect(pairs(drained, ids).hosts).to.equal(0);
  });

  it('share a zone rather than a host, and a host rather than be too few', () => {
    // Two zones: one machine with two nodes, and three machines.
    const labels = [['a', 'a1'], ['a', 'a1'], ['b', 'b1'], ['b', 'b2'], ['b', 'b3']];
    const of = (id: NodeId): Labels => ({ zone: labels[id - 1]?.[0] ?? '', host: labels[id - 1]?.[1] ?? '' });
    const four = settle(labelled(clusterOf(5, 20, 0, 4), of)).record;
    for (const ids of nodesOf(four).slice(1)) expect(pairs(four, ids)).to.deep.equal({ hosts: 0, zones: 3 });
    const five = settle(changed(four, { kind: 'replicas', count: 5 })).record;
    for (const ids of nodesOf(five)) expect(ids).to.have.lengthOf(5);
    const three = settle(changed(five, { kind: 'replicas', count: 3 })).record;
    for (const ids of nodesOf(three).slice(1)) expect(pairs(three, ids)).to.deep.equal({ hosts: 0, zones: 1 });
  });

  it('are moved by nothing but labels that several nodes have', () => {
    for (let count = 1; count <= 9; count += 1) {
      const start = clusterOf(count, 64);
      expect(settle(labelled(start, () => ({ zone: 'z', host: 'h' }))).moves).to.equal(0);
      expect(settle(labelled(start, (id) => ({ zone: '', host: `h${id}` }))).moves).to.equal(0);
    }
  });

  it('go apart again where somebody has put them together, and nothing else moves', () => {
    const { record } = settle(labelled(clusterOf(8, 64), (id) => ({ zone: '', host: `h${id % 4}` })));
    const [from = 0, kept = 0] = nodesOf(record)[18] ?? [];
    const to = record.nodes.map(({ id }) => id).find((id) => id !== kept && id % 4 === kept % 4) ?? 0;
    const { record: after, moves } = settle(moveReplica(record, 17, from, to));
    expect(pairs(after, nodesOf(after)[18] ?? []).hosts).to.equal(0);
    expect(moves).to.be.at.most(2);
  });

  it('go apart by as few moves as that takes', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const random = new SimRandom(`apart/${seed}`);
      const size = 1 + random.below(5);
      // A single bucket: nothing is there to be evened out.
      const start = labelled(clusterOf(size + random.below(9 - size), 1, 0, size), () => draw(random));
      const { record, moves } = settle(start);
      const needed = nodesOf(start).map((ids) => {
        return Math.min(...bestChoices(start, ids.length).map((best) => best.filter((id) => !ids.includes(id)).length));
      });
      expectApart(record, `seed ${seed}`);
      expect(moves, `seed ${seed}`).to.equal(needed.reduce((sum, count) => sum + count, 0));
    }
  });

  it('come to be as far apart as they can, whatever happens', () => {
    for (let seed = 1; seed <= 30; seed += 1) {
      const random = new SimRandom(`crowding/${seed}`);
      let record = labelled(clusterOf(random.between(3, 7) | 0, random.pick([1, 7, 40])), () => draw(random));
      for (let step = 0; step < 6; step += 1) {
        const ids = record.nodes.map(({ id }) => id);
        const left = ids.length - record.draining.length;
        const wanted = Math.max(record.replicas, ...Object.values(record.ownReplicas));
        const count = 1 + random.below(Math.min(5, left));
        const { zone, host } = draw(random);
        if (random.chance(0.25) && ids.length < 9) record = withNode(record, zone, host);
        else if (random.chance(0.3) && left > wanted) record = changed(record, { kind: 'drain', node: random.pick(ids) });
        else if (random.chance(0.2)) for (const node of record.draining) record = changed(record, { kind: 'undrain', node });
        else if (random.chance(0.3)) record = changed(record, { kind: 'replicas', count });
        else if (random.chance(0.3)) record = changed(record, { kind: 'ownReplicas', buckets: [0], count });
        else record = labelled(record, () => draw(random));
        ({ record } = settle(record, { changesMax: 1 + random.below(20) }));
        expectApart(record, `seed ${seed}, step ${step}`);
      }
      const lost = new Set([random.pick(record.nodes).id]);
      if (record.nodes.length - record.draining.length - 1 <= Math.max(record.replicas, ...Object.values(record.ownReplicas))) continue;
      expectApart(settle(record, { lost }).record, `seed ${seed}, a node lost`, lost);
    }
  });

  it('are read with the hosts of their nodes, of which earlier releases knew none', () => {
    const record = labelled(clusterOf(3, 4), (id) => ({ zone: 'z', host: `h${id}` }));
    expect(decodeRecordOf(encodeRecordOf(record))).to.deep.equal(record);
    const earlier = labelled(record, () => ({ zone: 'z', host: undefined as unknown as string }));
    expect(decodeRecordOf(encodeRecordOf(earlier))).to.deep.equal(labelled(record, () => ({ zone: 'z', host: '' })));
  });
});
