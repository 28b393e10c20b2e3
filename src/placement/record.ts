import { TidemarkError } from '../lib/errors.js';
import { checkEpoch } from './epoch.js';
import { initialPlacement, initialSystemBucket } from './initial.js';
import { movingNamed, NODE_ID_MAX, nodesNamed, REPLICAS_MAX, SYSTEM_BUCKET, replicaIdOf } from './map.js';
import type { BucketId, BucketInfo, NodeId, NodeInfo, Placement } from './map.js';
import { canDecide, hasVoter, leaderOf, votersOf, withLeader, withVoter } from './replicas.js';

/**
 * The placement as the system bucket keeps it: what routers know, and what only nodes need to know.
 *
 * It says where replicas *should* be. What a bucket's group is made of stands in the group's own log; its leader brings the one
 * to the other, step by step (node/membership.ts). So nothing has to be repaired when a node ends half-way through a move, and no
 * read or write waits for the system bucket.
 *
 * Every change makes a new epoch, and a replica that it adds has that epoch in its id. So no id is ever used again, and whoever
 * sees an id knows from which epoch on the placement may speak of it.
 */
export interface PlacementRecord extends Placement {
  /** How many voters a bucket should have. */
  readonly replicas: number;
  /** Data buckets that should have a number of their own, whatever that of the others is. */
  readonly ownReplicas: Readonly<Record<BucketId, number>>;
  /** The system bucket itself. */
  readonly system: BucketInfo;
  /** The highest node id that was ever used: none is used twice. */
  readonly lastNode: NodeId;
  /** Nodes that are to be emptied: nothing new is placed on them. In ascending order. */
  readonly draining: readonly NodeId[];
  /** Up to this epoch nothing but heat has changed what the cluster was founded with; 1 in a new one. */
  readonly asFounded: number;
}

/** Nobody has changed it: the planner spreads nothing by itself. */
export function isAsFounded({ epoch, asFounded }: PlacementRecord): boolean {
  return epoch === asFounded;
}

/** The record of a new cluster, the same on each of its nodes. */
export function initialRecord(
  clusterId: string,
  nodes: readonly NodeInfo[],
  buckets: number,
  replicas: number,
): PlacementRecord {
  const placement = initialPlacement(clusterId, nodes, buckets, replicas);
  const lastNode = Math.max(...nodes.map(({ id }) => id));
  return { ...placement, replicas, ownReplicas: {}, system: initialSystemBucket(nodes), draining: [], lastNode, asFounded: 1 };
}

/** The node was a member once, and is none now: as ids are never used twice, it never will be again. */
export function wasRemoved({ nodes, lastNode }: PlacementRecord, node: NodeId): boolean {
  return node <= lastNode && !nodes.some(({ id }) => id === node);
}

/** Throws FAILED_PRECONDITION if the record that somebody tells is of another cluster, or its epoch is absurd. */
export function checkSuccessor(heard: PlacementRecord, known: PlacementRecord, who: string): void {
  checkEpoch(heard.epoch, known.epoch, who);
  if (heard.clusterId === known.clusterId && heard.buckets === known.buckets) return;
  const told = `cluster '${heard.clusterId}' with ${heard.buckets} buckets`;
  const message = `${who} tells of ${told}; this is cluster '${known.clusterId}' with ${known.buckets}`;
  throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', message);
}

/** Where the replicas of a bucket should be, of the system bucket as well. */
export function placeOf(record: PlacementRecord, bucket: BucketId): BucketInfo | undefined {
  return bucket === SYSTEM_BUCKET ? record.system : record.map[bucket];
}

/** How many voters a data bucket should have. */
export function votersWanted({ replicas, ownReplicas }: PlacementRecord, bucket: BucketId): number {
  return ownReplicas[bucket] ?? replicas;
}

/** How many replicas, the system bucket's included, should be on a node. */
export function replicasOn(record: PlacementRecord, node: NodeId): number {
  return replicaCounts(record).get(node) ?? 0;
}

/** The same of every node that should have any. */
export function replicaCounts({ system, map }: PlacementRecord): ReadonlyMap<NodeId, number> {
  const counts = new Map<NodeId, number>();
  for (const { replicas } of [system, ...map]) for (const { node } of replicas) counts.set(node, (counts.get(node) ?? 0) + 1);
  return counts;
}

/** The epoch of the placement that gave a replica its id; 0 for those that a cluster was founded with. */
export function epochOfReplica(replicaId: number): number {
  return Math.floor(replicaId / replicaIdOf(0, 1));
}

