import { expect } from 'chai';
import { changed } from '../../src/placement/record.js';
import { change, failure, replicasOf, startCluster, untilLed } from './support.js';

describe('a bucket of a simulated cluster that is given another leader', () => {
  it('is led by it within seconds, stays so, and gets it back after it was away', async () => {
    const cluster = await startCluster({ seed: 'lead', nodes: 3, buckets: 16 });
    await untilLed(cluster);
    await cluster.loop.runFor(5000);
    const isLedBy = (node: number): boolean => replicasOf(cluster, 7).some((each) => each.node === node && each.replica.raft.canServe());
    expect(isLedBy(2)).to.equal(true);
    await change(cluster, (record) => changed(record, { kind: 'lead', bucket: 7, node: 3 }));
    expect(await cluster.loop.runUntil(() => isLedBy(3), 5000)).to.equal(true);
    for (let second = 0; second < 20; second += 1) {
      await cluster.loop.runFor(1000);
      expect(isLedBy(3), `${second} s later`).to.equal(true);
    }
    const leader = replicasOf(cluster, 7).find(({ replica }) => replica.raft.canServe());
    const transfer = (to: number): Promise<number> => {
      if (leader === undefined) throw new Error('nobody leads');
      return cluster.settle(cluster.node(leader.node).view.transferLeader(7, to, Infinity));
    };
    cluster.crash(1);
    await cluster.loop.runFor(2000);
    // Writes go on: it is not tried with a node that would not answer.
    expect(await failure(transfer(1))).to.include({ code: 'UNAVAILABLE', reason: 'NODE_UNREACHABLE', retriable: true });
    expect(leader?.replica.raft.transferringTo).to.equal(0);
    expect(await transfer(2)).to.equal(2);
    await cluster.restart(1);
    expect(await cluster.loop.runUntil(() => isLedBy(3), 10_000)).to.equal(true);
    cluster.crash(3);
    expect(await cluster.loop.runUntil(() => isLedBy(1) || isLedBy(2), 5000)).to.equal(true);
    await cluster.restart(3);
    expect(await cluster.loop.runUntil(() => isLedBy(3), 10_000)).to.equal(true);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
