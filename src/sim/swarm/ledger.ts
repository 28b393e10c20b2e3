import { crc32 } from 'node:zlib';
import { decodeEffects, type Effects } from '../../bucket/effects.js';
import type { Replica } from '../../bucket/replica.js';
import { isRetention } from '../../bucket/retention.js';
import type { Timestamp } from '../../bucket/requests.js';
import { nodeOfReplica, type BucketId } from '../../placement/map.js';
import type { Entry, LogIndex, Term } from '../../raft/types.js';
import type { Problems } from './problems.js';

/** An entry that some log has, or had: what must be the same in every log that has an entry of this index and term. */
interface Logged {
  readonly before: Term;
  readonly sum: number;
}

/** An entry that was known to be committed, and the lowest term in which somebody knew it. */
interface Committed {
  readonly term: Term;
  knownIn: Term;
}

/** What an entry made of the state of whoever applied it. */
interface Applied {
  readonly facts: string;
  /** The running maximum if this entry raised it; 0 if not. */
  readonly raisedTo: Timestamp;
}

/** An entry that turned the intents of a transaction into versions. */
interface Resolved {
  readonly index: LogIndex;
  /** Of the versions: below the timestamp of the entry. */
  readonly commit: Timestamp;
}

/** Up to where something was named, and by whom. */
interface Named {
  timestamp: Timestamp;
  by: string;
}

class BucketLedger {
  readonly logged = new Map<LogIndex, Map<Term, Logged>>();
  readonly committed = new Map<LogIndex, Committed>();
  highestCommitted: LogIndex = 0;
  readonly applied = new Map<LogIndex, Applied>();
  highestApplied: LogIndex = 0;
  /** In the order of the log. */
  readonly resolves: Resolved[] = [];
  /** The highest timestamp up to which somebody was told that no entry will come any more. */
  readonly named: Named = { timestamp: 0, by: 'nobody' };
  /** The same by the terms in which whoever named it was. */
  readonly namedIn = new Map<Term, Named>();
  /** ... that no version will. */
  readonly settled: Named = { timestamp: 0, by: 'nobody' };
  /** By key: up to where a read of it was served. */
  readonly reads = new Map<string, Named>();
}

/**
 * What the logs of all buckets were seen to hold, from the first moment of a run to the last, whoever crashed in between. Each
 * fact is compared when it is new: after each message, and with each entry that is applied.
 *
 * - log matching: entries of equal index and term are equal, and so are those before them
 * - committed never shrinks: what anybody knew to be committed is what everybody knows, also over crashes
 * - leader completeness: a leader's log holds all that was known to be committed in earlier terms
 * - equal state (digest, highest timestamp) at equal applied index
 * - no entry has a timestamp at or below one that was served or closed without it, and a leader that begins to serve stands
 *   above all of these
 * - versions of a transaction that is resolved have its commit timestamp, which is below that of the entry, and may be below what
 *   is closed, for closing waits for no intents; but they are above every resolved timestamp that was named without them, and
 *   above every timestamp as of which their keys were read without them
 */
export class Ledger {
  readonly #problems: Problems;
  readonly #buckets = new Map<BucketId, BucketLedger>();

  constructor(problems: Problems) {
    this.#problems = problems;
  }

