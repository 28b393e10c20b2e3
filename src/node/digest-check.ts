import type { Clock, Logger } from '../env/env.js';
import { TidemarkError } from '../lib/errors.js';
import type { Replica } from '../bucket/replica.js';
import { nodeOfReplica, type BucketId, type NodeId } from '../placement/map.js';
import type { LogIndex } from '../raft/types.js';
import type { DigestItem, DigestJudged, PeerItem } from './peer-items.js';

/**
 * Equal applied index means equal digest of applied effects. Here that is looked at, all the time: a replica that has come to
 * another state than the others, by a bug or by bad memory, must not go on serving.
 *
 *   leader   -> all       digestAsked   what is your digest at entry i (my last one)?
 *   follower -> leader    digestTold    as soon as it has applied entry i
 *   leader   -> the wrong digestJudged  a majority has another: the node stops
 *   leader   -> who differs digestTold  mine is another, and who is right is not known
 *
 * i is at or beyond what anybody has applied when it is asked for, so all come to it, and what a committed entry leaves behind
 * does not depend on who led when. A bucket is asked about every CHECK_MS while it changes, and no more once all members have
 * told the same at its last entry: nothing is sent about an idle one. A dozen bytes each, many to a frame.
 *
 * Who is wrong: a replica whose digest differs from that of a majority of the voters, be it the leader. Its node stops.
 * While one says this and one says that and others are silent, nobody can know: both log it at every check, and the next voter
 * that comes back decides. When all have spoken and no majority is possible (two voters, or three that all differ), the
 * followers stop and the leader remains: alone it has no quorum, so it serves no more than local reads, from which a person can
 * export what is there. Learners are compared and judged, but have no say: what they hold may be a copy of their leader's
 * snapshot.
 */
export interface DigestCheckOptions {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly log: Logger;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly send: (to: NodeId, item: PeerItem) => void;
  /** A replica of this node is wrong. */
  readonly onDiverged: (error: TidemarkError) => void;
}

const CHECK_MS = 5000;

interface Check {
  readonly index: LogIndex;
  readonly term: number;
  askedMs: number;
  /** By node, this one included. Who has told is not asked again. */
  readonly told: Map<NodeId, number>;
  /** All had told when it was last looked at. */
  isOver: boolean;
}

interface Mark {
  readonly index: LogIndex;
  readonly digest: number;
}

export class DigestCheck {
  readonly #options: DigestCheckOptions;
  readonly #checks = new Map<BucketId, Check>();
  /** What this node has told last of each bucket: a judgement about anything else is not about what it holds. */
  readonly #told = new Map<BucketId, Mark>();

  constructor(options: DigestCheckOptions) {
    this.#options = options;
  }

  /** Asks where it is time to. */
  tick(): void {
    const now = this.#options.clock.monotonicMs();
    for (const replica of this.#options.replicas.values()) {
      if (!replica.isLeader || !replica.raft.canServe() || replica.installing) this.#checks.delete(replica.bucket);
      else this.#lookAt(replica, now);
    }
  }

  onItem(from: NodeId, item: DigestItem): void {
    const replica = this.#options.replicas.get(item.bucket);
    if (replica === undefined || replica.installing) return;
    switch (item.kind) {
      case 'digestAsked':
        this.#answer(from, replica, item.index);
        return;
      case 'digestTold':
        this.#take(replica, from, item);
        return;
      case 'digestJudged':
        this.#judged(from, item);
    }
  }

  #lookAt(replica: Replica, now: number): void {
    const { bucket, raft } = replica;
    const known = this.#checks.get(bucket);
    if (known !== undefined && now - known.askedMs < CHECK_MS) return;
    const same = known?.index === raft.lastIndex && known.term === raft.term;
    const check: Check = same ? known : { index: raft.lastIndex, term: raft.term, askedMs: now, told: new Map(), isOver: false };
    check.askedMs = now;
    if (check.isOver) return;
    this.#checks.set(bucket, check);
    const { nodeId, send } = this.#options;
    if (!check.told.has(nodeId)) {
      replica.state.watchDigest(check.index, (digest) => this.#take(replica, nodeId, { index: check.index, digest }));
    }
    check.isOver = check.told.has(nodeId);
    for (const { id } of raft.progress()) {
      const node = nodeOfReplica(id);
      if (node === nodeId || check.told.has(node)) continue;
      check.isOver = false;
      send(node, { kind: 'digestAsked', bucket, index: check.index });
    }
  }

