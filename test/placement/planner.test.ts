import { expect } from 'chai';
import { SYSTEM_BUCKET, type BucketId, type NodeId } from '../../src/placement/map.js';
import { plan } from '../../src/placement/planner.js';
import { changed, joined, moveReplica, placeOf, type PlacementRecord } from '../../src/placement/record.js';
import { votersOf, type Replicas } from '../../src/placement/replicas.js';
import { SimRandom } from '../../src/sim/random.js';
import { allOf, CALM, clusterOf, leaderLoads, message, NOBODY, replicaLoads, settle, spread, withNode } from './support.js';

describe('the planner', () => {
  it('leaves a new cluster as it is', () => {
    for (let count = 1; count <= 9; count += 1) {
      for (const buckets of [1, 4, 64, 256]) {
        const record = clusterOf(count, buckets);
        const { moves } = settle(record);
        expect(moves, `${count} nodes, ${buckets} buckets`).to.equal(0);
      }
    }
  });

  it('gives a new node its share, and moves nothing else', () => {
    for (const count of [3, 4, 5, 8]) {
      const { record, moves } = settle(withNode(clusterOf(count, 256)));
      expect(spread(replicaLoads(record))).to.be.at.most(1);
      expect(spread(leaderLoads(record))).to.be.at.most(1);
      // Its share, and one of the system bucket.
      expect(moves).to.be.at.most(Math.ceil((256 * 3) / (count + 1)) + 1);
    }
  });

  it('empties a node, and then only that has changed', () => {
    for (const count of [4, 5, 8]) {
      const start = clusterOf(count, 256);
      const share = start.map.filter(({ replicas }) => replicas.some(({ node }) => node === 2)).length;
      const { record, moves } = settle({ ...start, draining: [2] });
      const counts = replicaLoads(record);
      expect(counts[1]).to.equal(0);
      expect(record.system.replicas.some(({ node }) => node === 2)).to.equal(false);
      expect(spread(counts.filter((_, at) => at !== 1))).to.be.at.most(1);
      expect(moves).to.be.at.most(share + count);
    }
  });

  it('replaces the replicas of a lost node', () => {
    const { record } = settle(clusterOf(5, 64), { lost: new Set([3]) });
    expect(replicaLoads(record)[2]).to.equal(0);
    for (const { replicas } of record.map) expect(replicas.length).to.equal(3);
  });

  it('does nothing about a node that nobody can take the place of', () => {
    const record = { ...clusterOf(3, 16), draining: [1] };
    const { record: after } = settle(record);
    expect(after.map.map(({ replicas }) => replicas.length)).to.deep.equal(Array(16).fill(3));
  });

  it('brings buckets to another number of replicas', () => {
    const { record: five } = settle({ ...clusterOf(5, 64), replicas: 5 });
    expect(new Set(five.map.map(({ replicas }) => replicas.length))).to.deep.equal(new Set([5]));
    const { record: one } = settle({ ...five, replicas: 1 });
    expect(new Set(one.map.map(({ replicas }) => replicas.length))).to.deep.equal(new Set([1]));
    expect(spread(replicaLoads(one))).to.be.at.most(1);
  });

  it('takes voters that are not there before those that are, and none that the others cannot decide without', () => {
    const start = clusterOf(5, 64, 0, 5);
    const rest = { ...CALM, lost: NOBODY, changesMax: 64 };
    for (const gone of [[5], [1], [4, 5], [1, 2]]) {
      const away = new Set(gone);
      let record: PlacementRecord = { ...start, replicas: 3 };
      for (let steps = 0; steps < 10; steps += 1) {
        const next = plan({ ...rest, record, settled: allOf(record), unreachable: away, away });
        if (next === undefined) break;
        for (const { id, replicas } of next.map) {
          const there = replicas.filter(({ node }) => !away.has(node)).length;
          expect(there * 2, `bucket ${id} without ${gone.join()}`).to.be.greaterThan(replicas.length);
          expect(there, 'whoever is there stays').to.be.at.least(3);
        }
        record = next;
      }
      for (const { replicas } of record.map) expect(replicas).to.have.lengthOf(3);
    }
    // Two of two could not decide without the one that is away: nothing is changed before it is back.
    const two = { ...clusterOf(2, 16, 0, 2), replicas: 1 };
    const away = new Set([2]);
    const one = plan({ ...rest, record: two, settled: allOf(two), unreachable: away, away });
    for (const { replicas } of one?.map ?? []) expect(replicas.map(({ node }) => node)).to.include(1);
  });

  it('takes no voter of the system bucket while the node that should have one instead cannot be reached', () => {
    // Found by the swarm (seed 240225): of two voters that were left, one lost its disk.
    const start = clusterOf(4, 4);
    const drained = { ...start, draining: [2], system: { ...start.system, replicas: start.system.replicas.filter(({ node }) => node !== 4) } };
    const input = { ...CALM, lost: NOBODY, unreachable: new Set([4]), changesMax: 8 };
    const voters = (record: PlacementRecord): number[] => record.system.replicas.map(({ node }) => node);
    const waits = plan({ ...input, record: drained, settled: allOf(drained) }) ?? drained;
    expect(voters(waits)).to.have.members([1, 2, 3]);
    const goes = plan({ ...input, record: waits, settled: allOf(waits), unreachable: NOBODY }) ?? waits;
    expect(voters(goes)).to.have.members([1, 3, 4]);
    const lost = plan({ ...input, record: waits, settled: allOf(waits), unreachable: NOBODY, lost: new Set([4]) }) ?? waits;
    expect(voters(lost)).to.have.members([1, 3]);
  });

  it('takes no voter of the system bucket if those that stay cannot decide', () => {
    // Nobody can take the place of node 3, and node 2 is away.
    const start = { ...clusterOf(3, 16, 0, 1), draining: [3] };
    const away = new Set([2]);
    const rest = { ...CALM, lost: NOBODY, changesMax: 64 };
    let record: PlacementRecord = start;
    for (const absent of [away, away, NOBODY, NOBODY]) {
      record = plan({ ...rest, record, settled: allOf(record), unreachable: absent, away: absent }) ?? record;
      const { replicas } = record.system;
      expect(replicas.filter(({ node }) => !absent.has(node)).length * 2).to.be.greaterThan(replicas.length);
    }
    expect(record.system.replicas.map(({ node }) => node)).to.have.members([1, 2]);
    const asked = { ...start, draining: [] };
    expect(message(() => changed(asked, { kind: 'drain', node: 3 }, { away }))).to.match(/could not be changed any more, as node 2 cannot be reached/);
    expect(changed(asked, { kind: 'drain', node: 3 }).draining).to.deep.equal([3]);
  });

  it('goes on with others where buckets have no leader, and leaves those as they are', () => {
    const start = clusterOf(5, 64);
    const lost = new Set([4, 5]);
    const hasQuorum = (id: BucketId): boolean => {
      const { replicas } = placeOf(start, id) ?? { replicas: [] };
      return replicas.filter(({ node }) => !lost.has(node)).length * 2 > replicas.length;
    };
    const led = new Set([...allOf(start)].filter(hasQuorum));
    expect(start.map.length - led.size).to.be.greaterThan(8);
    let record: PlacementRecord = start;
    for (let steps = 0; steps < 100; steps += 1) {
      const next = plan({ ...CALM, record, settled: led, led, lost, unreachable: lost, away: lost, changesMax: 8 });
      if (next === undefined) break;
      record = next;
    }
    for (const { id, replicas } of record.map) {
      if (led.has(id)) expect(replicas.some(({ node }) => lost.has(node)), `bucket ${id}`).to.equal(false);
      else expect(replicas).to.deep.equal(placeOf(start, id)?.replicas);
    }
  });

  it('sends elsewhere what is on its way only if somebody leads it', () => {
    // A new planner, who has heard of no leader yet, would send all of them at once.
    const start = { ...clusterOf(4, 64), draining: [4] };
    const nobody = { has: () => false };
    const input = { ...CALM, record: start, settled: new Set<BucketId>(), lost: NOBODY, unreachable: NOBODY, changesMax: 8 };
    expect(plan({ ...input, led: nobody })).to.equal(undefined);
    expect(plan(input)).to.not.equal(undefined);
  });

  it('keeps replicas of a bucket in different zones', () => {
    const crowded = (record: PlacementRecord): number =>
      record.map.filter(({ replicas }) => {
        const zones = replicas.map(({ node }) => record.nodes.find(({ id }) => id === node)?.zone);
        return new Set(zones).size < zones.length;
      }).length;
    // Nodes 1 to 6 in zones z0, z1, z2 by turns: the first placement does not look at zones.
    const start = clusterOf(6, 60, 3);
    expect(crowded(start)).to.be.greaterThan(0);
    const { record } = settle({ ...start, draining: [6] });
    expect(crowded(record)).to.equal(0);
    const { record: grown } = settle(withNode(record, 'z2'));
    expect(crowded(grown)).to.equal(0);
  });

  it('touches nothing that is not settled, and has no more under way than it may', () => {
    const record = withNode(clusterOf(3, 64));
    const settled = new Set(record.map.map(({ id }) => id).filter((id) => id >= 5));
    const next = plan({ ...CALM, record, settled, lost: NOBODY, unreachable: NOBODY, changesMax: 8 });
    // The system bucket and buckets 0 to 4 are under way.
    expect(next?.map.filter((place, at) => place !== record.map[at]).length).to.equal(2);
    expect(plan({ ...CALM, record, settled, lost: NOBODY, unreachable: NOBODY, changesMax: 6 })).to.equal(undefined);
  });

  it('sends buckets elsewhere that are on their way to a node that is lost or drained, and places nothing where nobody is', () => {
    const start = withNode(clusterOf(4, 64));
    const first = plan({ ...CALM, record: start, settled: allOf(start), lost: NOBODY, unreachable: NOBODY, changesMax: 8 });
    if (first === undefined) throw new Error('the new node gets nothing');
    const moving = first.map.filter((place, at) => place !== start.map[at]).map(({ id }) => id);
    const settled = new Set([...allOf(first)].filter((id) => id !== SYSTEM_BUCKET && !moving.includes(id)));
    for (const [lost, draining] of [[new Set([5]), []], [NOBODY, [5]]] as const) {
      const next = plan({ ...CALM, record: { ...first, draining }, settled, lost, unreachable: NOBODY, changesMax: 8 });
      expect(next?.map.some(({ replicas }) => replicas.some(({ node }) => node === 5))).to.equal(false);
    }
    expect(plan({ ...CALM, record: start, settled: allOf(start), lost: NOBODY, unreachable: new Set([5]), changesMax: 8 })).to.equal(undefined);
  });

  describe('with a node away', () => {
    const away = new Set([5]);
    const silence = { lost: NOBODY, unreachable: away, away };
    const nodesOf = (record: PlacementRecord, bucket: BucketId): NodeId[] => votersOf(placeOf(record, bucket)?.replicas ?? []).map(({ node }) => node);
    const asOf = (record: PlacementRecord): Map<BucketId, Replicas> => new Map([...allOf(record)].map((id) => [id, placeOf(record, id)?.replicas ?? []]));
    const movedIn = (before: PlacementRecord, after: PlacementRecord): BucketId[] => [...allOf(before)].filter((id) => placeOf(before, id) !== placeOf(after, id));

    it('sends what is on its way to it back where it came from, and then has room for others', () => {
      const start = withNode(clusterOf(4, 64));
      const first = plan({ ...CALM, record: start, settled: allOf(start), lost: NOBODY, unreachable: NOBODY, changesMax: 4 });
      if (first === undefined) throw new Error('the new node gets nothing');
      const moving = movedIn(start, first);
      expect(moving).to.have.lengthOf(4);
      const settled = new Set([...allOf(first)].filter((id) => !moving.includes(id)));
      const draining = { ...first, draining: [4] };
      const input = { ...CALM, record: draining, settled, changesMax: 4, lost: NOBODY, unreachable: away };
      const waiting = plan({ ...input, last: asOf(start) });
      expect(waiting?.map.filter((_, id) => nodesOf(waiting, id).includes(5)), 'it may come back soon').to.have.lengthOf(moving.length - 1);
      const next = plan({ ...input, away, last: asOf(start), record: first });
      if (next === undefined) throw new Error('it waits');
      for (const id of moving) expect(nodesOf(next, id).sort(), `bucket ${id}`).to.deep.equal(nodesOf(start, id).sort());
      const drained = plan({ ...input, away, last: asOf(next), record: { ...next, draining: [4] }, settled: allOf(next) });
      expect(drained && movedIn(next, drained), 'the drain goes on').to.have.lengthOf(4);
    });

    it('moves no replica that is there, settled or not, unless nobody has ever seen it there', () => {
      const { record } = settle(withNode(clusterOf(4, 16)));
      const input = { ...CALM, ...silence, record, changesMax: 8 };
      const last = asOf(record);
      expect(plan({ ...input, settled: allOf(record), last })).to.equal(undefined);
      expect(plan({ ...input, settled: new Set(), last })).to.equal(undefined);
      const next = plan({ ...input, settled: new Set() });
      expect(next?.map.some((_, id) => nodesOf(next, id).includes(5))).to.equal(false);
    });

    it('goes on with as many as there are where there is nobody else', () => {
      const start = withNode(clusterOf(4, 4, 0, 4));
      const record = settle({ ...start, system: { ...start.system, replicas: start.system.replicas.slice(0, 4) } }).record;
      const five = { ...record, replicas: 5, epoch: record.epoch + 1 };
      const first = plan({ ...CALM, record: five, settled: allOf(five), lost: NOBODY, unreachable: NOBODY, changesMax: 2 });
      if (first === undefined) throw new Error('nothing is to do');
      const moving = movedIn(five, first);
      const settled = new Set([...allOf(first)].filter((id) => !moving.includes(id)));
      const missing = moving.map((id) => nodesOf(first, id).find((node) => !nodesOf(five, id).includes(node)) ?? 0);
      const gone = new Set(missing);
      const input = { ...CALM, lost: NOBODY, unreachable: gone, away: gone, changesMax: 2 };
      const next = plan({ ...input, record: first, settled, last: asOf(five) });
      for (const id of moving) expect(next && nodesOf(next, id)).to.deep.equal(nodesOf(five, id));
      if (next === undefined) throw new Error('it waits');
      const then = plan({ ...input, record: next, settled: allOf(next), last: asOf(next) }) ?? next;
      for (const id of moving) expect(nodesOf(then, id)).to.deep.equal(nodesOf(five, id));
    });

    it('comes to rest though nothing arrives there, and evens out when it is back', () => {
      for (let seed = 1; seed <= 40; seed += 1) {
        const random = new SimRandom(`away/${seed}`);
        let record = withNode(clusterOf(random.between(4, 8) | 0, random.pick([1, 7, 40]), random.pick([0, 2, 3])), random.pick(['', 'z0', 'z1']));
        // What groups are made of: they go on by themselves as soon as all that are to vote have come.
        const groups = asOf(record);
        let last = new Map<BucketId, Replicas>();
        const isDone = (id: BucketId): boolean => nodesOf(record, id).sort().join() === votersOf(groups.get(id) ?? []).map(({ node }) => node).sort().join();
        // Nobody knows how it was, and every other node has one.
        const isHelpless = (id: BucketId, down: ReadonlySet<NodeId>): boolean => {
          const others = record.nodes.filter((node) => !down.has(node.id) && !record.draining.includes(node.id) && !nodesOf(record, id).includes(node.id));
          return !last.has(id) && others.length === 0;
        };
        const rest = (down: ReadonlySet<NodeId>, changesMax: number): void => {
          for (let steps = 0; steps < 2000; steps += 1) {
            const settled = new Set([...allOf(record)].filter(isDone));
            for (const id of settled) last.set(id, placeOf(record, id)?.replicas ?? []);
            const next = plan({ ...CALM, record, settled, lost: NOBODY, unreachable: down, away: down, last, changesMax });
            if (next === undefined && [...allOf(record)].every((id) => settled.has(id) || isHelpless(id, down))) return;
            record = next ?? record;
            for (const id of allOf(record)) {
              const before = votersOf(groups.get(id) ?? []).map(({ node }) => node);
              const wanted = nodesOf(record, id);
              expect(wanted.length, `bucket ${id}`).to.be.at.least(Math.min(before.length, record.replicas));
              const arrived = wanted.every((node) => before.includes(node) || !down.has(node));
              if (arrived && random.chance(0.5)) groups.set(id, placeOf(record, id)?.replicas ?? []);
            }
          }
          throw new Error(`seed ${seed} does not come to an end`);
        };
        for (let turn = 0; turn < 5; turn += 1) {
          const ids = record.nodes.map(({ id }) => id);
          if (ids.length - record.draining.length > record.replicas + 1) record = changed(record, { kind: 'drain', node: random.pick(ids) });
          else for (const node of record.draining) record = changed(record, { kind: 'undrain', node });
          // Some are on their way to it when it goes.
          const next = plan({ ...CALM, record, settled: allOf(record), lost: NOBODY, unreachable: NOBODY, last, changesMax: 8 });
          record = next ?? record;
          if (random.chance(0.3)) last = new Map();
          rest(new Set([random.pick(record.nodes).id]), 1 + random.below(6));
          rest(NOBODY, 8);
          const counts = replicaLoads(record).filter((_, at) => !record.draining.includes(ids[at] ?? 0));
          if (record.nodes.every(({ zone }) => zone === '')) expect(spread(counts), `seed ${seed}`).to.be.at.most(1);
        }
      }
    });
  });

  it('comes to rest whatever happens, and no bucket ever has fewer replicas than it had', () => {
    for (let seed = 1; seed <= 60; seed += 1) {
      const random = new SimRandom(`planner/${seed}`);
      let record = clusterOf(random.between(3, 7) | 0, random.pick([1, 7, 64]), random.pick([0, 2, 3]));
      for (let step = 0; step < 6; step += 1) {
        const ids = record.nodes.map(({ id }) => id);
        const node = random.pick(ids);
        if (random.chance(0.4)) record = withNode(record, random.pick(['', 'z0', 'z1']));
        else if (ids.length - record.draining.length > record.replicas) record = changed(record, { kind: 'drain', node });
        else for (const drained of record.draining) record = changed(record, { kind: 'undrain', node: drained });
        const before = new Map(record.map.map(({ id, replicas }) => [id, replicas.length]));
        ({ record } = settle(record, { changesMax: 1 + random.below(20) }));
        for (const { id, replicas } of record.map) expect(replicas.length, `bucket ${id}`).to.be.at.least(before.get(id) ?? 0);
        for (const drained of record.draining) expect(replicaLoads(record)[ids.indexOf(drained)] ?? 0).to.equal(0);
      }
    }
  });
});

