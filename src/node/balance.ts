import type { Clock, Logger, Timers } from '../env/env.js';
import { sleep } from '../env/time.js';
import type { Replica } from '../bucket/replica.js';
import { nodeOfReplica, type BucketId, type NodeId } from '../placement/map.js';
import type { FollowerProgress } from '../raft/progress.js';
import type { Peers } from './peers.js';

/**
 * Who should lead what this node leads.
 *
 * - Spread: a bucket that is led here although another of its nodes is preferred goes back to that node, once it is connected
 *   and has all of the log. A few at a time, since each hand-over costs its bucket a moment; and a bucket that comes back, for
 *   that node cannot win the others over, ever more seldom.
 * - Handed over: a node that should lead nothing for now (it may not vote yet, its disk hangs, or it is stopping) gives every
 *   bucket away, and says so to its peers again and again, for nobody else can know. They give it none until a while after it
 *   last said so.
 *
 * Leadership is only ever given to a follower that has nearly all of the log, or all but the latest: the hand-over itself waits
 * for the last entries, and until it is over, or has failed, no command is taken.
 */
const TRANSFERS_AT_ONCE = 8;
/** How long the preferred node must have been there: a node that just came back may go again. */
const SETTLED_MS = 3000;
/** A bucket that comes back though it was handed over is kept for twice as long each time, up to this. */
const KEPT_MS_MAX = 60_000;
const UNFIT_TOLD_EVERY_MS = 500;
/** A few of these words may be lost, and a disk that hung once may hang again. */
const UNFIT_FOR_MS = 3000;
/** A node that may vote again may lead at once: in a rolling restart the next one stops soon. */
const ABSTAINING_FOR_MS = 1000;
/** How long a node that stops may take to hand over what it leads, and how often it looks. */
const RESIGN_MS_MAX = 1000;
const RESIGN_LOOK_MS = 5;

export interface LeaderBalanceOptions {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly log: Logger;
  readonly replicas: ReadonlyMap<BucketId, Replica>;
  readonly peers: Pick<Peers, 'send' | 'flush' | 'connectedSince'>;
  nodes(): readonly NodeId[];
  preferredLeader(bucket: BucketId): NodeId;
}

export class LeaderBalance {
  readonly #options: LeaderBalanceOptions;
  /** Monotonic ms until which a peer is given nothing. */
  readonly #unfitUntilMs = new Map<NodeId, number>();
  /** Counts the hand-overs of each bucket that was given away and is still here, so that each heir is tried in turn. */
  readonly #attempts = new Map<BucketId, number>();
  /** Buckets that were handed to their preferred leaders: when, and how long each is kept if it comes back. */
  readonly #handed = new Map<BucketId, { readonly atMs: number; readonly keptMs: number }>();
  #toldMs = -Infinity;

  constructor(options: LeaderBalanceOptions) {
    this.#options = options;
  }

  /** A peer says that it should lead nothing for so long. */
  heardUnfit(node: NodeId, forMs: number): void {
    this.#unfitUntilMs.set(node, this.#options.clock.monotonicMs() + Math.min(forMs, UNFIT_FOR_MS));
  }

  /** For a node that may not vote yet, and so leads nothing: tells the peers. To be called again and again. */
  abstain(): void {
    this.#tellUnfit(this.#options.clock.monotonicMs(), ABSTAINING_FOR_MS);
  }

