import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import { FakeCluster, bytes, failureOf, idsOf } from './support.js';

const KEY = bytes('key');
const VALUE = bytes('value');

function forgotten(horizon: number): TidemarkError {
  const options = { outcome: 'unknown', details: { horizon: String(horizon) } } as const;
  return new TidemarkError('FAILED_PRECONDITION', 'REQUEST_FORGOTTEN', 'nobody knows', options);
}

describe('router: request ids', () => {
  it('tell the lowest outstanding sequence, and change with the session', async () => {
    const cluster = new FakeCluster(1, { sessionLifetimeMs: 1000 });
    await cluster.startAll(1);
    const held: (() => void)[] = [];
    cluster.node(1).behave = async (operation, { hops }) => {
      await new Promise<void>((resolve) => held.push(resolve));
      return cluster.node(1).answer(operation, hops);
    };
    const router = cluster.router();
    const first = router.put(KEY, VALUE);
    const second = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[1]?.();
    await cluster.time.run(second);
    const third = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[0]?.();
    held[2]?.();
    await cluster.time.run(Promise.all([first, third]));
    const fourth = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[3]?.();
    await cluster.time.run(fourth);
    await cluster.time.pass(1000);
    const fifth = router.put(KEY, VALUE);
    await cluster.time.pass(100);
    held[4]?.();
    await cluster.time.run(fifth);
    const ids = cluster.node(1).asked.map(({ operation }) => (operation.kind === 'write' ? operation.request.id : undefined));
    expect(ids.map((id) => [id?.sequence, id?.lowest])).to.deep.equal([
      [1, 1],
      [2, 1],
      [3, 1],
      [4, 4],
      [1, 1],
    ]);
    expect(ids[4]?.session).to.not.equal(ids[0]?.session);
    expect(ids[0]?.session).to.equal(ids[3]?.session);
    // Born on the cluster's clock (which the fake nodes say is 1000), a little early, not on the client's.
    expect(ids[0]?.born).to.be.within(1, 1000 + 100 * 4096);
    await router.close();
  });

  it('are those of a younger session, if the bucket takes the present one for forgotten', async () => {
    const cluster = new FakeCluster(1);
    await cluster.startAll(1);
    const node = cluster.node(1);
    node.behave = (operation, { hops }) => {
      if (operation.kind === 'write' && operation.request.id.born <= 5_000_000) throw forgotten(5_000_000);
      return node.answer(operation, hops);
    };
    const router = cluster.router();
    await cluster.time.run(router.put(KEY, VALUE));
    await cluster.time.run(router.put(KEY, VALUE));
    const ids = node.asked.map(({ operation }) => (operation.kind === 'write' ? operation.request.id : undefined));
    expect(ids.map((id) => id?.born === 5_000_001)).to.deep.equal([false, true, true]);
    expect(ids[1]?.session).to.not.equal(ids[0]?.session);
    expect([ids[2]?.session, ids[2]?.sequence]).to.deep.equal([ids[1]?.session, 2]);
    await router.close();
  });

  it('stay as they are if an attempt under them may have been the one that was forgotten', async () => {
    const cluster = new FakeCluster(1);
    await cluster.startAll(1);
    const node = cluster.node(1);
    node.behave = () => {
      const again = node.asked.length > 1;
      throw again ? forgotten(5_000_000) : new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', 'it may be done', { outcome: 'unknown' });
    };
    const router = cluster.router();
    const error = await cluster.time.run(failureOf(router.put(KEY, VALUE)));
    expect(error).to.include({ reason: 'REQUEST_FORGOTTEN', outcome: 'unknown' });
    // Nor may whoever asked this router take it for a command that was not done.
    expect(error.details).to.deep.equal({});
    expect([node.asked.length, idsOf(node.asked).length]).to.deep.equal([2, 1]);
    await router.close();
  });

  it('are taken from a caller that brings its own', async () => {
    const cluster = new FakeCluster(1);
    await cluster.startAll(1);
    cluster.node(1).lead();
    const router = cluster.router();
    const id = { session: 5, born: 6, sequence: 8, lowest: 7 };
    await cluster.time.run(router.put(KEY, VALUE, { id }));
    expect(idsOf(cluster.node(1).asked)).to.deep.equal([JSON.stringify(id)]);
    const wrong = await cluster.time.run(failureOf(router.put(KEY, VALUE, { id: { ...id, lowest: 9 } })));
    expect(wrong.reason).to.equal('REQUEST_ID_MALFORMED');
    await router.close();
  });
});
