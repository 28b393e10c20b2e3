import type { Planted } from './planted.js';

/** Leases and ReadIndex, timestamps, replica reads, scans, sessions, retention. */
export const PLANTED_IN_READS = {
  'serve-before-own-term': {
    like: 'Leases and ReadIndex: a new leader serves too early (etcd#7331, tikv#6340)',
    what: 'a leader serves before it has applied an entry of its own term',
    by: { raft: true },
  },
  'lease-over-transfer': {
    like: 'Leases and ReadIndex: lease survives a transfer (openraft#1747)',
    what: 'the lease goes on while leadership is handed over',
    by: { swarm: 'transfers' },
  },
  'lease-outlives-timeout': {
    like: 'Leases and ReadIndex: lease outlives the election timeout (jraft#34)',
    what: 'the lease lasts three election timeouts',
    by: { golden: 'lease' },
  },
  'lease-over-suspend': {
    like: 'Leases and ReadIndex: clock paused with the process (tikv#964)',
    what: 'a lease counts by a clock that stood still',
    by: { test: 'sim/seams', name: 'a machine that slept serves nothing' },
  },
  'vote-after-restart': {
    like: 'Leases and ReadIndex: a vote within a lease',
    what: 'a node votes as soon as it has restarted',
    by: { swarm: 'usurpers' },
  },
  'read-joins-old-round': {
    like: 'Leases and ReadIndex: late acknowledgements (etcd#20418)',
    what: 'a read joins a round that is under way',
    by: { golden: 'late-answers' },
  },
  'read-index-unconfirmed': {
    like: 'Leases and ReadIndex: stale reads after a pause (etcd#20418)',
    what: 'a leader confirms reads without asking anybody',
    by: { test: 'sim/seams', name: 'a machine that slept serves nothing' },
  },
  'read-before-applied': {
    like: 'Leases and ReadIndex: a read older than another (tikv#16069)',
    what: 'a confirmed read does not wait until its index is applied',
    by: { swarm: 'disks' },
  },
  'read-joins-asked-round': {
    like: 'Leases and ReadIndex: late acknowledgements (etcd#20418)',
    what: 'a read of a later turn joins a round that was asked for already',
    by: { test: 'sim/replica-reads', name: 'before a pause of the replica' },
  },
  'read-tokens-reused': {
    like: 'Leases and ReadIndex: late acknowledgements (etcd#20418)',
    what: 'a follower asks its leader under a number that it has used before',
    by: { golden: 'replica-reads' },
  },
  'replica-read-unconfirmed': {
    like: 'Leases and ReadIndex: stale reads after a pause (etcd#20418)',
    what: 'a replica serves linearizable reads without asking its leader',
    by: { swarm: 'replicas' },
  },
  'replica-read-ignores-intents': {
    like: 'Replica reads: a redirected read loses its lock check (tikv#12109)',
    what: 'a replica that does not lead serves linearizable reads past the intents of transactions',
    by: { test: 'sim/replica-reads', name: 'are sent on to the leader' },
  },
  'vote-without-floor': {
    like: 'Replica reads: closed timestamp badly bootstrapped (cockroach#65823)',
    what: 'votes do not name what their voter has promised',
    by: { golden: 'floors' },
  },
  'floor-above-ceiling': {
    like: 'Replica reads: closed timestamp going backward (cockroach#131450)',
    what: 'a voter promises more than it will know after a crash',
    by: { test: 'sim/seams', name: ', 3000 ms after its clock fell back' },
  },
  'restart-forgets-floor': {
    like: 'Replica reads: closed timestamp going backward (cockroach#131450)',
    what: 'a restarted voter knows nothing of what it promised',
    by: { test: 'sim/seams', name: ', 300 ms after its clock fell back' },
  },
  'ceiling-unchecked': {
    like: 'LevelDB after power loss: bit rot (leveldb#333)',
    what: 'a clock ceiling whose checksum is wrong counts',
    by: { test: 'sim/damage', name: 'a clock ceiling that is not the one it wrote' },
  },
  'clock-follows-wall': {
    like: 'Replica reads: closed timestamp going backward (cockroach#131450)',
    what: 'the clock of a node goes back with its wall clock',
    by: { swarm: 'clocks' },
  },
  'closed-before-applied': {
    like: 'Streams: premature resolved timestamp (cockroach#117612)',
    what: 'a closed timestamp counts before its index is applied',
    by: { swarm: 'any' },
  },
  'closed-forgotten': {
    like: 'Replica reads: closed timestamp badly bootstrapped (cockroach#65823)',
    what: 'a follower forgets with its leader what counts as closed',
    by: { swarm: 'any' },
  },
  'closed-without-floor': {
    like: 'Replica reads: closed timestamp going backward (cockroach#131450)',
    what: 'a leader closes what no quorum knows of',
    by: { swarm: 'clocks' },
  },
  'closed-not-kept': {
    like: 'Replica reads: a write below a closed timestamp',
    what: 'a leader does not keep to what it has closed',
    by: { swarm: 'any' },
  },
  'as-of-without-floor': {
    like: 'Replica reads: closed timestamp going backward (cockroach#131450)',
    what: 'a read as of a moment is served before a quorum knows of the promise',
    by: { test: 'sim/seams', name: 'a leader with a fast clock' },
  },
  'as-of-before-applied': {
    like: 'Replica reads: a redirected read loses its check (tikv#12109)',
    what: 'a read as of a moment does not wait for commands in flight',
    by: { swarm: 'any' },
  },
  'as-of-not-kept': {
    like: 'Replica reads: a write below a served timestamp',
    what: 'a leader does not keep to the moment that it has served',
    by: { swarm: 'any' },
  },
  'named-before-applied': {
    like: 'Replica reads: a leader read older than a follower read (tikv#16069)',
    what: 'a read names a moment below which commands in flight will commit',
    by: { swarm: 'any' },
  },
  'bounded-ignores-session': {
    like: 'Replica reads: a read older than another (tikv#16069)',
    what: 'a bounded read goes back behind what its session saw',
    by: { swarm: 'sessions' },
  },
  'write-ignores-session': {
    like: 'Sessions: a write older than what its client saw',
    what: 'a write may get a timestamp below what its session saw elsewhere',
    by: { swarm: 'any' },
  },
  'token-ignored': {
    like: 'Replica reads: a leader read older than a follower read (tikv#16069)',
    what: 'a read in a session that came from elsewhere ignores its token',
    by: { test: 'sim/time-travel', name: 'through any node, with the token' },
  },
  'token-misses-empty': {
    like: 'Replica reads: a read older than another (tikv#16069)',
    what: 'a scan that finds nothing leaves the token of its session where it was',
    by: { test: 'sim/time-travel', name: 'that has seen nothing in a range' },
  },
  'near-cache-unproved': {
    like: 'Stale reads: between memory and disk',
    what: 'a router shows what it keeps of a key, though the mark of its stream does not prove that it is fresh enough',
    by: { swarm: 'nearCaches' },
  },
  'scan-unconfirmed': {
    like: 'Leases and ReadIndex: stale reads after a pause (etcd#20418)',
    what: 'a scan takes its timestamp from a leader that nobody confirmed',
    by: { test: 'sim/seams', name: 'from leaders that are confirmed' },
  },
  'scan-merge-unbounded': {
    like: 'Scans: rows lost between pages',
    what: 'pages are merged beyond the point up to which all are known',
    by: { swarm: 'any' },
  },
  'scan-moves-on': {
    like: 'Scans: pages of several moments',
    what: 'each page is as of a moment of its own',
    by: { swarm: 'any' },
  },
  'pins-ignored': {
    like: 'Garbage collection: what a pin holds is removed',
    what: 'a horizon passes the pins',
    by: { swarm: 'pins' },
  },
  'pins-unconfirmed': {
    like: 'Garbage collection: what a pin holds is removed',
    what: 'a leader that lost its office unawares acknowledges a pin that is gone',
    by: { test: 'sim/diff-and-pins', name: 'a leader that was deposed unawares' },
  },
  'holds-ignored': {
    like: 'Garbage collection: threshold checked before the snapshot is pinned (cockroach#78980)',
    what: 'a horizon passes what is being read',
    by: { test: 'sim/retention', name: 'is not passed while a read in pages runs' },
  },
  'horizon-not-rechecked': {
    like: 'Garbage collection: threshold checked before the snapshot is pinned (cockroach#78980)',
    what: 'a read looks at the horizon only before it reads',
    by: { test: 'sim/retention', name: 'that rose while it was read' },
  },
  'collect-beyond-horizon': {
    like: 'Garbage collection: removed before the horizon has risen',
    what: 'versions go that moments above the horizon show',
    by: { swarm: 'histories' },
  },
  'collect-unchecked-pointer': {
    like: 'Garbage collection: a key that was written again is removed',
    what: 'a pointer goes with a deletion that is not the latest any more',
    by: { swarm: 'histories' },
  },
  'horizon-beyond-resolved': {
    like: 'Replica reads: closed timestamp badly bootstrapped (cockroach#65823)',
    what: 'a horizon rises above what is resolved',
    by: { test: 'sim/retention', name: 'never above what is resolved' },
  },
  'snapshot-holds-no-horizon': {
    like: 'Garbage collection: threshold checked before the snapshot is pinned (cockroach#78980)',
    what: 'versions are collected while a snapshot copies them',
    by: { test: 'sim/retention', name: 'collects nothing while a snapshot' },
  },
  'snapshot-without-horizon': {
    like: 'Garbage collection: a follower read below an incoming snapshot’s threshold (cockroach#173315)',
    what: 'an installed snapshot leaves the horizon as it was',
    by: { test: 'sim/retention', name: 'comes with a snapshot, before' },
  },
  'answer-before-commit': {
    like: 'Acknowledged before fsync (nats-server#7564)',
    what: 'a command is answered when it is proposed',
    by: { swarm: 'any' },
  },
  'conditions-miss-in-flight': {
    like: 'Commands: lost update',
    what: 'conditions do not see proposals in flight',
    by: { swarm: 'any' },
  },
  'range-misses-in-flight': {
    like: 'Transactions: write skew through a phantom',
    what: 'a condition on a range does not see proposals in flight',
    by: { test: 'sim/ranges', name: 'is still in flight' },
  },
  'range-misses-overtaking': {
    like: 'Transactions: write skew through a phantom',
    what: 'a condition on a range does not see what is proposed while it is looked at',
    by: { test: 'sim/ranges', name: 'sees what overtakes it' },
  },
  'range-misses-resolved': {
    like: 'Transactions: write skew through a phantom',
    what: 'a condition on a range does not see what a transaction over several buckets commits while it waits or looks',
    by: { test: 'sim/ranges', name: 'that is resolved while it' },
  },
  'range-misses-deletes': {
    like: 'Transactions: write skew through a phantom',
    what: 'a condition on a range does not see deletes',
    by: { test: 'sim/ranges', name: 'counts a delete as a change' },
  },
  'range-below-horizon': {
    like: 'Garbage collection: threshold checked before the snapshot is pinned (cockroach#78980)',
    what: 'a condition on a range trusts history that may be gone',
    by: { test: 'sim/ranges', name: 'fails below the horizon' },
  },
  'effects-over-terms': {
    like: 'Raft core: cache not truncated with the log (cockroach#63473)',
    what: 'a leader that lost its office keeps its proposals',
    by: { test: 'sim/reads', name: 'after a pause of the leader, with read-index' },
  },
} as const satisfies Readonly<Record<string, Planted>>;
