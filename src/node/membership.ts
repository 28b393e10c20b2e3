import type { Clock, Logger, Timers } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import { nodeOfReplica, type BucketId, type NodeId, type NodeInfo, type ReplicaInfo } from '../placement/map.js';
import { checkSuccessor, epochOfReplica, placeOf, type PlacementRecord } from '../placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../placement/record-format.js';
import { canDecide } from '../placement/replicas.js';
import { changeConfig } from '../raft/config.js';
import type { Message, ReplicaId } from '../raft/types.js';
import type { Hosting } from './hosting.js';
import type { BelongsItem, MembershipItem, PeerItem, SettledItem } from './peer-items.js';
import { isSettled, nextChange } from './reconcile.js';
import { Soon } from './soon.js';

/**
 * Brings the groups of this node to where the placement wants them.
 *
 *   the leader of a bucket   compares the configuration of its group with the placement, once a second and more often while they
 *                            differ, and takes the next step
 *   a node that is called    makes an empty replica when a leader sends it anything for one: it is a learner then
 *   a node that hosts more   than the placement says asks the others whether its replica still belongs to the group, and gives
 *                            it up when the leader says that it does not
 *
 * Any of them may end at any moment, or know an older placement than the others.
 *
 * Invariants
 * - A replica is given up only when a leader, confirmed after it was asked, has a committed configuration without it, and knows
 *   a placement at least as late as the one that made the replica, without it as well. So no later leader can count on it.
 * - No change is proposed whose voters could not decide, as far as the leader has heard of them lately: it would be in force when
 *   it is logged, and never be committed.
 * - A leader that knows an older placement than the one its group was last changed for changes nothing.
 * - A replica that went is never made again under its id (Hosting.add), whatever message comes late.
 *
 * The placement itself comes from the system bucket where that is hosted, and from the peers everywhere: the node that leads the
 * system bucket tells all others of a later one, and whoever meets a peer with an older one, or hears its report, tells that.
 */
export interface MembershipOptions {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Logger;
  readonly hosting: Pick<Hosting, 'replicas' | 'add' | 'retire'>;
  readonly record: () => PlacementRecord;
  /** A leader reports what is done. */
  readonly reported: (from: NodeId, item: SettledItem) => void;
  /** A placement was heard of. */
  readonly adopt: (record: PlacementRecord) => void;
  readonly send: (to: NodeId, item: PeerItem) => void;
  /** Resolves when nothing of a replica is on its way to the log. */
  readonly settled: (replica: Replica) => Promise<void>;
  /** A new replica is there, and has missed the message that called for it. */
  readonly added: (replica: Replica) => void;
  readonly onBug: (error: unknown) => void;
}

const BELONGS_MS_MAX = 2000;
/** Replicas that are being made or given up at a time: each costs a few syncs. */
const AT_ONCE_MAX = 16;
const REPORT_AGAIN_MS = 5000;
/** While a group is not as the placement wants it, its leader looks so often. */
const LOOK_AGAIN_MS = 100;