  /** A replica is there again, or for the first time: what it has on disk, and all that it does from now on. */
  attach(replica: Replica): void {
    this.#checkLog(replica);
    const { state, reads } = replica;
    const apply = state.apply.bind(state);
    state.apply = (entry, known) => {
      const before = state.maxTimestamp;
      const mayResolve = state.participant.count > 0 && entry.kind === 'data' && !isRetention(entry.data);
      const decoded = mayResolve ? (known ?? decodeEffects(entry.data)) : known;
      // Afterwards they are gone.
      const keys = mayResolve ? intentsOf(replica, decoded) : [];
      const effects = apply(entry, decoded);
      const isNew = this.#applied(replica, before);
      if (isNew && effects?.kind === 'resolve' && effects.commit > 0 && keys.length > 0) {
        this.#resolved(replica, effects.commit, keys);
      }
      return effects;
    };
    const [open, tryOpen, openKey] = [reads.open.bind(reads), reads.tryOpen.bind(reads), reads.openKey.bind(reads)];
    reads.openKey = (key, consistency, deadlineMs, atLeast) => {
      const opened = openKey(key, consistency, deadlineMs, atLeast);
      opened.then((view) => this.#read(replica, key.toString('latin1'), view.served.timestamp), () => undefined);
      return opened;
    };
    const openKeyHere = reads.openKeyHere.bind(reads);
    reads.openKeyHere = (key, deadlineMs, atLeast, signal) => {
      const opened = openKeyHere(key, deadlineMs, atLeast, signal);
      opened.then(({ served: { timestamp } }) => {
        this.named(replica, timestamp, 'served a linearizable read');
        this.#read(replica, key.toString('latin1'), timestamp);
      }, () => undefined);
      return opened;
    };
    reads.tryOpen = (consistency, atLeast) => {
      const view = tryOpen(consistency, atLeast);
      if (view !== undefined) this.named(replica, view.served.timestamp, 'served a read');
      return view;
    };
    reads.open = (consistency, deadlineMs, atLeast) => {
      const opened = open(consistency, deadlineMs, atLeast);
      // Before the caller goes on, which then reads.
      const served = `served a read (${consistency.kind})`;
      opened.then((view) => this.named(replica, view.served.timestamp, served), () => undefined);
      return opened;
    };
  }

  /** Entries that a leader sends, behind one of term `before`. */
  sent(bucket: BucketId, before: Term, entries: readonly Entry[]): void {
    const { logged } = this.#of(bucket);
    let last = before;
    for (const { index, term, data } of entries) {
      const sum = crc32(data);
      const terms = logged.get(index) ?? new Map<Term, Logged>();
      logged.set(index, terms);
      const known = terms.get(term);
      if (known === undefined) terms.set(term, { before: last, sum });
      else if (known.sum !== sum || known.before !== last) {
        this.#fail(`bucket ${bucket}: there are two entries ${index} of term ${term}, behind terms ${known.before} and ${last}`);
      }
      last = term;
    }
  }

  /** The log that a replica starts with agrees with all that was sent. */
  #checkLog({ bucket, id, raft }: Replica): void {
    const { logged } = this.#of(bucket);
    for (let index = raft.firstIndex; index <= raft.lastIndex; index += 1) {
      const [term, before] = [raft.termAt(index), raft.termAt(index - 1)];
      const known = logged.get(index)?.get(term);
      if (known === undefined || known.before === before) continue;
      const there = `entry ${index} of term ${term} behind one of term ${before}`;
      this.#fail(`bucket ${bucket}: node ${nodeOfReplica(id)} starts with ${there}; it was sent behind term ${known.before}`);
    }
  }

  /** A replica knows that entries up to `to` are committed; it knew it of those up to `from`. */
  committed({ bucket, id, raft }: Replica, from: LogIndex, to: LogIndex): void {
    const ledger = this.#of(bucket);
    for (let index = Math.max(from + 1, raft.firstIndex - 1, 1); index <= to; index += 1) {
      const term = raft.termAt(index);
      if (term < 0) continue;
      const known = ledger.committed.get(index);
      if (known === undefined) {
        ledger.committed.set(index, { term, knownIn: raft.term });
      } else if (known.term === term) {
        known.knownIn = Math.min(known.knownIn, raft.term);
      } else {
        const here = `for node ${nodeOfReplica(id)} it is that of term ${term}`;
        this.#fail(`bucket ${bucket}: entry ${index} of term ${known.term} was committed; ${here}`);
      }
    }
    ledger.highestCommitted = Math.max(ledger.highestCommitted, to);
  }

  /** A replica has become leader. */
  elected({ bucket, id, raft }: Replica): void {
    const { committed, highestCommitted } = this.#of(bucket);
    for (let index = raft.firstIndex; index <= highestCommitted; index += 1) {
      const known = committed.get(index);
      if (known === undefined || known.knownIn >= raft.term || known.term === raft.termAt(index)) continue;
      const leader = `bucket ${bucket}: node ${nodeOfReplica(id)}, leader of term ${raft.term},`;
      this.#fail(`${leader} lacks entry ${index} of term ${known.term}, which term ${known.knownIn} knew to be committed`);
      return;
    }
  }

  /** A leader begins to serve: its clock is above all that earlier leaders have named, whatever became of them. */
  serves(replica: Replica): void {
    const { namedIn } = this.#of(replica.bucket);
    const clock = Math.max(replica.clock.latest, replica.raft.electedFloor);
    for (const [term, named] of namedIn) {
      // One that stood still while its entry was committed may find out behind its successor: it cannot commit any more.
      if (term > replica.raft.term || clock >= named.timestamp) continue;
      const leader = `bucket ${replica.bucket}: node ${nodeOfReplica(replica.id)}, leader of term ${replica.raft.term},`;
      this.#fail(`${leader} begins at ${clock}, below ${named.timestamp}, of ${named.by} in term ${term}`);
    }
  }

  /** Somebody was told that this replica has every version up to `timestamp`. */
  settled(replica: Replica, timestamp: Timestamp): void {
    const { bucket, state } = replica;
    const how = 'was told that all up to it is known';
    this.named(replica, timestamp, how);
    const { resolves, settled } = this.#of(bucket);
    for (let at = resolves.length - 1; at >= 0; at -= 1) {
      const { index, commit } = resolves[at] as Resolved;
      if (index <= state.applied.index) break;
      if (commit > timestamp) continue;
      this.#fail(`bucket ${bucket}: entry ${index} resolves at ${commit}; ${timestamp} was named by ${byWhom(replica, how)}`);
    }
    raise(settled, timestamp, () => byWhom(replica, how));
  }

