import { expect } from 'chai';
import { TestCluster } from './cluster.js';
import { Load } from './load.js';

const BUCKETS = 64;
const RESUME_MS_MAX = 3000;

describe('killed processes', function () {
  this.timeout(60_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  it('lose no acknowledged write and repeat none, whichever node dies; service resumes within 3 s', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS, sidecar: true });
    const clients = [await cluster.connect(), await cluster.connect(), await cluster.connect({ endpoints: [cluster.address(0)] })];
    const load = new Load({ buckets: BUCKETS, clients });
    load.start();
    await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(0));
    for (const id of cluster.nodeIds) {
      load.watch();
      const killedMs = performance.now();
      await cluster.kill(id);
      await cluster.eventually('every bucket is written to again', async () => load.acknowledgedEverywhereSince(killedMs));
      await cluster.startNode(id);
      await cluster.settled();
      const backMs = performance.now();
      await cluster.eventually('every bucket is written to after the return', async () => load.acknowledgedEverywhereSince(backMs));
      const { ms, bucket } = load.longestGap;
      if (process.env['TIDEMARK_TIMES'] !== undefined) console.log(`death of node ${id}: ${Math.round(ms)} ms of silence`);
      expect(ms, `bucket ${bucket} was silent around the death of node ${id}`).to.be.below(RESUME_MS_MAX);
    }
    await cluster.eventually('2,000 writes are acknowledged', async () => load.acknowledged >= 2000);
    await load.stop();
    await load.check(await cluster.connect());
    await cluster.converged();
  });

  it('lose nothing when all nodes die at once', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS });
    const load = new Load({ buckets: BUCKETS, clients: [await cluster.connect(), await cluster.connect()], restMs: 5 });
    load.start();
    await cluster.eventually('2,000 writes are acknowledged', async () => load.acknowledged >= 2000);
    await cluster.kill(...cluster.nodeIds);
    const deadMs = performance.now();
    await Promise.all(cluster.nodeIds.map((id) => cluster.startNode(id)));
    await cluster.settled();
    await cluster.eventually('every bucket is written to again', async () => load.acknowledgedEverywhereSince(deadMs));
    await load.stop();
    await load.check(await cluster.connect());
    await cluster.converged();
  });
});