  /** Gives a few buckets back to those who should lead them. */
  spread(): void {
    const now = this.#options.clock.monotonicMs();
    let budget = TRANSFERS_AT_ONCE;
    for (const replica of this.#options.replicas.values()) {
      if (budget === 0) return;
      if (!replica.isLeader || !replica.raft.canServe() || replica.raft.transferringTo !== 0) continue;
      const preferred = this.#options.preferredLeader(replica.bucket);
      const since = this.#options.peers.connectedSince(preferred);
      if (preferred === this.#options.nodeId || since === undefined || now - since < SETTLED_MS) continue;
      const heir = this.#inStep(replica, now).find(({ id }) => nodeOfReplica(id) === preferred);
      const last = this.#handed.get(replica.bucket) ?? { atMs: -Infinity, keptMs: 0 };
      if (heir === undefined || now - last.atMs < last.keptMs) continue;
      const hasComeBack = now - last.atMs < 2 * last.keptMs;
      this.#handed.set(replica.bucket, { atMs: now, keptMs: hasComeBack ? Math.min(2 * last.keptMs, KEPT_MS_MAX) : SETTLED_MS });
      this.#options.log.debug('handing a bucket to its preferred leader', { bucket: replica.bucket, to: preferred });
      replica.transferLeadership(heir.id);
      budget -= 1;
    }
  }

  /**
   * For a node that should lead nothing for now: gives every bucket away that somebody can take, and tells the peers. To be
   * called again and again. Says how many hand-overs are under way.
   */
  handOver(): number {
    const now = this.#options.clock.monotonicMs();
    this.#tellUnfit(now, UNFIT_FOR_MS);
    let underWay = 0;
    for (const replica of this.#options.replicas.values()) {
      if (replica.isLeader) underWay += this.#giveAway(replica, now) ? 1 : 0;
      else if (this.#attempts.has(replica.bucket) && replica.leaderNode === 0) underWay += 1;
    }
    return underWay;
  }

  /**
   * For a node that stops: hands over until all is given away, for at most a second. Whoever is handed a bucket leads it at once;
   * for one that just loses its leader an election timeout must pass.
   */
  async resign(timers: Timers, isOver: () => boolean): Promise<void> {
    const { clock } = this.#options;
    const untilMs = clock.monotonicMs() + RESIGN_MS_MAX;
    while (!isOver() && this.handOver() > 0 && clock.monotonicMs() < untilMs) {
      await sleep(timers, RESIGN_LOOK_MS);
    }
  }

  /** This node may lead again. */
  reset(): void {
    this.#attempts.clear();
  }

  /** True while a hand-over is under way. */
  #giveAway(replica: Replica, now: number): boolean {
    const { bucket, raft } = replica;
    if (raft.transferringTo !== 0) return this.#isFit(nodeOfReplica(raft.transferringTo), now);
    const heirs = this.#heirs(replica, now);
    const attempt = this.#attempts.get(bucket) ?? 0;
    const heir = heirs[(bucket + attempt) % heirs.length];
    if (heir === undefined) return false;
    this.#attempts.set(bucket, attempt + 1);
    this.#options.log.debug('handing a bucket over', { bucket, to: nodeOfReplica(heir.id) });
    replica.transferLeadership(heir.id);
    return true;
  }

  /** Who could take a bucket, those before others who have all that is committed. */
  #heirs(replica: Replica, now: number): readonly FollowerProgress[] {
    const heirs = this.#inStep(replica, now);
    const complete = heirs.filter(({ match }) => match >= replica.raft.commitIndex);
    return complete.length > 0 ? complete : heirs;
  }

  #inStep({ raft }: Replica, now: number): readonly FollowerProgress[] {
    return raft.progress().filter((peer) => {
      const isAlive = raft.hears(peer.id, now) && this.#isFit(nodeOfReplica(peer.id), now);
      return isAlive && raft.isInStep(peer, now) && raft.config.voters.includes(peer.id);
    });
  }

  #isFit(node: NodeId, now: number): boolean {
    return this.#options.peers.connectedSince(node) !== undefined && now >= (this.#unfitUntilMs.get(node) ?? -Infinity);
  }

  #tellUnfit(now: number, forMs: number): void {
    if (now - this.#toldMs < UNFIT_TOLD_EVERY_MS) return;
    this.#toldMs = now;
    const { nodeId, peers } = this.#options;
    for (const node of this.#options.nodes()) if (node !== nodeId) peers.send(node, { kind: 'unfit', forMs });
    peers.flush();
  }
}
