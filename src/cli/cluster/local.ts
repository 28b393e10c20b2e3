import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { Disk } from '../../env/disk.js';
import { parseConfig } from '../config.js';
import { UsageError } from '../exit.js';

/**
 * Which processes a local cluster has, and where. Its configuration lies in its data directory and is an ordinary one: each of
 * its nodes could be run by hand with `tidemark node --config DIR/cluster.yaml --id N`. What belongs to the data (the cluster's
 * id, its nodes and buckets) is fixed when it is created; the ports are those of the latest start.
 *
 *     base          sidecar     base + 100       its HTTP
 *     base + n      node n      base + 100 + n   its HTTP
 */
export interface LocalOptions {
  /** Its data directory. */
  readonly disk: Disk;
  readonly basePort: number;
  /** Of a new cluster. */
  readonly nodes: number;
  /** Undefined if nobody asked for a number. */
  readonly nodesGiven: number | undefined;
}

export interface Member {
  readonly kind: 'node' | 'sidecar';
  readonly name: string;
  /** Of the command line that runs it. */
  readonly args: readonly string[];
  readonly grpc: string;
  readonly http: string;
}

export interface LocalCluster {
  readonly data: string;
  /** It was created by an earlier start. */
  readonly existed: boolean;
  readonly nodes: number;
  readonly buckets: number;
  readonly sidecar: Member;
  /** Nodes in order of their ids, then the sidecar. */
  readonly members: readonly Member[];
}

const FILE = 'cluster.yaml';
const HOST = '127.0.0.1';
const HTTP_OFFSET = 100;
const PORT_MAX = 65_535;
const REPLICAS = 3;
const BUCKETS = 256;

/** Finds or creates the cluster of a data directory, and writes its configuration. */
export async function localCluster({ disk, basePort, nodes, nodesGiven }: LocalOptions): Promise<LocalCluster> {
  const data = disk.place;
  const file = join(data, FILE);
  const written = await disk.readFile(FILE);
  const existed = written !== undefined;
  const identity = existed ? identityOf(written.toString('utf8'), file) : newIdentity(nodes);
  if (nodesGiven !== undefined && nodesGiven !== identity.nodes) {
    const advice = 'leave out --nodes, or name another --data directory';
    throw new UsageError(`${data} holds a cluster of ${identity.nodes} nodes, not ${nodesGiven}; ${advice}`);
  }
  if (identity.nodes >= HTTP_OFFSET || basePort + HTTP_OFFSET + identity.nodes > PORT_MAX) {
    throw new UsageError(`--base-port ${basePort} leaves no room for ${identity.nodes} nodes below port ${PORT_MAX}`);
  }
  const grpc = (offset: number): string => `${HOST}:${basePort + offset}`;
  const http = (offset: number): string => `${HOST}:${basePort + HTTP_OFFSET + offset}`;
  const ids = Array.from({ length: identity.nodes }, (_, index) => index + 1);
  const config = {
    cluster: {
      id: identity.id,
      buckets: identity.buckets,
      replicas: identity.replicas,
      nodes: ids.map((id) => ({ id, address: grpc(id), http: http(id) })),
    },
    node: { dataDir: './node-{id}' },
    sidecar: { listen: grpc(0), http: http(0) },
  };
  const text = `# Written by \`tidemark cluster start\` each time it starts.\n${stringify(config)}`;
  await disk.writeFile(FILE, Buffer.from(text));
  const sidecar: Member = {
    kind: 'sidecar',
    name: 'sidecar',
    args: ['sidecar', '--config', file],
    grpc: grpc(0),
    http: http(0),
  };
  const members = ids.map((id): Member => {
    const args = ['node', '--config', file, '--id', String(id)];
    return { kind: 'node', name: `node ${id}`, args, grpc: grpc(id), http: http(id) };
  });
  return { data, existed, nodes: identity.nodes, buckets: identity.buckets, sidecar, members: [...members, sidecar] };
}

interface Identity {
  readonly id: string;
  readonly nodes: number;
  readonly buckets: number;
  readonly replicas: number;
}

function identityOf(text: string, file: string): Identity {
  const { clusterId, nodes, buckets, replicas } = parseConfig(text, file);
  return { id: clusterId, nodes: nodes.length, buckets, replicas };
}

function newIdentity(nodes: number): Identity {
  const id = `local-${randomBytes(4).toString('hex')}`;
  return { id, nodes, buckets: BUCKETS, replicas: Math.min(nodes, REPLICAS) };
}
