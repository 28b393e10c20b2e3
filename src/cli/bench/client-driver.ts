import { openDatabase, type Target } from '../database.js';
import type { Driver } from './run.js';

/** The client library: operations of one turn share a frame, and go to the bucket's leader where the endpoint is a node. */
export async function clientDriver(target: Target): Promise<Driver> {
  const db = await openDatabase(target);
  return {
    name: 'client',
    get: (key) => db.get(key),
    put: (key, value) => db.put(key, value),
    close: () => db.close(),
  };
}
