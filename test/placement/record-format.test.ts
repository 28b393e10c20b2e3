import { expect } from 'chai';
import { replicaIdOf } from '../../src/placement/map.js';
import { changed } from '../../src/placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../../src/placement/record-format.js';
import { clusterOf, message, settle, withNode } from './support.js';

type Fields = Record<string, unknown>;

const good = JSON.parse(encodeRecordOf({ ...clusterOf(4, 8), epoch: 7, lastNode: 5 }).toString()) as Fields & {
  nodes: Fields[];
  map: number[][];
  system: number[];
};
const read = (fields: unknown): unknown => decodeRecordOf(Buffer.from(JSON.stringify(fields)));
const problem = (fields: Fields): string => message(() => read({ ...good, ...fields }));
const withFirst = (ids: unknown): Fields => ({ map: [ids, ...good.map.slice(1)] });
const withNodeFields = (fields: unknown): Fields => ({ nodes: [...good.nodes.slice(0, 3), { ...good.nodes[3], ...(fields as Fields) }] });

describe('the bytes of a placement', () => {
  it('bring back whatever people and the planner make of one', () => {
    const grown = settle(withNode(clusterOf(4, 16))).record;
    const own = changed(grown, { kind: 'ownReplicas', buckets: [3], count: 5 });
    const draining = changed(grown, { kind: 'drain', node: 2 });
    for (const record of [clusterOf(1, 1), clusterOf(7, 64), grown, own, draining, settle(draining).record]) {
      expect(decodeRecordOf(encodeRecordOf(record))).to.deep.equal(record);
    }
  });

  it('are refused as a whole when they cannot be those of a placement, with what is wrong', () => {
    read(good);
    for (const nothing of [null, 7, 'x', [], {}]) expect(message(() => read(nothing))).to.match(/format undefined/);
    expect(problem({ clusterId: 7 })).to.match(/names no cluster/);
    expect(problem({ clusterId: '' })).to.match(/names no cluster/);
    for (const epoch of [-1, 0, 1.5, '7', null]) expect(problem({ epoch })).to.match(/no epoch/);
    expect(problem({ asFounded: 8 })).to.match(/asFounded is 8/);
    expect(problem({ buckets: 0 })).to.match(/has 0 buckets/);
    expect(problem({ buckets: 9 })).to.match(/where its 9 buckets are/);
    for (const replicas of [-5, 0, 8, '3']) expect(problem({ replicas })).to.match(/replicas/);
    for (const nodes of [[], {}, undefined]) expect(problem({ nodes })).to.match(/has no nodes/);
    for (const node of [null, 7, {}, []]) expect(problem({ nodes: [...good.nodes, node] })).to.match(/node at place 4/);
    for (const fields of [{ id: 0 }, { id: 65_536 }, { id: '4' }, { address: '' }, { address: 7 }, { zone: null }, { uuid: 7 }]) {
      expect(problem(withNodeFields(fields)), JSON.stringify(fields)).to.match(/node at place 3/);
    }
    expect(problem(withNodeFields({ id: 1 }))).to.match(/two nodes have one id/);
    for (const lastNode of [3, -1, 70_000]) expect(problem({ lastNode })).to.match(/last node/);
    for (const draining of [{}, ['x'], [null], [9]]) expect(problem({ draining })).to.match(/drained/);
    for (const map of [[], {}, null]) expect(problem({ map })).to.match(/where its 8 buckets are/);
    for (const ids of [null, {}, 7]) expect(problem(withFirst(ids))).to.match(/bucket 0 has no replicas/);
    expect(problem(withFirst([]))).to.match(/bucket 0 has no voter/);
    expect(problem(withFirst([-1, -2]))).to.match(/bucket 0 has no voter/);
    expect(problem(withFirst([1, 2, 1]))).to.match(/bucket 0 has two replicas on one node/);
    expect(problem(withFirst([1, 9]))).to.match(/bucket 0 has a replica on node 9, which is no member/);
    for (const id of [0.5, '1', null, replicaIdOf(1, 8)]) expect(problem(withFirst([id])), String(id)).to.match(/bucket 0 has a replica/);
    expect(problem({ system: [] })).to.match(/the system bucket has no voter/);
    for (const own of [7, [], { 8: 3 }, { 0: -3 }, { 0: 9 }, { x: 3 }]) expect(problem({ ownReplicas: own })).to.match(/of its own/);
  });
});
