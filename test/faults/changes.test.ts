import { expect } from 'chai';
import { TestCluster } from './cluster.js';

/** A stream that is read while nodes die and come back is the history of what was written. */
describe('a change stream while nodes are killed', function () {
  this.timeout(120_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  it('tells every acknowledged write once and in order, through a node that dies and through the sidecar', async () => {
    cluster = await TestCluster.start({ buckets: 16, sidecar: true });
    const writer = await cluster.connect();
    const readers = [await cluster.connect(), await cluster.connect({ endpoints: [cluster.address(0)] })];
    const start = await writer.put('begin', '');
    const acknowledged = new Map<string, number>();
    let writing = true;
    const write = async (worker: number): Promise<void> => {
      for (let n = 0; writing; n += 1) {
        const key = `w${worker}/${n}`;
        try {
          acknowledged.set(key, (await writer.put(key, `${n}`)).version);
        } catch {
          // Its outcome is unknown: the stream may tell it or not.
        }
      }
    };
    const writers = [0, 1, 2, 3].map(write);
    const streams = readers.map((db) => db.changes({ prefix: 'w', from: start.version }));
    const told = streams.map(() => new Map<string, number>());
    let until = Infinity;
    const reading = streams.map(async (changes, at) => {
      let last = 0;
      for await (const event of changes) {
        if (event.kind === 'mark') {
          if (event.timestamp >= until) break;
          continue;
        }
        expect(event.timestamp, 'in order').to.be.at.least(last);
        last = event.timestamp;
        const key = event.key.toString();
        expect(told[at]?.has(key), `${key} comes once`).to.equal(false);
        told[at]?.set(key, event.timestamp);
      }
    });
    for (const id of cluster.nodeIds) {
      await cluster.kill(id);
      const count = acknowledged.size;
      await cluster.eventually('writes go on', async () => acknowledged.size > count + 50);
      await cluster.startNode(id);
      await cluster.settled();
    }
    writing = false;
    await Promise.all(writers);
    until = (await writer.put('end', '')).version;
    await Promise.all(reading);
    for (const found of told) {
      for (const [key, version] of acknowledged) expect(found.get(key), key).to.equal(version);
    }
    expect(acknowledged.size).to.be.above(150);
  });
});
