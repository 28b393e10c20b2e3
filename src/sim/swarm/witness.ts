import type { Replica } from '../../bucket/replica.js';
import { decodeHardState, hardStateKey } from '../../bucket/log-format.js';
import type { Timestamp } from '../../bucket/requests.js';
import { nodeOfReplica, type BucketId, type NodeId } from '../../placement/map.js';
import { quorumValue } from '../../raft/config.js';
import type { HardState, LogIndex, Message, ReplicaId, Term } from '../../raft/types.js';
import type { SimCluster } from '../cluster.js';
import { Ledger } from './ledger.js';
import { Problems } from './problems.js';

/** What a replica has said, once it was on its disk, in the highest term in which it said anything. */
interface Said {
  readonly term: Term;
  /** Up to here it has the log. */
  readonly index: LogIndex;
  /** Whom it gave its vote, if anybody. */
  readonly vote: ReplicaId;
}

/** What of a replica was looked at already, in one life of it. */
interface Seen {
  commit: LogIndex;
  applied: LogIndex;
  ledTerm: Term;
  servedTerm: Term;
  resolved: Timestamp;
  clock: Timestamp;
}

export interface WitnessOptions {
  readonly cluster: SimCluster;
  /** The disk of this node has lost what was on it: it may have forgotten what it said. */
  readonly isDamaged: (node: NodeId) => boolean;
  /** The leases that this node thinks it holds count. */
  readonly isAwake: (node: NodeId) => boolean;
}

/**
 * Hears every message between replicas and looks at each of them at the end of every turn in which it did something, before
 * what it says leaves its node. It remembers over their crashes, which they themselves do not:
 *
 * - one vote a term, one leader a term
 * - nothing is acknowledged, no vote given or asked for, before it is on disk: when it is heard, and after every restart
 * - nothing is committed that a quorum does not have on its disks
 * - leases are disjoint in true time
 * - the clocks of nodes and buckets go forward
 *
 * and, through the ledger, what all logs hold.
 */
export class Witness {
  readonly ledger: Ledger;
  readonly #problems: Problems;
  readonly #options: WitnessOptions;
  readonly #votes = new Map<string, ReplicaId>();
  readonly #leaders = new Map<string, ReplicaId>();
  readonly #said = new Map<string, Said>();
  /** How much of the log replicas said to have, by term. */
  readonly #acknowledged = new Map<string, Map<Term, LogIndex>>();
  /** Of each replica the present life, or the last one. */
  readonly #replicas = new Map<string, Replica>();
  readonly #leading = new Map<BucketId, Set<Replica>>();
  /** Replicas that were given up: of what they had said nothing needs to be kept. */
  readonly #gone = new Set<string>();
  readonly #nodeClocks = new Map<NodeId, Timestamp>();
  #horizon: Timestamp = 0;

  constructor(options: WitnessOptions) {
    this.#options = options;
    this.#problems = new Problems(options.cluster.log);
    this.ledger = new Ledger(this.#problems);
  }

  get problems(): readonly string[] {
    return this.#problems.found;
  }

  /**
   * The highest of all replicas so far: nobody can have been told of a higher one. A node that told of it may be down when that
   * arrives, or not have applied again what raised it.
   */
  get horizon(): Timestamp {
    return this.#horizon;
  }

  /** A node is up: looks at what it still knows, and at all that happens to it from now on. */
  attach(id: NodeId): void {
    const { hosting, hybrid } = this.#options.cluster.node(id);
    this.#nodeClocks.set(id, 0);
    for (const replica of hosting.replicas.values()) {
      if (hybrid.last < replica.state.maxTimestamp) {
        this.#fail(`node ${id} starts its clock below what bucket ${replica.bucket} holds`);
      }
      this.#attach(replica, id);
    }
    const retire = hosting.retire.bind(hosting);
    hosting.retire = (replica, settled) => {
      this.#gone.add(nameOf(replica.bucket, replica.id));
      return retire(replica, settled);
    };
    const add = hosting.add.bind(hosting);
    hosting.add = async (...of) => {
      const replica = await add(...of);
      if (replica !== undefined) this.#attach(replica, id);
      return replica;
    };
  }

  #attach(replica: Replica, node: NodeId): void {
    if (!this.#options.isDamaged(node)) this.#checkRestart(replica);
    this.#replicas.set(nameOf(replica.bucket, replica.id), replica);
    this.ledger.attach(replica);
    const seen: Seen = { commit: 0, applied: 0, ledTerm: 0, servedTerm: 0, resolved: 0, clock: 0 };
    const [step, collect] = [replica.step.bind(replica), replica.collect.bind(replica)];
    replica.step = (message) => {
      this.#hear(replica.bucket, message);
      step(message);
    };
    replica.collect = (reading) => {
      const ready = collect(reading);
      this.#look(replica, node, seen);
      return ready;
    };
    this.#look(replica, node, seen);
  }

  // --- what replicas are

  #look(replica: Replica, node: NodeId, seen: Seen): void {
    const { raft, bucket } = replica;
    if (replica.installing) return;
    this.#lookAtClocks(replica, node, seen);
    this.#horizon = Math.max(this.#horizon, replica.state.horizon);
    if (raft.commitIndex !== seen.commit) {
      if (raft.commitIndex < seen.commit) {
        this.#fail(`bucket ${bucket} on node ${node}: commit index went from ${seen.commit} to ${raft.commitIndex}`);
      }
      this.ledger.committed(replica, seen.commit, raft.commitIndex);
      if (seen.ledTerm === raft.term && replica.isLeader) this.#checkDurable(replica);
      seen.commit = raft.commitIndex;
    }
    if (replica.state.applied.index !== seen.applied) {
      this.ledger.compare(replica);
      seen.applied = replica.state.applied.index;
    }
    const resolved = replica.resolved();
    if (resolved !== seen.resolved) {
      if (resolved < seen.resolved) {
        this.#fail(`bucket ${bucket} on node ${node}: the resolved timestamp went from ${seen.resolved} to ${resolved}`);
      }
      this.ledger.settled(replica, resolved);
      seen.resolved = resolved;
    }
    if (replica.isLeader) this.#lookAtLeader(replica, node, seen);
  }

