import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { buildWorld } from '../../src/cli/world.js';
import type { Limits } from '../../src/env/limits.js';
import { openDisk } from '../../src/env/real/disk.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { startNode } from '../../src/node/node.js';
import { TestNetwork } from '../network/support.js';

/** One real node with its disk, alone in its cluster, and a stock client of it. */
export interface Service {
  readonly rpc: RpcClient;
  /** `host:port` of the node. */
  readonly address: string;
  close(): Promise<void>;
}

export async function startService(limits: Limits): Promise<Service> {
  const failures: unknown[] = [];
  const dir = mkdtempSync(join(tmpdir(), 'tidemark-services-'));
  const onFatal = (error: unknown): void => void failures.push(error);
  const world = buildWorld({ limits, tls: undefined, logLevel: 'silent', fields: {}, onBug: onFatal });
  const disk = await openDisk(dir);
  const node = await startNode(
    { ...world.env, disk },
    {
      clusterId: 'services',
      nodeId: 1,
      nodes: [{ id: 1, address: '127.0.0.1:1', zone: 'a', host: 'h' }],
      buckets: 8,
      replicas: 1,
      listen: '127.0.0.1:0',
      timing: { heartbeatMs: 50, electionTimeoutMs: 200, electionJitterMs: 100, driftBound: 0.1, leaseReads: true },
      limits,
    },
    { onFatal },
  );
  const { address } = node;
  const rpc = new TestNetwork().network.rpcClient(address);
  return {
    rpc,
    address,
    async close() {
      rpc.close();
      await node.close();
      await disk.close();
      world.close();
      rmSync(dir, { recursive: true });
      expect(failures).to.deep.equal([]);
    },
  };
}
