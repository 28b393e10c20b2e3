import { BUCKETS_MAX, NODE_ID_MAX, nodeOfReplica, replicaIdOf, REPLICAS_MAX, type NodeId, type NodeInfo } from './map.js';
import type { PlacementRecord } from './record.js';

/**
 * Whether what was read can be a placement at all. Nodes act on what a placement says, up to stopping for good when they are not
 * in it: so one that a bug, a rotten disk or a stranger made is refused as a whole, before anything is done.
 *
 * Invariant of what passes: each bucket has a voter, and replicas on members only, one at most on each.
 */

/** Of the replicas of a bucket; those of read replicas are negative. */
export type Ids = readonly number[];

/** A placement as it is read. */
export interface Stored extends Omit<PlacementRecord, 'system' | 'map' | 'ownReplicas'> {
  readonly format: number;
  readonly ownReplicas?: PlacementRecord['ownReplicas'];
  readonly system: Ids;
  readonly map: readonly Ids[];
}

type Unchecked = { readonly [Field in keyof Stored]?: unknown };

/** What is wrong with it; undefined if nothing is. */
export function problemOf(stored: Unchecked): string | undefined {
  const { clusterId, epoch, buckets, replicas, lastNode, asFounded, nodes, draining, ownReplicas = {}, system, map } = stored;
  if (!isText(clusterId)) return 'it names no cluster';
  if (!isWithin(epoch, 1, Number.MAX_SAFE_INTEGER)) return 'it has no epoch';
  if (!isWithin(asFounded, 0, epoch)) return `asFounded is ${show(asFounded)}, not from 0 to its epoch`;
  if (!isWithin(buckets, 1, BUCKETS_MAX)) return `it has ${show(buckets)} buckets`;
  if (!isWithin(replicas, 1, REPLICAS_MAX)) return `buckets have ${show(replicas)} replicas`;
  if (!Array.isArray(nodes) || nodes.length === 0) return 'it has no nodes';
  const wrong = nodes.findIndex((node) => !isNode(node));
  if (wrong >= 0) return `the node at place ${wrong} lacks a field, or has a wrong one`;
  const members = new Set((nodes as NodeInfo[]).map(({ id }) => id));
  if (members.size < nodes.length) return 'two nodes have one id';
  if (!isWithin(lastNode, Math.max(...members), NODE_ID_MAX)) return `its last node is ${show(lastNode)}`;
  const isMember = (id: unknown): boolean => members.has(id as NodeId);
  if (!Array.isArray(draining) || !draining.every(isMember)) return 'a node is drained that is no member';
  if (!Array.isArray(map) || map.length !== buckets) return `it does not say where its ${buckets} buckets are`;
  const own = isObject(ownReplicas) ? Object.entries(ownReplicas) : [['', 0]];
  if (!own.every(([id, count]) => map[Number(id)] !== undefined && isWithin(count, 1, REPLICAS_MAX))) {
    return 'a bucket has an impossible number of replicas of its own';
  }
  for (const [at, place] of [system, ...(map as unknown[])].entries()) {
    const problem = problemOfPlace(place, members, epoch);
    if (problem !== undefined) return `${at === 0 ? 'the system bucket' : `bucket ${at - 1}`} ${problem}`;
  }
  return undefined;
}

function problemOfPlace(ids: unknown, members: ReadonlySet<NodeId>, epoch: number): string | undefined {
  if (!Array.isArray(ids)) return 'has no replicas';
  const on = new Set<NodeId>();
  let voters = 0;
  for (const signed of ids as Ids) {
    const id = Math.abs(signed);
    // An id holds the epoch that gave it.
    if (!Number.isSafeInteger(signed) || id >= replicaIdOf(0, epoch + 1)) return `has a replica ${show(signed)}`;
    const node = nodeOfReplica(id);
    if (!members.has(node)) return `has a replica on node ${node}, which is no member`;
    on.add(node);
    if (signed > 0) voters += 1;
  }
  if (voters === 0) return 'has no voter';
  return on.size < ids.length ? 'has two replicas on one node' : undefined;
}

function isNode(node: unknown): boolean {
  if (!isObject(node)) return false;
  const { id, address, zone, host = '', uuid = '' } = node as { readonly [Field in keyof NodeInfo]?: unknown };
  return isWithin(id, 1, NODE_ID_MAX) && isText(address) && [zone, host, uuid].every((text) => typeof text === 'string');
}

function isWithin(value: unknown, least: number, most: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function show(value: unknown): string {
  return String(JSON.stringify(value)).slice(0, 64);
}
