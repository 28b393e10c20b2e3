import { expect } from 'chai';
import { TestCluster } from './cluster.js';
import { Load } from './load.js';

const STOP_MS_MAX = 5000;
/** The default of raft.electionTimeoutMs. */
const ELECTION_MS = 1200;

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

  it('hands over what it leads: a rolling restart under load costs less than an election timeout', async () => {
    const buckets = 32;
    cluster = await TestCluster.start({ buckets, sidecar: true });
    const clients = [await cluster.connect(), await cluster.connect({ endpoints: [cluster.address(0)] })];
    const load = new Load({ buckets, clients });
    load.start();
    await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(0));
    for (const id of cluster.nodeIds) {
      load.watch();
      const ended = await cluster.terminate(id);
      expect(ended, cluster.log(id)).to.deep.equal({ code: 0, signal: null });
      const endedMs = performance.now();
      await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(endedMs));
      const { ms, bucket } = load.longestGap;
      if (process.env['TIDEMARK_TIMES'] !== undefined) console.log(`stop of node ${id}: ${Math.round(ms)} ms of silence`);
      expect(ms, `bucket ${bucket} was silent while node ${id} stopped`).to.be.below(ELECTION_MS);
      // Its start takes this machine some time, in which the others may be slow: that is not what is measured here.
      await cluster.startNode(id);
      await cluster.settled();
      const backMs = performance.now();
      await cluster.eventually('every bucket is written to', async () => load.acknowledgedEverywhereSince(backMs));
    }
    await load.stop();
    await load.check(await cluster.connect());
    await cluster.converged();
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
