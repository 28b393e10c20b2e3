import { assert } from '../lib/assert.js';
import { EMPTY } from '../lib/bytes.js';
import { mutant } from '../lib/mutants.js';
import { ConfigHistory, decodeConfig, isVoter } from './config.js';
import { entryBytes, RaftLog } from './log.js';
import { Reading, type Allowance } from './reading.js';
import type {
  Config, Entry, EntryKind, HardState, LogIndex, LogReader, Message, Promises, ReadState, Ready, ReplicaId, Role, Term,
} from './types.js';

export interface RaftOptions {
  readonly id: ReplicaId;
  /** The configuration as of `applied`. */
  readonly config: Config;
  readonly log: LogReader;
  readonly hardState: HardState;
  /** The last index whose effects are durable in the state; the log holds everything behind it. */
  readonly applied: LogIndex;
  readonly now: number;
  readonly electionTimeoutMs: number;
  /** Added to the election timeout, at random from [0, this). */
  readonly electionJitterMs: number;
  readonly heartbeatMs: number;
  /** How much faster one monotonic clock may run than another: 0.1 is ten percent. */
  readonly driftBound: number;
  /** False: `leaseValid` is never true and every read takes a round. */
  readonly leaseReads: boolean;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly promises: Promises;
  readonly appendBytesMax: number;
  readonly appendsInFlightMax: number;
  readonly appendBytesInFlightMax: number;
  readonly logCacheBytesMax: number;
  /**
   * While false the replica grants no vote and does not stand. A replica that restarted has forgotten which leader it heard
   * and when, so it waits for one election timeout; and it has forgotten which floors it promised.
   */
  readonly mayVote: () => boolean;
}

/** Committed entries given out and not yet reported as applied, in multiples of one append; then no more are given out. */
const PAGES_AHEAD = 4;
/** A commit index that moved by this much is worth writing down beside entries. */
const COMMIT_HINT_STEP = 64;

const NONE: readonly never[] = [];

/** The state that does not depend on the role, and what is to be handed out. */
export class Core {
  readonly id: ReplicaId;
  readonly options: RaftOptions;
  readonly log: RaftLog;
  readonly configs: ConfigHistory;
  /** The latest time that the caller told. */
  now: number;
  role: Role = 'follower';
  term: Term;
  vote: ReplicaId;
  /** The known leader of this term; 0 if none is known. */
  leader: ReplicaId = 0;
  commit: LogIndex;
  applied: LogIndex;
  /** When a leader was last heard, of this term or an earlier one: a lease may rest on that, whatever the term is now. */
  heardLeaderMs = -Infinity;
  /** False while this replica's own vote may be the only trace of its term and is not yet known to be on disk. */
  termDurable = true;

  private written: HardState;
  private handed: LogIndex;
  private readonly pages: { end: LogIndex; bytes: number }[] = [];
  private pagesBytes = 0;
  private messages: Message[] | undefined;
  private messagesAfterSync: Message[] | undefined;
  private reads: ReadState[] | undefined;
  private snapshotsWanted: ReplicaId[] | undefined;

  constructor(options: RaftOptions) {
    this.id = options.id;
    this.options = options;
    this.now = options.now;
    this.log = new RaftLog(options.log, options.logCacheBytesMax);
    const { applied, hardState } = options;
    assert(applied >= this.log.firstIndex - 1 && applied <= this.log.lastIndex, 'the log reaches from the state on');
    // A snapshot may have been installed before the term that it came with was written. No vote was given in that term then.
    this.term = Math.max(hardState.term, this.log.lastTerm);
    this.vote = this.term > hardState.term ? 0 : hardState.vote;
    // The hint may be ahead of the log: only where it was written with entries that did not make it.
    this.commit = Math.max(applied, Math.min(hardState.commit, this.log.lastIndex));
    this.applied = applied;
    this.handed = applied;
    this.written = hardState;
    this.configs = new ConfigHistory(applied, options.config);
    this.loadConfigs();
  }

  get config(): Config {
    return this.configs.active;
  }

  /**
   * A learner or a removed replica does not stand. But one whose removal is not known to be committed must: it may be the
   * only one that has the entry, and the others could elect nobody without its vote, which it denies to shorter logs.
   */
  get mayStand(): boolean {
    return isVoter(this.config, this.id) || isVoter(this.configs.at(this.commit), this.id);
  }

  send(message: Message): void {
    (this.messages ??= []).push(message);
  }