const NOBODY: ReadonlySet<NodeId> = new Set();

/** What a person may ask for. The planner does the rest. */
export type PlacementChange =
  | { readonly kind: 'move'; readonly bucket: BucketId; readonly from: NodeId; readonly to: NodeId }
  /** The node, which has a voter of the bucket, leads it when all are well. */
  | { readonly kind: 'lead'; readonly bucket: BucketId; readonly node: NodeId }
  /** Everything moves away from the node. */
  | { readonly kind: 'drain'; readonly node: NodeId }
  | { readonly kind: 'undrain'; readonly node: NodeId }
  /** The node, which is empty, is no member any more. */
  | { readonly kind: 'remove'; readonly node: NodeId }
  /** How many voters each bucket should have that has no number of its own. */
  | { readonly kind: 'replicas'; readonly count: number }
  /** These buckets get a number of their own, or lose it: undefined. */
  | { readonly kind: 'ownReplicas'; readonly buckets: readonly BucketId[]; readonly count: number | undefined }
  /** Nothing by itself; but what a cluster was founded with is left alone by the planner until somebody has changed it. */
  | { readonly kind: 'rebalance' };

/** What whoever plans knows of the cluster, besides the record. */
export interface Known {
  /** Buckets that may not be as the record wants them, so that no node is known to be empty; those of them that nobody leads. */
  readonly moving?: readonly BucketId[];
  readonly leaderless?: readonly BucketId[];
  /** Nodes that cannot be reached now: they can take nobody's place, and lead nothing. */
  readonly away?: ReadonlySet<NodeId>;
}

/**
 * The next record; throws INVALID_ARGUMENT or FAILED_PRECONDITION if that cannot be, UNAVAILABLE if it cannot be yet, and gives
 * the same record if it is so already.
 */
export function changed(record: PlacementRecord, change: PlacementChange, known: Known = {}): PlacementRecord {
  const { moving = [], leaderless = [], away = NOBODY } = known;
  const next = { ...record, epoch: record.epoch + 1 };
  const { draining, nodes } = record;
  switch (change.kind) {
    case 'move':
      return moveReplica(record, change.bucket, change.from, change.to, away);
    case 'lead':
      return ledBy(record, change.bucket, change.node, away);
    case 'drain': {
      checkMember(record, change.node, 'node');
      if (draining.includes(change.node)) return record;
      checkEnough(record, change.node, away);
      return { ...next, draining: [...draining, change.node].sort((a, b) => a - b) };
    }
    case 'undrain':
      checkMember(record, change.node, 'node');
      return draining.includes(change.node) ? { ...next, draining: draining.filter((id) => id !== change.node) } : record;
    case 'remove': {
      const { node } = change;
      if (!nodes.some(({ id }) => id === node)) return record;
      checkEnough(record, node, NOBODY);
      const count = replicasOn(record, node);
      if (count > 0) throw refused('NODE_NOT_EMPTY', 'node', `node ${node} still has ${count} replicas: drain it first`);
      if (moving.length > 0) throw notYetEmpty(node, moving.length - leaderless.length, leaderless.length);
      return { ...next, nodes: nodes.filter(({ id }) => id !== node), draining: draining.filter((id) => id !== node) };
    }
    case 'rebalance':
      return isAsFounded(record) ? next : record;
    case 'replicas':
      if (change.count === record.replicas) return record;
      checkCount(record, change.count);
      return { ...next, replicas: change.count };
    case 'ownReplicas':
      return withOwnReplicas(record, change.buckets, change.count);
  }
}

/** All of these buckets or, if one cannot, none. */
function withOwnReplicas(record: PlacementRecord, buckets: readonly BucketId[], count: number | undefined): PlacementRecord {
  const { ownReplicas } = record;
  if (buckets.length === 0) throw invalid('BUCKET_MISSING', 'buckets', 'the request names no bucket');
  const unknown = buckets.find((bucket) => record.map[bucket] === undefined);
  if (unknown !== undefined) throw unknownBucket(record, unknown);
  if (buckets.every((bucket) => ownReplicas[bucket] === count)) return record;
  const others = Object.entries(ownReplicas).filter(([bucket]) => !buckets.includes(Number(bucket)));
  const next = { ...record, epoch: record.epoch + 1, ownReplicas: Object.fromEntries(others) };
  if (count === undefined) return next;
  checkCount(record, count);
  return { ...next, ownReplicas: { ...next.ownReplicas, ...Object.fromEntries(buckets.map((bucket) => [bucket, count])) } };
}

