import type { Clock, Logger, Timers } from '../env/env.js';
import { isTidemarkError, messageOf } from '../lib/errors.js';
import type { PlannerInput } from '../placement/draft.js';
import type { HeatSummary } from '../placement/heat-summary.js';
import { Cooling, type HeatRules } from '../placement/hot.js';
import { SYSTEM_BUCKET, type BucketId, type NodeId } from '../placement/map.js';
import { plan } from '../placement/planner.js';
import { placeOf, type PlacementRecord } from '../placement/record.js';
import type { Replicas } from '../placement/replicas.js';
import { wantedOf, type Wanted } from '../placement/wanted.js';
import type { SettledItem } from './peer-items.js';
import { Soon } from './soon.js';

/**
 * Lets the planner work, on the node that leads the system bucket: once a second, and soon after a leader of buckets has reported
 * what is done. By these reports, and what all nodes say of their heat, it writes the next placement if there is one. Nothing
 * is lost when this node ends: whoever leads the system bucket then hears the same reports, and waits anew until buckets have
 * cooled.
 */
export interface PlacerOptions {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Logger;
  /** Buckets that may be under way at a time. */
  readonly changesMax: number;
  /** A node that nobody here can reach for so long is taken for lost. */
  readonly lostAfterMs: number;
  readonly rules: HeatRules;
  readonly heat: () => HeatSummary;
  readonly record: () => PlacementRecord;
  readonly isLeading: () => boolean;
  readonly isReachable: (node: NodeId) => boolean;
  readonly change: (next: (record: PlacementRecord) => PlacementRecord, deadlineMs: number) => Promise<PlacementRecord>;
  readonly onBug: (error: unknown) => void;
}

interface Report {
  readonly epoch: number;
  readonly moving: readonly BucketId[];
  readonly buckets: readonly BucketId[];
  readonly heardMs: number;
}

/**
 * A node that is out of reach for so long is away: moves to it are called off, and its read replicas go. Longer than a node takes
 * to start anew, so that none of them is copied again for that.
 */
const AWAY_MS = 15_000;
/** For so long a report counts: leaders report more often, see Membership. */
const REPORT_MS_MAX = 15_000;
const CHANGE_MS_MAX = 2000;
/** A node that nobody had a reason to dial is there a moment after: until then nobody is told that it cannot be reached. */
const UNREACHABLE_MS = 1000;
/** Reports are waited for so long, so that one placement answers many. */
const REPORTS_MS = 100;
/** All nodes are told all of a placement, some 12 bytes a bucket: no more than about 12 MB a second. */
const BUCKETS_TOLD_PER_MS = 1000;
const NOTHING: ReadonlySet<number> = new Set();

export class Placer {
  readonly #options: PlacerOptions;
  readonly #reports = new Map<NodeId, Report>();
  readonly #silentSinceMs = new Map<NodeId, number>();
  /** As of the last look. */
  #lost: ReadonlySet<NodeId> = NOTHING;
  /** How each bucket was placed when it was last settled, since this node leads. */
  readonly #last = new Map<BucketId, Replicas>();
  readonly #cooling = new Cooling();
  #record: PlacementRecord | undefined;
  /** From which epoch on a bucket has been placed as it is, as far as this node knows. */
  readonly #placedSince = new Map<BucketId, number>();
  readonly #planSoon: Soon;
  #leadingSinceMs = Infinity;
  #running = false;

  constructor(options: PlacerOptions) {
    this.#options = options;
    const { timers, record, onBug } = options;
    const pauseMs = (): number => Math.max(REPORTS_MS, (record().map.length * record().nodes.length) / BUCKETS_TOLD_PER_MS);
    this.#planSoon = new Soon(timers, pauseMs, () => this.tick(), onBug);
  }

  close(): void {
    this.#planSoon.close();
  }

