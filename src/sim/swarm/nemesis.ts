import { nodeOfReplica, type NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';
import { WALL_START_MS } from '../clock.js';
import type { SimRandom } from '../random.js';
import { Atlas, Damage } from './damage.js';
import { Minority } from './minority.js';
import { Paths } from './paths.js';
import { hasWildClocks, pickFrom, type Fault, type SwarmPlan } from './plan.js';

/** How long a node is down that comes back at once. */
const BOUNCE_MS_MAX = 30;
/** A lease that was renewed before its node slept is of no account any more after this. */
const AWAKE_MS = 1500;
const TAME_SKEW_MS = 150;

const MINORITY_CHANCE = 0.7;

/** Breaks things while a run goes on; then mends a quorum, and in the end the rest. */
export class Nemesis {
  readonly atlas: Atlas;
  readonly #damage: Damage;
  readonly #minority: Minority;
  readonly #paths: Paths;
  readonly #cluster: SimCluster;
  readonly #plan: SwarmPlan;
  readonly #random: SimRandom;
  /** Nodes whose disk was made to fail, so that they may stop. */
  readonly #excused = new Set<NodeId>();
  /** Lives of nodes that were told to stop. */
  readonly #stopping = new Set<string>();
  /** Until when it does not count which leases a node that slept thinks it holds. */
  readonly #drowsyUntilMs = new Map<NodeId, number>();
  #stopped = false;
  /** Undoes the faults under way. */
  readonly #remedies = new Set<() => void>();

  constructor(cluster: SimCluster, plan: SwarmPlan, random: SimRandom) {
    this.#cluster = cluster;
    this.#plan = plan;
    this.#random = random;
    this.atlas = new Atlas(plan.replicas);
    const soon = (ms: number, work: () => void): void => this.#soon(ms, work);
    this.#paths = new Paths({ cluster, plan, random, soon, forAWhile: (undo) => this.#forAWhile(undo) });
    this.#damage = new Damage({
      cluster,
      random: random.fork('damage'),
      atlas: this.atlas,
      boot: (id) => {
        if (!this.#stopped && cluster.isDown(id)) this.#boot(id);
      },
      soon,
    });
    this.#minority = new Minority(cluster, random.fork('minority'));
  }

  /** Which nodes may have ended because their disk was made to fail. */
  excuses(node: NodeId): boolean {
    return this.#excused.has(node);
  }

  /** The monotonic clock of that node stood still lately. */
  isDrowsy(node: NodeId): boolean {
    return this.#cluster.loop.nowMs < (this.#drowsyUntilMs.get(node) ?? 0);
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

  /**
   * A quorum of every bucket works again, but for the rates and (tame) offsets of clocks; nodes of it that are down start again.
   * The others stay as broken as they are, or break in another way.
   */
  healQuorum(): void {
    this.#heal(this.#drawMinority());
  }

  /** Everything works again, at once, but for disks that have lost something. */
  heal(): void {
    this.#heal(new Set());
  }

  #heal(broken: ReadonlySet<NodeId>): void {
    this.#stopped = true;
    this.#damage.end();
    for (const remedy of [...this.#remedies]) remedy();
    this.#cluster.network.heal();
    this.#cluster.network.setLatency(this.#plan.latency);
    for (const id of this.#cluster.ids) {
      this.#cluster.network.refuseConnects(`n${id}`, false);
      this.#cluster.disk(id).failNextWrite(undefined);
    }
    if (hasWildClocks(this.#plan)) for (const id of this.#cluster.ids) this.#jump(id, TAME_SKEW_MS);
    for (const id of this.#cluster.ids) {
      if (broken.has(id) && this.#cluster.running(id)) this.#minority.break(id);
      else if (!broken.has(id) && this.#cluster.isDown(id)) this.#boot(id);
    }
  }

  /** After `healQuorum`: the rest works again, but nodes whose disk has lost something, which may refuse to. */
  healAll(): void {
    this.#minority.heal();
  }

  /** Of the nodes whose disks are good: with those that are not, still a minority. */
  #drawMinority(): ReadonlySet<NodeId> {
    const good = this.#cluster.ids.filter((id) => !this.atlas.isDamaged(id));
    const broken = new Set<NodeId>();
    if (this.atlas.spare === 0 || !this.#random.chance(MINORITY_CHANCE)) return broken;
    for (let count = 1 + this.#random.below(this.atlas.spare); count > 0; count -= 1) broken.add(this.#random.pick(good));
    return broken;
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
        if (!this.#cluster.isDown(id) || seen.has(id) || this.#damage.isAway(id)) continue;
        seen.add(id);
        // A node whose disk is damaged is started less often: mostly it just ends again.
        const atLeastMs = this.atlas.isDamaged(id) ? 2000 : 0;
        this.#cluster.loop.timers.after(atLeastMs + this.#random.between(0, this.#plan.faultMs), () => {
          seen.delete(id);
          if (!this.#stopped && this.#cluster.isDown(id) && !this.#damage.isAway(id)) this.#boot(id);
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
  #forAWhile(undo: () => void, ms = this.#plan.faultMs * 2 * this.#random.float()): void {
    const remedy = (): void => {
      if (this.#remedies.delete(remedy)) undo();
    };
    this.#remedies.add(remedy);
    this.#cluster.loop.timers.after(ms, remedy);
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
      case 'freeze': {
        if (this.#cluster.isDown(id)) return;
        // Unlike a busy process, a stopped one does not answer for its connections either.
        const process = this.#cluster.process(id);
        process.pause();
        network.pause(name);
        this.#forAWhile(() => {
          network.resume(name);
          process.resume();
        });
        return;
      }
      case 'hiccups':
        this.#hiccups(20);
        return;
      case 'slowAnswers':
        this.#slowAnswers(id, others);
        return;
      case 'sleep':
        this.#putToSleep(id, others);
        return;
      case 'bounce':
        this.#bounce(id);
        return;
      case 'crashInSync':
        this.#bounceInSync(id);
        return;
      case 'crashAtStep':
        this.#cluster.loop.beforeEvent(1 + random.below(300), () => {
          if (!this.#stopped) this.#bounce(id);
        });
        return;
      case 'restartLoop':
        this.#restartLoop(id, 2 + random.below(6));
        return;
      case 'leaderStorm':
        this.#leaderStorm(1 + random.below(5));
        return;
      case 'usurp':
        this.#usurp();
        return;
      case 'jumpClock':
        this.#jump(id);
        return;
      case 'driftClock':
        this.#cluster.clock(id).setMonotonicRate(1 + this.#plan.monotonicRateMax * (2 * random.float() - 1));
        this.#cluster.clock(id).setWallRate(1 + this.#plan.wallRateMax * (2 * random.float() - 1));
        return;
      case 'stallDisk': {
        const store = random.pick(['both', 'both', 'log', 'state'] as const);
        this.#cluster.disk(id).stall(this.#plan.faultMs * random.float(), store === 'both' ? undefined : store);
        return;
      }
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
      case 'wipeDisk':
        this.#damage.wipe(id);
        return;
      case 'rotDisk':
        this.#damage.rot(id);
        return;
      case 'staleDisk':
        this.#damage.stale(id);
        return;
      case 'transfer':
        this.#transfer(id);
        return;
      default:
        this.#paths.strike(fault, name, other);
    }
  }

  /** Event loops that stall for a moment, now here, now there. */
  #hiccups(times: number): void {
    if (times === 0) return;
    const id = this.#random.pick(this.#cluster.ids);
    if (!this.#cluster.isDown(id) && !this.#cluster.process(id).paused) {
      const process = this.#cluster.process(id);
      process.pause();
      this.#forAWhile(() => process.resume(), this.#random.between(1, 250));
    }
    this.#soon(this.#random.between(0, 100), () => this.#hiccups(times - 1));
  }

  /** Each start ends a little later than the one before, or earlier: also before the node is up. */
  #restartLoop(id: NodeId, times: number): void {
    if (times === 0 || this.#damage.isAway(id)) return;
    this.#cluster.crash(id);
    this.#soon(this.#random.between(0, BOUNCE_MS_MAX), () => {
      if (this.#cluster.isDown(id) && !this.#damage.isAway(id)) this.#boot(id);
      this.#soon(this.#random.between(0, this.#random.pick([20, 200, 1500])), () => this.#restartLoop(id, times - 1));
    });
  }

  /** To anywhere within a skew. */
  #jump(id: NodeId, skewMs = this.#plan.clockSkewMs): void {
    this.#setClock(id, skewMs * (2 * this.#random.float() - 1));
  }

  /** Milliseconds from true time. */
  #setClock(id: NodeId, offsetMs: number): void {
    const clock = this.#cluster.clock(id);
    clock.jumpWall(WALL_START_MS + this.#cluster.loop.nowMs + offsetMs - clock.wallMs());
  }

  #soon(ms: number, work: () => void): void {
    this.#cluster.loop.timers.after(ms, () => {
      if (!this.#stopped) work();
    });
  }

  /** What others say to one node arrives late, what it says in time: answers outlive what they were true of. */
  #slowAnswers(id: NodeId, others: readonly string[]): void {
    const { network } = this.#cluster;
    const maxMs = this.#random.pick([100, 400]);
    for (const other of others) {
      network.setLatency({ minMs: maxMs / 4, maxMs }, other, `n${id}`);
      this.#forAWhile(() => network.setLatency(undefined, other, `n${id}`));
    }
    this.#soon(this.#random.between(0, 500), () => this.#transfer(id));
  }

  /** A machine that is suspended: its process stands still, and so does its monotonic clock; perhaps its network wakes later. */
  #putToSleep(id: NodeId, others: readonly string[]): void {
    const { loop, network } = this.#cluster;
    if (this.#cluster.isDown(id) || this.#cluster.process(id).paused) return;
    const process = this.#cluster.process(id);
    const sinceMs = loop.nowMs;
    process.pause();
    this.#forAWhile(() => {
      if (!process.alive || !process.paused) return;
      this.#cluster.clock(id).slept(loop.nowMs - sinceMs);
      this.#drowsyUntilMs.set(id, loop.nowMs + AWAKE_MS);
      process.resume();
      if (this.#stopped || !this.#random.chance(0.5)) return;
      network.partition(`n${id}`, others);
      this.#forAWhile(() => {
        for (const other of others) network.heal(`n${id}`, other);
      }, AWAKE_MS);
    });
  }

  /** A crash, and a start before anybody has noticed; perhaps with a clock that went back meanwhile. */
  #bounce(id: NodeId): void {
    if (this.#cluster.isDown(id)) return;
    this.#cluster.crash(id);
    if (this.#random.chance(0.5)) this.#setClock(id, -this.#plan.clockSkewMs * this.#random.float());
    this.#soon(this.#random.between(0, BOUNCE_MS_MAX), () => {
      if (this.#cluster.isDown(id) && !this.#damage.isAway(id)) this.#boot(id);
    });
  }

  #bounceInSync(id: NodeId): void {
    const { syncMaxMs = 1 } = this.#plan.disk;
    this.#cluster.disk(id).onNextSync(() => this.#soon(this.#random.between(0, syncMaxMs), () => this.#bounce(id)));
  }

  /** Node that leads a bucket of data, and the others that have it; undefined if nobody does at present. */
  #leadership(): { readonly leader: NodeId; readonly others: readonly NodeId[] } | undefined {
    const bucket = this.#random.below(this.#plan.buckets);
    for (const id of this.#cluster.ids) {
      const replica = this.#cluster.running(id) ? this.#cluster.node(id).hosting.replicas.get(bucket) : undefined;
      if (replica?.isLeader !== true) continue;
      return { leader: id, others: replica.raft.config.voters.map(nodeOfReplica).filter((node) => node !== id) };
    }
    return undefined;
  }

  /** One leader after the other goes, perhaps after it could not reach all of its followers for a moment. */
  #leaderStorm(times: number): void {
    const { network } = this.#cluster;
    const random = this.#random;
    const found = times > 0 ? this.#leadership() : undefined;
    if (found === undefined) return;
    const name = `n${found.leader}`;
    if (found.others.length > 0 && random.chance(0.5)) {
      const lonely = `n${random.pick(found.others)}`;
      network.partition(name, lonely);
      this.#forAWhile(() => network.heal(name, lonely), random.between(0, 1000));
    }
    this.#soon(random.between(0, 100), () => {
      if (random.chance(0.3)) this.#bounce(found.leader);
      else this.#cluster.crash(found.leader);
      // With nobody to write to, what the next sync holds is a vote.
      if (found.others.length > 0 && random.chance(0.3)) {
        const voter = random.pick(found.others);
        this.#soon(random.between(50, 400), () => this.#bounceInSync(voter));
      }
      this.#soon(random.between(100, 1000), () => this.#leaderStorm(times - 1));
    });
  }

  /** A follower that was cut off from its leader asks for votes just when the others have started anew. */
  #usurp(): void {
    const { network } = this.#cluster;
    const random = this.#random;
    const found = this.#leadership();
    if (found === undefined || found.others.length < 2) return;
    const usurper = random.pick(found.others);
    const [leader, heir] = [`n${found.leader}`, `n${usurper}`];
    network.partition(leader, heir);
    this.#forAWhile(() => network.heal(leader, heir), random.between(1500, 3000));
    this.#soon(random.between(500, 1200), () => {
      for (const voter of found.others) if (voter !== usurper) this.#bounce(voter);
    });
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
      const heirs = raft.progress().filter((peer) => {
        return peer.state !== 'snapshot' && nodeOfReplica(peer.id) !== id && raft.config.voters.includes(peer.id);
      });
      if (heirs.length > 0 && this.#random.chance(0.5)) replica.transferLeadership(this.#random.pick(heirs).id);
    }
  }
}
