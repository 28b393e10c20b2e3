import { messageOf } from '../../lib/errors.js';
import { openDatabase, type Target } from '../database.js';
import { BENCH_PREFIX } from './keys.js';
import type { Driver } from './run.js';

/** The client library: operations of one turn share a frame, and go to the bucket's leader where the endpoint is a node. */
export async function clientDriver(target: Target): Promise<Driver> {
  const db = await openDatabase(target);
  return {
    name: 'client',
    get: (key) => db.get(key),
    past: {
      put: async (key, value) => (await db.put(key, value)).version,
      get: (key, timestamp) => db.get(key, { asOf: timestamp }),
    },
    put: (key, value) => db.put(key, value),
    async transact(keys, value) {
      let attempts = 1;
      await db.transaction(async (tx) => {
        attempts = tx.attempt;
        await Promise.all(keys.map((key) => tx.get(key)));
        for (const key of keys) tx.put(key, value);
      });
      return attempts;
    },
    write: (keys, value) => db.write({ mutations: keys.map((key) => ({ kind: 'put', key, value })) }),
    async follow(told) {
      const follower = await openDatabase(target);
      const changes = follower.changes({ prefix: BENCH_PREFIX });
      // The first mark says from when on it follows.
      await changes.next();
      let failure: unknown;
      const reading = (async () => {
        for await (const change of changes) if (change.kind === 'put') told(change.value);
      })().catch((error: unknown) => {
        failure = error;
      });
      return {
        async stop() {
          await changes.return();
          await reading;
          await follower.close();
          if (failure !== undefined) throw failure instanceof Error ? failure : new Error(messageOf(failure));
        },
      };
    },
    close: () => db.close(),
  };
}
