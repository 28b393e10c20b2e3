import { Crowding } from './crowding.js';
import { weightOf } from './heat.js';
import type { HeatSummary } from './heat-summary.js';
import type { HeatRules } from './hot.js';
import { SYSTEM_REPLICAS_MAX } from './initial.js';
import { replicaIdOf, SYSTEM_BUCKET } from './map.js';
import type { BucketId, BucketInfo, NodeId, ReplicaInfo } from './map.js';
import { epochOfReplica, placeOf, votersWanted, type PlacementRecord } from './record.js';
import { canDecide, hasVoter, leaderOf, type Replicas } from './replicas.js';

export interface PlannerInput {
  readonly record: PlacementRecord;
  /** Buckets that are as the record wants them. */
  readonly settled: ReadonlySet<BucketId>;
  /** Buckets that somebody leads: of the others nothing moves, whatever is planned. */
  readonly led: Pick<ReadonlySet<BucketId>, 'has'>;
  /** Nodes that will not come back, as far as anybody can tell. */
  readonly lost: ReadonlySet<NodeId>;
  /** Nodes that cannot be reached now: nothing is placed on them. */
  readonly unreachable: ReadonlySet<NodeId>;
  /** Those of them that have not been for so long that nothing waits for them which can do without. */
  readonly away: ReadonlySet<NodeId>;
  /** How each bucket was placed when it was last settled, as far as is known. */
  readonly last: ReadonlyMap<BucketId, Replicas>;
  /** Buckets that may be under way at a time. */
  readonly changesMax: number;
  readonly heat: HeatSummary;
  /** Buckets that have had more read replicas than they may keep for long enough. */
  readonly cool: ReadonlySet<BucketId>;
  readonly rules: HeatRules;
}

/** Of the buckets that may be under way. */
const HEAT_ROOM = 1 / 4;

/**
 * A placement that is being planned: the record, what was changed of it so far, and what each node would have by that.
 *
 * The planner runs on the event loop of a node, over thousands of buckets perhaps. One pass over the map counts, and notes where
 * something may be to do; what comes then looks at that only.
 */
export class Draft {
  readonly input: PlannerInput;
  /** Nodes that may keep replicas; and those that may get any, in order of their ids. */
  readonly usable: ReadonlySet<NodeId>;
  readonly targets: readonly NodeId[];
  readonly crowding: Crowding;
  /**
   * Buckets with a replica on a node that may keep none, or on its way to one that is away; with another number of voters than
   * wanted; with voters that share more than they must; with read replicas.
   */
  readonly stray: BucketId[] = [];
  readonly missized: BucketId[] = [];
  readonly crowded: BucketId[] = [];
  readonly helped: BucketId[] = [];
  /** Voters of data buckets that each node should have, and of how many of these it should lead. */
  readonly load = new Tally();
  readonly leads = new Tally();
  /** How hot each node is, and is by what it should lead. */
  readonly heat = new Tally();
  readonly leadHeat = new Tally();
  readonly #epoch: number;
  readonly #changed = new Map<BucketId, Replicas>();
  #room: number;

  constructor(input: PlannerInput) {
    const { record, settled, led, lost, unreachable, changesMax, heat } = input;
    this.input = input;
    this.#epoch = record.epoch + 1;
    const usable = record.nodes.map(({ id }) => id).filter((id) => !record.draining.includes(id) && !lost.has(id));
    this.usable = new Set(usable);
    this.crowding = new Crowding(record.nodes, usable);
    this.targets = usable.filter((id) => !unreachable.has(id));
    for (const [node, rates] of heat.nodes) this.heat.add(node, weightOf(rates));
    let moving = 0;
    for (const { id, replicas } of [record.system, ...record.map]) {
      if (!settled.has(id) && led.has(id)) moving += 1;
      this.#look(id, replicas);
      if (id !== SYSTEM_BUCKET) this.#count(id, replicas, 1);
    }
    this.#room = changesMax - moving;
  }

