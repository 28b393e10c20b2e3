import type { Env, FrameStream, StreamHandlers } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { Replica, Timing } from '../bucket/replica.js';
import { seal } from '../bucket/sealed.js';
import type { StateStore } from '../bucket/state-store.js';
import type { Founding } from '../placement/founding.js';
import type { HeatRules } from '../placement/hot.js';
import { SYSTEM_BUCKET, type BucketId, type NodeId, type NodeInfo } from '../placement/map.js';
import { changed, type PlacementChange, type PlacementRecord } from '../placement/record.js';
import { encodeRecordOf } from '../placement/record-format.js';
import type { Wanted } from '../placement/wanted.js';
import { NodeHeat } from './heat.js';
import type { Hosting } from './hosting.js';
import { acceptJoin } from './join.js';
import { Membership } from './membership.js';
import type { HeatItem, MembershipItem, PeerItem, RaftItem } from './peer-items.js';
import { Placer } from './placer.js';
import { SystemBucket, type AsRequest } from './system.js';

/**
 * What this node knows of the placement, and what it does about it:
 *
 *   system.ts       the placement as the system bucket has it, and how it is changed there
 *   membership.ts   brings the groups of this node to where the placement wants them
 *   heat.ts         measures how much is asked of buckets, and tells the nodes that may plan
 *   placer.ts       plans the next placement, on the node that leads the system bucket
 *   join.ts         lets new nodes in
 *
 * A later epoch wins wherever it is heard; it is kept in the state store, so that this node finds the others when it starts
 * again.
 */
export interface KeeperOptions {
  readonly env: Pick<Env, 'clock' | 'timers' | 'log' | 'metrics'>;
  readonly limits: Limits;
  readonly timing: Timing;
  readonly nodeId: NodeId;
  readonly clusterId: string;
  readonly founding: Founding;
  /** Where nodes listen now, of those that the configuration names. */
  readonly nodes: readonly NodeInfo[];
  readonly record: PlacementRecord;
  readonly state: StateStore;
  readonly hosting: Pick<Hosting, 'replicas' | 'add' | 'retire'>;
  readonly asRequest: AsRequest;
  readonly send: (to: NodeId, item: PeerItem) => void;
  readonly dial: (node: NodeId) => void;
  readonly isConnected: (node: NodeId) => boolean;
  readonly settled: (replica: Replica) => Promise<void>;
  readonly added: (replica: Replica) => void;
  /** A later placement has been adopted. */
  readonly adopted: (record: PlacementRecord) => void;
  /** This node must stop: it was removed, or something happened that should not. */
  readonly onFatal: (error: unknown) => void;
}

export interface KeeperProgress {
  readonly moving: readonly BucketId[];
  /** Those among them that wait for a leader. */
  readonly leaderless: readonly BucketId[];
  readonly wanted: Wanted;
  readonly unreachable: readonly NodeId[];
  readonly leads: (node: NodeId) => number;
}

/** In the state store: the latest placement that this node has heard of. */
export const PLACEMENT_KEY = Buffer.from('n/placement');
const JOIN_MS_MAX = 3000;

export class PlacementKeeper {
  readonly system: SystemBucket;
  readonly heat: NodeHeat;
  readonly #options: KeeperOptions;
  readonly #membership: Membership;
  readonly #placer: Placer;
  #record: PlacementRecord;

