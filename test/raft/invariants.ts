import { assert } from '../../src/lib/assert.js';
import type { Entry, LogIndex, Message, ReadState, ReplicaId, Term } from '../../src/raft/types.js';
import type { Network, Observer, Replica } from './network.js';

interface OpenRead {
  readonly startedMs: number;
  /** What had been acknowledged or seen when the read was asked. */
  readonly floorIndex: LogIndex;
}

/**
 * What must hold in every history, whatever happened to messages, disks, processes and clocks. Each check knows the whole
 * group and true time, which no replica does.
 */
export class Invariants implements Observer {
  network: Network | undefined = undefined;
  private readonly leaders = new Map<Term, ReplicaId>();
  private readonly votes = new Map<string, ReplicaId>();
  private readonly entries = new Map<string, string>();
  private readonly committed = new Map<LogIndex, Term>();
  private readonly digests = new Map<LogIndex, number>();
  private readonly electedFloors = new Map<Term, number>();
  private readonly promises = new Map<Term, number>();
  private readonly commits = new Map<ReplicaId, { life: unknown; commit: LogIndex }>();
  private readonly proposals = new Map<string, LogIndex>();
  private readonly openReads = new Map<string, OpenRead>();
  /** By the term of the replica that first applied it, which is not below the term in which it was committed. */
  private readonly committedIn = new Map<Term, LogIndex>();
  /** Every read that begins from now on must see at least this much. */
  private seen: LogIndex = 0;
  readonly count = { elections: 0, acknowledged: 0, reads: 0, leaseReads: 0, failedReads: 0, promises: 0 };

  sent(m: Message): void {
    if (m.type === 'vote') this.vote(m.from, m.term, m.from);
    if (m.type === 'voteReply' && m.granted) this.vote(m.from, m.term, m.to);
  }

  /** One vote a term, over restarts. */
  private vote(voter: ReplicaId, term: Term, candidate: ReplicaId): void {
    const key = `${voter}/${term}`;
    const before = this.votes.get(key) ?? candidate;
    assert(before === candidate, `replica ${voter} voted twice in term ${term}`);
    this.votes.set(key, candidate);
  }

  /** Log matching: (index, term) names one entry, and what stands before it. */
  written(id: ReplicaId, entries: readonly Entry[], termBefore: Term): void {
    let before = termBefore;
    for (const { index, term, kind, data } of entries) {
      const key = `${index}/${term}`;
      const content = `${kind} ${data.toString('hex')} after ${before}`;
      const known = this.entries.get(key) ?? content;
      assert(known === content, `replica ${id} has another entry ${key}: ${content} instead of ${known}`);
      this.entries.set(key, content);
      before = term;
    }
  }

  proposed(replica: Replica, index: LogIndex): void {
    this.proposals.set(`${index}/${replica.live.term}`, replica.id);
  }

  /** State machine safety; and a leader that applies its own proposal acknowledges it. */
  applied(replica: Replica, entry: Entry): void {
    const { index, digest } = replica.state;
    const known = this.digests.get(index) ?? digest;
    assert(known === digest, `replica ${replica.id} applied something else at ${index}`);
    this.digests.set(index, digest);
    assert((this.committed.get(index) ?? entry.term) === entry.term, `two entries were committed at ${index}`);
    if (!this.committed.has(index)) this.committedIn.set(replica.live.term, index);
    this.committed.set(index, entry.term);
    const isOwn = this.proposals.get(`${index}/${entry.term}`) === replica.id;
    if (isOwn && replica.raft?.role === 'leader' && replica.raft.term === entry.term) {
      this.count.acknowledged += 1;
      this.seen = Math.max(this.seen, index);
    }
  }

  readStarts(replica: Replica, context: number): void {
    const startedMs = this.network?.timeMs ?? 0;
    this.openReads.set(`${replica.id}/${context}`, { startedMs, floorIndex: this.seen });
  }

  read(replica: Replica, read: ReadState): void {
    const key = `${replica.id}/${read.context}`;
    const open = this.openReads.get(key);
    assert(open !== undefined, `replica ${replica.id} answers a read ${read.context} that nobody asked`);
    this.openReads.delete(key);
    if (read.index === 0) {
      this.count.failedReads += 1;
      return;
    }
    this.count.reads += 1;
    const { index } = replica.state;
    assert(index >= open.floorIndex, `replica ${replica.id} reads at ${index}, but ${open.floorIndex} was acknowledged`);
    this.seen = Math.max(this.seen, index);
  }

  /** A leader serves a read at the highest timestamp that it may promise. */
  promise(replica: Replica): void {
    const { live } = replica;
    if (!live.canServe()) return;
    const floor = live.quorumFloor();
    this.count.promises += 1;
    this.promises.set(live.term, Math.max(floor, this.promises.get(live.term) ?? 0));
    for (const [term, elected] of this.electedFloors) if (term > live.term) this.floorKept(live.term, floor, term, elected);
  }

  private floorKept(term: Term, promised: number, later: Term, elected: number): void {
    assert(elected >= promised, `term ${term} promised ${promised}, but the leader of term ${later} knows only ${elected}`);
  }

  /** After every step. */
  check(network: Network): void {
    let leases = 0;
    for (const replica of network.replicas.values()) {
      const { raft } = replica;
      if (raft === undefined) continue;
      this.checkCommit(replica);
      if (raft.role !== 'leader') continue;
      this.checkLeader(replica);
      if (!raft.leaseValid(replica.now)) continue;
      leases += 1;
      assert(leases === 1, 'two leaders hold a lease at one moment');
      const { index } = replica.state;
      assert(index >= this.seen, `a read under the lease at ${index} misses ${this.seen}`);
      this.seen = Math.max(this.seen, index);
      this.count.leaseReads += 1;
    }
  }

  private checkCommit({ id, raft }: Replica): void {
    if (raft === undefined) return;
    const known = this.commits.get(id);
    if (known?.life === raft) assert(raft.commitIndex >= known.commit, `the commit index of replica ${id} went back`);
    if (known?.life !== raft || known.commit !== raft.commitIndex) {
      this.commits.set(id, { life: raft, commit: raft.commitIndex });
      const term = this.committed.get(raft.commitIndex);
      assert(term === undefined || raft.termAt(raft.commitIndex) === term, `replica ${id} committed another entry`);
    }
    assert(raft.appliedIndex <= raft.commitIndex, 'what is applied is committed');
    assert(raft.nextTickMs > -Infinity, 'there is a next tick');
  }

  private checkLeader({ id, live }: Replica): void {
    const known = this.leaders.get(live.term);
    assert(known === undefined || known === id, `term ${live.term} has two leaders`);
    if (known !== undefined) return;
    this.leaders.set(live.term, id);
    this.count.elections += 1;
    // Leader completeness: all that was committed in earlier terms. (The election may have been won long before it is noticed.)
    let index = 0;
    for (const [earlier, last] of this.committedIn) if (earlier < live.term) index = Math.max(index, last);
    const term = this.committed.get(index);
    assert(live.lastIndex >= index, `the leader of term ${live.term} lacks committed entry ${index}`);
    assert(term === undefined || live.firstIndex > index + 1 || live.termAt(index) === term, `it has another entry at ${index}`);
    this.electedFloors.set(live.term, live.electedFloor);
    for (const [earlier, promised] of this.promises) {
      if (earlier < live.term) this.floorKept(earlier, promised, live.term, live.electedFloor);
    }
  }
}
