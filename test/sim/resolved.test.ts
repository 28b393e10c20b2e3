import { expect } from 'chai';
import { earlier, type Timestamp } from '../../src/mvcc/timestamp.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, leaderOf, replicasOf, startCluster, untilLed } from './support.js';

const BUCKETS = 3;

function resolvedOf(cluster: SimCluster): Map<string, Timestamp> {
  const found = new Map<string, Timestamp>();
  for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
    for (const { node, replica } of replicasOf(cluster, bucket)) found.set(`${bucket}@${node}`, replica.resolved());
  }
  return found;
}

/** How far behind the present the last of all replicas is. */
function lagMs(cluster: SimCluster): number {
  const now = Math.max(...cluster.ids.filter((id) => cluster.running(id)).map((id) => cluster.node(id).hybrid.physicalNow()));
  return (now - Math.min(...resolvedOf(cluster).values())) / 4096;
}

describe('resolved timestamps', () => {
  it('advance on leaders, followers and learners, though nothing is written, and over changes of leaders', async () => {
    const cluster = await startCluster({ seed: 'resolved', nodes: 4, replicas: 4, buckets: BUCKETS });
    await untilLed(cluster);
    await cluster.loop.runFor(1000);
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      const leader = replicasOf(cluster, bucket).find(({ replica }) => replica.isLeader)?.replica;
      const other = replicasOf(cluster, bucket).find(({ replica }) => replica !== leader)?.replica;
      expect(leader).to.not.equal(undefined);
      leader?.changeMembers([{ addLearner: other?.id ?? 0 }]);
    }
    await cluster.loop.runFor(1000);
    const log = (): number[] => replicasOf(cluster, 0).map(({ replica }) => replica.raft.lastIndex);
    const before = resolvedOf(cluster);
    const entries = log();
    for (let n = 0; n < 40; n += 1) {
      await cluster.loop.runFor(250);
      expect(lagMs(cluster), 'while idle').to.be.lessThan(300);
    }
    expect(log(), 'no entry was written for it').to.deep.equal(entries);
    for (const [name, timestamp] of resolvedOf(cluster)) expect(timestamp, name).to.be.greaterThan(before.get(name) ?? Infinity);
    let last = resolvedOf(cluster);
    for (let round = 0; round < 4; round += 1) {
      const leader = leaderOf(cluster, 'k', BUCKETS);
      cluster.network.isolate(`n${leader}`);
      for (let n = 0; n < 20; n += 1) {
        await cluster.loop.runFor(200);
        const now = resolvedOf(cluster);
        for (const [name, timestamp] of last) expect(now.get(name), `${name} goes back`).to.be.at.least(timestamp);
        last = now;
      }
      cluster.network.heal();
      await untilLed(cluster);
      await cluster.loop.runFor(1500);
      expect(lagMs(cluster), 'after a change of leaders').to.be.lessThan(300);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('stay below the lowest intent that is not resolved', async () => {
    const cluster = await startCluster({ seed: 'intent', nodes: 3, buckets: BUCKETS });
    const client = cluster.client('c1');
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('1')));
    await cluster.loop.runFor(1000);
    const replicas = replicasOf(cluster, 0).map(({ replica }) => replica);
    const intent = replicas[0]?.resolved() ?? 0;
    expect(intent).to.be.greaterThan(earlier(timestamp, 1));
    let lowest: Timestamp | undefined = intent;
    for (const { state } of replicas) state.participant.lowestIntent = () => lowest;
    await cluster.loop.runFor(1000);
    for (const replica of replicas) expect(replica.resolved()).to.equal(intent - 1);
    lowest = undefined;
    for (const replica of replicas) expect(replica.resolved()).to.be.greaterThan(intent);
  });

  it('are at least what is applied, also just after a restart, before anything was heard', async () => {
    const cluster = await startCluster({ seed: 'restart', nodes: 3, buckets: 1 });
    const client = cluster.client('c1');
    const { timestamp } = await cluster.settle(client.put(bytes('k'), bytes('1')));
    await cluster.loop.runFor(1000);
    cluster.network.isolate('n2');
    cluster.crash(2);
    await cluster.restart(2);
    const replica = replicasOf(cluster, 0).find(({ node }) => node === 2)?.replica;
    expect(replica?.raft.closedTimestamp, 'nothing was heard').to.equal(0);
    expect(replica?.resolved()).to.be.at.least(timestamp);
    const read = await cluster.settle(
      cluster.node(2).router.get(bytes('k'), { consistency: { kind: 'bounded', maxStalenessMs: 60_000 } }),
    );
    expect(read.record?.value.toString()).to.equal('1');
    expect(read.served).to.include({ node: 2, consistency: 'bounded' });
  });
});
