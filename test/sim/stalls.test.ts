import { expect } from 'chai';
import type { WriteRequest } from '../../src/bucket/requests.js';
import { bytes, leaderOf, replicasOf, startCluster, failure, untilLed } from './support.js';

describe('a leader that no quorum answers any more', () => {
  it('ends the requests that wait for it in the turn in which it gives up', async () => {
    const cluster = await startCluster({ seed: 'abandon', nodes: 3, buckets: 1 });
    await untilLed(cluster);
    const client = cluster.client('c1');
    await cluster.settle(client.put(bytes('k'), bytes('v')));
    const leader = leaderOf(cluster, 'k', 1);
    const replica = replicasOf(cluster, 0).find(({ node }) => node === leader)?.replica;
    if (replica === undefined) throw new Error('the leader has a replica');
    cluster.network.isolate(`n${leader}`);
    const id = { session: 1, born: client.now(), sequence: 1, lowest: 1 };
    const request: WriteRequest = { id, conditions: [], mutations: [{ kind: 'put', key: bytes('k'), value: bytes('w') }] };
    let settledMs = Infinity;
    const written = failure(replica.write(request)).finally(() => (settledMs = cluster.loop.nowMs));
    expect(await cluster.loop.runUntil(() => !replica.isLeader, 2000)).to.equal(true);
    const lostMs = cluster.loop.nowMs;
    const error = await cluster.settle(written);
    expect(error).to.include({ code: 'UNAVAILABLE', reason: 'LEADERSHIP_LOST', outcome: 'unknown', retriable: true });
    expect(settledMs - lostMs).to.equal(0);
  });
});