  /** A read of a key passed its gate, and what transactions have left on the key. */
  #read(replica: Replica, key: string, timestamp: Timestamp): void {
    const { reads } = this.#of(replica.bucket);
    raise(namedAt(reads, key), timestamp, () => byWhom(replica, 'served a read of the key'));
  }

  /** It is the first to resolve this transaction: whoever named a timestamp did it without. */
  #resolved({ bucket, state }: Replica, commit: Timestamp, keys: readonly string[]): void {
    const { resolves, settled, reads } = this.#of(bucket);
    const { index } = state.applied;
    resolves.push({ index, commit });
    for (const named of [settled, ...keys.flatMap((key) => reads.get(key) ?? [])]) {
      if (commit > named.timestamp) continue;
      this.#fail(`bucket ${bucket}: entry ${index} resolves at ${commit}, not above ${named.timestamp}, of ${named.by}`);
      return;
    }
  }

  /** Somebody was told that this replica has all entries up to `timestamp`. */
  named(replica: Replica, timestamp: Timestamp, how: string): void {
    const { bucket, state } = replica;
    const ledger = this.#of(bucket);
    for (let index = state.applied.index + 1; index <= ledger.highestApplied; index += 1) {
      const { raisedTo = 0 } = ledger.applied.get(index) ?? {};
      if (raisedTo === 0) continue;
      if (raisedTo <= timestamp) {
        this.#fail(`bucket ${bucket}: entry ${index} is at ${raisedTo}; ${timestamp} was named by ${byWhom(replica, how)}`);
      }
      break;
    }
    raise(ledger.named, timestamp, () => byWhom(replica, how));
    raise(namedAt(ledger.namedIn, replica.raft.term), timestamp, () => byWhom(replica, how));
  }

  /** False if somebody else has applied this entry before. */
  #applied(replica: Replica, before: Timestamp): boolean {
    const { bucket, state } = replica;
    const { applied, maxTimestamp } = state.meta;
    const ledger = this.#of(bucket);
    if (this.compare(replica)) return false;
    const raisedTo = maxTimestamp > before ? maxTimestamp : 0;
    ledger.applied.set(applied.index, { facts: factsOf(replica), raisedTo });
    ledger.highestApplied = Math.max(ledger.highestApplied, applied.index);
    // It is the first to apply this entry: whoever named a timestamp did it without.
    const { named } = ledger;
    if (raisedTo > 0 && raisedTo <= named.timestamp) {
      this.#fail(`bucket ${bucket}: entry ${applied.index} is at ${raisedTo}, not above ${named.timestamp}, of ${named.by}`);
    }
    return true;
  }

  /** Equal applied index, equal state. False if nobody else was there yet. */
  compare(replica: Replica): boolean {
    const { bucket, state, id } = replica;
    const known = this.#of(bucket).applied.get(state.applied.index);
    if (known === undefined) return false;
    const facts = factsOf(replica);
    if (known.facts !== facts) {
      const where = `bucket ${bucket} at ${state.applied.index} on node ${nodeOfReplica(id)}`;
      this.#fail(`${where} differs from others (term, digest, timestamp): ${facts}, not ${known.facts}`);
    }
    return true;
  }

  #of(bucket: BucketId): BucketLedger {
    let ledger = this.#buckets.get(bucket);
    if (ledger === undefined) this.#buckets.set(bucket, (ledger = new BucketLedger()));
    return ledger;
  }

  #fail(problem: string): void {
    this.#problems.add(problem);
  }
}

function factsOf({ state }: Replica): string {
  const { applied, digest, maxTimestamp } = state.meta;
  return `${applied.term} ${digest} ${maxTimestamp}`;
}

/** The keys that an entry would turn from intents to versions. */
function intentsOf({ state }: Replica, effects: Effects | undefined): string[] {
  if (effects?.kind !== 'resolve') return [];
  return (state.participant.find(effects.id)?.intents ?? []).map(({ key }) => key.toString('latin1'));
}

function byWhom({ id, state }: Replica, how: string): string {
  return `node ${nodeOfReplica(id)}, which had applied ${state.applied.index} and ${how}`;
}

function namedAt<K>(all: Map<K, Named>, key: K): Named {
  const named = all.get(key) ?? { timestamp: 0, by: 'nobody' };
  all.set(key, named);
  return named;
}

function raise(named: Named, timestamp: Timestamp, by: () => string): void {
  if (timestamp <= named.timestamp) return;
  named.timestamp = timestamp;
  named.by = by();
}
