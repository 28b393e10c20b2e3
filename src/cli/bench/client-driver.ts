import { openDatabase, type Target } from '../database.js';
import type { Driver } from './run.js';

/** The client library: operations of one turn share a frame, and go to the bucket's leader where the endpoint is a node. */
export async function clientDriver(target: Target): Promise<Driver> {
  const db = await openDatabase(target);
  return {
    name: 'client',
    get: (key) => db.get(key),
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
    close: () => db.close(),
  };
}
