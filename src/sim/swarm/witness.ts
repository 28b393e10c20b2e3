import type { Node } from '../../node/node.js';
import { nodeOfReplica, type BucketId } from '../../placement/map.js';
import type { Message, ReplicaId, Term } from '../../raft/types.js';
import type { Replica } from '../../bucket/replica.js';

/** What a replica has said, once it was on its disk, in the highest term in which it said anything. */
interface Said {
  readonly term: Term;
  /** Up to here it has the log. */
  readonly index: number;
  /** Whom it gave its vote, if anybody. */
  readonly vote: ReplicaId;
}

/** How far commit was known in a term, and the term of the entry there. */
interface Committed {
  readonly index: number;
  readonly entryTerm: Term;
}

/**
 * Hears what replicas say to each other, and remembers it over their crashes, which they themselves do not:
 *
 * - one vote a term, one leader a term
 * - nothing is acknowledged, no vote given, before it is on disk: after a restart it is still there
 * - leader completeness: a leader's log holds all that was committed in earlier terms
 */
export class Witness {
  readonly problems: string[] = [];
  readonly #votes = new Map<string, ReplicaId>();
  readonly #leaders = new Map<string, ReplicaId>();
  readonly #said = new Map<string, Said>();
  readonly #committed = new Map<BucketId, Map<Term, Committed>>();

  /** A node is up: looks at what it still knows, and listens to what it hears. */
  attach(node: Node): void {
    for (const replica of node.hosting.replicas.values()) {
      this.#checkRestart(replica);
      const step = replica.step.bind(replica);
      replica.step = (message) => {
        const { role } = replica.raft;
        this.#hear(replica.bucket, message);
        step(message);
        if (role !== 'leader' && replica.isLeader) this.#checkLeader(replica);
      };
    }
  }

  /** Notes what is committed; called now and then, and before a crash. */
  look(replica: Replica): void {
    const { bucket, raft, installing } = replica;
    if (installing || raft.commitIndex === 0) return;
    const entryTerm = raft.termAt(raft.commitIndex);
    if (entryTerm < 0) return;
    const terms = this.#committed.get(bucket) ?? new Map<Term, Committed>();
    this.#committed.set(bucket, terms);
    if ((terms.get(raft.term)?.index ?? 0) < raft.commitIndex) terms.set(raft.term, { index: raft.commitIndex, entryTerm });
  }

  #hear(bucket: BucketId, m: Message): void {
    const name = (id: ReplicaId): string => `bucket ${bucket} term ${m.term}: replica of node ${nodeOfReplica(id)}`;
    if (m.type === 'voteReply' && m.granted) {
      this.#once(this.#votes, `${name(m.from)} voted for the replica of node`, m.to);
      this.#note(bucket, m.from, { term: m.term, index: 0, vote: m.to });
    } else if (m.type === 'append') {
      this.#once(this.#leaders, `bucket ${bucket} term ${m.term} is led by node`, m.from);
    } else if (m.type === 'appendReply' && !m.rejected) {
      this.#note(bucket, m.from, { term: m.term, index: m.index, vote: 0 });
    }
  }

  #note(bucket: BucketId, from: ReplicaId, said: Said): void {
    const name = `${bucket}/${from}`;
    const before = this.#said.get(name);
    if (before === undefined || said.term > before.term) {
      this.#said.set(name, said);
    } else if (said.term === before.term && (said.index > before.index || said.vote !== 0)) {
      const vote = before.vote === 0 ? said.vote : before.vote;
      this.#said.set(name, { term: said.term, index: Math.max(said.index, before.index), vote });
    }
  }

  #checkRestart({ bucket, id, raft }: Replica): void {
    const said = this.#said.get(`${bucket}/${id}`);
    if (said === undefined || raft.term > said.term) return;
    const keepsVote = said.vote === 0 || raft.vote === said.vote;
    if (raft.term === said.term && raft.lastIndex >= said.index && keepsVote) return;
    const promised = `term ${said.term}, entry ${said.index}, a vote for ${nodeOfReplica(said.vote)}`;
    const kept = `term ${raft.term}, entry ${raft.lastIndex}, a vote for ${nodeOfReplica(raft.vote)}`;
    this.#fail(`bucket ${bucket} on node ${nodeOfReplica(id)} told others of ${promised}; after a crash it has ${kept}`);
  }

  #checkLeader({ bucket, id, raft }: Replica): void {
    for (const [term, { index, entryTerm }] of this.#committed.get(bucket) ?? []) {
      if (term >= raft.term || index < raft.firstIndex || raft.termAt(index) === entryTerm) continue;
      const leader = `bucket ${bucket}: node ${nodeOfReplica(id)}, leader of term ${raft.term},`;
      this.#fail(`${leader} lacks entry ${index} of term ${entryTerm}, which term ${term} knew to be committed`);
    }
  }

  #once(map: Map<string, ReplicaId>, name: string, id: ReplicaId): void {
    const known = map.get(name);
    if (known === undefined) map.set(name, id);
    else if (known !== id) this.#fail(`${name} ${nodeOfReplica(known)} and ${nodeOfReplica(id)}`);
  }

  #fail(problem: string): void {
    if (this.problems.length < 20) this.problems.push(problem);
  }
}

