import { nodeOfReplica, type NodeId } from '../placement/map.js';
import type { LeaderBalance } from './balance.js';
import type { Beats } from './beats.js';
import type { DigestCheck } from './digest-check.js';
import type { Holds } from './holds.js';
import type { Hosting } from './hosting.js';
import type { PeerItem, RaftItem } from './peer-items.js';
import type { PlacementKeeper } from './placement-keeper.js';
import type { SnapshotTransfer } from './snapshots.js';

/** Whom the words of peers are for. */
export interface InboxParts {
  readonly hosting: Pick<Hosting, 'replicas'>;
  readonly balance: LeaderBalance;
  readonly holds: Holds;
  readonly beats: Beats;
  readonly digests: DigestCheck;
  readonly keeper: PlacementKeeper;
  readonly snapshots: SnapshotTransfer;
}

/** Hands what a peer has said to the part of the node that it is for. */
export function deliver(from: NodeId, items: readonly PeerItem[], parts: InboxParts): void {
  for (const item of items) {
    switch (item.kind) {
      case 'raft':
        deliverMessage(from, item, parts);
        break;
      case 'beats':
      case 'beatReplies':
        parts.beats.onItem(from, item);
        break;
      case 'unfit':
        parts.balance.heardUnfit(from, item.forMs);
        break;
      case 'held':
        parts.holds.heard(from, item.lowest);
        break;
      case 'digestAsked':
      case 'digestTold':
      case 'digestJudged':
        parts.digests.onItem(from, item);
        break;
      case 'placement':
      case 'belongs':
      case 'gone':
      case 'settled':
      case 'heat':
        parts.keeper.onItem(from, item);
        break;
      default:
        parts.snapshots.onItem(from, item);
    }
  }
}

function deliverMessage(from: NodeId, item: RaftItem, { hosting, keeper }: InboxParts): void {
  const { bucket, message } = item;
  if (nodeOfReplica(message.from) !== from) return;
  const replica = hosting.replicas.get(bucket);
  if (replica === undefined) keeper.called(item);
  else if (!replica.installing && replica.id === message.to) replica.step(message);
}
