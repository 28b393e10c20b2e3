import type { NodeId, NodeInfo } from './map.js';
import type { Replicas } from './replicas.js';

/** Two voters on one host count for more than all that can be in one zone. */
const HOST = 1000;

/**
 * How much the replicas of a bucket stand on what fails together, by the zones and hosts that nodes are labelled with; a node
 * without a label shares nothing. A host is in one zone, so whoever avoids hosts first gives up no zone for it: a node in a zone
 * that has none of them is on a host that has none either.
 */
export class Crowding {
  /** By id: nodes have small numbers, one after the other. */
  readonly #zones: string[] = [];
  readonly #hosts: string[] = [];
  readonly #usable: readonly NodeId[];
  readonly #least: number[] = [];

  /** `usable` are those that may keep voters. */
  constructor(nodes: readonly NodeInfo[], usable: readonly NodeId[]) {
    const onHost = new Map<string, number>();
    for (const { host } of nodes) onHost.set(host, (onHost.get(host) ?? 0) + 1);
    for (const { id, zone, host } of nodes) {
      this.#zones[id] = zone;
      // On a host with a single node there are never two replicas of a bucket.
      this.#hosts[id] = onHost.get(host) === 1 ? '' : host;
    }
    this.#usable = usable;
  }

  /** What a node shares with the others. */
  of(node: NodeId, others: readonly NodeId[]): number {
    let crowd = 0;
    for (const other of others) crowd += this.#shared(node, other);
    return crowd;
  }

  /** What the voters of a bucket share with each other. */
  among(replicas: Replicas): number {
    let crowd = 0;
    for (const a of replicas) {
      for (const b of replicas) {
        if (a === b) break;
        if (!a.learner && !b.learner) crowd += this.#shared(a.node, b.node);
      }
    }
    return crowd;
  }

  /** What so many voters have to share at least. As hosts are in zones, one after the other where it is least gives that. */
  least(voters: number): number {
    const known = this.#least[voters];
    if (known !== undefined) return known;
    const chosen: NodeId[] = [];
    const left = new Set(this.#usable);
    let sum = 0;
    while (chosen.length < voters && left.size > 0) {
      let best = 0;
      let least = Infinity;
      for (const node of left) {
        const crowd = this.of(node, chosen);
        if (crowd >= least) continue;
        best = node;
        least = crowd;
      }
      chosen.push(best);
      left.delete(best);
      sum += least;
    }
    this.#least[voters] = sum;
    return sum;
  }

  /** The same for nodes that share the same with every other. */
  placeOf(node: NodeId): string {
    return JSON.stringify([this.#zones[node], this.#hosts[node]]);
  }

  #shared(a: NodeId, b: NodeId): number {
    const zone = this.#zones[a] ?? '';
    const host = this.#hosts[a] ?? '';
    return (zone !== '' && zone === this.#zones[b] ? 1 : 0) + (host !== '' && host === this.#hosts[b] ? HOST : 0);
  }
}
