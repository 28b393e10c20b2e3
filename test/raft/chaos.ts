import { isTidemarkError } from '../../src/lib/errors.js';
import type { ConfigChange } from '../../src/raft/config.js';
import { Reading } from '../../src/raft/reading.js';
import type { Message, ReplicaId } from '../../src/raft/types.js';
import { Invariants } from './invariants.js';
import { Network, seeded, type Replica } from './network.js';

const QUANTUM_MS = 10;
const TIMING = { electionTimeoutMs: 1000, heartbeatMs: 250, driftBound: 0.1 };
const REPLICAS = 6;
const PROPOSALS_MAX = 50;
const FOUNDERS = [1, 2, 3];

export interface ChaosResult {
  readonly count: Invariants['count'];
  readonly highestIndex: number;
  readonly snapshots: number;
  readonly configs: number;
  readonly digest: number;
}

interface Due {
  readonly atMs: number;
  readonly message: Message;
}

/**
 * One run: six replicas, of which three found the group, under random faults for a while; then the faults end, and the group
 * must come to agree and to accept writes again.
 */
export function runChaos(seed: number, durationMs: number): ChaosResult {
  return new Chaos(seed).run(durationMs);
}

class Chaos {
  private readonly random: () => number;
  private readonly invariants = new Invariants();
  private readonly network: Network;
  private due: Due[] = [];
  private snapshotsDue: { atMs: number; arrives: boolean; at: Network['snapshots'][number] }[] = [];
  private readonly syncDue = new Map<ReplicaId, number>();
  private readonly blocked = new Set<string>();
  private contexts = 0;
  private written = 0;
  private snapshots = 0;
  private configs = 0;
  private faults = true;
  // Each run has its own weather.
  private readonly lossRate: number;
  private delayMsMax: number;
  private syncMsMax: number;
  private slowDisk: ReplicaId;
  private readonly storm: number;

  constructor(seed: number) {
    const random = seeded(seed);
    this.random = random;
    this.lossRate = random() < 0.3 ? 0 : random() * 0.15;
    this.delayMsMax = random() < 0.7 ? 30 : 400;
    this.syncMsMax = random() < 0.7 ? 20 : 300;
    this.slowDisk = random() < 0.5 ? 0 : 1 + Math.floor(random() * 3);
    this.storm = 1 + Math.floor(random() * 5);
    const sparing = seeded(-seed);
    const readMax = Math.floor(sparing() * 4);
    this.network = new Network({
      ...TIMING,
      electionJitterMs: random() < 0.5 ? 600 : 50,
      random,
      appendBytesMax: 200 + Math.floor(random() * 800),
      appendsInFlightMax: 1 + Math.floor(random() * 8),
      appendBytesInFlightMax: 2000,
      logCacheBytesMax: Math.floor(random() * 2000),
      // Others may have read all that there is to read in a turn.
      ...(readMax > 0 ? { reading: () => new Reading(Math.floor(sparing() * (readMax + 1)), sparing() * 400) } : {}),
      observer: this.invariants,
    });
    this.invariants.network = this.network;
    for (let id = 1; id <= REPLICAS; id += 1) {
      const replica = this.network.add(id, FOUNDERS);
      replica.offsetMs = random() * 10_000;
      replica.rate = 1 + (random() - 0.5) * 0.09;
      replica.wallOffsetMs = 1_000_000 + (random() - 0.5) * 800;
      replica.start(false);
    }
  }

  run(durationMs: number): ChaosResult {
    while (this.network.timeMs < durationMs) {
      this.act();
      this.turn();
    }
    this.settle();
    return {
      count: this.invariants.count,
      highestIndex: Math.max(...this.all.map((replica) => replica.state.index)),
      snapshots: this.snapshots,
      configs: this.configs,
      digest: this.all.reduce((sum, { state }) => (Math.imul(sum, 31) + state.digest) >>> 0, 0),
    };
  }

  private get all(): Replica[] {
    return [...this.network.replicas.values()];
  }

  private get up(): Replica[] {
    return this.all.filter((replica) => replica.raft !== undefined && !replica.paused);
  }

  private pick<T>(from: readonly T[]): T | undefined {
    return from[Math.floor(this.random() * from.length)];
  }

  private chance(rate: number): boolean {
    return this.random() < rate;
  }

  // --- the world turns

