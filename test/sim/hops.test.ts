import { expect } from 'chai';
import type { Counter, Metrics } from '../../src/env/env.js';
import { placeOf, moveReplica } from '../../src/placement/record.js';
import { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { withReadReplica } from '../../src/sim/read-replicas.js';
import { bytes, change, replicasOf, startCluster, untilLed } from './support.js';

/** Counters that can be read. */
class Counted implements Metrics {
  readonly counts = new Map<string, number>();

  counter(name: string, _help: string, labels: Readonly<Record<string, string>> = {}): Counter {
    const full = [name, ...Object.values(labels)].join(' ');
    return { add: (value = 1) => void this.counts.set(full, (this.counts.get(full) ?? 0) + value) };
  }

  gauge(): { set(): void } {
    return { set: () => undefined };
  }

  histogram(): { observe(): void } {
    return { observe: () => undefined };
  }

  get one(): number {
    return this.counts.get('tidemark_router_answers_total 1') ?? 0;
  }

  get more(): number {
    return this.counts.get('tidemark_router_answers_total more') ?? 0;
  }

  get retries(): number {
    return this.counts.get('tidemark_router_retries_total') ?? 0;
  }
}

function measuredClient(cluster: SimCluster, name: string): { client: Router; metrics: Counted } {
  const metrics = new Counted();
  const { env } = cluster.machine(name, cluster.loop.clock());
  const client = new Router({ env: { ...env, metrics }, limits: cluster.limits, role: 'client', seeds: cluster.endpoints });
  return { client, metrics };
}

const NAMES = Array.from({ length: 20 }, (_, at) => `k${at}`);

/** One request of each sort for every key. */
async function ask(client: Router, names: readonly string[] = NAMES): Promise<void> {
  for (const name of names) {
    const key = bytes(name);
    await Promise.all([
      client.put(key, bytes(name)),
      client.get(key),
      client.get(key, { consistency: { kind: 'bounded', maxStalenessMs: 1000 } }),
      client.get(key, { consistency: { kind: 'bounded', maxStalenessMs: 20 } }),
      client.get(key, { consistency: { kind: 'local' } }),
    ]);
  }
}

describe('hops', () => {
  it('are one for 99 of 100 requests and more, of all sorts, in a cluster with read replicas where nothing moves', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'hops', nodes: 5, replicas: 3, buckets: 8, limits: { bucketsMovingMax: 0 } });
    await untilLed(cluster);
    for (const bucket of [0, 1]) {
      const hosts = replicasOf(cluster, bucket).map(({ node }) => node);
      for (const id of cluster.ids) if (!hosts.includes(id)) await change(cluster, (record) => withReadReplica(record, bucket, id));
    }
    await cluster.loop.runFor(3000);
    const { client, metrics } = measuredClient(cluster, 'c1');
    for (let round = 0; round < 8; round += 1) await cluster.settle(ask(client));
    const [one, more] = [metrics.one, metrics.more];
    for (let round = 0; round < 8; round += 1) await cluster.settle(ask(client));
    const share = (metrics.one - one) / (metrics.one - one + metrics.more - more);
    expect(metrics.one + metrics.more).to.equal(16 * 5 * NAMES.length);
    expect(share, 'share of one hop').to.be.at.least(0.99);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('are more for a moment after a bucket has moved, without loops, and then one again', async function () {
    this.timeout(60_000);
    const cluster = await startCluster({ seed: 'moved', nodes: 4, replicas: 3, buckets: 1, limits: { bucketsMovingMax: 0 } });
    await untilLed(cluster);
    const { client, metrics } = measuredClient(cluster, 'c1');
    await cluster.settle(ask(client));
    let running = true;
    const asking = (async () => {
      while (running) {
        await ask(client, NAMES.slice(0, 5));
        await new Promise<void>((resolve) => {
          cluster.loop.timers.after(20, resolve);
        });
      }
    })();
    for (let round = 0; round < 4; round += 1) {
      const [before, retries] = [metrics.more, metrics.retries];
      await change(cluster, (record) => {
        const hosts = placeOf(record, 0)?.replicas.map(({ node }) => node) ?? [];
        const to = cluster.ids.find((id) => !hosts.includes(id)) ?? 0;
        return moveReplica(record, 0, hosts[round % hosts.length] ?? 0, to);
      });
      await cluster.loop.runFor(6000);
      const moved = metrics.more - before;
      expect(metrics.retries - retries, `attempts for the ${moved} that took more`).to.be.at.most(4 * moved);
      const [one, more] = [metrics.one, metrics.more];
      await cluster.loop.runFor(2000);
      expect((metrics.one - one) / (metrics.one - one + metrics.more - more), `round ${round}`).to.be.at.least(0.99);
    }
    running = false;
    await cluster.settle(asking);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
