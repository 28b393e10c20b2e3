import { nodeOfReplica, type NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';
import { WALL_START_MS } from '../clock.js';
import type { SimRandom } from '../random.js';
import { pickFrom, type Fault, type SwarmPlan } from './plan.js';

/** Breaks things while a run goes on, and mends all of it in the end. */
export class Nemesis {
  readonly #cluster: SimCluster;
  readonly #plan: SwarmPlan;
  readonly #random: SimRandom;
  /** Nodes whose disk was made to fail, so that they may stop. */
  readonly #excused = new Set<NodeId>();
  /** Lives of nodes that were told to stop. */
  readonly #stopping = new Set<string>();
  #stopped = false;
  /** Undoes the faults under way. */
  readonly #remedies = new Set<() => void>();

  constructor(cluster: SimCluster, plan: SwarmPlan, random: SimRandom) {
    this.#cluster = cluster;
    this.#plan = plan;
    this.#random = random;
  }

  /** Which nodes may have ended because their disk was made to fail. */
  excuses(node: NodeId): boolean {
    return this.#excused.has(node);
  }

  async run(): Promise<void> {
    const { faultEveryMs, faults } = this.#plan;
    this.#supervise();
    while (!this.#stopped) {
      await this.#sleep(faultEveryMs * 2 * this.#random.float());
      const fault = pickFrom(this.#random, faults);
      if (this.#stopped || fault === undefined) return;
      this.#strike(fault);
    }
  }

  /** Everything works again, but for the rates and offsets of clocks; nodes that are down start again. */
  heal(): void {
    this.#stopped = true;
    for (const remedy of [...this.#remedies]) remedy();
    this.#cluster.network.heal();
    this.#cluster.network.setLatency(this.#plan.latency);
    for (const id of this.#cluster.ids) {
      this.#cluster.network.refuseConnects(`n${id}`, false);
      this.#cluster.disk(id).failNextWrite(undefined);
    }
    for (const id of this.#cluster.ids) if (this.#cluster.isDown(id)) this.#boot(id);
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#cluster.loop.timers.after(ms, resolve);
    });
  }

  /** Starts nodes that ended by themselves or were crashed, after a while, as an init system does. */
  #supervise(): void {
    const seen = new Set<NodeId>();
    const look = (): void => {
      if (this.#stopped) return;
      for (const id of this.#cluster.ids) {
        if (!this.#cluster.isDown(id) || seen.has(id)) continue;
        seen.add(id);
        this.#cluster.loop.timers.after(this.#random.between(0, this.#plan.faultMs), () => {
          seen.delete(id);
          if (!this.#stopped && this.#cluster.isDown(id)) this.#boot(id);
        });
      }
      this.#cluster.loop.timers.after(50, look);
    };
    look();
  }

  #boot(id: NodeId): void {
    // What ends it is among the cluster's fatal errors.
    this.#cluster.boot(id).catch(() => undefined);
  }

  /** Does something now and undoes it after a while, or when all is healed. */
  #forAWhile(undo: () => void): void {
    const remedy = (): void => {
      if (this.#remedies.delete(remedy)) undo();
    };
    this.#remedies.add(remedy);
    this.#cluster.loop.timers.after(this.#plan.faultMs * 2 * this.#random.float(), remedy);
  }

  #strike(fault: Fault): void {
    const { network, ids } = this.#cluster;
    const random = this.#random;
    const id = random.pick(ids);
    const name = `n${id}`;
    const others = ids.filter((other) => other !== id).map((other) => `n${other}`);
    const other = others.length === 0 ? name : random.pick(others);
    this.#cluster.log.logger({}).info('fault', { fault, node: id, other });
    switch (fault) {
      case 'crash':
        this.#cluster.crash(id);
        return;
      case 'crashAll':
        for (const each of ids) this.#cluster.crash(each);
        return;
      case 'stop':
        this.#stop(id);
        return;
      case 'pause': {
        if (this.#cluster.isDown(id)) return;
        const process = this.#cluster.process(id);
        process.pause();
        this.#forAWhile(() => process.resume());
        return;
      }
      case 'isolate':
        network.isolate(name);
        this.#forAWhile(() => network.heal(name, name));
        return;
      case 'halves': {
        const left = ids.filter(() => random.chance(0.5)).map((each) => `n${each}`);
        const right = ids.map((each) => `n${each}`).filter((each) => !left.includes(each));
        network.partition(left, right);
        this.#forAWhile(() => {
          for (const one of left) for (const two of right) network.heal(one, two);
        });
        return;
      }
      case 'oneWay':
        network.cut(name, other);
        this.#forAWhile(() => network.heal(name, other));
        return;
      case 'flap':
        this.#flap(name, other, 6);
        return;
      case 'breakStreams':
        network.breakStreams(name, other);
        return;
      case 'stallPath':
        network.stall(name, other, this.#plan.faultMs * random.float());
        return;
      case 'slowNetwork':
        network.setLatency({ minMs: 1, maxMs: random.pick([30, 150]) });
        this.#forAWhile(() => network.setLatency(this.#plan.latency));
        return;
      case 'jumpClock':
        this.#jump(id);
        return;
      case 'driftClock':
        this.#cluster.clock(id).setMonotonicRate(1 + this.#plan.monotonicRateMax * (2 * random.float() - 1));
        this.#cluster.clock(id).setWallRate(1 + this.#plan.wallRateMax * (2 * random.float() - 1));
        return;
      case 'stallDisk':
        this.#cluster.disk(id).stall(this.#plan.faultMs * random.float());
        return;
      case 'slowDisks': {
        // Whatever happens between a message and its sync has time to happen.
        const syncMaxMs = random.pick([50, 200]);
        for (const each of ids) this.#cluster.disk(each).faults = { ...this.#plan.disk, syncMaxMs };
        this.#forAWhile(() => {
          for (const each of ids) this.#cluster.disk(each).faults = this.#plan.disk;
        });
        return;
      }
      case 'failSync':
      case 'fillDisk':
        this.#excused.add(id);
        this.#cluster.disk(id).failNextWrite(fault === 'failSync' ? 'sync' : 'full');
        return;
      case 'transfer':
        this.#transfer(id);
        return;
      case 'refuse':
        network.refuseConnects(name, true);
        this.#forAWhile(() => network.refuseConnects(name, false));
    }
  }

  #flap(name: string, other: string, times: number): void {
    const { network, loop } = this.#cluster;
    if (times === 0 || this.#stopped) return;
    network.partition(name, other);
    loop.timers.after(this.#random.between(20, 200), () => {
      network.heal(name, other);
      loop.timers.after(this.#random.between(20, 200), () => this.#flap(name, other, times - 1));
    });
  }

  /** To anywhere within the skew that is allowed. */
  #jump(id: NodeId): void {
    const { clockSkewMs } = this.#plan;
    const clock = this.#cluster.clock(id);
    const offsetMs = clock.wallMs() - (WALL_START_MS + this.#cluster.loop.nowMs);
    clock.jumpWall(clockSkewMs * (2 * this.#random.float() - 1) - offsetMs);
  }

  #stop(id: NodeId): void {
    const life = `${id}/${this.#cluster.life(id)}`;
    if (!this.#cluster.running(id) || this.#cluster.process(id).paused || this.#stopping.has(life)) return;
    this.#stopping.add(life);
    // What ends it before it has stopped is among the cluster's fatal errors.
    this.#cluster.stop(id).then(
      () => {
        if (this.#stopped && this.#cluster.isDown(id)) this.#boot(id);
      },
      () => undefined,
    );
  }

  #transfer(id: NodeId): void {
    if (!this.#cluster.running(id) || this.#cluster.process(id).paused) return;
    for (const replica of this.#cluster.node(id).hosting.replicas.values()) {
      const { raft } = replica;
      if (!replica.isLeader || !raft.canServe() || raft.transferringTo !== 0) continue;
      const heirs = raft.progress().filter((peer) => peer.state !== 'snapshot' && nodeOfReplica(peer.id) !== id);
      if (heirs.length > 0 && this.#random.chance(0.5)) replica.transferLeadership(this.#random.pick(heirs).id);
    }
  }
}