  #answer(to: NodeId, { bucket, state }: Replica, index: LogIndex): void {
    state.watchDigest(index, (digest) => {
      this.#told.set(bucket, { index, digest });
      this.#options.send(to, { kind: 'digestTold', bucket, index, digest });
    });
  }

  #take(replica: Replica, from: NodeId, { index, digest }: Mark): void {
    const check = this.#checks.get(replica.bucket);
    if (check?.index !== index || check.term !== replica.raft.term || !replica.isLeader) {
      this.#heard(replica.bucket, from, { index, digest });
      return;
    }
    check.told.set(from, digest);
    const own = check.told.get(this.#options.nodeId);
    if (own === undefined) return;
    for (const told of check.told.values()) {
      if (told === own) continue;
      this.#judge(replica, check, own);
      return;
    }
  }

  /** A leader, which differs, says what it has. */
  #heard(bucket: BucketId, from: NodeId, { index, digest }: Mark): void {
    const told = this.#told.get(bucket);
    if (told?.index !== index || told.digest === digest) return;
    this.#warn(bucket, index, [
      [from, digest],
      [this.#options.nodeId, told.digest],
    ]);
  }

  #warn(bucket: BucketId, index: LogIndex, told: Iterable<readonly [NodeId, number]>): void {
    const digests = [...told].map(([node, digest]) => `node ${node}: ${hex(digest)}`).join(', ');
    this.#options.log.error('the replicas of a bucket have diverged', { bucket, index, digests });
  }

  /** Not all have told the same. */
  #judge({ bucket, raft }: Replica, check: Check, own: number): void {
    const { nodeId, send } = this.#options;
    const { index, told } = check;
    this.#warn(bucket, index, told);
    const voters = raft.config.voters.map(nodeOfReplica);
    const votes = new Map<number, number>();
    for (const voter of voters) {
      const digest = told.get(voter);
      if (digest !== undefined) votes.set(digest, (votes.get(digest) ?? 0) + 1);
    }
    const silent = voters.filter((voter) => !told.has(voter)).length;
    const [right, most] = [...votes].reduce((a, b) => (b[1] > a[1] ? b : a), [own, 0]);
    const quorum = Math.floor(voters.length / 2) + 1;
    if (most < quorum && most + silent >= quorum) {
      for (const [node, digest] of told) {
        if (digest !== own) send(node, { kind: 'digestTold', bucket, index, digest: own });
      }
      return;
    }
    const verdict = most >= quorum ? right : own;
    for (const [node, digest] of told) {
      if (digest === verdict) continue;
      // Whoever has been judged is asked again: it may have been started again with what it had.
      told.delete(node);
      check.isOver = false;
      if (node === nodeId) this.#stop({ index, digest: own }, bucket, verdict);
      else send(node, { kind: 'digestJudged', bucket, index, digest: verdict });
    }
  }

  #judged(by: NodeId, { bucket, index, digest: right }: DigestJudged): void {
    const told = this.#told.get(bucket);
    if (told?.index !== index || told.digest === right) return;
    this.#options.log.error('this replica differs from those that its leader has heard', { bucket, index, leader: by });
    this.#stop(told, bucket, right);
  }

  #stop({ index, digest }: Mark, bucket: BucketId, right: number): void {
    const { nodeId } = this.#options;
    const message =
      `the replica of bucket ${bucket} on node ${nodeId} has diverged: after entry ${index} its digest is ${hex(digest)}, that ` +
      `of the others ${hex(right)}; what node ${nodeId} holds cannot be trusted: keep its data directory for an ` +
      'investigation, and do not start the node with it again';
    this.#options.onDiverged(new TidemarkError('DATA_LOSS', 'REPLICA_DIVERGED', message));
  }
}

function hex(digest: number): string {
  return digest.toString(16).padStart(8, '0');
}
