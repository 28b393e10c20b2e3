import { TidemarkError, withoutStack } from '../lib/errors.js';
import type { BucketId, NodeId } from '../placement/map.js';

/** What a replica of `node` that does not lead says to whoever wants its leader. `leader` is what it knows of it; 0: none. */
export function notLeader(bucket: BucketId, node: NodeId, leader: NodeId): TidemarkError {
  const another = leader !== 0 && leader !== node;
  const hint = another ? `node ${leader} leads it` : leader === 0 ? 'no leader is known' : 'it takes over or hands over now';
  const message = `this replica does not lead bucket ${bucket}: ${hint}`;
  const details = another ? { leader: String(leader) } : {};
  return withoutStack(() => new TidemarkError('UNAVAILABLE', 'NOT_LEADER', message, { retriable: true, details }));
}