  private turn(): void {
    const { network, invariants } = this;
    network.timeMs += QUANTUM_MS;
    this.putOnWire();
    this.deliver();
    for (const replica of this.up) {
      if (replica.isSyncing) this.syncWhenDue(replica);
      replica.tick();
      replica.collect();
    }
    this.putOnWire();
    this.carrySnapshots();
    invariants.check(network);
  }

  private putOnWire(): void {
    const messages = this.network.wire;
    this.network.wire = [];
    for (const message of messages) {
      if (this.faults && this.chance(this.lossRate)) continue;
      this.due.push(this.delayed(message));
      if (this.faults && this.chance(0.03)) this.due.push(this.delayed(message));
    }
  }

  private delayed(message: Message): Due {
    const isLate = this.faults && this.chance(0.01);
    return { atMs: this.network.timeMs + this.random() * (isLate ? 4000 : this.delayMsMax), message };
  }

  private deliver(): void {
    const now = this.network.timeMs;
    const later: Due[] = [];
    const arrived = this.due.filter((item) => {
      const isHere = item.atMs <= now;
      if (!isHere) later.push(item);
      return isHere;
    });
    this.due = later;
    arrived.sort((a, b) => a.atMs - b.atMs);
    for (const { message } of arrived) {
      const to = this.network.replica(message.to);
      if (this.blocked.has(`${message.from}>${message.to}`)) continue;
      if (to.paused) {
        this.due.push({ atMs: now + QUANTUM_MS, message });
        continue;
      }
      to.step(message);
      if (this.chance(0.5)) to.collect();
    }
  }

  private syncWhenDue(replica: Replica): void {
    const now = this.network.timeMs;
    const due = this.syncDue.get(replica.id) ?? now + this.random() * this.syncMsMax * (replica.id === this.slowDisk ? 20 : 1);
    this.syncDue.set(replica.id, due);
    if (due > now) return;
    this.syncDue.delete(replica.id);
    replica.sync();
  }

  private carrySnapshots(): void {
    const { network } = this;
    for (const at of network.snapshots.splice(0)) {
      const arrives = !this.faults || (this.chance(0.8) && !this.blocked.has(`${at.from}>${at.to}`));
      this.snapshotsDue.push({ atMs: network.timeMs + this.random() * 500, arrives, at });
    }
    const due = this.snapshotsDue.filter((item) => item.atMs <= network.timeMs);
    this.snapshotsDue = this.snapshotsDue.filter((item) => item.atMs > network.timeMs);
    for (const { arrives, at } of due) {
      const to = network.replica(at.to);
      const isHere = arrives && to.raft !== undefined && !to.paused;
      if (isHere && to.install(at.meta, at.state)) this.snapshots += 1;
      const from = network.replica(at.from);
      from.raft?.snapshotSent(at.to, at.meta.index, isHere, from.now);
    }
  }

  // --- what clients and fate do

  private act(): void {
    if (this.chance(0.4)) this.write();
    if (this.chance(0.2)) this.read();
    if (this.chance(0.2)) for (const leader of this.leaders) this.invariants.promise(leader);
    if (this.chance(0.02)) this.pick(this.up)?.checkpoint();
    if (this.chance(0.02)) this.compact();
    if (this.chance(0.01)) this.moveWallClock();
    const { storm } = this;
    if (this.chance(0.01)) for (const replica of this.all) replica.ceilingStuck = this.chance(0.3);
    if (this.chance(0.005 * storm)) this.changeMembers();
    if (this.chance(0.003 * storm)) this.transfer();
    if (this.chance(0.003 * storm)) this.crash();
    if (this.chance(0.02 * storm)) this.restart();
    if (this.chance(0.004 * storm)) this.partition();
    if (this.chance(0.006 * storm)) this.blocked.clear();
    if (this.chance(0.003 * storm)) this.pauseOne();
    if (this.chance(0.01 * storm)) for (const replica of this.all) replica.paused = false;
  }

  private get leaders(): Replica[] {
    return this.network.leaders.filter((replica) => !replica.paused);
  }

  private write(): void {
    for (const leader of this.leaders) {
      if (leader.live.lastIndex > leader.live.commitIndex + PROPOSALS_MAX) continue;
      for (let count = 1 + Math.floor(this.random() * 3); count > 0; count -= 1) {
        this.written += 1;
        const text = String(this.written).padEnd(1 + Math.floor(this.random() * 120), '.');
        tolerate(() => {
          this.invariants.proposed(leader, leader.live.propose(Buffer.from(text), leader.now));
        });
      }
    }
  }