function checkCount({ nodes, draining }: PlacementRecord, count: number): void {
  const left = nodes.length - draining.length;
  const most = Math.min(REPLICAS_MAX, left);
  if (Number.isInteger(count) && count >= 1 && count <= most) return;
  const there = `there are ${left} nodes${draining.length === 0 ? '' : ' that are not to be emptied'}`;
  const why = left < REPLICAS_MAX ? `for ${there}` : 'in a cluster of any size';
  throw invalid('REPLICAS_OUT_OF_RANGE', 'count', `a bucket can have from 1 to ${most}, ${why}, not ${count} replicas`);
}

/** A node that is to become a member. `uuid` is that of its data directory: asked twice, it gets the same id twice. */
export interface Applicant {
  readonly uuid: string;
  readonly address: string;
  readonly zone: string;
  readonly host: string;
}

/** The record with that node in it, and the id that it has. */
export function joined(record: PlacementRecord, applicant: Applicant): { record: PlacementRecord; node: NodeId } {
  const known = record.nodes.find(({ uuid }) => uuid === applicant.uuid);
  const { address } = applicant;
  if (known !== undefined) {
    if (known.address !== address) throw addressChanged(known.id, known.address, address);
    return { record, node: known.id };
  }
  const same = record.nodes.find((node) => node.address === address);
  if (same !== undefined) {
    const advice = 'if that one is gone for good, remove it first; else give the new one an address of its own';
    throw refused('ADDRESS_TAKEN', 'address', `node ${same.id} is a member at ${address}; ${advice}`);
  }
  const node = record.lastNode + 1;
  if (node > NODE_ID_MAX) throw refused('NO_NODE_ID_LEFT', 'node', `all ${NODE_ID_MAX} node ids have been used`);
  const nodes = [...record.nodes, { id: node, ...applicant }];
  return { record: { ...record, epoch: record.epoch + 1, nodes, lastNode: node }, node };
}

/** A node keeps the address at which it became a member: the others would go on looking for it there. */
export function addressChanged(node: NodeId, known: string, now: string): TidemarkError {
  const advice = `start it with --address ${known}, or add a node with an empty data directory and remove node ${node}`;
  return refused('ADDRESS_CHANGED', 'address', `node ${node} is a member at ${known}, not at ${now}; ${advice}`);
}

/**
 * The next epoch: one voter of a bucket goes to another node, and takes the place in the list that it had. The same record if
 * that is so already: whoever lost the reply asks again.
 */
export function moveReplica(
  record: PlacementRecord,
  bucket: BucketId,
  from: NodeId,
  to: NodeId,
  away: ReadonlySet<NodeId> = NOBODY,
): PlacementRecord {
  const place = placeOf(record, bucket);
  if (place === undefined) throw unknownBucket(record, bucket);
  checkMember(record, from, 'from');
  checkTarget(record, to);
  const voters = votersOf(place.replicas);
  const leaving = voters.find(({ node }) => node === from);
  if (hasVoter(place.replicas, to)) {
    if (leaving === undefined) return record;
    throw refused('ALREADY_PLACED', 'to', `node ${to} has a replica of bucket ${bucket} already`);
  }
  if (leaving === undefined) throw notPlaced(place, from, 'from');
  checkThere(to, away);
  const epoch = record.epoch + 1;
  const moved = withVoter(place.replicas, { id: replicaIdOf(to, epoch), node: to, learner: false }, leaving);
  return replaced({ ...record, epoch }, { ...place, replicas: moved });
}

/**
 * The next epoch: a bucket is to be led by another of its voters. If that one leads too many by it, it gives another in return to
 * whoever of its voters leads least: else the planner would take back what a person has asked for.
 */
function ledBy(record: PlacementRecord, bucket: BucketId, node: NodeId, away: ReadonlySet<NodeId>): PlacementRecord {
  const place = placeOf(record, bucket);
  if (place === undefined) throw unknownBucket(record, bucket);
  checkTarget(record, node);
  if (!hasVoter(place.replicas, node)) throw notPlaced(place, node, 'to');
  if (leaderOf(place.replicas) === node) return record;
  checkThere(node, away);
  const next = replaced({ ...record, epoch: record.epoch + 1 }, { ...place, replicas: withLeader(place.replicas, node) });
  const leads = new Map<NodeId, number>();
  const leadsOf = (id: NodeId): number => leads.get(id) ?? 0;
  for (const { replicas } of next.map) {
    const leader = leaderOf(replicas);
    if (leader !== undefined) leads.set(leader, leadsOf(leader) + 1);
  }
  let given: BucketInfo | undefined;
  let least = leadsOf(node) - 1;
  for (const other of next.map) {
    if (other.id === bucket || leaderOf(other.replicas) !== node) continue;
    for (const heir of votersOf(other.replicas)) {
      if (leadsOf(heir.node) >= least || record.draining.includes(heir.node) || away.has(heir.node)) continue;
      given = { ...other, replicas: withLeader(other.replicas, heir.node) };
      least = leadsOf(heir.node);
    }
  }
  return given === undefined ? next : replaced(next, given);
}

