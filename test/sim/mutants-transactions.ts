/** The planted bugs in transactions, those of clients and those over several buckets (mutants.ts). */
export const TRANSACTIONS = {
  'transaction-forgets-reads': {
    like: 'Transactions: lost update, bank sum changed without any fault (tidb#21900)',
    what: 'a transaction commits whatever became of the keys that it has read',
    by: { test: 'sim/client-transactions', name: 'loses no update' },
  },
  'transaction-forgets-ranges': {
    like: 'Transactions: write skew through a phantom',
    what: 'a transaction commits whatever became of the ranges that it has scanned',
    by: { test: 'sim/client-transactions', name: 'lets no phantom in' },
  },
  'transaction-reads-on': {
    like: 'Transactions: read skew',
    what: 'the reads of a transaction are of several moments',
    by: { test: 'sim/client-transactions', name: 'reads one moment' },
  },
  'transaction-never-reserves': {
    like: 'Liveness: a transaction that loses for ever to faster ones',
    what: 'a transaction that has lost again and again reserves nothing',
    by: { test: 'sim/starvation', name: 'commits at its fourth attempt' },
  },
  'reservations-ignored': {
    like: 'Liveness: a transaction that loses for ever to faster ones',
    what: 'nobody waits for what is reserved',
    by: { test: 'sim/starvation', name: 'commits at its fourth attempt' },
  },
  'waiting-writes-overtaken': {
    like: 'Liveness: a command that waits for shared locks which overlap without a gap',
    what: 'a plain write that finds new locks again and again lets others come before it',
    by: { test: 'sim/starvation', name: 'waits for those that were there' },
  },
  'reserved-too-early': {
    like: 'Liveness: a transaction that loses for ever to faster ones',
    what: 'keys count as reserved though what was under way there has still to be applied',
    by: { test: 'sim/starvation', name: 'was under way before it is over' },
  },
  'reservations-kept': {
    like: 'Liveness: locks that outlive their transaction',
    what: 'a transaction that is over lets nothing go of what it has reserved',
    by: { test: 'sim/starvation', name: 'lets go when it is over' },
  },
  'reservations-unending': {
    like: 'Liveness: locks that outlive their transaction',
    what: 'what a client that died had reserved stays reserved',
    by: { test: 'sim/starvation', name: 'whose process dies' },
  },
  'writes-ignore-locks': {
    like: 'Transactions: bank sum changed without any fault (tidb#21900)',
    what: 'plain commands pass over the locks of transactions',
    by: { swarm: 'transactions' },
  },
  'decide-unprepared': {
    like: 'Transactions: success reported though rolled back (tidb#33641)',
    what: 'a transaction is committed though a participant did not prepare it',
    by: { swarm: 'transactions' },
  },
  'commit-below-prepares': {
    like: 'Transactions: success reported though rolled back (tidb#33641)',
    what: 'home gives a commit timestamp below what its participants have promised',
    by: { swarm: 'transactions' },
  },
  'resolve-leaves-clock': {
    like: 'Transactions: locks go before the bucket clock has come to the commit timestamp',
    what: 'a participant resolves at a clock below the commit timestamp',
    by: { swarm: 'transactions' },
  },
  'reads-ignore-intents': {
    like: 'Replica reads: a redirected read loses its lock check (tikv#12109)',
    what: 'reads do not look for intents',
    by: { swarm: 'transactions' },
  },
  'resolved-above-intents': {
    like: 'Streams: premature resolved timestamp (cockroach#117612)',
    what: 'a replica takes for resolved what a prepared transaction may still write',
    by: { swarm: 'transactions' },
  },
  'decide-in-later-term': {
    like: 'Transactions: recovery that aborts a live one (cockroach#47337)',
    what: 'home decides in a later term, when others may have been told that the transaction is over',
    by: { test: 'sim/transaction-seams', name: 'is decided in the term in which it began' },
  },
  'locks-lost-with-leader': {
    like: 'Transactions: bank sum changed without any fault (tidb#21900)',
    what: 'the next leader knows nothing of the locks of what is prepared',
    by: { test: 'sim/transaction-seams', name: 'stays so under the next leader' },
  },
  'younger-waits-too': {
    like: 'Liveness: a deadlock',
    what: 'transactions wait for locks, whoever holds them',
    by: { test: 'sim/transactions', name: 'in opposite orders' },
  },
  'resolved-unconfirmed': {
    like: 'Transactions: success reported though rolled back (tidb#33641)',
    what: 'a leader that lost its office unawares says that it has resolved what it does not know',
    by: { test: 'sim/transaction-seams', name: 'has lost its office unawares' },
  },
  'ended-attempts-forgotten': {
    like: 'Transactions: applied twice',
    what: 'a participant forgets that an attempt has ended, and prepares it again',
    by: { test: 'sim/transaction-seams', name: 'is not prepared again' },
  },
  'outcome-unconfirmed': {
    like: 'Replica reads: a redirected read loses its lock check (tikv#12109)',
    what: 'a read trusts the answer of a home that has forgotten the transaction meanwhile',
    by: { test: 'sim/transaction-seams', name: 'learns too late what became of it' },
  },
  'scan-misses-commits': {
    like: 'Replica reads: a leader read older than a follower read (tikv#16069)',
    what: 'a scan takes a timestamp below commits that a participant has not heard of',
    by: { test: 'sim/transaction-seams', name: 'is in every scan that begins then' },
  },
  'live-attempts-aborted': {
    like: 'Transactions: recovery that aborts a live one (cockroach#47337)',
    what: 'home says of an attempt under way that it is over',
    by: { test: 'sim/transaction-seams', name: 'is not aborted while it is alive' },
  },
  'alive-asked-late': {
    like: 'Transactions: success reported though rolled back (tidb#33641)',
    what: 'home looks whether an attempt is alive after it was confirmed to lead, when it may not lead any more',
    by: { test: 'sim/transaction-seams', name: 'loses its office while it looks' },
  },
  'record-forgotten-early': {
    like: 'Transactions: success reported though rolled back (tidb#33641)',
    what: 'home drops the record of a transaction that not every participant has resolved',
    by: { test: 'sim/transaction-seams', name: 'is not forgotten before' },
  },
  'orphans-left': {
    like: 'Transactions: an intent that nobody comes back to',
    what: 'a participant never asks what became of a transaction',
    by: { test: 'sim/transaction-seams', name: 'that nobody will ever come back to' },
  },
  'snapshot-without-intents': {
    like: 'Snapshots: applied twice after a snapshot',
    what: 'an installed snapshot brings nothing of what is prepared',
    by: { test: 'sim/transaction-seams', name: 'that is prepared comes with a snapshot' },
  },
} as const;
