import { systemClock } from '../env/real/clock.js';
import { createNetwork } from '../env/real/network.js';
import type { RpcClient } from '../env/real/grpc/client.js';
import { tlsFilesOf, type TlsArguments } from './tls.js';

/**
 * A stock gRPC client of the published protos, as a program in any other language would be: no router, no hashing. The command
 * line asks for the state of the cluster with it, and the benchmark measures it beside the client library.
 */
export function openRpc(endpoint: string, tls: TlsArguments): RpcClient {
  const onBug = (error: unknown): void => {
    throw error;
  };
  return createNetwork({ clock: systemClock(), onBug, tls: tlsFilesOf(tls) }).rpcClient(endpoint);
}
