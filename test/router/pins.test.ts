import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import type { PinAction } from '../../src/router/operations.js';
import type { Router } from '../../src/router/router.js';
import { FakeCluster, failureOf, refuse, type FakeNode } from './support.js';

const TIMESTAMP = 100;
const ADD = { kind: 'add', name: 'audit', timestamp: TIMESTAMP, expires: 0 } as const;
const REMOVE = { kind: 'remove', name: 'audit' } as const;

describe('pins over the buckets of several nodes', () => {
  let cluster: FakeCluster;
  let router: Router;

  beforeEach(async () => {
    cluster = new FakeCluster(3);
    await cluster.startAll(1);
    for (const node of cluster.nodes) serve(node, () => undefined);
    router = cluster.router();
    await cluster.time.run(router.ready());
    await cluster.time.run(router.pins());
  });

  afterEach(() => router.close());

  /** Each leads a third of the buckets; `act` may throw, or return a promise that stays open. */
  function serve(node: FakeNode, act: (action: PinAction['kind']) => unknown, present = false): void {
    node.behave = async (operation, { hops }) => {
      if (operation.kind !== 'pins') throw refuse('NOT_LEADER');
      const elsewhere = operation.buckets.filter((bucket) => (bucket % 3) + 1 !== node.id);
      if (elsewhere.length > 0) {
        throw refuse('NOT_LEADER', { leaders: elsewhere.map((bucket) => `${bucket}=${(bucket % 3) + 1}`).join(',') });
      }
      await act(operation.action.kind);
      const answer = node.answer(operation, hops);
      const pin = { name: 'audit', timestamp: TIMESTAMP, expires: 0, lost: false, buckets: operation.buckets.length };
      return present ? { ...answer, result: { pins: [pin], horizon: 0 } } : answer;
    };
  }

  const pinsFail = async (action: PinAction): Promise<TidemarkError> =>
    cluster.time.run(failureOf(router.pins(action, { timeoutMs: 3000 })));
  const silent = (kind: PinAction['kind']): Promise<never> | undefined => (kind === 'list' ? undefined : new Promise(() => undefined));
  const full = (kind: PinAction['kind']): void => {
    if (kind === 'add' || kind === 'remove') throw new TidemarkError('RESOURCE_EXHAUSTED', 'TOO_MANY_PINS', 'there are too many');
  };

  it('may be gone from some when a removal fails', async () => {
    serve(cluster.node(3), full);
    expect(await pinsFail(REMOVE)).to.include({ code: 'RESOURCE_EXHAUSTED', outcome: 'unknown' });
    serve(cluster.node(3), silent);
    expect(await pinsFail(REMOVE)).to.include({ code: 'UNAVAILABLE', outcome: 'unknown' });
    for (const node of cluster.nodes) serve(node, full);
    expect(await pinsFail(REMOVE), 'refused by all').to.include({ outcome: 'none' });
  });

  it('may be changed in some when it is added again and that fails', async () => {
    for (const node of cluster.nodes) serve(node, node.id === 3 ? full : () => undefined, true);
    expect(await pinsFail(ADD)).to.include({ reason: 'TOO_MANY_PINS', outcome: 'unknown' });
  });

  it('are not there when an addition fails and was taken back; else they may be', async () => {
    serve(cluster.node(3), full);
    expect(await pinsFail(ADD)).to.include({ reason: 'TOO_MANY_PINS', outcome: 'none' });
    const kinds = cluster.node(1).asked.flatMap(({ operation }) => (operation.kind === 'pins' ? [operation.action.kind] : []));
    expect(kinds.slice(-2)).to.deep.equal(['add', 'takeBack']);
    serve(cluster.node(3), silent);
    expect(await pinsFail(ADD)).to.include({ code: 'UNAVAILABLE', outcome: 'unknown' });
  });
});