export class Membership {
  readonly #options: MembershipOptions;
  readonly #busy = new Set<BucketId>();
  readonly #lookAgain: Soon;
  #told = '';
  #toldMs = -Infinity;
  #closed = false;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#lookAgain = new Soon(options.timers, () => LOOK_AGAIN_MS, () => this.#lead(), options.onBug);
  }

  /** Once a second, and when there is a later placement. */
  tick(): void {
    const { hosting, record } = this.#options;
    const placement = record();
    for (const replica of hosting.replicas.values()) {
      const place = placeOf(placement, replica.bucket);
      if (place === undefined || replica.installing || replica.isLeader) continue;
      if (!this.#isMeant(replica, place.replicas)) this.#askWhether(replica);
    }
    this.#lead();
  }

  close(): void {
    this.#closed = true;
    this.#lookAgain.close();
  }

  // --- a leader

  /** Takes the next step wherever there is one to take, and tells what is done. */
  #lead(): void {
    const { hosting, record } = this.#options;
    const placement = record();
    const settled: BucketId[] = [];
    const moving: BucketId[] = [];
    for (const replica of hosting.replicas.values()) {
      const { bucket, isLeader, raft, state, installing } = replica;
      if (!isLeader || !raft.canServe()) continue;
      const place = placeOf(placement, bucket)?.replicas ?? [];
      if (place.length > 0 && !installing) this.#step(replica, place, placement.epoch);
      if (isSettled(state.meta.config, place)) settled.push(bucket);
      else moving.push(bucket);
    }
    this.#report({ kind: 'settled', epoch: placement.epoch, moving, buckets: settled });
    if (moving.length > 0) this.#lookAgain.ask();
  }

  #step(replica: Replica, target: readonly ReplicaInfo[], epoch: number): void {
    const { raft, bucket } = replica;
    const { config } = raft;
    const newest = Math.max(...[...config.voters, ...config.outgoing, ...config.learners].map(epochOfReplica));
    if (newest > epoch) return;
    const now = this.#options.clock.monotonicMs();
    const isReady = (id: ReplicaId): boolean => {
      const isInStep = raft.progress().some((peer) => peer.id === id && raft.isInStep(peer, now));
      return (isInStep && raft.hears(id, now)) || mutant('promoted-unready');
    };
    const changes = nextChange(config, target, isReady);
    if (changes === undefined) return;
    const { voters } = changeConfig(config, changes);
    const isThere = (id: ReplicaId): boolean => id === replica.id || raft.hears(id, now);
    if (!canDecide(voters, isThere) && !mutant('promoted-unready')) return;
    try {
      replica.changeMembers(changes);
      this.#options.log.info('changing the members of a bucket', { bucket, epoch, changes: JSON.stringify(changes) });
    } catch (error) {
      // A change is under way, or floors are not held by a quorum yet: at the next look it is tried again.
      if (!isTidemarkError(error) || !error.retriable) throw error;
    }
  }

  // --- a replica that may be in excess

  /** The placement means this replica, or it is one that votes, and its group has not gone on without it yet. */
  #isMeant({ id, raft }: Replica, target: readonly ReplicaInfo[]): boolean {
    const votes = raft.config.voters.includes(id) && raft.leader !== 0;
    const stays = mutant('removed-reader-stays') && raft.config.learners.includes(id);
    return target.some((replica) => replica.id === id) || votes || stays;
  }

  /** Asks every node, for the leader may be on its way out, and then no placement names it. */
  #askWhether({ bucket, id }: Replica): void {
    const { nodeId, send, record } = this.#options;
    for (const node of record().nodes) if (node.id !== nodeId) send(node.id, { kind: 'belongs', bucket, replica: id });
  }

  onItem(from: NodeId, item: MembershipItem): void {
    switch (item.kind) {
      case 'placement':
        this.#heardOf(from, item.record);
        return;
      case 'belongs':
        this.#answer(from, item).catch(this.#options.onBug);
        return;
      case 'gone':
        this.#giveUp(from, item);
        return;
      case 'settled':
        this.#options.reported(from, item);
        this.met(from, item.epoch);
    }
  }

  async #answer(to: NodeId, { bucket, replica: id }: BelongsItem): Promise<void> {
    const { hosting, clock, send } = this.#options;
    const replica = hosting.replicas.get(bucket);
    if (replica?.isLeader !== true || this.#mayBelong(replica, id)) return;
    try {
      await replica.reads.open({ kind: 'linearizable' }, clock.monotonicMs() + BELONGS_MS_MAX);
    } catch (error) {
      // It does not lead, or cannot prove it now: whoever does will be asked.
      if (isTidemarkError(error)) return;
      throw error;
    }
    if (replica.isLeader && !this.#mayBelong(replica, id)) send(to, { kind: 'gone', bucket, replica: id });
  }

  /** By what this leader knows, if it leads, the replica is a member, or may become one. */
  #mayBelong({ bucket, raft, state }: Replica, id: ReplicaId): boolean {
    const placement = this.#options.record();
    const isKnown = placement.epoch >= epochOfReplica(id);
    const isPlaced = placeOf(placement, bucket)?.replicas.some((replica) => replica.id === id) !== false;
    const configs = mutant('gone-uncommitted') ? [raft.config] : [raft.config, state.meta.config];
    const isMember = configs.some(({ voters, outgoing, learners, learnersNext }) =>
      [voters, outgoing, learners, learnersNext].some((ids) => ids.includes(id)),
    );
    const mayChange = raft.hasPendingConfig && !mutant('gone-uncommitted');
    return !isKnown || isPlaced || isMember || mayChange;
  }

  #giveUp(from: NodeId, { bucket, replica: id }: BelongsItem): void {
    const { hosting, log, settled, onBug } = this.#options;
    const replica = hosting.replicas.get(bucket);
    if (replica?.id !== id || replica.installing || replica.isLeader || this.#isBusy(bucket)) return;
    // The word may be late, and a later leader may have taken it in again: whoever is out hears no leader, and asks again.
    if (replica.raft.leader !== 0 && replica.raft.config.voters.includes(id)) return;
    log.info('giving up a replica: its group has gone on without it', { bucket, replica: id, leader: from });
    this.#run(bucket, hosting.retire(replica, settled)).catch(onBug);
  }

  // --- a replica that is called for

  /** A message came for a replica that is not here. */
  called({ bucket, message }: { readonly bucket: BucketId; readonly message: Message }): void {
    const { hosting, nodeId, log, added, onBug } = this.#options;
    // Heartbeats as well: a leader whose log begins later than what a silent replica lacks has nothing else to send to it.
    const isLeaders = message.type === 'append' || message.type === 'heartbeat';
    if (!isLeaders || nodeOfReplica(message.to) !== nodeId || this.#isBusy(bucket)) return;
    const make = async (): Promise<void> => {
      const replica = await hosting.add(bucket, message.to);
      if (replica === undefined) return;
      log.info('made a replica that its leader called for', { bucket, replica: message.to });
      added(replica);
    };
    this.#run(bucket, make()).catch(onBug);
  }

  #isBusy(bucket: BucketId): boolean {
    return this.#closed || this.#busy.has(bucket) || this.#busy.size >= AT_ONCE_MAX;
  }

  async #run(bucket: BucketId, work: Promise<void>): Promise<void> {
    this.#busy.add(bucket);
    try {
      await work;
    } catch (error) {
      if (!this.#closed) throw error;
    } finally {
      this.#busy.delete(bucket);
    }
  }

  // --- the placement

  /** What cannot be a placement of this cluster is not believed: this node goes on by the one that it knows. */
  #heardOf(from: NodeId, data: Bytes): void {
    const { record, adopt, log } = this.#options;
    let heard: PlacementRecord;
    try {
      heard = decodeRecordOf(data);
      checkSuccessor(heard, record(), `node ${from}`);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      const { code, reason, message } = error;
      log.error('a peer told a placement that is not believed', { peer: from, code, reason, error: message });
      return;
    }
    adopt(heard);
  }

  /** A peer is there that knows the placement of that epoch. */
  met(peer: NodeId, epoch: number): void {
    const record = this.#options.record();
    if (epoch < record.epoch) this.#options.send(peer, { kind: 'placement', record: encodeRecordOf(record) });
  }

  /** Of a later placement, which these may not know. */
  tell(record: PlacementRecord, nodes: readonly NodeInfo[]): void {
    const { nodeId, send } = this.#options;
    const item = { kind: 'placement', record: encodeRecordOf(record) } as const;
    for (const { id } of nodes) if (id !== nodeId) send(id, item);
  }

  /** Tells those who may plan what is done here, when that has changed, and now and then again. */
  #report(item: SettledItem): void {
    const { nodeId, clock, record, send, reported } = this.#options;
    const now = clock.monotonicMs();
    const told = `${item.epoch}, ${item.moving.join()}: ${item.buckets.join()}`;
    if (told === this.#told && now - this.#toldMs < REPORT_AGAIN_MS) return;
    this.#told = told;
    this.#toldMs = now;
    for (const { node } of record().system.replicas) {
      if (node === nodeId) reported(nodeId, item);
      else send(node, item);
    }
  }
}
