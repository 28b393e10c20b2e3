import type { Bytes } from '../lib/bytes.js';

/**
 * The words of the consensus core. See raft.ts for its contract with the caller.
 *
 * A replica id belongs to one life of one replica: it is never used again in its group, not even by the same node after its
 * disk was wiped (such a node could vote twice). 0 means none.
 */
export type ReplicaId = number;
export type Term = number;
export type LogIndex = number;

/** `empty` is what a new leader commits first; `config` holds an encoded Config; `data` is opaque to the core. */
export type EntryKind = 'data' | 'config' | 'empty';

export interface Entry {
  readonly index: LogIndex;
  readonly term: Term;
  readonly kind: EntryKind;
  readonly data: Bytes;
}

/** What must be on disk before any message that depends on it leaves. `commit` is a hint that saves work after a restart. */
export interface HardState {
  readonly term: Term;
  readonly vote: ReplicaId;
  readonly commit: LogIndex;
}

/**
 * A configuration. While `outgoing` is not empty it is joint: decisions need a majority of `voters` and one of `outgoing`.
 * Learners receive the log and never vote. `learnersNext` are outgoing voters that become learners when the joint
 * configuration is left. All lists are sorted and `voters`, `learners` are disjoint.
 */
export interface Config {
  readonly voters: readonly ReplicaId[];
  readonly outgoing: readonly ReplicaId[];
  readonly learners: readonly ReplicaId[];
  readonly learnersNext: readonly ReplicaId[];
}

/** The log up to `index` replaced by a state: where it ended and who belonged to the group then. */
export interface SnapshotMeta {
  readonly index: LogIndex;
  readonly term: Term;
  readonly config: Config;
}

interface Envelope {
  readonly from: ReplicaId;
  readonly to: ReplicaId;
  readonly term: Term;
}

/**
 * Rounds. Each time a leader sends a heartbeat or an append, the message carries `round`, a number that grows within the
 * term; a round's token is (term, round). A follower answers with the highest round of this term that it has accepted. One
 * mechanism serves three purposes: a quorum's round proves leadership since the round was sent (ReadIndex), renews the
 * lease from its send time, and acknowledges the floor that was sent in it.
 *
 * `floor` in a request is the leader's offer; in an answer the highest floor that this replica has promised to repeat to any
 * candidate it votes for, or 0 if it may promise none.
 *
 * `closed` is a timestamp at or below which the leader will append nothing behind index `closedIndex`, its last index when
 * the message was made. It counts at the follower once closedIndex is applied, within the same term only.
 */
export interface AppendMessage extends Envelope {
  readonly type: 'append';
  readonly prevIndex: LogIndex;
  readonly prevTerm: Term;
  readonly entries: readonly Entry[];
  readonly commit: LogIndex;
  readonly round: number;
  readonly floor: number;
  readonly closed: number;
  readonly closedIndex: LogIndex;
}

export interface AppendReply extends Envelope {
  readonly type: 'appendReply';
  /** Accepted: the last index known to match. Rejected: prevIndex of the request. */
  readonly index: LogIndex;
  readonly rejected: boolean;
  /** Rejected: where the leader should probe next, and this replica's term there. */
  readonly hintIndex: LogIndex;
  readonly hintTerm: Term;
  readonly round: number;
  readonly floor: number;
}

export interface HeartbeatMessage extends Envelope {
  readonly type: 'heartbeat';
  /** Never above what this follower is known to have. */
  readonly commit: LogIndex;
  readonly round: number;
  readonly floor: number;
  readonly closed: number;
  readonly closedIndex: LogIndex;
}

export interface HeartbeatReply extends Envelope {
  readonly type: 'heartbeatReply';
  readonly round: number;
  readonly floor: number;
}

/**
 * Beats. Where a leader and a follower are in step (the follower has the whole log and knows all of it to be committed, so that
 * commit and closedIndex are the same index) a heartbeat and its answer change nothing but times. They are by far the most of all
 * messages of an idle group, and go in and out of the core as plain numbers, past `ready()`: see Raft.beat. What they mean is
 * what HeartbeatMessage and HeartbeatReply mean, and either side may treat one as such.
 */
export type TellBeat = (to: ReplicaId, term: Term, index: LogIndex, round: number, floor: number, closed: number) => void;

export interface VoteMessage extends Envelope {
  readonly type: 'vote' | 'preVote';
  readonly lastIndex: LogIndex;
  readonly lastTerm: Term;
  /** The old leader asked for this election (TimeoutNow): followers need not wait out its lease. */
  readonly transfer: boolean;
}

export interface VoteReply extends Envelope {
  readonly type: 'voteReply' | 'preVoteReply';
  readonly granted: boolean;
  readonly floor: number;
}

export interface TimeoutNowMessage extends Envelope {
  readonly type: 'timeoutNow';
}

/** A follower asks the leader for a read index; `context` is the follower's own number for it. */
export interface ReadIndexMessage extends Envelope {
  readonly type: 'readIndex';
  readonly context: number;
}

export interface ReadIndexReply extends Envelope {
  readonly type: 'readIndexReply';
  readonly context: number;
  /** 0: refused (not the leader, or not yet able to serve). */
  readonly index: LogIndex;
}

export type Message =
  | AppendMessage
  | AppendReply
  | HeartbeatMessage
  | HeartbeatReply
  | VoteMessage
  | VoteReply
  | TimeoutNowMessage
  | ReadIndexMessage
  | ReadIndexReply;

/** The durable part of the log, read synchronously. Only asked for indexes in [firstIndex, lastIndex]. */
export interface LogReader {
  /** First index still stored; lastIndex + 1 if the log is empty. */
  firstIndex(): LogIndex;
  lastIndex(): LogIndex;
  /** The term at an index in [firstIndex - 1, lastIndex]. */
  term(index: LogIndex): Term;
  /** Entries of [from, to), at least one, then as many as fit into `bytesMax`. */
  entries(from: LogIndex, to: LogIndex, bytesMax: number): Entry[];
}

/** What the timestamps that ride on messages mean is the caller's business (bucket); the core carries and counts them. */
export interface Promises {
  /** Leader, when a message is made: the floor to offer. */
  offerFloor(): number;
  /**
   * Records the offered floor and returns the highest one that this replica stands for now, or 0 if it may promise none. Called
   * with 0 when it votes: then, too, it answers with the highest one it ever stood for, what it may have forgotten included.
   */
  acceptFloor(floor: number): number;
  /** Leader, when a message is made: the closed timestamp that goes with the present last index; 0 if none. */
  closed(): number;
}

export type Role = 'follower' | 'preCandidate' | 'candidate' | 'leader';

/** A linearizable read that may be served once `index` is applied. */
export interface ReadState {
  readonly context: number;
  /** 0: it failed (leadership lost or unknown); try again. */
  readonly index: LogIndex;
}

/**
 * What the caller must do now. Messages in `messages` may leave at once; those in `messagesAfterSync` only when `entries` and
 * `hardState` of this Ready and of all earlier ones are on disk. `entries` replace whatever the log holds from
 * entries[0].index on. `committed` are committed and locally durable, in order, each given exactly once.
 */
export interface Ready {
  readonly entries: readonly Entry[];
  readonly hardState: HardState | undefined;
  readonly messages: readonly Message[];
  readonly messagesAfterSync: readonly Message[];
  readonly committed: readonly Entry[];
  readonly reads: readonly ReadState[];
  /**
   * Followers that need a snapshot: the caller takes one, sends it outside the core, where it ends in `Raft.restore`, and reports
   * with `snapshotSent`.
   */
  readonly snapshotsWanted: readonly ReplicaId[];
}
