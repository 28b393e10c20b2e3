import { expect } from 'chai';
import { TestCluster } from './cluster.js';

const STOP_MS_MAX = 5000;

describe('a node that is told to stop', function () {
  this.timeout(60_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  it('ends with exit code 0, quickly and under load, and finds its data when it starts again', async () => {
    cluster = await TestCluster.start({ nodes: 1, buckets: 16 });
    const database = await cluster.connect();
    const versions = await Promise.all(Array.from({ length: 500 }, (_, n) => database.put(`key/${n}`, `value ${n}`)));
    const late = Promise.allSettled(Array.from({ length: 500 }, (_, n) => database.put(`late/${n}`, `late ${n}`)));
    const begunMs = performance.now();
    const ended = await cluster.terminate(1);
    expect(ended, cluster.log(1)).to.deep.equal({ code: 0, signal: null });
    expect(performance.now() - begunMs).to.be.below(STOP_MS_MAX);
    await cluster.startNode(1);
    await cluster.settled();
    for (const [n, { version }] of versions.entries()) {
      const entry = await database.get(`key/${n}`);
      expect(entry.text()).to.equal(`value ${n}`);
      expect(entry.version).to.equal(version);
    }
    for (const [n, written] of (await late).entries()) {
      const entry = await database.get(`late/${n}`);
      if (written.status === 'fulfilled') expect(entry.version).to.equal(written.value.version);
    }
    const again = await cluster.terminate(1);
    expect(again, cluster.log(1)).to.deep.equal({ code: 0, signal: null });
  });

  it('stops the sidecar and every node of three alike', async () => {
    cluster = await TestCluster.start({ buckets: 16, sidecar: true });
    const database = await cluster.connect({ endpoints: [cluster.address(0)] });
    await database.put('key', 'value');
    const ended = await Promise.all([0, ...cluster.nodeIds].map((id) => cluster.terminate(id)));
    expect(ended).to.deep.equal(ended.map(() => ({ code: 0, signal: null })));
    await Promise.all(cluster.nodeIds.map((id) => cluster.startNode(id)));
    await cluster.startSidecar();
    expect((await database.get('key')).text()).to.equal('value');
  });
});