  heard(from: NodeId, { epoch, moving, buckets }: SettledItem): void {
    // Of a placement that is not known here nothing can be told; it is reported again.
    if (epoch > this.#options.record().epoch) return;
    const before = this.#reports.get(from);
    this.#reports.set(from, { epoch, moving, buckets, heardMs: this.#options.clock.monotonicMs() });
    if (before?.epoch !== epoch || before.buckets.join() !== buckets.join()) this.#planSoon.ask();
  }

  /** Buckets that their leaders say are as the present placement wants them. */
  settled(): ReadonlySet<BucketId> {
    this.#compare(this.#options.record());
    const settled = new Set<BucketId>();
    for (const report of this.#reports.values()) {
      if (!this.#isRecent(report)) continue;
      const { epoch, buckets } = report;
      for (const bucket of buckets) if (epoch >= (this.#placedSince.get(bucket) ?? Infinity)) settled.add(bucket);
    }
    return settled;
  }

  #isRecent({ heardMs }: Report): boolean {
    return heardMs > this.#options.clock.monotonicMs() - REPORT_MS_MAX;
  }

  /** How many buckets a node said that it leads, the system bucket not counted; none if it has said nothing of late. */
  leads(node: NodeId): number {
    const report = this.#reports.get(node);
    if (report === undefined || !this.#isRecent(report)) return 0;
    return [...report.moving, ...report.buckets].filter((bucket) => bucket !== SYSTEM_BUCKET).length;
  }

  /**
   * Buckets that somebody has said he leads, of late. Reports go to where the system bucket should be: a node that still leads it
   * and is to be replaced, by one that does not come, hears none for long, and takes all of them for led.
   */
  #led(): PlannerInput['led'] {
    const recent = [...this.#reports.values()].filter((report) => this.#isRecent(report));
    if (recent.length === 0 && this.#hasHeardAll) return { has: () => true };
    return new Set(recent.flatMap(({ moving, buckets }) => [...moving, ...buckets]));
  }

  /** It plans for so long that all who lead buckets have said so. */
  get #hasHeardAll(): boolean {
    return this.#options.clock.monotonicMs() - this.#leadingSinceMs >= REPORT_MS_MAX;
  }

  /** Buckets that nobody has said he leads, as far as that can be told. */
  leaderless(): ReadonlySet<BucketId> {
    if (!this.#hasHeardAll) return NOTHING;
    const led = this.#led();
    return new Set([SYSTEM_BUCKET, ...this.#options.record().map.map(({ id }) => id)].filter((bucket) => !led.has(bucket)));
  }

  /** What was reported of a bucket counts until the bucket is placed otherwise. */
  #compare(record: PlacementRecord): void {
    const known = this.#record;
    if (known?.epoch === record.epoch) return;
    this.#record = record;
    for (const { id, replicas } of [record.system, ...record.map]) {
      if (known === undefined || !areSame(placeOf(known, id)?.replicas ?? [], replicas)) this.#placedSince.set(id, record.epoch);
    }
  }

  /** Nodes that cannot be reached, and not just for this moment; only on the node that plans. */
  unreachable(): ReadonlySet<NodeId> {
    return new Set([...this.#silent(UNREACHABLE_MS)].filter((id) => !this.#options.isReachable(id)));
  }

  /** What the present placement lacks. */
  wanted(): Wanted {
    const { record, heat } = this.#options;
    return wantedOf({ record: record(), ...this.#input(this.unreachable(), heat(), NOTHING) });
  }

  /** What the planner goes by, but the record itself. */
  #input(unreachable: ReadonlySet<NodeId>, heat: HeatSummary, cool: ReadonlySet<BucketId>): Omit<PlannerInput, 'record'> {
    const { changesMax, rules } = this.#options;
    const away = this.#silent(AWAY_MS);
    const reported = { settled: this.settled(), led: this.#led(), last: this.#last };
    return { ...reported, lost: this.#lost, unreachable, away, changesMax, heat, cool, rules };
  }

  tick(): void {
    if (!this.#options.isLeading()) {
      // How long others were silent to it before it led says nothing: it starts to count when it leads.
      this.#silentSinceMs.clear();
      this.#leadingSinceMs = Infinity;
      this.#lost = NOTHING;
      this.#last.clear();
      this.#cooling.forget();
      return;
    }
    const { record, clock, rules } = this.#options;
    const known = record();
    this.#leadingSinceMs = Math.min(this.#leadingSinceMs, clock.monotonicMs());
    this.#listen(known);
    const heat = this.#options.heat();
    const cool = this.#cooling.look(known, heat, rules, clock.monotonicMs());
    if (this.#running) return;
    const input = this.#input(this.#silent(0), heat, cool);
    for (const bucket of input.settled) this.#last.set(bucket, placeOf(known, bucket)?.replicas ?? []);
    if (plan({ record: known, ...input }) === undefined) return;
    this.#running = true;
    this.#write(known.epoch, (present) => plan({ record: present, ...input }) ?? present)
      .catch(this.#options.onBug)
      .finally(() => {
        this.#running = false;
      });
  }

  async #write(epoch: number, next: (record: PlacementRecord) => PlacementRecord): Promise<void> {
    const { change, clock, log } = this.#options;
    try {
      // What was settled was so at that epoch: at another one it must be reported again.
      const unlessChanged = (present: PlacementRecord): PlacementRecord => (present.epoch === epoch ? next(present) : present);
      const { epoch: now } = await change(unlessChanged, clock.monotonicMs() + CHANGE_MS_MAX);
      if (now > epoch) log.info('planned the next placement', { epoch: now });
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      log.debug('the next placement was not written', { error: messageOf(error) });
    }
  }

  /** Notes who can be reached, and tells of nodes that become lost, or are not any more. */
  #listen({ nodes }: PlacementRecord): void {
    const { isReachable, clock, lostAfterMs, log } = this.#options;
    const now = clock.monotonicMs();
    const members = new Set(nodes.map(({ id }) => id));
    for (const id of this.#silentSinceMs.keys()) if (!members.has(id)) this.#silentSinceMs.delete(id);
    for (const id of members) {
      if (isReachable(id)) this.#silentSinceMs.delete(id);
      else if (!this.#silentSinceMs.has(id)) this.#silentSinceMs.set(id, now);
    }
    const lost = this.#silent(lostAfterMs);
    for (const id of lost) {
      if (this.#lost.has(id)) continue;
      const silentMs = Math.round(now - (this.#silentSinceMs.get(id) ?? now));
      log.warn('a node is taken for lost: its replicas are made anew on others', { lost: id, silentMs });
    }
    for (const id of this.#lost) {
      if (!lost.has(id) && members.has(id)) log.info('a node that was taken for lost is back', { node: id });
    }
    this.#lost = lost;
  }

  /** Nodes that have been out of reach for so long, as of the last look. */
  #silent(forMs: number): ReadonlySet<NodeId> {
    const before = this.#options.clock.monotonicMs() - forMs;
    return new Set([...this.#silentSinceMs].filter(([, since]) => since <= before).map(([id]) => id));
  }
}

function areSame(a: Replicas, b: Replicas): boolean {
  return a.length === b.length && a.every(({ id, learner }, at) => b[at]?.id === id && b[at].learner === learner);
}