  private read(): void {
    const replica = this.pick(this.up);
    if (replica === undefined) return;
    this.contexts += 1;
    this.invariants.readStarts(replica, this.contexts);
    replica.live.readIndex(this.contexts, replica.now);
  }

  private compact(): void {
    const replica = this.pick(this.up);
    replica?.compact(replica.state.index - Math.floor(this.random() * 10));
  }

  private changeMembers(): void {
    for (const leader of this.leaders) {
      const changes: ConfigChange[] = [];
      for (let id = 1; id <= REPLICAS; id += 1) {
        if (!this.chance(0.3)) continue;
        const kind = this.random();
        if (kind < 0.5) changes.push({ addVoter: id });
        else if (kind < 0.7) changes.push({ addLearner: id });
        else changes.push({ remove: id });
      }
      tolerate(() => {
        leader.live.proposeConfig(changes, leader.now);
        this.configs += 1;
      });
    }
  }

  private transfer(): void {
    for (const leader of this.leaders) {
      const to = this.pick(leader.live.config.voters);
      tolerate(() => {
        if (to !== undefined) leader.live.transferLeadership(to, leader.now);
      });
    }
  }

  private crash(): void {
    const replica = this.pick(this.up);
    if (replica === undefined) return;
    this.syncDue.delete(replica.id);
    replica.crash(Math.floor(this.random() * 3));
  }

  private restart(): void {
    const replica = this.pick(this.all.filter((one) => one.raft === undefined));
    replica?.start(true);
  }

  private pauseOne(): void {
    const replica = this.pick(this.up);
    if (replica !== undefined) replica.paused = true;
  }

  private moveWallClock(): void {
    const replica = this.pick(this.all);
    if (replica !== undefined) replica.wallOffsetMs += (this.random() - 0.5) * 200;
  }

  /** Cuts some directions of some links: symmetric, asymmetric and partial partitions all come up. */
  private partition(): void {
    const isSymmetric = this.chance(0.6);
    const leader = this.chance(0.5) ? this.pick(this.leaders) : undefined;
    const side = new Set(this.all.filter((one) => (leader === undefined ? this.chance(0.5) : one === leader)).map(({ id }) => id));
    for (const { id: from } of this.all) {
      for (const { id: to } of this.all) {
        const isCut = isSymmetric ? side.has(from) !== side.has(to) : this.chance(0.25);
        if (isCut) this.blocked.add(`${from}>${to}`);
      }
    }
  }

  // --- the end

  /** Liveness: without faults a leader is found, every member catches up, and changes of members come to their end. */
  private settle(): void {
    this.faults = false;
    this.slowDisk = 0;
    this.delayMsMax = Math.min(this.delayMsMax, 200);
    this.syncMsMax = Math.min(this.syncMsMax, 100);
    this.blocked.clear();
    for (const replica of this.all) {
      replica.paused = replica.ceilingStuck = false;
      if (replica.raft === undefined) replica.start(true);
    }
    const deadline = this.network.timeMs + 60_000;
    while (!this.isSettled()) {
      if (this.network.timeMs > deadline) throw new Error(`the group does not recover: ${this.describe()}`);
      this.turn();
    }
  }

  private isSettled(): boolean {
    const leader = this.network.leaders[0];
    if (leader === undefined || this.network.leaders.length > 1) return false;
    const { live } = leader;
    if (!live.canServe() || live.hasPendingConfig || live.commitIndex < live.lastIndex) return false;
    if (leader.state.index < live.commitIndex) return false;
    const { voters, learners } = live.config;
    return [...voters, ...learners].every((id) => {
      const { state } = this.network.replica(id);
      return state.index === leader.state.index && state.digest === leader.state.digest;
    });
  }

  private describe(): string {
    return this.all
      .map(({ id, raft, state }) => {
        const config = raft === undefined ? '' : JSON.stringify(raft.config);
        const span = raft === undefined ? '' : `${raft.firstIndex}..${raft.lastIndex} commit ${raft.commitIndex}`;
        const peers = raft === undefined ? '' : JSON.stringify(raft.progress());
        return `\n  ${id} ${raft?.role} term ${raft?.term} ${span} applied ${state.index} ${config} ${peers}`;
      })
      .join('');
  }
}

/** Refusals are answers; anything else is a bug. */
function tolerate(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!isTidemarkError(error)) throw error;
  }
}