  constructor(options: KeeperOptions) {
    const { env, limits, nodeId, hosting, onFatal } = options;
    const { clock, timers, log } = env;
    this.#options = options;
    this.#record = this.#withAddresses(options.record);
    const record = (): PlacementRecord => this.#record;
    const adopt = (heard: PlacementRecord): void => this.#adopt(heard);
    this.system = new SystemBucket({
      replica: () => hosting.replicas.get(SYSTEM_BUCKET),
      record,
      log,
      asRequest: (execute) => options.asRequest(execute),
      adopt,
    });
    this.#membership = new Membership({
      nodeId,
      clock,
      timers,
      log,
      hosting,
      record,
      adopt,
      reported: (from, item) => this.#placer.heard(from, item),
      send: (to, item) => options.send(to, item),
      settled: (replica) => options.settled(replica),
      added: (replica) => options.added(replica),
      onBug: onFatal,
    });
    this.heat = new NodeHeat({ ...env, nodeId, record, hosting, send: (to, item) => options.send(to, item) });
    this.#placer = new Placer({
      clock,
      timers,
      log,
      changesMax: limits.bucketsMovingMax,
      lostAfterMs: limits.nodeLostMs,
      rules: this.rules,
      heat: () => this.heat.summary(),
      record,
      isLeading: () => this.system.isLeading,
      isReachable: (id) => {
        if (id === nodeId || options.isConnected(id)) return true;
        // Nothing may have been said to it yet: so nobody has tried.
        options.dial(id);
        return false;
      },
      change: (next, deadlineMs) => this.system.change(next, deadlineMs),
      onBug: onFatal,
    });
  }

  /** By what the planner goes. */
  get rules(): HeatRules {
    return this.#options.limits;
  }

  get record(): PlacementRecord {
    return this.#record;
  }

  /** Makes the record durable that this node was let in with, so that it needs to ask nobody again. */
  async keep(): Promise<void> {
    const { state } = this.#options;
    state.put(PLACEMENT_KEY, seal(encodeRecordOf(this.#record)));
    await state.flush();
  }

  /** Once a second. */
  tick(): void {
    this.system.tick();
    this.#membership.tick();
    this.heat.tick();
    this.#placer.tick();
  }

  close(): void {
    this.#membership.close();
    this.#placer.close();
  }

  // --- what peers say

  onItem(from: NodeId, item: MembershipItem | HeatItem): void {
    if (item.kind === 'heat') this.heat.heard(from, item.report);
    else this.#membership.onItem(from, item);
  }

  /** A peer is there that knows the placement of that epoch. */
  met(peer: NodeId, epoch: number): void {
    this.#membership.met(peer, epoch);
  }

  /** A message came for a replica that is not here. */
  called(item: RaftItem): void {
    this.#membership.called(item);
  }

  acceptJoin(hello: Bytes, stream: FrameStream): StreamHandlers {
    const { clusterId, founding, timing, limits, env } = this.#options;
    return acceptJoin(hello, stream, {
      clusterId,
      founding,
      settings: { timing, limits },
      record: () => this.#record,
      change: (next) => this.system.change(next, env.clock.monotonicMs() + JOIN_MS_MAX),
    });
  }

  // --- what people ask for

  /** Only on the node that leads the system bucket; others answer NOT_LEADER. */
  change(what: PlacementChange, deadlineMs: number): Promise<PlacementRecord> {
    const next = (record: PlacementRecord): PlacementRecord => {
      return changed(record, what, { ...this.#moving(record), away: this.#placer.unreachable() });
    };
    return this.system.change(next, deadlineMs);
  }

  /**
   * Buckets whose replicas are not known to be where they should be, what the placement itself lacks, nodes that cannot be
   * reached, and how many buckets each node leads; undefined if this node does not lead the system bucket.
   */
  get progress(): KeeperProgress | undefined {
    if (!this.system.isLeading) return undefined;
    const unreachable = [...this.#placer.unreachable()].sort((a, b) => a - b);
    const leads = (node: NodeId): number => this.#placer.leads(node);
    return { ...this.#moving(this.#record), wanted: this.#placer.wanted(), unreachable, leads };
  }

  #moving({ epoch, map }: PlacementRecord): Pick<KeeperProgress, 'moving' | 'leaderless'> {
    // Of another record than the one known here, nothing has been reported yet.
    const settled = epoch === this.#record.epoch ? this.#placer.settled() : new Set<number>();
    const moving = [SYSTEM_BUCKET, ...map.map(({ id }) => id)].filter((bucket) => !settled.has(bucket));
    const waiting = this.#placer.leaderless();
    return { moving, leaderless: moving.filter((bucket) => waiting.has(bucket)) };
  }

  // --- epochs

  #adopt(heard: PlacementRecord): void {
    if (heard.epoch <= this.#record.epoch) return;
    const record = this.#withAddresses(heard);
    const left = this.#record.nodes.filter(({ id }) => !record.nodes.some((node) => node.id === id));
    // One tells all: that all tell all would be a flood in a large cluster. Whoever misses it reports that it knows an older one.
    if (this.system.isLeading) this.#membership.tell(record, [...record.nodes, ...left]);
    this.#record = record;
    this.#options.state.put(PLACEMENT_KEY, seal(encodeRecordOf(record)));
    this.#options.adopted(record);
    this.#membership.tick();
    this.checkMember();
  }

  #withAddresses(record: PlacementRecord): PlacementRecord {
    const { nodes } = this.#options;
    const addressOf = (node: NodeInfo): string => nodes.find(({ id }) => id === node.id)?.address ?? node.address;
    return { ...record, nodes: record.nodes.map((node) => ({ ...node, address: addressOf(node) })) };
  }

  /** A node that was removed stops. */
  checkMember(): void {
    const { nodeId, clusterId, onFatal } = this.#options;
    if (this.#record.nodes.some(({ id }) => id === nodeId)) return;
    const advice = 'stop it, and delete its data directory';
    const message = `node ${nodeId} is no member of cluster '${clusterId}' any more: ${advice}`;
    onFatal(new TidemarkError('FAILED_PRECONDITION', 'NODE_REMOVED', message));
  }
}
