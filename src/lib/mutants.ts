/**
 * Mutants: planted bugs that show whether the checks of this project notice a bug of that kind (`docs/reliability.md` tells who
 * caught which). Each is a switch at the very line that it breaks:
 *
 *     if (index <= core.commit || (core.log.term(index) !== core.term && !mutant('commit-prior-term'))) return;
 *
 * Why switches in the code, and not patches beside it: they are compiled, typed and reviewed with the line that they break, and
 * move with it. Why state of the module, and not a part of `env`: a mutant is another program, as a build without that line
 * would be; all nodes of one process run the same.
 *
 * In production none is planted and none can be: `plantMutant` is used by the simulator and by tests only, which
 * scripts/check-house.mjs holds, and a node's process never loads the simulator. What remains is the comparison of a variable
 * that is always undefined.
 */
export const MUTANTS = [
  // Raft
  'commit-prior-term',
  'vote-before-sync',
  'second-vote',
  'vote-forgotten',
  'vote-by-log-length',
  'lead-before-term-synced',
  'ack-before-sync',
  'leader-counts-unsynced',
  'apply-before-durable',
  'append-unmatched',
  'commit-told-unmatched',
  'append-truncates-always',
  'truncated-write-proves',
  'log-tail-kept',
  'old-copy-welcome',
  // Membership
  'config-survives-truncation',
  'leave-joint-uncommitted',
  'config-change-without-floor',
  'config-not-kept',
  'joint-half-decides',
  'change-over-change',
  'gone-uncommitted',
  'wiped-node-welcome',
  'deaf-leader-stays',
  'transfer-to-lagging',
  // Leases and ReadIndex
  'serve-before-own-term',
  'lease-over-transfer',
  'lease-outlives-timeout',
  'lease-over-suspend',
  'vote-after-restart',
  'read-joins-old-round',
  'read-index-unconfirmed',
  'read-before-applied',
  'read-joins-asked-round',
  'read-tokens-reused',
  'replica-read-unconfirmed',
  'replica-read-ignores-intents',
  // Timestamps
  'vote-without-floor',
  'floor-above-ceiling',
  'restart-forgets-floor',
  'ceiling-unchecked',
  'clock-follows-wall',
  'closed-before-applied',
  'closed-forgotten',
  'closed-without-floor',
  'closed-not-kept',
  'as-of-without-floor',
  'as-of-before-applied',
  'as-of-not-kept',
  'named-before-applied',
  // Replica reads, scans and sessions of clients
  'bounded-ignores-session',
  'write-ignores-session',
  'token-ignored',
  'token-misses-empty',
  'near-cache-unproved',
  'scan-unconfirmed',
  'scan-merge-unbounded',
  'scan-moves-on',
  // Retention and garbage collection
  'pins-ignored',
  'pins-unconfirmed',
  'holds-ignored',
  'horizon-not-rechecked',
  'collect-beyond-horizon',
  'collect-unchecked-pointer',
  'horizon-beyond-resolved',
  'snapshot-holds-no-horizon',
  'snapshot-without-horizon',
  // Commands
  'answer-before-commit',
  'conditions-miss-in-flight',
  'range-misses-in-flight',
  'range-misses-overtaking',
  'range-misses-resolved',
  'range-misses-deletes',
  'range-below-horizon',
  'effects-over-terms',
  'retry-runs-again',
  'retry-in-flight-runs-again',
  'session-horizon-lost',
  'sessions-not-replayed',
  'doubt-reported-as-none',
  // Transactions of clients
  'transaction-forgets-reads',
  'transaction-forgets-ranges',
  'transaction-reads-on',
  'transaction-never-reserves',
  'reservations-ignored',
  'waiting-writes-overtaken',
  'reserved-too-early',
  'reservations-kept',
  'reservations-unending',
  // State and snapshots
  'torn-state-batch',
  'overlay-dropped-early',
  'page-misses-overlay',
  'log-compacted-too-far',
  'snapshot-chases-log',
  'snapshot-without-sessions',
  'snapshot-of-swept-slot',
  'read-of-swept-slot',
  'snapshots-overlap',
  'snapshot-goes-back',
  'log-gap-kept',
  'flip-before-sync',
  'checksum-ignored',
  'rot-sent-on',
  'damage-told',
  // Transactions
  'writes-ignore-locks',
  'commit-below-prepares',
  'resolve-leaves-clock',
  'resolved-above-intents',
  'reads-ignore-intents',
  'decide-unprepared',
  'decide-in-later-term',
  'locks-lost-with-leader',
  'younger-waits-too',
  'resolved-unconfirmed',
  'ended-attempts-forgotten',
  'outcome-unconfirmed',
  'scan-misses-commits',
  'live-attempts-aborted',
  'alive-asked-late',
  'record-forgotten-early',
  'orphans-left',
  'snapshot-without-intents',
  // Change streams
  'stream-mark-of-fastest',
  'stream-takes-twice',
  'stream-range-open',
  'stream-seam-from-now',
  'stream-resumes-behind-commit',
  'feed-beyond-resolved',
  'feed-page-claims-all',
  'feed-ignores-horizon',
  'feed-horizon-not-rechecked',
  'feed-recent-not-reset',
  'stream-holds-nothing',
  'stream-now-unpassed',
  'watched-buckets-rest',
  // Membership
  'promoted-unready',
  'removed-replica-revived',
  // Hot buckets
  'removal-without-hysteresis',
  'read-replica-counts',
  'removed-reader-stays',
  // Liveness
  'turn-forgets-rest',
  'hung-disk-leads',
  'dead-leader-kept',
] as const;

export type Mutant = (typeof MUTANTS)[number];

let planted: Mutant | undefined;

/** True if this bug is planted: never, but in a simulated world that asked for it. */
export function mutant(name: Mutant): boolean {
  return planted === name;
}

/** From now on this process has that bug; undefined takes it out again. For the simulator and for tests only. */
export function plantMutant(name: Mutant | undefined): void {
  planted = name;
}
