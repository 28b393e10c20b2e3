import { expect } from 'chai';
import { TestCluster } from './cluster.js';

/** A stream that is read while nodes die and come back is the history of what was written. */
describe('a change stream while nodes are killed', function () {
  this.timeout(120_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  it('tells transactions over several buckets whole, with one id, while leaders change and nodes die', async () => {
    cluster = await TestCluster.start({ buckets: 16, sidecar: true });
    const [writer, reader] = [await cluster.connect(), await cluster.connect()];
    const start = await writer.put('begin', '');
    const parts = ['a', 'b', 'c', 'd', 'e', 'f'];
    const acknowledged = new Map<string, number>();
    let writing = true;
    const write = async (worker: number): Promise<void> => {
      for (let n = 0; writing; n += 1) {
        const name = `${worker}-${n}`;
        try {
          const mutations = parts.map((part) => ({ kind: 'put', key: `t/${worker}/${part}`, value: name }) as const);
          acknowledged.set(name, (await writer.write({ mutations })).version);
        } catch {
          // Its outcome is unknown: it may be told, whole, or not at all.
        }
      }
    };
    const writers = [0, 1, 2].map(write);
    const found = new Map<string, { keys: string[]; ids: Set<string>; timestamps: Set<number> }>();
    let until = Infinity;
    const reading = (async () => {
      for await (const event of reader.changes({ prefix: 't/', from: start.version })) {
        if (event.kind === 'mark') {
          for (const [name, { keys }] of found) expect(keys.length, `parts of ${name} at a mark`).to.equal(parts.length);
          if (event.timestamp >= until) break;
          continue;
        }
        const one = found.get(event.text()) ?? { keys: [], ids: new Set(), timestamps: new Set() };
        found.set(event.text(), one);
        one.keys.push(event.key.toString());
        if (event.kind !== 'entry') one.ids.add(event.transaction);
        one.timestamps.add(event.timestamp);
      }
    })();
    for (const id of cluster.nodeIds) {
      const count = acknowledged.size;
      for (const { bucket } of await cluster.bucketsOf(id)) {
        const to = cluster.nodeIds.find((node) => node !== id) ?? id;
        const request = { bucket: bucket.id, node: to };
        // Refused where the bucket is being led by another already.
        if (bucket.leader === id) await cluster.rpc(id).unary('tidemark.v1.Cluster', 'TransferLeader', request, 5000).catch(() => undefined);
      }
      await cluster.kill(id);
      await cluster.eventually('writes go on', async () => acknowledged.size > count + 20);
      await cluster.startNode(id);
      await cluster.settled();
    }
    writing = false;
    await Promise.all(writers);
    until = (await writer.put('end', '')).version;
    await reading;
    const ids = new Set<string>();
    for (const [name, { keys, ids: own, timestamps }] of found) {
      expect(new Set(keys).size, `each key of ${name} once`).to.equal(parts.length);
      expect([own.size, timestamps.size], `one id and one timestamp of ${name}`).to.deep.equal([1, 1]);
      for (const id of own) ids.add(id);
    }
    expect(ids.size, 'of no other').to.equal(found.size);
    for (const [name, version] of acknowledged) expect([...(found.get(name)?.timestamps ?? [])], name).to.deep.equal([version]);
    expect(acknowledged.size).to.be.above(60);
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
