import type { RpcService } from '../../env/network.js';
import type { ServicePorts } from './api.js';
import { changesService } from './changes.js';
import { clusterService } from './cluster.js';
import { commandsService } from './commands.js';
import { queriesService } from './queries.js';

/**
 * The public gRPC services, by full name, as `Network.serve` takes them. A node and a sidecar serve the same.
 *
 *     message -> translate -> router -> (a bucket's replica somewhere) -> translate -> message
 *
 * The wire was checked before (fields, types: env/real/grpc/strict.ts), keys, values and bounds are checked behind
 * (bucket/validate.ts); what is checked here is what only messages can get wrong: options that contradict each other, a
 * condition that tests nothing, times written as text.
 */
export function publicServices(ports: ServicePorts): Readonly<Record<string, RpcService>> {
  return {
    'tidemark.v1.Commands': commandsService(ports.router),
    'tidemark.v1.Queries': queriesService(ports),
    'tidemark.v1.Cluster': clusterService(ports.cluster, ports.router),
    'tidemark.v1.Changes': changesService(ports),
  };
}