function notPlaced({ id, replicas }: BucketInfo, node: NodeId, field: string): TidemarkError {
  const nodes = votersOf(replicas).map((voter) => voter.node).join(', ');
  return refused('NOT_PLACED', field, `node ${node} has no voting replica of bucket ${id}; nodes ${nodes} have`);
}

function replaced(record: PlacementRecord, place: BucketInfo): PlacementRecord {
  if (place.id === SYSTEM_BUCKET) return { ...record, system: place };
  return { ...record, map: record.map.map((bucket) => (bucket.id === place.id ? place : bucket)) };
}

function checkTarget(record: PlacementRecord, node: NodeId): void {
  checkMember(record, node, 'to');
  if (record.draining.includes(node)) throw refused('NODE_DRAINING', 'to', `node ${node} is being drained`);
}

/** What cannot arrive would be called off before long; and to whoever does not answer leadership is given in vain. */
function checkThere(node: NodeId, away: ReadonlySet<NodeId>): void {
  if (away.has(node)) throw refused('NODE_UNREACHABLE', 'to', `${nodesNamed([node])} cannot be reached`);
}

function checkMember({ nodes }: PlacementRecord, node: NodeId, field: string): void {
  if (nodes.some(({ id }) => id === node)) return;
  const members = nodes.map(({ id }) => id).join(', ');
  throw refused('UNKNOWN_NODE', field, `node ${node} is no member of the cluster; its members are ${members}`);
}

function checkEnough(record: PlacementRecord, without: NodeId, away: ReadonlySet<NodeId>): void {
  const { nodes, draining, replicas, ownReplicas } = record;
  const left = nodes.map(({ id }) => id).filter((id) => id !== without && !draining.includes(id));
  const missing = left.filter((id) => away.has(id));
  const there = left.length - missing.length;
  const check = (count: number, of: string): void => {
    if (count <= there) return;
    const [have, because] = count > left.length ? [left.length, ''] : [there, `, as ${nodesNamed(missing)} cannot be reached`];
    const message = `without node ${without} there are ${have} nodes for the ${count} replicas of ${of}${because}`;
    throw refused('TOO_FEW_NODES', 'node', `${message}; add a node first`);
  };
  check(replicas, 'each bucket');
  for (const [bucket, count] of Object.entries(ownReplicas)) check(count, `bucket ${bucket}`);
  // Its voter goes to a node that has none, or, where all have one, just goes: then those that are left must be able to decide.
  const others = votersOf(record.system.replicas).map(({ node }) => node).filter((node) => node !== without);
  const isThere = (node: NodeId): boolean => !away.has(node);
  if (left.some((node) => isThere(node) && !others.includes(node)) || canDecide(others, isThere)) return;
  const lost = nodesNamed(others.filter((node) => away.has(node)));
  const message = `without node ${without} the placement could not be changed any more, as ${lost} cannot be reached`;
  throw refused('TOO_FEW_NODES', 'node', `${message}; add a node first`);
}

/** Its replicas may still be there, as far as is known; and heat makes some anew at any time. */
function notYetEmpty(node: NodeId, underWay: number, leaderless: number): TidemarkError {
  const why = `${movingNamed(underWay, leaderless)}; try again soon`;
  const message = `node ${node} is a member until every bucket is in its place: ${why}`;
  return new TidemarkError('UNAVAILABLE', 'BUCKETS_MOVING', message, { retriable: true });
}

function unknownBucket({ buckets }: PlacementRecord, bucket: BucketId): TidemarkError {
  return invalid('UNKNOWN_BUCKET', 'bucket', `there is no bucket ${bucket}; there are ${buckets}`);
}

function refused(reason: string, field: string, message: string): TidemarkError {
  return new TidemarkError('FAILED_PRECONDITION', reason, message, { details: { field } });
}

function invalid(reason: string, field: string, message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', reason, message, { details: { field } });
}
