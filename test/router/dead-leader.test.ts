import { expect } from 'chai';
import { FakeCluster, bytes, refuse } from './support.js';

describe('router: a leader that was cached and is dead', () => {
  it('is no outage longer than one attempt, though others still name it', async () => {
    const cluster = new FakeCluster();
    await cluster.startAll(1);
    cluster.node(1).behave = () => new Promise(() => {});
    cluster.node(2).lead();
    cluster.node(3).behave = () => {
      throw refuse('NOT_LEADER', { leader: '1' });
    };
    const router = cluster.router();
    try {
      for (let count = 0; count < 3; count += 1) {
        const { served } = await cluster.time.run(router.put(bytes('key'), bytes('value')));
        expect(served.node).to.equal(2);
      }
      expect(cluster.node(1).asked.length).to.be.within(1, 2);
    } finally {
      await router.close();
    }
  });
});
