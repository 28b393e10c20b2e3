import { setTimeout as sleep } from 'node:timers/promises';
import { isTidemarkError } from '../../../src/lib/errors.js';
import type { Fleet } from './fleet.js';

/** What people may ask of a running cluster about where its replicas are, asked of whichever node can do it now. */
interface Progress {
  readonly epoch: number;
  readonly replicas: number;
  readonly nodes: readonly { readonly id: number; readonly draining: boolean }[];
  readonly moving: readonly number[];
}

const CLUSTER = 'tidemark.v1.Cluster';
const CALL_MS = 1000;
const POLL_MS = 200;
const SETTLE_MS_MAX = 90_000;

/** Asks one node after the other until one has done it, or the signal is aborted. False: it cannot be. */
export async function changePlacement(fleet: Fleet, change: object, signal?: AbortSignal): Promise<boolean> {
  for (let turn = 0; signal?.aborted !== true; turn += 1) {
    const { runningIds } = fleet.cluster;
    try {
      await fleet.cluster.rpc(runningIds[turn % runningIds.length] ?? 1).unary(CLUSTER, 'ChangePlacement', change, CALL_MS);
      return true;
    } catch (error) {
      if (isTidemarkError(error) && error.code === 'FAILED_PRECONDITION') return false;
      await sleep(POLL_MS / 4);
    }
  }
  return false;
}

/** No node is drained, every bucket has so many voters, and all replicas are where they should be. */
export async function restorePlacement(fleet: Fleet, replicas: number): Promise<void> {
  for (const undrain of fleet.ids) await changePlacement(fleet, { undrain });
  await changePlacement(fleet, { replicas });
  await fleet.cluster.eventually(`all buckets have ${replicas} replicas again`, async () => isSettled(await progressOf(fleet), replicas), SETTLE_MS_MAX);
}

function isSettled(progress: Progress | undefined, replicas: number): boolean {
  if (progress === undefined) return false;
  return progress.replicas === replicas && progress.moving.length === 0 && progress.nodes.every(({ draining }) => !draining);
}

/** As the node that plans knows it; undefined while none can tell. */
async function progressOf(fleet: Fleet): Promise<Progress | undefined> {
  for (const id of fleet.cluster.runningIds) {
    try {
      return await fleet.cluster.rpc(id).unary<Progress>(CLUSTER, 'PlacementProgress', {}, CALL_MS);
    } catch {
      // Another one plans.
    }
  }
  return undefined;
}
