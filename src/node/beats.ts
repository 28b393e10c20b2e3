import type { Replica } from '../bucket/replica.js';
import { nodeOfReplica, type BucketId, type NodeId } from '../placement/map.js';
import type { ReplicaId, TellBeat } from '../raft/types.js';
import { BEAT_FIELDS, type BeatsItem, type PeerItem } from './peer-items.js';

/**
 * The heartbeats of groups at rest (see TellBeat in raft/types.ts): those of all groups that this node leads go to a peer as one
 * item, a list of numbers, and come back as one. A hundred groups then cost little more than one: no message, Ready or turn
 * of a replica is made for any of them.
 *
 *     beats        bucket, from, to, term, index, round, floor, closed
 *     beatReplies  bucket, from, to, term, round, floor
 *
 * What does not fit (another term, entries or a commit index that the other side lacks) is stepped on as the Raft message that it
 * stands for.
 */
export interface BeatsOptions {
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly send: (to: NodeId, item: PeerItem) => void;
}

/** Of one item: some 70 KiB at most. */
const BEATS_MAX = 1024;

export class Beats {
  readonly #options: BeatsOptions;
  /** Those of this turn. */
  readonly #told = new Map<NodeId, number[]>();

  constructor(options: BeatsOptions) {
    this.#options = options;
  }

  /** For the next `send`. */
  tell({ bucket, id }: Replica, ...beat: Parameters<TellBeat>): void {
    const [to, term, index, round, floor, closed] = beat;
    const node = nodeOfReplica(to);
    let fields = this.#told.get(node);
    if (fields === undefined) {
      fields = [];
      this.#told.set(node, fields);
    }
    fields.push(bucket, id, to, term, index, round, floor, closed);
    if (fields.length >= BEATS_MAX * BEAT_FIELDS.beats) this.#sendTo(node, fields);
  }

  /** Queues what was told for each peer. */
  send(): void {
    for (const [node, fields] of this.#told) this.#sendTo(node, fields);
  }

  #sendTo(node: NodeId, fields: readonly number[]): void {
    this.#told.delete(node);
    this.#options.send(node, { kind: 'beats', fields });
  }

  onItem(peer: NodeId, { kind, fields }: BeatsItem): void {
    if (kind === 'beats') this.#onBeats(peer, fields);
    else this.#onReplies(peer, fields);
  }

  #onBeats(peer: NodeId, fields: readonly number[]): void {
    const answers: number[] = [];
    for (let at = 0; at < fields.length; at += BEAT_FIELDS.beats) {
      const bucket = fields[at] ?? 0;
      const from = fields[at + 1] ?? 0;
      const to = fields[at + 2] ?? 0;
      const term = fields[at + 3] ?? 0;
      const index = fields[at + 4] ?? 0;
      const round = fields[at + 5] ?? 0;
      const offered = fields[at + 6] ?? 0;
      const closed = fields[at + 7] ?? 0;
      const replica = this.#replica(bucket, peer, from, to);
      if (replica === undefined) continue;
      const floor = replica.onBeat(from, term, index, offered, closed);
      if (floor >= 0) answers.push(bucket, to, from, term, round, floor);
      else replica.step({ type: 'heartbeat', from, to, term, commit: index, round, floor: offered, closed, closedIndex: index });
    }
    if (answers.length > 0) this.#options.send(peer, { kind: 'beatReplies', fields: answers });
  }

  #onReplies(peer: NodeId, fields: readonly number[]): void {
    for (let at = 0; at < fields.length; at += BEAT_FIELDS.beatReplies) {
      const bucket = fields[at] ?? 0;
      const from = fields[at + 1] ?? 0;
      const to = fields[at + 2] ?? 0;
      const term = fields[at + 3] ?? 0;
      const round = fields[at + 4] ?? 0;
      const floor = fields[at + 5] ?? 0;
      const replica = this.#replica(bucket, peer, from, to);
      if (replica === undefined || replica.onBeatReply(from, term, round, floor)) continue;
      replica.step({ type: 'heartbeatReply', from, to, term, round, floor });
    }
  }

  /** The one that is meant, if this node has it and it is to hear anything now. */
  #replica(bucket: BucketId, peer: NodeId, from: ReplicaId, to: ReplicaId): Replica | undefined {
    const replica = this.#options.replicas.get(bucket);
    return replica?.id === to && !replica.installing && nodeOfReplica(from) === peer ? replica : undefined;
  }
}
