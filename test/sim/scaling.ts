import type { Consistency } from '../../src/bucket/requests.js';
import type { NodeId } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { withReadReplica } from '../../src/sim/read-replicas.js';
import { bytes, change, leaderOf, replicasOf, startCluster, untilLed } from './support.js';

/**
 * How reads of one key grow with the replicas that serve it: a world in which a node takes 2 ms for each request, one at a time, and
 * a twentieth of that for each frame of a peer. So one node can serve 500 reads a second and no more.
 */
const SERVICE = { requestMs: 2, peerFrameMs: 0.1 };
const KEY = bytes('hot');
const CLIENTS = 4;
const WARM_MS = 1000;
const MEASURED_MS = 2000;

export interface Scaled {
  readonly readsPerSecond: number;
  /** Latency of writes to the same key, beside a fixed and bearable load of reads: its mean and its 99th percentile. */
  readonly writeMs: number;
  readonly writeP99Ms: number;
  readonly served: ReadonlyMap<NodeId, number>;
}

/** With `replicas` serving: one that votes, and read replicas. */
export async function measure(replicas: number, consistency: Consistency): Promise<Scaled> {
  const limits = { bucketsMovingMax: 0 };
  const cluster = await startCluster({ seed: 'scaling', nodes: 5, replicas: 1, buckets: 1, limits, service: SERVICE });
  await untilLed(cluster);
  const others = cluster.ids.filter((id) => id !== leaderOf(cluster, 'hot', 1)).slice(0, replicas - 1);
  for (const id of others) await change(cluster, (record) => withReadReplica(record, 0, id));
  const areThere = (): boolean => replicasOf(cluster, 0).filter(({ replica }) => replica.resolved() > 0).length === replicas;
  if (!(await cluster.loop.runUntil(areThere, 30_000))) throw new Error(`there are no ${replicas} replicas`);
  const clients = Array.from({ length: CLIENTS }, (_, at) => cluster.client(`c${at}`));
  await cluster.settle(clients[0]?.put(KEY, bytes('v')) ?? Promise.reject(new Error('no client')));
  await cluster.loop.runFor(1000);
  const { latenciesMs } = await load(cluster, clients, consistency, { readers: 1, thinkMs: 16, writes: true });
  const { served } = await load(cluster, clients, consistency, { readers: 16, thinkMs: 0, writes: false });
  const reads = [...served.values()].reduce((sum, count) => sum + count, 0);
  const writeMs = latenciesMs.reduce((sum, ms) => sum + ms, 0) / latenciesMs.length;
  const writeP99Ms = latenciesMs.sort((a, b) => a - b)[Math.ceil(latenciesMs.length * 0.99) - 1] ?? 0;
  if (cluster.fatal.length > 0) throw cluster.fatal[0]?.error;
  return { readsPerSecond: (reads * 1000) / MEASURED_MS, writeMs, writeP99Ms, served };
}

interface Load {
  /** Of each client. */
  readonly readers: number;
  readonly thinkMs: number;
  readonly writes: boolean;
}

async function load(cluster: SimCluster, clients: readonly Router[], consistency: Consistency, { readers, thinkMs, writes }: Load) {
  const { loop } = cluster;
  const fromMs = loop.nowMs + WARM_MS;
  const untilMs = fromMs + MEASURED_MS;
  const served = new Map<NodeId, number>();
  const latenciesMs: number[] = [];
  const sleep = (ms: number): Promise<void> => new Promise((resolve) => void loop.timers.after(ms, resolve));
  const read = async (client: Router): Promise<void> => {
    await sleep(loop.random.float() * thinkMs);
    while (loop.nowMs < untilMs) {
      const { served: by } = await client.get(KEY, { consistency });
      if (loop.nowMs >= fromMs && loop.nowMs < untilMs) served.set(by.node, (served.get(by.node) ?? 0) + 1);
      if (thinkMs > 0) await sleep(thinkMs);
    }
  };
  const write = async (client: Router): Promise<void> => {
    while (loop.nowMs < untilMs) {
      const beganMs = loop.nowMs;
      await client.put(KEY, bytes('v'));
      if (loop.nowMs >= fromMs) latenciesMs.push(loop.nowMs - beganMs);
      await sleep(40);
    }
  };
  const running = clients.flatMap((client) => Array.from({ length: readers }, () => read(client)));
  if (writes) running.push(write(cluster.client('writer')));
  await cluster.settle(Promise.all(running));
  return { served, latenciesMs };
}
