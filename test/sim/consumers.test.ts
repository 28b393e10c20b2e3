import { expect } from 'chai';
import { SimCluster } from '../../src/sim/cluster.js';
import { SimRandom } from '../../src/sim/random.js';
import { Consumers } from '../../src/sim/swarm/consumers.js';
import { isExcused } from '../../src/sim/swarm/excuses.js';
import { planOfSeed } from '../../src/sim/swarm/swarm.js';
import { Witness } from '../../src/sim/swarm/witness.js';
import { bytes, replicasOf, untilLed } from './support.js';

const ONE_WAY_MS = 20;

describe('the consumers of change streams in simulated runs', () => {
  it('believe a refusal whose node has crashed when it arrives', async () => {
    const cluster = new SimCluster({
      seed: 'consumers-refused',
      nodes: 1,
      buckets: 1,
      limits: { retentionMs: 1000, horizonHoldMsMax: 1000 },
      onUp: (id) => witness.attach(id),
    });
    const witness: Witness = new Witness({ cluster, isDamaged: () => false, isAwake: () => true });
    const { loop, network } = cluster;
    await cluster.start();
    await untilLed(cluster);
    const client = cluster.client('c1');
    for (const value of ['1', '2', '3']) await cluster.settle(client.put(bytes('k'), bytes(value)));
    await loop.runFor(10_000);
    const horizon = replicasOf(cluster, 0)[0]?.replica.state.horizon;
    expect(horizon).to.be.greaterThan(0);
    network.setLatency({ minMs: ONE_WAY_MS, maxMs: ONE_WAY_MS });
    const consumers = new Consumers({
      loop,
      random: new SimRandom('consumers'),
      count: 20,
      keys: ['k'],
      routers: [client],
      gateways: () => [],
      excuses: (error) => isExcused(planOfSeed(1), error),
      horizon: () => witness.horizon,
    });
    // Some begin at a moment that is gone.
    consumers.start();
    await loop.runFor(1.5 * ONE_WAY_MS);
    expect(consumers.chains.some(({ isGone }) => isGone), 'the refusals are on their way').to.equal(false);
    cluster.crash(1);
    await loop.runFor(ONE_WAY_MS);
    expect(consumers.broken).to.deep.equal([]);
    expect(consumers.chains.some(({ isGone }) => isGone), 'they have arrived').to.equal(true);
    expect(witness.horizon).to.be.at.least(horizon ?? 0);
  });
});
