import { setTimeout as sleep } from 'node:timers/promises';
import { isTidemarkError, TidemarkError } from '../../lib/errors.js';
import type { ConnectionArguments } from '../arguments.js';
import { openRpc } from '../rpc.js';

/** Asks the service `Cluster`, of whatever process, or of the node that can answer. */
const CLUSTER = 'tidemark.v1.Cluster';
const PAUSE_MS = 100;
/** A node may take so long to answer before another is asked, and a third of the time that there is. */
const ATTEMPT_MS_MIN = 2000;

export interface StatusReply {
  readonly clusterId: string;
  readonly epoch: number;
  readonly node: number;
  readonly buckets: number;
  readonly timestamp: number;
  readonly version: string;
  readonly uptimeMs: number;
  readonly nodes: readonly NodeStatus[];
}

interface NodeStatus {
  readonly id: number;
  readonly address: string;
  readonly zone: string;
  readonly host: string;
  readonly reachable: boolean;
  readonly replicas: number;
  readonly leaders: number;
}

/** The reply of the first endpoint that gives one. Asking changes nothing, so a failure's outcome is never unknown. */
export async function askFirst<Reply>(options: ConnectionArguments, method: string, request: object): Promise<Reply> {
  const failures: string[] = [];
  for (const endpoint of options.endpoint) {
    const rpc = openRpc(endpoint, options);
    try {
      return await rpc.unary<Reply>(CLUSTER, method, request, options.timeout);
    } catch (error) {
      if (!isTidemarkError(error) || (error.code !== 'UNAVAILABLE' && error.code !== 'DEADLINE_EXCEEDED')) throw error;
      failures.push(error.message);
    } finally {
      rpc.close();
    }
  }
  const message = `no node or sidecar answered: ${failures.join('; ')}`;
  throw new TidemarkError('UNAVAILABLE', 'NO_ENDPOINT_ANSWERED', message, { retriable: true });
}

/** Asks the node that can answer: begins with any, and goes where it is sent, but not to who has just not answered. */
export async function ask<Reply>(options: ConnectionArguments, method: string, request: object, first = 0): Promise<Reply> {
  const { nodes } = await askFirst<StatusReply>(options, 'Status', {});
  const giveUpMs = performance.now() + options.timeout;
  const rank = ({ id, reachable }: StatusReply['nodes'][number]): number => (id === first ? 2 : Number(reachable));
  const order = [...nodes].sort((a, b) => rank(b) - rank(a));
  const silent = new Set<number>();
  const asked = new Set<number>();
  let next: number | undefined;
  let told: TidemarkError | undefined;
  for (let turn = 0; ;) {
    let node = order.find(({ id }) => id === next && !silent.has(id));
    if (node === undefined) {
      node = order[turn % order.length];
      turn += 1;
    }
    if (node === undefined) throw new TidemarkError('UNAVAILABLE', 'NO_ENDPOINT_ANSWERED', 'the cluster has no nodes');
    asked.add(node.id);
    const rpc = openRpc(node.address, options);
    let pauseMs: number;
    const leftMs = Math.max(1, giveUpMs - performance.now());
    try {
      return await rpc.unary<Reply>(CLUSTER, method, request, Math.min(leftMs, Math.max(ATTEMPT_MS_MIN, options.timeout / 3)));
    } catch (error) {
      const mayHelp = isTidemarkError(error) && (error.retriable || error.code === 'DEADLINE_EXCEEDED');
      if (!mayHelp) throw error;
      if (error.code !== 'DEADLINE_EXCEEDED') told = error;
      const leader = Number(error.details['leader'] ?? 0);
      next = leader === 0 || leader === node.id ? undefined : leader;
      if (error.reason !== 'NOT_LEADER') silent.add(node.id);
      // To whom it is sent it goes at once, but not in circles: two may each take the other for the leader.
      const isSentOn = next !== undefined && !silent.has(next) && !asked.has(next);
      pauseMs = isSentOn ? 0 : PAUSE_MS;
      // What it was told says more than that there was no time left to be told anything.
      if (performance.now() + pauseMs >= giveUpMs) throw told ?? error;
    } finally {
      rpc.close();
    }
    if (pauseMs === 0) continue;
    await sleep(pauseMs);
    asked.clear();
  }
}