  #look(bucket: BucketId, replicas: Replicas): void {
    let voters = 0;
    let isStray = false;
    for (const replica of replicas) {
      if (!replica.learner) voters += 1;
      if (!this.usable.has(replica.node) || this.isStranded(bucket, replica)) isStray = true;
    }
    if (isStray) this.stray.push(bucket);
    if (voters !== this.votersWanted(bucket)) this.missized.push(bucket);
    // Where there are more voters than nodes to have them, it is not by going apart that they would share less.
    const isCrowded = voters <= this.usable.size && this.crowding.among(replicas) > this.crowding.least(voters);
    if (isCrowded) this.crowded.push(bucket);
    if (voters < replicas.length) this.helped.push(bucket);
  }

  #count(bucket: BucketId, replicas: Replicas, by: 1 | -1): void {
    for (const { node, learner } of replicas) if (!learner) this.load.add(node, by);
    const leader = leaderOf(replicas);
    if (leader === undefined) return;
    this.leads.add(leader, by);
    this.leadHeat.add(leader, by * this.weightOf(bucket));
  }

  votersWanted(bucket: BucketId): number {
    const { record } = this.input;
    return bucket === SYSTEM_BUCKET ? Math.min(this.usable.size, SYSTEM_REPLICAS_MAX) : votersWanted(record, bucket);
  }

  /** What a bucket weighs on the node that leads it: all writes, and its share of the reads. */
  weightOf(bucket: BucketId): number {
    const { heat } = this.input;
    if (heat.buckets.size === 0) return 0;
    const rates = heat.buckets.get(bucket);
    return rates === undefined ? 0 : weightOf({ reads: rates.reads / this.votersWanted(bucket), writes: rates.writes });
  }

  replicasOf(bucket: BucketId): Replicas {
    return this.#changed.get(bucket) ?? placeOf(this.input.record, bucket)?.replicas ?? [];
  }

  get hasRoom(): boolean {
    return this.#room > 0;
  }

  get isUnchanged(): boolean {
    return this.#changed.size === 0;
  }

  isSettled(bucket: BucketId): boolean {
    return this.input.settled.has(bucket);
  }

  /** May be changed now, or, as it is on its way already, be sent elsewhere. */
  isMovable(bucket: BucketId): boolean {
    return this.isSettled(bucket) ? this.hasRoom : this.input.led.has(bucket);
  }

  /** So many of these voters are there, as far as is known, that they can decide. */
  canDecide(voters: Replicas): boolean {
    return canDecide(voters, ({ node }) => this.isThere(node));
  }

  isThere(node: NodeId): boolean {
    return !this.input.lost.has(node) && !this.input.unreachable.has(node);
  }

  /**
   * A voter that is on its way to a node that is away: it was not there when the bucket was last settled. Of a bucket that was
   * not seen settled all that were ever added count as on their way: one that votes already is replaced as well, which is safe.
   */
  isStranded(bucket: BucketId, { id, node, learner }: ReplicaInfo): boolean {
    const { away, last } = this.input;
    if (learner || !away.has(node) || this.isSettled(bucket)) return false;
    const before = last.get(bucket);
    return before === undefined ? epochOfReplica(id) > 0 : !hasVoter(before, node);
  }

  /** May be changed now. */
  isOpen(bucket: BucketId): boolean {
    return this.hasRoom && this.isSettled(bucket) && !this.#changed.has(bucket);
  }

  /** The same because of heat: help does not wait until long moves are done, there is some more room for it. */
  isOpenForHeat(bucket: BucketId): boolean {
    const more = Math.ceil(this.input.changesMax * HEAT_ROOM);
    return this.#room + more > 0 && this.isSettled(bucket) && !this.#changed.has(bucket);
  }

  /** Data buckets that may be changed, while there is room for another. */
  *open(): Generator<readonly [BucketId, Replicas]> {
    for (const { id, replicas } of this.input.record.map) {
      if (!this.hasRoom) return;
      if (this.isOpen(id)) yield [id, replicas];
    }
  }

  set(bucket: BucketId, replicas: Replicas): void {
    if (bucket !== SYSTEM_BUCKET) {
      this.#count(bucket, this.replicasOf(bucket), -1);
      this.#count(bucket, replicas, 1);
    }
    this.#changed.set(bucket, replicas);
    if (this.isSettled(bucket)) this.#room -= 1;
  }

  newReplica(node: NodeId, learner: boolean): ReplicaInfo {
    return { id: replicaIdOf(node, this.#epoch), node, learner };
  }

  /** The next record; undefined if it is the present one. */
  result(): PlacementRecord | undefined {
    if (this.isUnchanged) return undefined;
    const { record } = this.input;
    const now = (place: BucketInfo): BucketInfo => {
      const replicas = this.#changed.get(place.id);
      return replicas === undefined ? place : { ...place, replicas };
    };
    return { ...record, epoch: this.#epoch, system: now(record.system), map: record.map.map(now) };
  }
}

interface Range {
  readonly least: number;
  readonly most: number;
}

/** A number for each node. */
class Tally {
  /** By id: nodes have small numbers, one after the other. */
  readonly #numbers: number[] = [];
  #range: Range = { least: 0, most: 0 };
  #rangeVersion = -1;
  /** Counts the changes: who remembers what follows from the numbers knows when it does not any more. */
  version = 0;

  of(node: NodeId): number {
    return this.#numbers[node] ?? 0;
  }

  add(node: NodeId, by: number): void {
    this.#numbers[node] = this.of(node) + by;
    this.version += 1;
  }

  /** The most and the least that one of these nodes has: always the same nodes. */
  range(nodes: Iterable<NodeId>): Range {
    if (this.#rangeVersion === this.version) return this.#range;
    let least = Infinity;
    let most = -Infinity;
    for (const node of nodes) {
      least = Math.min(least, this.of(node));
      most = Math.max(most, this.of(node));
    }
    this.#range = { least, most };
    this.#rangeVersion = this.version;
    return this.#range;
  }

  /** As range; the difference between the two. */
  spread(nodes: Iterable<NodeId>): number {
    const { least, most } = this.range(nodes);
    return most - least;
  }
}
