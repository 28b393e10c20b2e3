import { connect, type Database } from '../client/index.js';
import type { ConnectionArguments } from './arguments.js';
import { tlsFilesOf } from './tls.js';

export type Target = Pick<ConnectionArguments, 'endpoint' | 'timeout' | 'tlsCa' | 'tlsCert' | 'tlsKey'>;

export function openDatabase(target: Target): Promise<Database> {
  return connect({ endpoints: target.endpoint, timeoutMs: target.timeout, tls: tlsFilesOf(target) });
}

/** Connects, works, and closes in any case: an open database would keep the process alive. */
export async function withDatabase<T>(target: Target, work: (db: Database) => Promise<T>): Promise<T> {
  await using db = await openDatabase(target);
  return await work(db);
}
