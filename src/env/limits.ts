/**
 * Every limit in one place. Reaching one is RESOURCE_EXHAUSTED, INVALID_ARGUMENT or back-pressure, never unbounded memory.
 * The first group may be changed in the configuration; a cluster's nodes should agree on it.
 */
export interface Limits {
  readonly keyBytesMax: number;
  readonly valueBytesMax: number;
  /** Keys and values of one Write together. */
  readonly writeBytesMax: number;
  readonly writeMutationsMax: number;
  /** Conditions on ranges in one Write, and how many keys and changes a bucket looks at to decide all of them. */
  readonly writeRangesMax: number;
  readonly rangeEntriesMax: number;
  readonly messageBytesMax: number;
  /** How far ahead of this node's wall clock a timestamp may be before it is refused. */
  readonly maxClockOffsetMs: number;

  /** Commands, and separately Queries, that a node works on at a time; more are refused at once. */
  readonly commandsInFlightMax: number;
  readonly queriesInFlightMax: number;
  /** Payload bytes of Commands in flight on a node. */
  readonly commandBytesInFlightMax: number;
  /**
   * Bytes of answers to Queries that a node reads at a time; beyond it more are refused. And bytes of answers that a process
   * keeps for those who asked, in its gateway and, apart from that, in all its pipeline streams together: at this, reads wait.
   */
  readonly queryBytesInFlightMax: number;
  readonly answerBytesMax: number;
  /** Proposed and not yet applied entries and bytes of one bucket. */
  readonly proposalsPerBucketMax: number;
  readonly proposalBytesPerBucketMax: number;
  /** Conditions on ranges of one bucket that are being looked at: each is compared with every key that is written meanwhile. */
  readonly rangesPerBucketMax: number;
  /** Applied writes that wait for their state batch; above it the node stops to apply. */
  readonly overlayBytesMax: number;
  /** Raft: bytes of entries in one append, appends and bytes in flight to one follower. */
  readonly appendBytesMax: number;
  readonly appendsInFlightMax: number;
  readonly appendBytesInFlightMax: number;
  /** Log kept behind the applied index for slow followers, per bucket; more of it while somebody needs it behind a snapshot. */
  readonly logEntriesKept: number;
  readonly logBytesKept: number;
  /**
   * What a node reads of its log on disk in one turn of its event loop: for all followers that catch up, and as much again of
   * what is committed and no longer in memory. The rest comes in the turns that follow. Reading is synchronous and takes 10 to 40
   * microseconds for each entry: so many take some milliseconds.
   */
  readonly logEntriesReadPerTurn: number;
  readonly logBytesReadPerTurn: number;
  /**
   * Log on disk of all buckets of a node: above it the oldest entries go, as far as they are applied, whoever might still want
   * them; what somebody needs behind a snapshot only above four times of it. Never less than what is not yet applied.
   */
  readonly logStoreBytesMax: number;
  readonly snapshotChunkBytes: number;
  readonly snapshotChunksInFlightMax: number;
  /** Snapshots that one node sends or receives at a time. */
  readonly snapshotsAtOnceMax: number;
  /**
   * Bytes of snapshots that one node sends in a second, to all others together: what a new or returning node costs those that
   * serve meanwhile. Enough for a chunk of each snapshot at a time, or receivers take the long silence for a failure.
   */
  readonly snapshotBytesPerSecond: number;
  /**
   * Queued bytes on one stream before its sender is held back, and before a peer's messages are dropped. The second must hold
   * one append and the snapshot chunks in flight, or those never arrive.
   */
  readonly streamBufferBytesMax: number;
  readonly peerQueueBytesMax: number;
  readonly pageEntriesMax: number;
  readonly pageBytesMax: number;
  /** Requests that one router keeps waiting: of Commands, of Queries, and of what nodes ask of each other for transactions. */
  readonly routerInFlightMax: number;
  readonly routerBytesInFlightMax: number;
  /** Results of one session that a bucket remembers; how long a router uses a session, and a bucket remembers an idle one. */
  readonly sessionResultsMax: number;
  readonly sessionLifetimeMs: number;
  readonly sessionRetentionMs: number;
  /**
   * Sessions that a bucket remembers, and the memory that they and their results take, about. Beyond either the one that was
   * idle for longest is forgotten. The second must leave room for one session with all its results.
   */
  readonly sessionsPerBucketMax: number;
  readonly sessionBytesPerBucketMax: number;
  /**
   * Transactions over several buckets, of each bucket: prepared ones and the memory that they take; records of committed ones
   * that not every participant has resolved; ended attempts that are remembered; commands that wait for locks.
   */
  readonly preparedPerBucketMax: number;
  readonly preparedBytesPerBucketMax: number;
  readonly recordsPerBucketMax: number;
  readonly endedAttemptsPerBucketMax: number;
  readonly lockWaitersPerBucketMax: number;
  /** How long after its begin an attempt may be prepared, and how long an ended one is remembered. */
  readonly transactionLifeMs: number;
  /** How long an intent may wait for its coordinator before its bucket asks home what became of it. */
  readonly intentPatienceMs: number;
  /** Requests about transactions (prepare, resolve, outcomes) that a node works on at a time. */
  readonly transactionRequestsInFlightMax: number;
  /** How long a transaction that has lost several times may keep others off its keys; memory for that, of one bucket, about. */
  readonly reservationMsMax: number;
  readonly reservationBytesPerBucketMax: number;
  /**
   * History: how long every version is kept, unless the records since then take more than so many bytes on a node's disk; how
   * much longer a running read or a change stream may hold it back; how long a pin may; how many pins there may be.
   */
  readonly retentionMs: number;
  readonly retentionBytesMax: number;
  readonly horizonHoldMsMax: number;
  readonly pinMsMax: number;
  readonly pinsMax: number;
  /**
   * Change streams: how many a process serves at a time; how many requests a node keeps waiting for a mark; how many applied
   * records a node remembers by name, so that who follows closely is served without looking for them; how long a plain gRPC
   * consumer may leave a message untaken before it is cut off.
   */
  readonly changeStreamsMax: number;
  readonly markWaitersMax: number;
  readonly recentVersionsMax: number;
  readonly consumerStallMsMax: number;
  /** Change streams for which a node holds history back; further ones find out by an error when what they need is gone. */
  readonly streamHoldsMax: number;
  /** Buckets whose replicas may be on the way at a time; how long a node is out of reach before its replicas are made anew. */
  readonly bucketsMovingMax: number;
  readonly nodeLostMs: number;
  /**
   * A bucket is hot when each of its replicas would have to serve more reads a second than the first; it gets at most so many
   * read replicas, and loses them when they have not been needed for so long (placement/hot.ts).
   */
  readonly hotReadsPerSecond: number;
  readonly readReplicasMax: number;
  readonly coolMs: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

export const DEFAULT_LIMITS: Limits = {
  keyBytesMax: 4 * KIB,
  valueBytesMax: MIB,
  writeBytesMax: 8 * MIB,
  writeMutationsMax: 1024,
  writeRangesMax: 64,
  rangeEntriesMax: 20_000,
  messageBytesMax: 16 * MIB,
  maxClockOffsetMs: 1000,

  commandsInFlightMax: 4096,
  queriesInFlightMax: 4096,
  commandBytesInFlightMax: 64 * MIB,
  queryBytesInFlightMax: 256 * MIB,
  answerBytesMax: 128 * MIB,
  proposalsPerBucketMax: 1024,
  proposalBytesPerBucketMax: 16 * MIB,
  rangesPerBucketMax: 128,
  overlayBytesMax: 64 * MIB,
  appendBytesMax: MIB,
  appendsInFlightMax: 64,
  appendBytesInFlightMax: 8 * MIB,
  logEntriesKept: 2000,
  logBytesKept: 4 * MIB,
  logEntriesReadPerTurn: 256,
  logBytesReadPerTurn: 256 * KIB,
  logStoreBytesMax: 256 * MIB,
  snapshotChunkBytes: 512 * KIB,
  snapshotChunksInFlightMax: 4,
  snapshotsAtOnceMax: 4,
  snapshotBytesPerSecond: 64 * MIB,
  streamBufferBytesMax: 4 * MIB,
  peerQueueBytesMax: 32 * MIB,
  pageEntriesMax: 1000,
  pageBytesMax: MIB,
  routerInFlightMax: 16384,
  routerBytesInFlightMax: 64 * MIB,
  sessionResultsMax: 8192,
  sessionLifetimeMs: 10 * 60_000,
  sessionRetentionMs: 60 * 60_000,
  sessionsPerBucketMax: 8192,
  sessionBytesPerBucketMax: 3 * MIB,
  preparedPerBucketMax: 4096,
  preparedBytesPerBucketMax: 16 * MIB,
  recordsPerBucketMax: 8192,
  endedAttemptsPerBucketMax: 16_384,
  lockWaitersPerBucketMax: 1024,
  transactionLifeMs: 10_000,
  intentPatienceMs: 1000,
  transactionRequestsInFlightMax: 8192,
  reservationMsMax: 10_000,
  reservationBytesPerBucketMax: 4 * MIB,
  retentionMs: 24 * 60 * 60_000,
  retentionBytesMax: 256 * 1024 * MIB,
  horizonHoldMsMax: 60 * 60_000,
  pinMsMax: 30 * 24 * 60 * 60_000,
  pinsMax: 32,
  changeStreamsMax: 256,
  markWaitersMax: 4096,
  recentVersionsMax: 131_072,
  consumerStallMsMax: 30_000,
  streamHoldsMax: 1024,
  bucketsMovingMax: 8,
  nodeLostMs: 10 * 60_000,
  hotReadsPerSecond: 2000,
  readReplicasMax: 8,
  coolMs: 60_000,
};
