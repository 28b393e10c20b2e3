import { setTimeout as sleep } from 'node:timers/promises';
import type { HeatReply } from '../../../src/cli/cluster/heat.js';
import { isInPlace, type ProgressReply } from '../../../src/cli/cluster/settling.js';
import { isTidemarkError } from '../../../src/lib/errors.js';
import type { SimRandom } from '../../../src/sim/random.js';
import type { Fleet } from './fleet.js';

/** What people may ask of a running cluster about where its replicas are, asked of whichever node can do it now. */
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
  for (const id of fleet.ids) await changePlacement(fleet, { undrain: fleet.cluster.memberAt(id) });
  await changePlacement(fleet, { replicas });
  await fleet.cluster.eventually(`all buckets have ${replicas} replicas again`, async () => isSettled(await progressOf(fleet), replicas), SETTLE_MS_MAX);
}

function isSettled(progress: ProgressReply | undefined, replicas: number): boolean {
  if (progress?.replicas !== replicas) return false;
  return isInPlace(progress) && progress.nodes.every(({ draining }) => !draining);
}

/** As the node that plans knows it; undefined while none can tell. */
function progressOf(fleet: Fleet): Promise<ProgressReply | undefined> {
  return firstOf(fleet, 'PlacementProgress', {});
}

/** Of all buckets, as a node knows that hosts the system bucket; undefined while none can tell. */
export function heatOf(fleet: Fleet): Promise<HeatReply | undefined> {
  return firstOf(fleet, 'Heat', { buckets: fleet.cluster.buckets, keys: 1 });
}

async function firstOf<Reply>(fleet: Fleet, method: string, request: object): Promise<Reply | undefined> {
  for (const id of fleet.cluster.runningIds) {
    try {
      return await fleet.cluster.rpc(id).unary<Reply>(CLUSTER, method, request, CALL_MS);
    } catch {
      // Another one knows.
    }
  }
  return undefined;
}

/** Of the places that clients are told of so many keep a member: fewer than half of them may be down beside. */
const NAMED_MIN = 3;
/** Somewhere between the start of its process and its first replicas. */
const KILL_MS_MAX = 4000;
const LEAVE_MS_MAX = 120_000;

/**
 * New nodes join, at one free place or at several at once, and then as many members leave, old ones or new ones, so that there are
 * as many as before. `done` hears of each.
 */
export async function renewMembers(fleet: Fleet, random: SimRandom, done: (what: string) => void): Promise<void> {
  const count = fleet.ids.length;
  const free = [...fleet.freePlaces];
  const joining = Array.from({ length: 1 + random.below(free.length) }, () => free.splice(random.below(free.length), 1)[0] ?? 0);
  await Promise.all(joining.map((id, n) => joinAt(id, fleet, random.fork(`join ${n}`), done)));
  while (fleet.ids.length > count) await leave(random.pick(removable(fleet)), fleet, done);
}

function removable({ ids, cluster }: Fleet): readonly number[] {
  const named = ids.filter((id) => cluster.founders.includes(id));
  return named.length > NAMED_MIN ? ids : ids.filter((id) => !named.includes(id));
}

async function joinAt(id: number, fleet: Fleet, random: SimRandom, done: (what: string) => void): Promise<void> {
  const { cluster } = fleet;
  const killAfterMs = random.chance(0.3) ? random.between(0, KILL_MS_MAX) : undefined;
  await fleet.join(id, killAfterMs);
  const member = cluster.memberAt(id);
  done(`${member} joined at ${id}${killAfterMs === undefined ? '' : `, killed after ${Math.round(killAfterMs)} ms`}`);
  if (random.chance(0.3)) {
    await sleep(random.between(0, 1000));
    await fleet.kill(id);
    await fleet.start(id);
    done(`${member} was killed once more`);
  }
  // Else it, or another, leaves while replicas are on their way to it.
  if (random.chance(0.3)) return;
  await cluster.eventually(`node ${member} has its share`, async () => hasShare(await progressOf(fleet), member), SETTLE_MS_MAX);
}

/** As many as others, or as many as the planner wants it to have: not every node has a replica of the system bucket. */
function hasShare(progress: ProgressReply | undefined, member: number): boolean {
  if (progress === undefined) return false;
  const counts = progress.nodes.map(({ replicas }) => replicas);
  const share = Math.floor(counts.reduce((sum, each) => sum + each, 0) / counts.length);
  const own = progress.nodes.find(({ id }) => id === member)?.replicas ?? 0;
  return own >= share || (own > 0 && isInPlace(progress) && progress.wanted.steps === 0);
}

async function leave(id: number, fleet: Fleet, done: (what: string) => void): Promise<void> {
  const { cluster } = fleet;
  const member = cluster.memberAt(id);
  const change = (request: object) => (): Promise<boolean> => changePlacement(fleet, request, AbortSignal.timeout(SETTLE_MS_MAX));
  // Refused while one of those who stay cannot be reached: it could not take over what this one has.
  await cluster.eventually(`node ${member} may be emptied`, change({ drain: member }), LEAVE_MS_MAX);
  fleet.mayLeave(id);
  await cluster.eventually(`node ${member} is empty and removed`, change({ remove: member }), LEAVE_MS_MAX);
  await fleet.left(id);
  done(`${member} left ${id}`);
}
