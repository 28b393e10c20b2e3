import { expect } from 'chai';
import { initialPlacement, preferredLeader } from '../../src/placement/initial.js';
import { bucketOf, nodeOfReplica, partitionKeyOf, replicaIdOf } from '../../src/placement/map.js';

describe('placement', () => {
  it('takes the partition key from between the first braces', () => {
    const of = (key: string): string => partitionKeyOf(Buffer.from(key)).toString();
    expect(of('plain')).to.equal('plain');
    expect(of('{user1}/cart')).to.equal('user1');
    expect(of('a{b}{c}')).to.equal('b');
    expect(of('a{}b')).to.equal('a{}b');
    expect(of('a{b')).to.equal('a{b');
    expect(of('}a{b}')).to.equal('b');
  });

  it('never changes the bucket of a key', () => {
    expect(bucketOf(Buffer.from('hello'), 256)).to.equal(0x3610a686 % 256);
    expect(bucketOf(Buffer.from('x{hello}y'), 256)).to.equal(bucketOf(Buffer.from('hello'), 256));
  });

  it('names node and life in a replica id', () => {
    expect(nodeOfReplica(replicaIdOf(7, 3))).to.equal(7);
    expect(replicaIdOf(7, 0)).to.equal(7);
    expect(replicaIdOf(7, 1)).not.to.equal(replicaIdOf(7, 2));
  });

  for (const [count, replicas] of [[1, 1], [3, 3], [5, 3], [7, 5]] as const) {
    it(`spreads 256 buckets over ${count} nodes, ${replicas} replicas each`, () => {
      const nodes = Array.from({ length: count }, (_, at) => ({ id: at + 1, address: `127.0.0.1:${at}`, zone: '', host: '' }));
      const { map } = initialPlacement('test', nodes, 256, replicas);
      const led = new Map<number, number>();
      const hosted = new Map<number, number>();
      for (const bucket of map) {
        expect(new Set(bucket.replicas.map(({ node }) => node)).size).to.equal(replicas);
        led.set(preferredLeader(bucket), (led.get(preferredLeader(bucket)) ?? 0) + 1);
        for (const { node } of bucket.replicas) hosted.set(node, (hosted.get(node) ?? 0) + 1);
      }
      expect(Math.max(...led.values()) - Math.min(...led.values())).to.be.at.most(1);
      expect(Math.max(...hosted.values()) - Math.min(...hosted.values())).to.be.at.most(replicas * 2);
    });
  }
});
