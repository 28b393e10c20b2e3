import { expect } from 'chai';
import { Database } from '../../src/client/database.js';
import type { Router } from '../../src/router/router.js';
import { isTidemarkError } from '../../src/lib/errors.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, startCluster, untilLed } from './support.js';
import { keysOf } from './transaction-support.js';

/** Older than any other, so that nobody may pass it. */
const OWNER = { first: 1, reservation: 77 };

interface World {
  readonly cluster: SimCluster;
  readonly db: Database;
  readonly holder: Router;
  readonly keys: readonly string[];
}

async function start(seed: string): Promise<World> {
  const cluster = await startCluster({ seed, nodes: 3, buckets: 4 });
  await untilLed(cluster);
  const { env } = cluster.machine('db', cluster.loop.clock());
  const db = new Database(env, { endpoints: cluster.endpoints, limits: cluster.limits });
  const holder = cluster.client('holder');
  await cluster.settle(Promise.all([db.ready(), holder.ready()]));
  return { cluster, db, holder, keys: keysOf(2, 4) };
}

/** Nobody else writes the keys for so long. */
async function hold({ cluster, holder, keys }: World, forMs: number): Promise<void> {
  await cluster.settle(holder.reserve({ writes: keys.map(bytes), reads: [], ranges: [] }, OWNER, forMs));
}

describe('a write whose keys are locked', () => {
  for (const timeoutMs of [800, 3000]) {
    it(`all the time is told so within ${timeoutMs} ms, and that nothing was written`, async () => {
      const world = await start(`locked/${timeoutMs}`);
      const { cluster, db, keys } = world;
      const ways: readonly ((keys: readonly string[]) => Promise<unknown>)[] = [
        (written) => db.write({ mutations: written.map((key) => ({ kind: 'put', key, value: 'x' })) }, { timeoutMs }),
        (written) =>
          db.transaction(
            async (tx) => {
              await tx.get(written[0] ?? '');
              for (const key of written) tx.put(key, 'x');
            },
            { timeoutMs },
          ),
      ];
      for (const written of [keys.slice(0, 1), keys]) {
        for (const way of ways) {
          await hold(world, 5000);
          const beganMs = cluster.loop.clock().monotonicMs();
          const error = await cluster.settle(way(written).catch((thrown: unknown) => thrown));
          if (!isTidemarkError(error)) throw new Error(`it ended with ${String(error)}`);
          const { code, reason, outcome } = error;
          expect({ code, reason, outcome }).to.deep.equal({ code: 'ABORTED', reason: 'TRANSACTION_CONFLICT', outcome: 'none' });
          expect(cluster.loop.clock().monotonicMs() - beganMs).to.be.within(timeoutMs / 4, timeoutMs + 50);
        }
      }
      for (const key of keys) expect((await cluster.settle(db.get(key))).value).to.equal(undefined);
    });
  }

  it('for longer than one try is written when they are free', async () => {
    const world = await start('locked/free');
    const { cluster, db, keys } = world;
    for (const written of [keys.slice(0, 1), keys]) {
      await hold(world, 2500);
      const reply = await cluster.settle(db.write({ mutations: written.map((key) => ({ kind: 'put', key, value: 'x' })) }, { timeoutMs: 8000 }));
      expect(reply.applied).to.equal(true);
    }
  });
});
