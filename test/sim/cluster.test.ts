import { expect } from 'chai';
import { SimCluster } from '../../src/sim/cluster.js';

const key = (text: string): Buffer => Buffer.from(text);

describe('a simulated cluster', () => {
  it('replicates a write to every node and reads it back', async () => {
    const cluster = new SimCluster({ seed: 1, nodes: 3, buckets: 4 });
    await cluster.start();
    const client = cluster.client('c1');
    const written = await cluster.settle(client.put(key('hello'), key('world')));
    expect(written.applied).to.equal(true);
    const { record, served } = await cluster.settle(client.get(key('hello')));
    expect(record?.value.toString()).to.equal('world');
    expect(record?.version).to.equal(written.timestamp);
    expect(served.hops).to.equal(1);
    await cluster.loop.runFor(3000);
    const digests = cluster.ids.map((id) => [...cluster.node(id).hosting.replicas.values()].map(({ state }) => state.meta.digest));
    expect(digests[1]).to.deep.equal(digests[0]);
    expect(digests[2]).to.deep.equal(digests[0]);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('keeps every acknowledged write over crashes of each node in turn', async () => {
    const cluster = new SimCluster({ seed: 2, nodes: 3, buckets: 4 });
    await cluster.start();
    const client = cluster.client('c1');
    const acknowledged = new Map<string, string>();
    let stop = false;
    const load = Array.from({ length: 8 }, async (_, worker) => {
      for (let n = 0; !stop; n += 1) {
        const [name, value] = [`k${worker}-${n % 50}`, `v${n}`];
        const result = await client.put(key(name), key(value));
        if (result.applied) acknowledged.set(name, value);
        await new Promise<void>((done) => void cluster.loop.timers.after(20, done));
      }
    });
    for (const id of cluster.ids) {
      await cluster.loop.runFor(500);
      cluster.crash(id);
      await cluster.loop.runFor(2500);
      await cluster.restart(id);
      await cluster.loop.runFor(2500);
    }
    stop = true;
    await cluster.settle(Promise.all(load));
    expect(acknowledged.size).to.be.greaterThan(300);
    for (const [name, value] of acknowledged) {
      const { record } = await cluster.settle(client.get(key(name)));
      expect(record?.value.toString(), name).to.equal(value);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('is the same run, line by line, for the same seed', async () => {
    const run = async (): Promise<string[]> => {
      const cluster = new SimCluster({ seed: 3, nodes: 3, buckets: 2 });
      await cluster.start();
      const client = cluster.client('c1');
      for (let n = 0; n < 20; n += 1) await cluster.settle(client.put(key(`k${n}`), key(`v${n}`)));
      cluster.crash(1);
      await cluster.settle(client.put(key('after'), key('crash')));
      await cluster.restart(1);
      await cluster.loop.runFor(3000);
      const states = cluster.ids.flatMap((id) =>
        [...cluster.node(id).hosting.replicas.values()].map(({ state }) => JSON.stringify(state.meta)),
      );
      return [...cluster.log.lines, ...states, String(cluster.loop.eventsRun)];
    };
    expect(await run()).to.deep.equal(await run());
  });
});
