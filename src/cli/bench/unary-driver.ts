import { crc32 } from 'node:zlib';
import type { Bytes } from '../../lib/bytes.js';
import type { RpcClient } from '../../env/real/grpc/client.js';
import type { ConnectionArguments } from '../arguments.js';
import { openRpc } from '../rpc.js';
import type { Driver } from './run.js';

/** Plain unary gRPC: one call an operation, keys spread over all endpoints and their connections. */
export function unaryDriver(target: ConnectionArguments, connections: number): Driver {
  const { endpoint: endpoints, timeout: timeoutMs } = target;
  const clients = endpoints.flatMap((endpoint) => Array.from({ length: connections }, () => openRpc(endpoint, target)));
  const clientFor = (key: Bytes): RpcClient => {
    const client = clients[crc32(key) % clients.length];
    if (client === undefined) throw new RangeError('no endpoints');
    return client;
  };
  return {
    name: 'unary',
    get: (key) => clientFor(key).unary('tidemark.v1.Queries', 'Get', { key }, timeoutMs),
    put: (key, value) => clientFor(key).unary('tidemark.v1.Commands', 'Put', { key, value }, timeoutMs),
    close: () => {
      for (const client of clients) client.close();
      return Promise.resolve();
    },
  };
}
