import type { Mutant } from '../../src/lib/mutants.js';
import { PLANTED_IN_READS } from './mutants-of-reads.js';
import { TRANSACTIONS } from './mutants-transactions.js';
import type { Planted } from './planted.js';

export const PLANTED: Readonly<Record<Mutant, Planted>> = {
  'commit-prior-term': {
    like: 'Raft core: committing prior-term entries by counting (logcabin#44)',
    what: 'an entry of an earlier term is committed by counting',
    by: { golden: 'prior-term-commit' },
  },
  'vote-before-sync': {
    like: 'Raft core: two leaders in one term (camunda#1068)',
    what: 'a vote is sent before it is on disk',
    by: { swarm: 'syncs' },
  },
  'second-vote': {
    like: 'Raft core: two leaders in one term (camunda#1068)',
    what: 'a replica votes twice in a term',
    by: { raft: true },
  },
  'vote-forgotten': {
    like: 'Raft core: two leaders in one term (camunda#1068)',
    what: 'the term is written down without the vote',
    by: { swarm: 'syncs' },
  },
  'vote-by-log-length': {
    like: 'Raft core: a leader that lacks what is committed',
    what: 'the longer log wins, whatever its last term',
    by: { golden: 'up-to-date-logs' },
  },
  'lead-before-term-synced': {
    like: 'Raft core: acknowledged before persisted (etcd#10166)',
    what: 'a leader speaks before its term is on any disk',
    by: { golden: 'single-voter' },
  },
  'ack-before-sync': {
    like: 'Acknowledged before fsync (nats-server#7564)',
    what: 'a follower acknowledges entries before they are on its disk',
    by: { swarm: 'syncs' },
  },
  'leader-counts-unsynced': {
    like: 'Raft core: acknowledged before persisted (etcd#10166)',
    what: 'a leader counts itself before its disk has the entry',
    by: { golden: 'single-voter' },
  },
  'apply-before-durable': {
    like: 'Raft core: acknowledged before persisted (etcd#10166)',
    what: 'a committed entry is applied before it is in the own log on disk',
    by: { raft: true },
  },
  'append-unmatched': {
    like: 'Raft core: log matching',
    what: 'entries are appended behind one of another term',
    by: { golden: 'conflict-hints' },
  },
  'commit-told-unmatched': {
    like: 'Raft core: commit > last index (etcd#10166)',
    what: 'a heartbeat tells a commit index beyond what the follower is known to have',
    by: { raft: true },
  },
  'append-truncates-always': {
    like: 'Raft core: an old append removes newer entries',
    what: 'an append replaces entries that are the same',
    by: { raft: true },
  },
  'truncated-write-proves': {
    like: 'Raft core: acknowledged before persisted (etcd#10166)',
    what: 'a write that was under way proves entries which replaced its own',
    by: { test: 'raft/log', name: 'even when the same ones came back' },
  },
  'log-tail-kept': {
    like: 'Raft core: cache not truncated with the log (cockroach#63473)',
    what: 'a replaced tail comes back from disk',
    by: { test: 'bucket/log-storage', name: 'a tail that was replaced by a shorter one' },
  },
  'old-copy-welcome': {
    like: 'Raft core: a wiped member under its old identity (dragonboat#256)',
    what: 'a replica that lost what it had acknowledged goes on',
    by: { test: 'sim/damage', name: 'stops when it is an old copy' },
  },
  'config-survives-truncation': {
    like: 'Raft core: configuration lost when the log is truncated (scylladb#30984)',
    what: 'a configuration stays in force though its entry was truncated',
    by: { golden: 'uncommitted-joint-is-undone' },
  },
  'leave-joint-uncommitted': {
    like: 'Membership: leaving an uncommitted joint configuration (camunda#60086)',
    what: 'a joint configuration is left before it is committed',
    by: { golden: 'uncommitted-joint-is-undone' },
  },
  'config-change-without-floor': {
    like: 'Membership: loss on membership change (nats-server#7545)',
    what: 'the next change does not wait until the present members know what was promised',
    by: { golden: 'config-change-waits-for-floors' },
  },
  'config-not-kept': {
    like: 'Membership: promotion not persisted, then spread by snapshot (etcd#20793)',
    what: 'a configuration that was applied is not kept with the state, nor brought by snapshots of it',
    by: { swarm: 'moves' },
  },
  'joint-half-decides': {
    like: 'Membership: loss on membership change plus partition (nats-server#7545)',
    what: 'the new half of a joint configuration decides alone',
    by: { test: 'sim/membership', name: 'without a majority of those before' },
  },
  'change-over-change': {
    like: 'Membership: loss on membership change plus partition (nats-server#7545)',
    what: 'the next change of members begins before the last one is committed',
    by: { test: 'sim/membership', name: 'wait until each is committed' },
  },
  'gone-uncommitted': {
    like: 'Membership: loss on membership change plus partition (nats-server#7545)',
    what: 'a replica is given up though the configuration without it is not committed',
    by: { test: 'sim/membership', name: 'is not given up before' },
  },
  'wiped-node-welcome': {
    like: 'Raft core: a wiped member under its old identity (dragonboat#256)',
    what: 'a node that lost its disk is welcome',
    by: { test: 'sim/recovery', name: 'under its old name from a wiped disk' },
  },
  'deaf-leader-stays': {
    like: 'Liveness: asymmetric partition (cockroach#87244)',
    what: 'a leader stays though it hears nobody',
    by: { golden: 'checkquorum' },
  },
  'transfer-to-lagging': {
    like: 'Membership: lease handed to a replica that still waits for a snapshot (cockroach#82758)',
    what: 'leadership is handed to a replica that lacks entries',
    by: { golden: 'transfer' },
  },
  ...PLANTED_IN_READS,
  'retry-runs-again': {
    like: 'Commands: applied twice',
    what: 'results are not remembered',
    by: { swarm: 'any' },
  },
  'retry-in-flight-runs-again': {
    like: 'Commands: applied twice',
    what: 'a retry does not join the attempt under way',
    by: { swarm: 'any' },
  },
  'session-horizon-lost': {
    like: 'Commands: applied twice after the session was forgotten',
    what: 'a forgotten session leaves no horizon',
    by: { swarm: 'any' },
  },
  'sessions-not-replayed': {
    like: 'Snapshots: gap between snapshot and log on restart (redisraft#43)',
    what: 'the log is not replayed over the checkpoint of the sessions',
    by: { swarm: 'any' },
  },
  'doubt-reported-as-none': {
    like: 'Ambiguous results: an unknown outcome called a failure (cockroach#103817)',
    what: 'a router forgets that an attempt may have taken effect',
    by: { swarm: 'any' },
  },
  ...TRANSACTIONS,
  'torn-state-batch': {
    like: 'LevelDB after power loss: half of a Write (leveldb#189)',
    what: 'a state batch is cut in the midst of an apply',
    by: { swarm: 'syncs' },
  },
  'overlay-dropped-early': {
    like: 'Stale reads: between memory and disk',
    what: 'the overlay forgets writes before they are on disk',
    by: { swarm: 'any' },
  },
  'page-misses-overlay': {
    like: 'Stale reads: between memory and disk',
    what: 'a page looks at the overlay after it has read the store',
    by: { swarm: 'pages' },
  },
  'log-compacted-too-far': {
    like: 'Snapshots: gap between snapshot and log on restart (redisraft#43)',
    what: 'the log is dropped beyond what the state on disk holds',
    by: { swarm: 'absences' },
  },
  'snapshot-chases-log': {
    like: 'Snapshots: two in quick succession (etcd#18055)',
    what: 'what is written while a snapshot is on its way is gone from the log when it has come',
    by: { test: 'sim/membership', name: 'at no more bytes a second' },
  },
  'snapshot-without-sessions': {
    like: 'Snapshots: applied twice after a snapshot',
    what: 'an installed snapshot brings no results of commands',
    by: { test: 'sim/recovery', name: 'that knows of it from a snapshot only' },
  },
  'snapshot-of-swept-slot': {
    like: 'Snapshots: two in quick succession (etcd#18055)',
    what: 'a snapshot is read on from a slot that was swept',
    by: { test: 'sim/seams', name: 'ends when another state took its place' },
  },
  'read-of-swept-slot': {
    like: 'Membership and learners: removed while it is asked',
    what: 'who reads on from a replica that was given up takes what is gone for damage',
    by: { test: 'sim/seams', name: 'that is given up while it is read' },
  },
  'snapshots-overlap': {
    like: 'Snapshots: two in quick succession (etcd#18055)',
    what: 'a snapshot begins to come in before an older one of its bucket has let go',
    by: { test: 'node/snapshots', name: 'starts when the older has let go' },
  },
  'snapshot-goes-back': {
    like: 'Snapshots: two in quick succession (etcd#18055)',
    what: 'a snapshot is installed though the replica has more by now',
    by: { test: 'sim/seams', name: 'takes nothing back' },
  },
  'log-gap-kept': {
    like: 'Snapshots: gap between snapshot and log on restart (redisraft#43)',
    what: 'after a crash a log goes on that ends before the state begins',
    by: { test: 'sim/seams', name: 'begins where a snapshot ends' },
  },
  'flip-before-sync': {
    like: 'Snapshots: gap between snapshot and log on restart (redisraft#43)',
    what: 'the log is dropped before the snapshot counts on disk',
    by: { test: 'sim/seams', name: 'counts on disk before the log' },
  },
  'checksum-ignored': {
    like: 'LevelDB after power loss: bit rot (leveldb#333)',
    what: 'a record whose checksum is wrong is served',
    by: { test: 'mvcc/records', name: 'notices a flipped bit' },
  },
  'rot-sent-on': {
    like: 'LevelDB after power loss: bit rot (leveldb#333)',
    what: 'a node sends snapshots of records whose checksum is wrong, which nobody takes',
    by: { test: 'sim/damage', name: 'a bad record in a snapshot that it sends' },
  },
  'damage-told': {
    like: 'LevelDB after power loss: bit rot (leveldb#333)',
    what: 'whoever asks a node with a damaged disk gets that for an answer',
    by: { test: 'sim/damage', name: 'sends those who ask it to the others' },
  },
  'stream-mark-of-fastest': {
    like: 'Streams: progress mark ahead of events (etcd#15220)',
    what: 'a stream is taken for complete as far as its fastest bucket is',
    by: { test: 'changes/merge', name: 'what all buckets have passed' },
  },
  'stream-takes-twice': {
    like: 'Streams: going back in time after a partition (etcd#15271)',
    what: 'what another replica tells again is told again',
    by: { test: 'changes/merge', name: 'told twice' },
  },
  'stream-range-open': {
    like: 'Streams: a one-key reader sees later keys (GHSA-xg4h-6gfc-h4m8)',
    what: 'a stream of a range has no end to it',
    by: { swarm: 'streams' },
  },
  'stream-seam-from-now': {
    like: 'Streams: lost during the initial scan (tikv#12717)',
    what: 'the tail begins when the snapshot has been read, not where it stands',
    by: { swarm: 'streams' },
  },
  'stream-resumes-behind-commit': {
    like: 'Streams: off by one on resume (cockroach#91116)',
    what: 'a stream that was cut within a commit goes on behind it',
    by: { swarm: 'streams' },
  },
  'feed-beyond-resolved': {
    like: 'Streams: premature resolved timestamp loses rows (cockroach#117612)',
    what: 'a feed is read and marked a little beyond what is resolved',
    by: { swarm: 'streams' },
  },
  'feed-page-claims-all': {
    like: 'Streams: lost under starvation (etcd#17529)',
    what: 'a page that was cut short says that it is complete',
    by: { swarm: 'streams' },
  },
  'feed-ignores-horizon': {
    like: 'Streams: lost at compaction (etcd#18089)',
    what: 'a stream goes on from before the horizon with what is left',
    by: { test: 'changes/feed', name: 'names the earliest moment' },
  },
  'feed-horizon-not-rechecked': {
    like: 'Garbage collection: threshold checked before the snapshot is pinned (cockroach#78980)',
    what: 'the horizon is not looked at again when a page has been read',
    by: { test: 'changes/feed', name: 'rises while it is read' },
  },
  'feed-recent-not-reset': {
    like: 'Streams: lost behind a snapshot',
    what: 'the records of an installed snapshot are taken for known in memory',
    by: { test: 'sim/changes', name: 'caught up by a snapshot' },
  },
  'stream-holds-nothing': {
    like: 'Streams: lost at compaction (etcd#18089)',
    what: 'what a stream within its budget has not told yet is collected',
    by: { test: 'sim/changes', name: 'is not collected' },
  },
  'stream-now-unpassed': {
    like: 'Streams: lost during the initial scan (tikv#12717)',
    what: 'a stream from now begins at the clock of the fastest leader, though others are behind it',
    by: { test: 'sim/changes', name: 'whichever clock it is by' },
  },
  'watched-buckets-rest': {
    like: 'Streams: lost under starvation (etcd#17529)',
    what: 'a stream waits for the heartbeats of buckets at rest',
    by: { test: 'sim/changes', name: 'without waiting for buckets at rest' },
  },
  'promoted-unready': {
    like: 'Membership: a learner promoted before it is up to date',
    what: 'a new replica votes before it has the log',
    by: { test: 'sim/membership', name: 'takes nobody’s place before it is there' },
  },
  'removed-replica-revived': {
    like: 'Membership: a removed replica comes back under its id',
    what: 'a replica that was given up is made again under its id',
    by: { test: 'sim/membership', name: 'is not made again under its id' },
  },
  'removal-without-hysteresis': {
    like: 'Placement: replicas that come and go with every change of the load',
    what: 'read replicas go as soon as they are not needed',
    by: { test: 'placement/heat-planner', name: 'does not flap while its heat varies' },
  },
  'read-replica-counts': {
    like: 'Membership: a learner counted in a quorum',
    what: 'a read replica counts in quorums',
    by: { golden: 'learner-promotion' },
  },
  'removed-reader-stays': {
    like: 'Membership: a removed replica goes on serving what it has',
    what: 'a read replica that was removed keeps what it has',
    by: { test: 'sim/heat', name: 'gets read replicas within seconds, which serve it' },
  },
  'turn-forgets-rest': {
    like: 'Liveness: a replica that waits for ever',
    what: 'what is still ready at the end of a turn waits for the next message',
    by: { test: 'node/turn', name: 'page after page' },
  },
  'hung-disk-leads': {
    like: 'Liveness: disk stall (cockroach#41691)',
    what: 'a node whose disk hangs goes on leading',
    by: { test: 'sim/stalls', name: 'while its log store does not answer' },
  },
  'dead-leader-kept': {
    like: 'Replica reads: a cached dead leader makes an outage permanent (cockroach#80713)',
    what: 'a router goes on asking who it thinks leads, though that node does not answer',
    by: { test: 'router/dead-leader', name: 'no outage longer than one attempt' },
  },
};
