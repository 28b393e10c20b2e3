import { toMapKey } from '../lib/bytes.js';
import type { BucketHeat, HeatReport, KeyHeat, Rates } from './heat.js';
import type { BucketId, NodeId } from './map.js';

/** What all nodes together say: of the whole cluster, as far as it was heard lately. */
export interface HeatSummary {
  readonly buckets: ReadonlyMap<BucketId, BucketHeat>;
  readonly nodes: ReadonlyMap<NodeId, Rates>;
  /** Hottest first. */
  readonly keys: readonly KeyHeat[];
}

export const NO_HEAT: HeatSummary = { buckets: new Map(), nodes: new Map(), keys: [] };

/** Nodes report once a second while they are warm; one that has said nothing for so long is cold. */
const HEARD_MS_MAX = 4000;

/** The reports of all nodes; on every node that hosts the system bucket. */
export class HeatReports {
  readonly #heard = new Map<NodeId, { readonly report: HeatReport; readonly atMs: number }>();

  heard(node: NodeId, report: HeatReport, nowMs: number): void {
    this.#heard.set(node, { report, atMs: nowMs });
  }

  summary(nowMs: number): HeatSummary {
    const buckets = new Map<BucketId, BucketHeat>();
    const nodes = new Map<NodeId, Rates>();
    const keys = new Map<string, KeyHeat>();
    for (const [node, { report, atMs }] of this.#heard) {
      if (atMs + HEARD_MS_MAX <= nowMs) {
        this.#heard.delete(node);
        continue;
      }
      nodes.set(node, { reads: report.reads, writes: report.writes, bytes: report.bytes });
      for (const heat of report.buckets) {
        const known = buckets.get(heat.bucket);
        buckets.set(heat.bucket, known === undefined ? heat : { bucket: heat.bucket, ...sum(known, heat) });
      }
      for (const heat of report.keys) {
        const name = toMapKey(heat.key);
        keys.set(name, { ...heat, reads: heat.reads + (keys.get(name)?.reads ?? 0) });
      }
    }
    return { buckets, nodes, keys: [...keys.values()].sort((a, b) => b.reads - a.reads) };
  }
}

function sum(a: Rates, b: Rates): Rates {
  return { reads: a.reads + b.reads, writes: a.writes + b.writes, bytes: a.bytes + b.bytes };
}
