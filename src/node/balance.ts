import type { Logger } from '../env/env.js';
import type { Replica } from '../bucket/replica.js';
import { nodeOfReplica, type BucketId, type NodeId } from '../placement/map.js';

/**
 * Spreads leadership: a bucket that is led here although another of its nodes is preferred goes back to that node, once it is
 * connected and has all of the log. A few at a time, since each hand-over costs its bucket a moment.
 */
const TRANSFERS_AT_ONCE = 8;
/** How long the preferred node must have been there: a node that just came back may go again. */
const SETTLED_MS = 3000;

export interface BalanceOptions {
  readonly nodeId: NodeId;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly log: Logger;
  preferredLeader(bucket: BucketId): NodeId;
  /** Monotonic milliseconds since which a peer is connected; undefined if it is not. */
  connectedSince(node: NodeId): number | undefined;
}

export function balanceLeaders(options: BalanceOptions, now: number): void {
  let budget = TRANSFERS_AT_ONCE;
  for (const replica of options.replicas.values()) {
    if (budget === 0) return;
    if (!replica.isLeader || !replica.raft.canServe() || replica.raft.transferringTo !== 0) continue;
    const preferred = options.preferredLeader(replica.bucket);
    const since = options.connectedSince(preferred);
    if (preferred === options.nodeId || since === undefined || now - since < SETTLED_MS) continue;
    const target = replica.raft.config.voters.find((id) => nodeOfReplica(id) === preferred);
    if (target === undefined || !inStep(replica, target)) continue;
    options.log.debug('handing a bucket to its preferred leader', { bucket: replica.bucket, to: preferred });
    replica.transferLeadership(target);
    budget -= 1;
  }
}

/** Nearly caught up (the hand-over itself waits for the last entries), and not waiting for a snapshot. */
function inStep({ raft }: Replica, target: number): boolean {
  const follower = raft.progress().find(({ id }) => id === target);
  return follower?.state === 'replicate' && follower.match + 64 >= raft.lastIndex;
}