  /** For what must not be known before this replica's term, vote and log are on its disk. */
  sendAfterSync(message: Message): void {
    (this.messagesAfterSync ??= []).push(message);
  }

  /** For a leader's messages: they may overtake its own disk, unless its term exists nowhere else. */
  sendAsLeader(message: Message): void {
    if (this.termDurable || mutant('lead-before-term-synced')) this.send(message);
    else this.sendAfterSync(message);
  }

  giveRead(context: number, index: LogIndex): void {
    (this.reads ??= []).push({ context, index });
  }

  wantSnapshot(id: ReplicaId): void {
    (this.snapshotsWanted ??= []).push(id);
  }

  append(kind: EntryKind, data = EMPTY): LogIndex {
    const index = this.log.lastIndex + 1;
    this.log.append({ index, term: this.term, kind, data });
    return index;
  }

  /** True if the commit index moved. */
  commitTo(index: LogIndex): boolean {
    if (index <= this.commit) return false;
    assert(index <= this.log.lastIndex, 'what is committed is in the log');
    this.commit = index;
    return true;
  }

  setApplied(index: LogIndex): void {
    assert(index <= this.handed, 'only what was given out can be applied');
    if (index <= this.applied) return;
    this.applied = index;
    while ((this.pages[0]?.end ?? Infinity) <= index) this.pagesBytes -= this.pages.shift()?.bytes ?? 0;
    this.configs.forgetBelow(index);
  }

  /** A snapshot at `index` is now the state. */
  restart(index: LogIndex, term: Term, config: Config): void {
    assert(index > this.commit, 'a snapshot never takes back what is committed');
    const keptSuffix = this.log.restart(index, term);
    this.configs.restart(index, config, keptSuffix);
    this.commit = this.applied = this.handed = index;
    this.pages.length = 0;
    this.pagesBytes = 0;
  }

  hasReady(): boolean {
    return (
      this.messages !== undefined ||
      this.messagesAfterSync !== undefined ||
      this.reads !== undefined ||
      this.snapshotsWanted !== undefined ||
      this.log.hasUnwritten ||
      this.term !== this.written.term ||
      this.vote !== this.written.vote ||
      this.canHand()
    );
  }

  /** `toApply` is what may be read of the stored log for what is committed. */
  takeReady(toApply: Allowance): Ready {
    const entries = this.log.hasUnwritten ? this.log.takeUnwritten() : NONE;
    const ready = {
      entries,
      hardState: this.takeHardState(entries.length > 0),
      messages: this.messages ?? NONE,
      messagesAfterSync: this.messagesAfterSync ?? NONE,
      committed: this.canHand() ? this.takeCommitted(toApply) : NONE,
      reads: this.reads ?? NONE,
      snapshotsWanted: this.snapshotsWanted ?? NONE,
    };
    this.messages = this.messagesAfterSync = this.reads = this.snapshotsWanted = undefined;
    return ready;
  }

  private takeHardState(withEntries: boolean): HardState | undefined {
    const { term, vote, commit, written } = this;
    const hint = withEntries && commit - written.commit >= COMMIT_HINT_STEP;
    if (term === written.term && vote === written.vote && !hint) return undefined;
    this.written = { term, vote, commit };
    return this.written;
  }

  private canHand(): boolean {
    return this.handed < this.handEnd && this.pagesBytes < PAGES_AHEAD * this.options.appendBytesMax;
  }

  /** What is committed and on this replica's own disk. */
  private get handEnd(): LogIndex {
    return mutant('apply-before-durable') ? this.commit : Math.min(this.commit, this.log.durableIndex);
  }

  /** None where what is next may not be read now; then there is something ready still. */
  private takeCommitted(allowed: Allowance): readonly Entry[] {
    const entries = this.log.slice(this.handed + 1, this.handEnd + 1, this.options.appendBytesMax, allowed);
    if (entries.length === 0) return NONE;
    let bytes = 0;
    for (const entry of entries) bytes += entryBytes(entry);
    this.handed += entries.length;
    this.pages.push({ end: this.handed, bytes });
    this.pagesBytes += bytes;
    return entries;
  }

  private loadConfigs(): void {
    const { log, options } = this;
    const { toApply } = Reading.all;
    for (let next = options.applied + 1; next <= log.lastIndex; ) {
      const entries = log.slice(next, log.lastIndex + 1, options.appendBytesMax, toApply);
      for (const entry of entries) {
        if (entry.kind === 'config') this.configs.push(entry.index, decodeConfig(entry.data));
      }
      next += entries.length;
    }
  }
}