describe('a node', () => {
  it('is removed when it is empty, and its id is not used again', () => {
    const start = clusterOf(4, 8);
    expect(message(() => changed(start, { kind: 'remove', node: 4 }))).to.match(/node 4 still has \d+ replicas: drain it first/);
    expect(message(() => changed(clusterOf(3, 8), { kind: 'drain', node: 1 }))).to.equal(
      'without node 1 there are 2 nodes for the 3 replicas of each bucket; add a node first',
    );
    expect(message(() => changed(start, { kind: 'drain', node: 7 }))).to.match(/node 7 is no member of the cluster; its members are 1, 2, 3, 4/);
    const draining = changed(start, { kind: 'drain', node: 4 });
    expect(changed(draining, { kind: 'drain', node: 4 })).to.equal(draining);
    const { record: empty } = settle(draining);
    const moving = { moving: [1, 2, 3], leaderless: [2] };
    expect(() => changed(empty, { kind: 'remove', node: 4 }, moving))
      .to.throw('node 4 is a member until every bucket is in its place: 2 buckets are on their way, 1 bucket has no leader; try again soon')
      .that.includes({ code: 'UNAVAILABLE', reason: 'BUCKETS_MOVING', retriable: true });
    const removed = changed(empty, { kind: 'remove', node: 4 });
    expect(removed.nodes.map(({ id }) => id)).to.deep.equal([1, 2, 3]);
    expect(removed.draining).to.deep.equal([]);
    expect(changed(removed, { kind: 'remove', node: 4 })).to.equal(removed);
    const again = joined(removed, { uuid: 'u', address: 'host-4:1', zone: '', host: '' });
    expect(again.node).to.equal(5);
    expect(joined(again.record, { uuid: 'u', address: 'host-4:1', zone: '', host: '' })).to.deep.equal(again);
    expect(message(() => joined(again.record, { uuid: 'v', address: 'host-4:1', zone: '', host: '' }))).to.match(/node 5 is a member at host-4:1/);
  });

  it('is not missed by a number of replicas that is too high', () => {
    const record = clusterOf(4, 8);
    expect(message(() => changed(record, { kind: 'replicas', count: 5 }))).to.match(/from 1 to 4, for there are 4 nodes, not 5/);
    const drained = { ...record, draining: [4] };
    expect(message(() => changed(drained, { kind: 'replicas', count: 4 }))).to.match(/to 3, for there are 3 nodes that are not to be emptied, not 4/);
    expect(message(() => changed(clusterOf(10, 8), { kind: 'replicas', count: 8 }))).to.match(/from 1 to 7, in a cluster of any size, not 8/);
    expect(changed(record, { kind: 'replicas', count: 3 })).to.equal(record);
    expect(changed(record, { kind: 'replicas', count: 1 }).replicas).to.equal(1);
  });
});

