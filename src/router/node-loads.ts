import type { Clock } from '../env/env.js';
import type { NodeId } from '../placement/map.js';

/**
 * How busy each node is, as far as this router can tell by itself: how many of its requests are there, and how long reads take.
 *
 * The cost of a node is what one more read would take if those before it stood in line: (outstanding + 1) × latency. The latency
 * is an exponentially weighted average that fades while nothing is measured, so that a node which was slow once is tried again.
 */
export type ReadSort =
  /** Any replica serves it from what it has. */
  | 'settled'
  /** Linearizable: a replica asks its leader first. */
  | 'confirmed';

const WEIGHT = 0.2;
const FADE_HALF_MS = 1000;
/** What is faster than this makes no difference; and nothing is known of a node that was never asked. */
const LATENCY_MS_MIN = 0.1;

interface Load {
  outstanding: number;
  readonly latencies: Readonly<Record<ReadSort, Latency>>;
}

interface Latency {
  ms: number;
  atMs: number;
}

export class NodeLoads {
  readonly #clock: Clock;
  readonly #loads = new Map<NodeId, Load>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A request is under way to the node, until `end`. */
  begin(node: NodeId): void {
    this.#of(node).outstanding += 1;
  }

  end(node: NodeId): void {
    this.#of(node).outstanding -= 1;
  }

  outstanding(node: NodeId): number {
    return this.#loads.get(node)?.outstanding ?? 0;
  }

  /** A read took so long; `atLeast`: nobody waited for its end. */
  took(node: NodeId, sort: ReadSort, ms: number, atLeast = false): void {
    const latency = this.#of(node).latencies[sort];
    const nowMs = this.#clock.monotonicMs();
    if (atLeast && ms <= faded(latency, nowMs)) return;
    const weight = 1 - (1 - WEIGHT) * left(nowMs - latency.atMs);
    latency.ms = latency.ms === 0 ? ms : latency.ms + weight * (ms - latency.ms);
    latency.atMs = nowMs;
  }

  /** Milliseconds that a read takes there. */
  latency(node: NodeId, sort: ReadSort): number {
    const load = this.#loads.get(node);
    if (load === undefined) return LATENCY_MS_MIN;
    return Math.max(LATENCY_MS_MIN, faded(load.latencies[sort], this.#clock.monotonicMs()));
  }

  /** `latencyMsMin`: it is taken to be no faster. */
  cost(node: NodeId, sort: ReadSort, latencyMsMin = 0): number {
    return (this.outstanding(node) + 1) * Math.max(latencyMsMin, this.latency(node, sort));
  }

  #of(node: NodeId): Load {
    let load = this.#loads.get(node);
    if (load === undefined) {
      const latencies = { settled: { ms: 0, atMs: 0 }, confirmed: { ms: 0, atMs: 0 } };
      this.#loads.set(node, (load = { outstanding: 0, latencies }));
    }
    return load;
  }
}

function faded({ ms, atMs }: Latency, nowMs: number): number {
  return ms === 0 ? 0 : ms * left(nowMs - atMs);
}

/** What is left of something that old. */
function left(ms: number): number {
  return 2 ** (-ms / FADE_HALF_MS);
}