  #lookAtClocks(replica: Replica, node: NodeId, seen: Seen): void {
    const { hybrid, bucket } = replica;
    const clock = replica.clock.latest;
    if (clock < seen.clock) this.#fail(`the clock of bucket ${bucket} on node ${node} went from ${seen.clock} to ${clock}`);
    seen.clock = clock;
    const last = this.#nodeClocks.get(node) ?? 0;
    if (hybrid.last < last) this.#fail(`the clock of node ${node} went from ${last} to ${hybrid.last}`);
    this.#nodeClocks.set(node, hybrid.last);
  }

  #lookAtLeader(replica: Replica, node: NodeId, seen: Seen): void {
    const { raft, bucket } = replica;
    const leading = this.#leading.get(bucket) ?? new Set<Replica>();
    this.#leading.set(bucket, leading);
    if (seen.ledTerm !== raft.term) {
      seen.ledTerm = raft.term;
      leading.add(replica);
      this.#once(this.#leaders, `bucket ${bucket} term ${raft.term} is led by node`, raft.id);
      this.ledger.elected(replica);
    }
    if (seen.servedTerm !== raft.term && raft.canServe()) {
      seen.servedTerm = raft.term;
      this.ledger.serves(replica);
    }
    for (const other of leading) {
      if (!other.isLeader || !this.#runs(other)) leading.delete(other);
      else if (other !== replica && this.#hasLease(other) && this.#hasLease(replica)) {
        this.#fail(`bucket ${bucket} has two leases at a time, of nodes ${nodeOfReplica(other.id)} and ${node}`);
      }
    }
  }

  #runs({ bucket, id }: Replica): boolean {
    const { cluster } = this.#options;
    const node = nodeOfReplica(id);
    return cluster.running(node) && cluster.node(node).hosting.replicas.get(bucket)?.isLeader === true;
  }

  #hasLease({ id, raft, host }: Replica): boolean {
    return this.#options.isAwake(nodeOfReplica(id)) && raft.leaseValid(host.clock.monotonicMs());
  }

  /** A leader has just committed: a quorum said that it has the entry on disk, or it is on the leader's own. */
  #checkDurable({ bucket, id, raft, state }: Replica): void {
    // What was committed in the turn in which a change of the configuration was appended, was so by the one before.
    const configs = raft.hasPendingConfig ? [raft.config, state.meta.config] : [raft.config];
    const durableAt = (voter: ReplicaId): LogIndex =>
      voter === id ? raft.durableIndex : (this.#acknowledged.get(nameOf(bucket, voter))?.get(raft.term) ?? 0);
    const durable = Math.max(...configs.map((config) => quorumValue(config, durableAt)));
    if (durable >= raft.commitIndex) return;
    const leader = `bucket ${bucket}: node ${nodeOfReplica(id)}, leader of term ${raft.term},`;
    this.#fail(`${leader} committed entry ${raft.commitIndex}; a quorum has on its disks what comes up to ${durable}`);
  }

  // --- what replicas say

  #hear(bucket: BucketId, m: Message): void {
    const name = (id: ReplicaId): string => `bucket ${bucket} term ${m.term}: replica of node ${nodeOfReplica(id)}`;
    switch (m.type) {
      case 'vote':
        this.#once(this.#votes, `${name(m.from)} voted for the replica of node`, m.from);
        this.#note(bucket, m.from, { term: m.term, index: 0, vote: m.from });
        this.#checkVoteOnDisk(bucket, m.from, m.term, m.from);
        break;
      case 'voteReply':
        if (!m.granted) break;
        this.#once(this.#votes, `${name(m.from)} voted for the replica of node`, m.to);
        this.#note(bucket, m.from, { term: m.term, index: 0, vote: m.to });
        this.#checkVoteOnDisk(bucket, m.from, m.term, m.to);
        break;
      case 'append':
        this.#once(this.#leaders, `bucket ${bucket} term ${m.term} is led by node`, m.from);
        this.ledger.sent(bucket, m.prevTerm, m.entries);
        break;
      case 'appendReply':
        if (!m.rejected) this.#hearAcknowledged(bucket, m.from, m.term, m.index);
        break;
      default:
    }
  }

  #hearAcknowledged(bucket: BucketId, from: ReplicaId, term: Term, index: LogIndex): void {
    this.#note(bucket, from, { term, index, vote: 0 });
    const name = nameOf(bucket, from);
    const terms = this.#acknowledged.get(name) ?? new Map<Term, LogIndex>();
    this.#acknowledged.set(name, terms);
    terms.set(term, Math.max(index, terms.get(term) ?? 0));
    const replica = this.#replicas.get(name);
    if (replica === undefined || this.#options.isDamaged(nodeOfReplica(from))) return;
    // In the same term nothing that was acknowledged is taken out of the log again.
    if (replica.raft.term !== term || replica.raft.durableIndex >= index) return;
    const disk = `its disk has what comes up to ${replica.raft.durableIndex}`;
    this.#fail(`bucket ${bucket} on node ${nodeOfReplica(from)} acknowledged entry ${index} in term ${term}; ${disk}`);
  }

  #checkVoteOnDisk(bucket: BucketId, from: ReplicaId, term: Term, vote: ReplicaId): void {
    const node = nodeOfReplica(from);
    if (this.#options.isDamaged(node) || this.#gone.has(nameOf(bucket, from))) return;
    const kept = this.#hardState(node, bucket);
    if (kept.term > term || (kept.term === term && kept.vote === vote)) return;
    const there = `on its disk are term ${kept.term} and a vote for ${nodeOfReplica(kept.vote)}`;
    this.#fail(`bucket ${bucket} on node ${node} said that it voted for ${nodeOfReplica(vote)} in term ${term}; ${there}`);
  }

  #hardState(node: NodeId, bucket: BucketId): HardState {
    const data = this.#options.cluster.disk(node).stores.get('log')?.get(hardStateKey(bucket));
    return data === undefined ? { term: 0, vote: 0, commit: 0 } : decodeHardState(data, bucket);
  }

  #note(bucket: BucketId, from: ReplicaId, said: Said): void {
    const name = nameOf(bucket, from);
    const before = this.#said.get(name);
    if (before === undefined || said.term > before.term) {
      this.#said.set(name, said);
    } else if (said.term === before.term && (said.index > before.index || said.vote !== 0)) {
      const vote = before.vote === 0 ? said.vote : before.vote;
      this.#said.set(name, { term: said.term, index: Math.max(said.index, before.index), vote });
    }
  }

  #checkRestart({ bucket, id, raft }: Replica): void {
    const said = this.#said.get(nameOf(bucket, id));
    if (said === undefined || raft.term > said.term) return;
    const keepsVote = said.vote === 0 || raft.vote === said.vote;
    if (raft.term === said.term && raft.lastIndex >= said.index && keepsVote) return;
    const promised = `term ${said.term}, entry ${said.index}, a vote for ${nodeOfReplica(said.vote)}`;
    const kept = `term ${raft.term}, entry ${raft.lastIndex}, a vote for ${nodeOfReplica(raft.vote)}`;
    this.#fail(`bucket ${bucket} on node ${nodeOfReplica(id)} told others of ${promised}; after a crash it has ${kept}`);
  }

  #once(map: Map<string, ReplicaId>, name: string, id: ReplicaId): void {
    const known = map.get(name);
    if (known === undefined) map.set(name, id);
    else if (known !== id) this.#fail(`${name} ${nodeOfReplica(known)} and ${nodeOfReplica(id)}`);
  }

  #fail(problem: string): void {
    this.#problems.add(problem);
  }
}

function nameOf(bucket: BucketId, replica: ReplicaId): string {
  return `${bucket}/${replica}`;
}
