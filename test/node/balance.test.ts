import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import { LeaderBalance } from '../../src/node/balance.js';
import { replicaIdOf } from '../../src/placement/map.js';
import { SimLoop } from '../../src/sim/loop.js';
import { ListLogger } from './support.js';

describe('a bucket that its preferred leader does not keep', () => {
  it('is handed to it ever more seldom', async () => {
    const loop = new SimLoop(1);
    const clock = loop.clock();
    const preferred = replicaIdOf(2, 0);
    const handedAt: number[] = [];
    const raft = {
      canServe: () => true,
      transferringTo: 0,
      progress: () => [{ id: preferred, match: 5 }],
      hears: () => true,
      isInStep: () => true,
      commitIndex: 5,
      config: { voters: [replicaIdOf(1, 0), preferred] },
    };
    const transferLeadership = (): void => void handedAt.push(Math.round(loop.nowMs / 1000));
    const replica = { bucket: 0, isLeader: true, raft, transferLeadership } as unknown as Replica;
    const balance = new LeaderBalance({
      nodeId: 1,
      clock,
      log: new ListLogger(() => undefined),
      replicas: new Map([[0, replica]]),
      peers: { send: () => true, flush: () => undefined, connectedSince: () => -Infinity },
      nodes: () => [1, 2],
      preferredLeader: () => 2,
    });
    for (let second = 0; second <= 200; second += 1) {
      balance.spread();
      await loop.runFor(1000);
    }
    expect(handedAt).to.deep.equal([0, 3, 9, 21, 45, 93, 153]);
  });
});
