import type { Clock, Gauge, Metrics } from '../env/env.js';
import { HeatMeter, type HeatReport } from '../placement/heat.js';
import { HeatReports, type HeatSummary } from '../placement/heat-summary.js';
import { bucketOf, type NodeId } from '../placement/map.js';
import type { PlacementRecord } from '../placement/record.js';
import type { Hosting } from './hosting.js';
import type { HeatItem } from './peer-items.js';

/**
 * The heat of this node and, where the system bucket is hosted, of the whole cluster. Once a second a node that is warm tells the
 * nodes that host the system bucket, of which one plans; a node that is cold says nothing, and what a node said does not count
 * for long. So a report that is lost costs a second, and no node has to be told that another one is new.
 */
export interface NodeHeatOptions {
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly record: () => PlacementRecord;
  readonly hosting: Pick<Hosting, 'replicas'>;
  readonly send: (to: NodeId, item: HeatItem) => void;
}

export class NodeHeat {
  readonly meter: HeatMeter;
  readonly #options: NodeHeatOptions;
  readonly #reports = new HeatReports();
  readonly #gauges: Readonly<Record<'reads' | 'writes' | 'bytes' | 'readReplicas', Gauge>>;
  #tickedMs: number;

  constructor(options: NodeHeatOptions) {
    const { metrics, clock, record } = options;
    this.#options = options;
    this.#tickedMs = clock.monotonicMs();
    const { buckets } = record();
    this.meter = new HeatMeter((key) => bucketOf(key, buckets));
    const half = 'decayed with a half-life of 5 s.';
    this.#gauges = {
      reads: metrics.gauge('tidemark_heat_reads_per_second', `Reads of single keys that this node serves, ${half}`),
      writes: metrics.gauge('tidemark_heat_writes_per_second', `Writes that this node leads, ${half}`),
      bytes: metrics.gauge('tidemark_heat_bytes_per_second', `Bytes of both, ${half}`),
      readReplicas: metrics.gauge('tidemark_read_replicas', 'Read replicas of hot buckets that this node hosts.'),
    };
  }

  heard(from: NodeId, report: HeatReport): void {
    this.#reports.heard(from, report, this.#options.clock.monotonicMs());
  }

  /** As far as this node was told. */
  summary(): HeatSummary {
    return this.#reports.summary(this.#options.clock.monotonicMs());
  }

  /** Once a second. */
  tick(): void {
    const { nodeId, clock, record, send } = this.#options;
    const now = clock.monotonicMs();
    this.meter.tick(now - this.#tickedMs);
    this.#tickedMs = now;
    this.#show();
    const report = this.meter.report();
    if (report === undefined) return;
    for (const { node } of record().system.replicas) {
      if (node === nodeId) this.heard(nodeId, report);
      else send(node, { kind: 'heat', report });
    }
  }

  #show(): void {
    const { reads, writes, bytes } = this.meter.rates;
    this.#gauges.reads.set(reads);
    this.#gauges.writes.set(writes);
    this.#gauges.bytes.set(bytes);
    let readReplicas = 0;
    for (const { id, raft } of this.#options.hosting.replicas.values()) {
      if (raft.config.learners.includes(id)) readReplicas += 1;
    }
    this.#gauges.readReplicas.set(readReplicas);
  }
}