describe('a replica', () => {
  it('moves only from where it is to a member that has none', () => {
    const record = clusterOf(4, 8);
    const nodes = record.map[0]?.replicas.map(({ node }) => node) ?? [];
    expect(nodes).to.deep.equal([1, 2, 3]);
    expect(message(() => moveReplica(record, 8, 1, 4))).to.equal('there is no bucket 8; there are 8');
    expect(message(() => moveReplica(record, 0, 4, 4))).to.match(/node 4 has no voting replica of bucket 0; nodes 1, 2, 3 have/);
    expect(message(() => moveReplica(record, 0, 1, 2))).to.equal('node 2 has a replica of bucket 0 already');
    expect(message(() => moveReplica(record, 0, 1, 9))).to.match(/node 9 is no member of the cluster/);
    expect(message(() => moveReplica(record, 0, 9, 1))).to.equal('node 9 is no member of the cluster; its members are 1, 2, 3, 4');
    expect(message(() => moveReplica({ ...record, draining: [4] }, 0, 1, 4))).to.equal('node 4 is being drained');
    const moved = moveReplica(record, 0, 1, 4);
    expect(moved.epoch).to.equal(2);
    expect(moved.map[0]?.replicas.map(({ node }) => node)).to.deep.equal([4, 2, 3]);
    expect(moved.map[0]?.replicas[0]?.id).to.equal(2 * 65_536 + 4);
    // Asked again, it is done.
    expect(moveReplica(moved, 0, 1, 4)).to.equal(moved);
    const away = new Set([4]);
    expect(message(() => changed(record, { kind: 'move', bucket: 0, from: 1, to: 4 }, { away }))).to.equal('node 4 cannot be reached');
    expect(changed(moved, { kind: 'move', bucket: 0, from: 1, to: 4 }, { away })).to.equal(moved);
    expect(moveReplica(moved, 0, 4, 1).epoch).to.equal(3);
  });
});
