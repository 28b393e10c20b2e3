import type { NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';
import type { SimRandom } from '../random.js';

/** In which ways a node stays broken while a quorum must make progress without it. */
const WAYS = ['down', 'frozen', 'stalled', 'isolated', 'deaf', 'mute', 'hung', 'crashing', 'flapping', 'slow'] as const;
type Way = (typeof WAYS)[number];

const FOR_EVER_MS = 1e9;
const SLOW = { minMs: 100, maxMs: 1500 };

/** The minority that is not healed. */
export class Minority {
  readonly #cluster: SimCluster;
  readonly #random: SimRandom;
  readonly #remedies: (() => void)[] = [];
  #healed = false;

  constructor(cluster: SimCluster, random: SimRandom) {
    this.#cluster = cluster;
    this.#random = random;
  }

  /** Breaks a node that works. */
  break(id: NodeId): void {
    const way = this.#random.pick(WAYS);
    this.#cluster.log.logger({}).info('stays broken', { way, node: id });
    this.#remedies.push(this.#break(id, way));
  }

  /** All of them work again, or start. */
  heal(): void {
    this.#healed = true;
    for (const remedy of this.#remedies) remedy();
    for (const id of this.#cluster.ids) if (this.#cluster.isDown(id)) this.#boot(id);
  }

  #break(id: NodeId, way: Way): () => void {
    const cluster = this.#cluster;
    const { network } = cluster;
    const name = `n${id}`;
    const others = cluster.ids.filter((other) => other !== id).map((other) => `n${other}`);
    const healPaths = (): void => {
      for (const other of others) network.heal(name, other);
    };
    switch (way) {
      case 'down':
        cluster.crash(id);
        return () => undefined;
      case 'frozen':
      case 'stalled': {
        const process = cluster.process(id);
        process.pause();
        if (way === 'frozen') network.pause(name);
        return () => {
          network.resume(name);
          process.resume();
        };
      }
      case 'isolated':
        network.isolate(name);
        return () => network.heal(name, name);
      case 'deaf':
        for (const other of others) network.cut(other, name);
        return healPaths;
      case 'mute':
        for (const other of others) network.cut(name, other);
        return healPaths;
      case 'hung':
        return cluster.disk(id).stall(FOR_EVER_MS, this.#random.chance(0.3) ? undefined : this.#random.pick(['log', 'state']));
      case 'crashing':
        this.#crashOn(id);
        return () => undefined;
      case 'flapping':
        this.#flap(name, false);
        return () => network.heal(name, name);
      case 'slow':
        for (const other of others) {
          network.setLatency(SLOW, name, other);
          network.setLatency(SLOW, other, name);
        }
        return () => {
          for (const other of others) {
            network.setLatency(undefined, name, other);
            network.setLatency(undefined, other, name);
          }
        };
    }
  }

  #crashOn(id: NodeId): void {
    if (this.#healed) return;
    if (this.#cluster.isDown(id)) this.#boot(id);
    else this.#cluster.crash(id);
    this.#cluster.loop.timers.after(this.#random.between(0, 1500), () => this.#crashOn(id));
  }

  #flap(name: string, isCut: boolean): void {
    if (this.#healed) return;
    if (isCut) this.#cluster.network.heal(name, name);
    else this.#cluster.network.isolate(name);
    this.#cluster.loop.timers.after(this.#random.between(50, 1500), () => this.#flap(name, !isCut));
  }

  #boot(id: NodeId): void {
    // What ends it is among the cluster's fatal errors.
    this.#cluster.boot(id).catch(() => undefined);
  }
}
