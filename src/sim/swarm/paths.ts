import type { SimCluster } from '../cluster.js';
import type { SimRandom } from '../random.js';
import type { PathFault, SwarmPlan } from './plan.js';
import { bridge, majorityRing, type Pairs } from './shapes.js';

/** Later than any session is kept. */
const VERY_LATE_MS = 10_000;

export interface PathsOptions {
  readonly cluster: SimCluster;
  readonly plan: SwarmPlan;
  readonly random: SimRandom;
  /** Undoes something after a while, or when all is healed. */
  readonly forAWhile: (undo: () => void) => void;
  /** Later, if the run still breaks things. */
  readonly soon: (ms: number, work: () => void) => void;
}

/** What the nemesis does to the paths between nodes, and between clients and nodes. */
export class Paths {
  readonly #options: PathsOptions;
  readonly #cluster: SimCluster;
  readonly #random: SimRandom;

  constructor(options: PathsOptions) {
    this.#options = options;
    this.#cluster = options.cluster;
    this.#random = options.random;
  }

  strike(fault: PathFault, name: string, other: string): void {
    const { network } = this.#cluster;
    const { plan, forAWhile } = this.#options;
    const random = this.#random;
    switch (fault) {
      case 'isolate':
        network.isolate(name);
        forAWhile(() => network.heal(name, name));
        return;
      case 'halves':
        this.#halves();
        return;
      case 'bridge':
        this.#cut(bridge(this.#shuffled()));
        return;
      case 'majorityRing':
        this.#cut(majorityRing(this.#shuffled()));
        return;
      case 'someLinks':
        this.#someLinks();
        return;
      case 'oneWay':
        network.cut(name, other);
        forAWhile(() => network.heal(name, other));
        return;
      case 'flap':
        this.#flap(name, other, 6);
        return;
      case 'flapNode':
        this.#flapNode(name, 8);
        return;
      case 'lossy':
        network.setBreakChance(random.pick([0.002, 0.01, 0.05]));
        forAWhile(() => network.setBreakChance(0));
        return;
      case 'breakStreams':
        network.breakStreams(name, other);
        return;
      case 'halfBroken':
        network.breakHalfStreams(name, other, plan.faultMs * random.float());
        return;
      case 'clientPath':
        this.#breakClientPath(`c${random.below(plan.clients)}`, name);
        return;
      case 'stallPath':
        network.stall(name, other, plan.faultMs * random.float());
        return;
      case 'slowNetwork':
        network.setLatency({ minMs: 1, maxMs: random.pick([30, 150]) });
        forAWhile(() => network.setLatency(plan.latency));
        return;
      case 'refuse':
        network.refuseConnects(name, true);
        forAWhile(() => network.refuseConnects(name, false));
    }
  }

  #halves(): void {
    const names = this.#cluster.ids.map((id) => `n${id}`);
    const left = names.filter(() => this.#random.chance(0.5));
    const right = names.filter((name) => !left.includes(name));
    this.#cut(left.flatMap((one) => right.map((other) => [one, other] as const)));
  }

  #cut(pairs: Pairs): void {
    const { network } = this.#cluster;
    for (const [one, other] of pairs) network.partition(one, other);
    this.#options.forAWhile(() => {
      for (const [one, other] of pairs) network.heal(one, other);
    });
  }

  /** Some directions of some paths, each for a while of its own. */
  #someLinks(): void {
    const { network, ids } = this.#cluster;
    for (const one of ids) {
      for (const two of ids) {
        if (one === two || !this.#random.chance(0.3)) continue;
        network.cut(`n${one}`, `n${two}`);
        this.#options.forAWhile(() => network.heal(`n${one}`, `n${two}`));
      }
    }
  }

  #shuffled(): string[] {
    const names = this.#cluster.ids.map((id) => ({ name: `n${id}`, order: this.#random.float() }));
    return names.sort((a, b) => a.order - b.order).map(({ name }) => name);
  }

  #flap(name: string, other: string, times: number): void {
    const { network } = this.#cluster;
    if (times === 0) return;
    network.partition(name, other);
    this.#options.soon(this.#random.between(20, 200), () => {
      network.heal(name, other);
      this.#options.soon(this.#random.between(20, 200), () => this.#flap(name, other, times - 1));
    });
  }

  #flapNode(name: string, times: number): void {
    const { network } = this.#cluster;
    if (times === 0) return;
    network.isolate(name);
    this.#options.soon(this.#random.between(20, 900), () => {
      network.heal(name, name);
      this.#options.soon(this.#random.between(20, 900), () => this.#flapNode(name, times - 1));
    });
  }

  /** Requests that come late, after their deadline, after their session was forgotten, twice, or not at all. */
  #breakClientPath(client: string, node: string): void {
    const { network } = this.#cluster;
    const lateMs = this.#random.pick([this.#options.plan.faultMs, VERY_LATE_MS]) * this.#random.float();
    switch (this.#random.below(4)) {
      case 0:
        network.partition(client, node);
        this.#options.forAWhile(() => network.heal(client, node));
        return;
      case 1:
        network.stall(client, node, lateMs);
        return;
      case 2:
        network.stall(node, client, lateMs);
        return;
      default:
        network.breakHalfStreams(client, node, lateMs);
    }
  }
}
