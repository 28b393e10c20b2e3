import type { Bytes } from '../lib/bytes.js';
import { checkWanted, type CancelSignal } from '../lib/cancel.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { isKeyIn } from '../lib/ordered.js';
import { walk, readRecord } from '../mvcc/reader.js';
import type { VersionId } from '../mvcc/records.js';
import { earlier, formatTimestamp, TIMESTAMP_MAX, type HybridClock } from '../mvcc/timestamp.js';
import { nodeOfReplica, type BucketId } from '../placement/map.js';
import type { Raft } from '../raft/raft.js';
import type { ReadState, ReplicaId } from '../raft/types.js';
import type { Outcome, Prepared } from '../txn/transaction.js';
import { HistoryWalks } from './history-walks.js';
import { ReadRounds, type ReadRound } from './read-rounds.js';
import type { Consistency, KeyRange, Record, ResolveRequest, Served, Timestamp, Version } from './requests.js';
import { beforeHorizon } from './retention.js';
import type { BucketClock } from './bucket-clock.js';
import type { BucketState } from './state.js';
import type { Strides } from './strides.js';
import { Waiters } from './waiters.js';

/**
 * Reads of one replica. Each consistency has a gate that must be passed, and then the value is read in the same synchronous
 * turn as the gate's last check:
 *
 * - linearizable: this replica leads with a valid lease, or a ReadIndex round that began after the read came has been
 *   confirmed and its index is applied. Reads of one turn share one round. Where its asker says so, a read of one key is served
 *   by a replica that does not lead: the round is then the leader's, and this replica waits until it has applied that index.
 * - asOf T: nothing new can commit at or below T (the leader promises it, under a floor that a quorum acknowledged; another
 *   replica has it from its resolved timestamp), and everything at or below T is applied.
 * - bounded: asOf the resolved timestamp, if that is recent enough.
 * - local: no gate.
 *
 * Then come the intents of transactions over several buckets that are prepared and not resolved here. Only a leader meets them,
 * for a resolved timestamp is below all intents. It asks their homes what became of them: what is committed it resolves first
 * and then reads; what is not committed is passed over, since the home has promised that it will not commit at or below the
 * timestamp of the read, or did not commit before the read began. Any answer but "committed" counts only if this replica is known
 * to lead *after* the answer came and still finds the intent: otherwise the transaction may have been resolved, and its record
 * dropped, in between.
 */
export interface View {
  /** Versions above it are not seen. */
  readonly timestamp: Timestamp;
  readonly served: Served;
}

/** What reads need of their replica. */
export interface ReadHost {
  readonly bucket: BucketId;
  readonly id: ReplicaId;
  readonly state: BucketState;
  readonly raft: Raft;
  readonly hybrid: HybridClock;
  readonly clock: BucketClock;
  /** Everything at or below is applied here, and nothing more will appear at or below; 0 if nothing is known. */
  resolved(): Timestamp;
  /** A snapshot is taking the place of the state. */
  readonly installing: boolean;
  /** What their homes say of transactions that are prepared here: as of a timestamp, or as of now if that is 0. */
  outcomes(asked: readonly Prepared[], asOf: Timestamp, deadlineMs: number): Promise<ReadonlyMap<Prepared, Outcome>>;
  /** Carries out here what home has decided; resolves when it is applied. */
  resolve(request: ResolveRequest, deadlineMs: number): Promise<void>;
  /** Leads with a lease that is valid in this turn. */
  hasLease(): boolean;
  notLeader(): TidemarkError;
  /** Monotonic milliseconds by which a follower has heard what its leader has to say now, unless something is wrong. */
  soonMs(): number;
  /** There is a round to ask for when the turn ends, or somebody waits whose time may run out. */
  changed(): void;
}

export class Reads {
  readonly #replica: ReadHost;
  readonly #walks = new HistoryWalks();
  readonly #waiters = new Waiters(() => this.#replica.changed());
  readonly #rounds = new ReadRounds();

  constructor(replica: ReadHost) {
    this.#replica = replica;
  }

  /**
   * Passes the gate of a consistency; what is then read must be read at once, without another await. A bounded read is as of
   * `atLeast` or later; a linearizable one names such a timestamp if it can, so that its caller needs no second read.
   */
  async open(consistency: Consistency, deadlineMs: number, atLeast: Timestamp = 0): Promise<View> {
    this.#checkInstalled();
    switch (consistency.kind) {
      case 'linearizable':
        return this.#openLinearizable(deadlineMs, atLeast);
      case 'asOf':
        return this.#openAsOf(consistency.timestamp, deadlineMs);
      case 'bounded':
        return this.#openBounded(consistency.maxStalenessMs, atLeast, deadlineMs);
      case 'local':
        return this.#latestView('local');
    }
  }

  /** The same for one key, with what transactions have left on it. */
  async openKey(key: Bytes, consistency: Consistency, deadlineMs: number, atLeast: Timestamp = 0): Promise<View> {
    const view = this.tryOpen(consistency, atLeast) ?? (await this.open(consistency, deadlineMs, atLeast));
    const find = (): Prepared[] => {
      const prepared = this.#replica.state.participant.intentOn(key);
      return prepared === undefined || prepared.timestamp > view.timestamp ? [] : [prepared];
    };
    return this.#passIntents(view, find, deadlineMs, atLeast);
  }

  /**
   * A linearizable read of one key at whichever replica this is. What transactions have left on it only a leader can settle:
   * others refuse with INTENT_MET, and the leader is to be asked.
   */
  async openKeyHere(key: Bytes, deadlineMs: number, atLeast: Timestamp = 0, signal?: CancelSignal): Promise<View> {
    this.#checkInstalled();
    if (this.#replica.raft.canServe()) return this.openKey(key, { kind: 'linearizable' }, deadlineMs, atLeast);
    if (!mutant('replica-read-unconfirmed')) await this.#followLeader(deadlineMs, signal);
    if (this.#replica.state.participant.intentOn(key) !== undefined && !mutant('replica-read-ignores-intents')) {
      const { details } = this.#replica.notLeader();
      const message = `a transaction is under way on the key, and this replica of bucket ${this.#replica.bucket} does not lead`;
      throw new TidemarkError('UNAVAILABLE', 'INTENT_MET', message, { retriable: true, details });
    }
    return this.#latestView('linearizable');
  }

  /** The same for all keys of a range. */
  async openRange(range: KeyRange, consistency: Consistency, deadlineMs: number): Promise<View> {
    const view = await this.open(consistency, deadlineMs);
    const touches = ({ intents }: Prepared): boolean => intents.some(({ key }) => isKeyIn(key, range));
    const find = (): Prepared[] => this.#intentsUpTo(view.timestamp).filter(touches);
    return this.#passIntents(view, find, deadlineMs);
  }

  #intentsUpTo(timestamp: Timestamp): Prepared[] {
    const found: Prepared[] = [];
    for (const prepared of this.#replica.state.participant.writing()) {
      if (prepared.timestamp > timestamp) break;
      found.push(prepared);
    }
    return found;
  }

  /**
   * Returns, in the turn in which it looks last, when no intent is left but such as do not count for this view. What is then
   * true of the latest versions is so only as of before the first of those.
   */
  async #passIntents(view: View, find: () => readonly Prepared[], deadlineMs: number, atLeast: Timestamp = 0): Promise<View> {
    const isLatest = view.timestamp === TIMESTAMP_MAX;
    let met = find();
    if (met.length === 0 || mutant('reads-ignore-intents')) return view;
    if (view.served.consistency === 'local') return before(view, met);
    const passed = new Set<Prepared>();
    while (!met.every((prepared) => passed.has(prepared))) {
      const open = met.filter((prepared) => !passed.has(prepared));
      await this.#settleIntents(open, isLatest ? 0 : view.timestamp, passed, deadlineMs);
      if (!mutant('outcome-unconfirmed')) await this.#openLinearizable(deadlineMs);
      this.#checkInstalled();
      met = find();
    }
    if (isLatest) return before(this.#latestView(view.served.consistency, atLeast), met);
    this.#checkHorizon(view.timestamp);
    return view;
  }

  /** Asks what became of transactions, resolves those that are committed, and notes in `passed` those that are not. */
  async #settleIntents(
    open: readonly Prepared[],
    asOf: Timestamp,
    passed: Set<Prepared>,
    deadlineMs: number,
  ): Promise<void> {
    const outcomes = await this.#replica.outcomes(open, asOf, deadlineMs);
    const resolved: Promise<void>[] = [];
    for (const [prepared, outcome] of outcomes) {
      const { id, start } = prepared;
      if (outcome.kind === 'committed') {
        resolved.push(this.#replica.resolve({ id, start, commit: outcome.timestamp }, deadlineMs));
      } else {
        passed.add(prepared);
      }
    }
    await Promise.all(resolved);
  }

  /** Without waiting, where the gate is open already: the common case of a leader with a lease. */
  tryOpen({ kind }: Consistency, atLeast: Timestamp): View | undefined {
    return kind === 'linearizable' && this.#replica.hasLease() ? this.#latestView(kind, atLeast) : undefined;
  }

  /** Whether this replica has the means to open the gate, perhaps after a wait. */
  canOpen(consistency: Consistency): boolean {
    if (this.#replica.installing) return false;
    if (this.#replica.raft.canServe() || consistency.kind === 'local') return true;
    return consistency.kind === 'asOf' ? this.#replica.resolved() >= consistency.timestamp : consistency.kind === 'bounded';
  }

  /** A timestamp at or above all that this bucket has acknowledged; only from a confirmed leader. */
  async readTimestamp(deadlineMs: number): Promise<Timestamp> {
    if (!mutant('scan-unconfirmed')) await this.#openLinearizable(deadlineMs);
    // What is prepared here may have been committed, and acknowledged, at a timestamp that this bucket has not heard of.
    const open = mutant('scan-misses-commits') ? [] : this.#intentsUpTo(TIMESTAMP_MAX);
    if (open.length > 0) {
      await this.#settleIntents(open, 0, new Set(), deadlineMs);
      await this.#openLinearizable(deadlineMs);
    }
    // Not this node's clock: if that is ahead, no other can serve a read as of it yet, and nothing was acknowledged there.
    return Math.max(this.#replica.clock.latest, this.#replica.raft.electedFloor);
  }

  /** What is the latest is read in the turn of the call, what is older may take several turns. */
  async get(key: Bytes, view: View, strides: Strides): Promise<Record | undefined> {
    const { state } = this.#replica;
    state.checkStands();
    this.#recheckHorizon(view);
    const pointer = state.pointer(key);
    if (pointer === undefined) return undefined;
    if (pointer.timestamp <= view.timestamp) return this.latest(key);
    const found = await strides.versionAsOf(state, pointer, view.timestamp);
    this.#checkInstalled();
    this.#recheckHorizon(view);
    if (found === undefined || found.record.deleted) return undefined;
    return { key, value: found.record.value, version: found.id.timestamp };
  }

  /** What this replica has applied, whatever that proves. */
  latest(key: Bytes): Record | undefined {
    const { state } = this.#replica;
    const pointer = state.pointer(key);
    if (pointer === undefined || pointer.deleted) return undefined;
    return { key, value: readRecord(state.store, state.slot, pointer).value, version: pointer.timestamp };
  }

  /** In the turn that answers: since the gate was passed the horizon may have risen, or come with a snapshot. */
  #recheckHorizon({ timestamp }: View): void {
    const { horizon } = this.#replica.state;
    if (timestamp < horizon && !mutant('horizon-not-rechecked')) throw beforeHorizon(timestamp, horizon);
  }

  /** Versions in [to, from], newest first: at most `limit`, and no more once their values have reached `bytesMax`. */
  async history(
    key: Bytes,
    view: View,
    { from, to, limit, bytesMax }: { from: Timestamp; to: Timestamp; limit: number; bytesMax: number },
    strides: Strides,
  ): Promise<{ versions: Version[]; more: boolean }> {
    const { state } = this.#replica;
    this.#recheckHorizon(view);
    const pointer = state.pointer(key);
    const versions: Version[] = [];
    let bytes = 0;
    if (pointer === undefined) return { versions, more: false };
    const begin = this.#walks.begin(key, from, pointer, state.horizon);
    const newest = await strides.versionAsOf(state, begin, Math.min(from, view.timestamp));
    this.#checkInstalled();
    this.#recheckHorizon(view);
    if (newest === undefined) return { versions, more: false };
    let next: VersionId | undefined = newest.id;
    while (next !== undefined) {
      const chain = walk(state.store, state.slot, next, state.horizon);
      next = undefined;
      for (const { id, record } of chain) {
        const last = versions.at(-1);
        // If the horizon rose in a pause, what has been shown may be the latest at it: nothing below counts.
        if (id.timestamp < to || (last !== undefined && last.version <= state.horizon)) break;
        if (versions.length === limit || bytes >= bytesMax) {
          if (last !== undefined) this.#walks.stop(key, last.version, id);
          return { versions, more: true };
        }
        versions.push({ version: id.timestamp, deleted: record.deleted, value: record.value });
        bytes += record.value.length;
        if (strides.mayFollow()) continue;
        next = record.previous;
        break;
      }
      if (next === undefined) break;
      await strides.pause();
      this.#checkInstalled();
      this.#recheckHorizon(view);
    }
    return { versions, more: false };
  }

  // --- gates

  async #openLinearizable(deadlineMs: number, atLeast: Timestamp = 0): Promise<View> {
    if (this.#replica.hasLease()) return this.#latestView('linearizable', atLeast);
    const { raft } = this.#replica;
    if (!raft.canServe()) throw this.#replica.notLeader();
    await this.#round(deadlineMs, (isOpen) => {
      // Also with a confirmed round: the next leader may long have applied what this replica's disk still keeps it from.
      if (!isOpen && !raft.canServe()) throw this.#replica.notLeader();
    });
    this.#checkInstalled();
    return this.#latestView('linearizable', atLeast);
  }

  /** Until this replica, which does not lead, has applied all that was acknowledged before now. */
  async #followLeader(deadlineMs: number, signal: CancelSignal | undefined): Promise<void> {
    await this.#round(deadlineMs, () => {
      checkWanted(signal);
      // What it would wait for may be in the snapshot that takes the state's place.
      this.#checkInstalled();
    });
    this.#checkInstalled();
  }

  /** Waits for a round that begins now, and until its index is applied. `look`, at every look, may throw to give up. */
  #round(deadlineMs: number, look: (isOpen: boolean) => void): Promise<void> {
    const round = this.#rounds.join();
    this.#replica.changed();
    return this.#waiters.until(
      deadlineMs,
      () => {
        if (round.index === 0) throw this.#replica.notLeader();
        const isOpen = this.#isApplied(round);
        look(isOpen);
        return isOpen;
      },
      () => {
        const message = `leadership of bucket ${this.#replica.bucket} could not be confirmed by a quorum in time`;
        return new TidemarkError('UNAVAILABLE', 'NO_QUORUM', message, { retriable: true });
      },
    );
  }

  #isApplied({ index = Infinity }: ReadRound): boolean {
    return this.#replica.state.applied.index >= index || (index < Infinity && mutant('read-before-applied'));
  }

  async #openAsOf(timestamp: Timestamp, deadlineMs: number): Promise<View> {
    const { hybrid, raft, state } = this.#replica;
    if (this.#replica.resolved() >= timestamp) {
      hybrid.hear(timestamp);
    } else {
      if (!mutant('as-of-not-kept')) hybrid.merge(timestamp, 'as_of');
      if (!raft.canServe()) throw this.#behind(timestamp);
      if (!mutant('as-of-not-kept')) this.#replica.clock.promise(timestamp);
      const { term, lastIndex } = raft;
      await this.#waiters.until(
        deadlineMs,
        () => {
          if (raft.term !== term || !raft.canServe()) throw this.#replica.notLeader();
          const isFloor = raft.quorumFloor() >= timestamp || mutant('as-of-without-floor');
          return isFloor && (state.applied.index >= lastIndex || mutant('as-of-before-applied'));
        },
        () => {
          const message =
            `bucket ${this.#replica.bucket} cannot yet promise a read as of ${formatTimestamp(timestamp)}: a quorum ` +
            `has confirmed up to ${formatTimestamp(raft.quorumFloor())}`;
          const details = { resolved: String(this.#replica.resolved()) };
          return new TidemarkError('UNAVAILABLE', 'TIMESTAMP_NOT_REACHED', message, { retriable: true, details });
        },
      );
      this.#checkInstalled();
    }
    // Also after the wait: the horizon may have risen meanwhile.
    this.#checkHorizon(timestamp);
    return this.#view('asOf', timestamp, timestamp);
  }

  #checkHorizon(timestamp: Timestamp): void {
    const { state } = this.#replica;
    if (timestamp < state.horizon) throw beforeHorizon(timestamp, state.horizon);
  }

  async #openBounded(maxStalenessMs: number, atLeast: Timestamp, deadlineMs: number): Promise<View> {
    if (this.#replica.hasLease()) return this.#latestView('bounded', atLeast);
    const since = mutant('bounded-ignores-session') ? 0 : atLeast;
    const oldest = Math.max(1, earlier(this.#replica.hybrid.physicalNow(), maxStalenessMs));
    if (this.#replica.resolved() < Math.max(oldest, since)) {
      if (this.#replica.raft.canServe()) {
        const view = await this.#openLinearizable(deadlineMs, atLeast);
        return { ...view, served: { ...view.served, consistency: 'bounded' } };
      }
      if (this.#replica.resolved() < oldest) throw this.#stale(`not within ${maxStalenessMs} ms of now`);
      await this.#catchUp(since, deadlineMs);
    }
    const resolved = this.#replica.resolved();
    return this.#view('bounded', resolved, resolved);
  }

  /**
   * Until this follower is complete up to what the session of a read has seen, if that comes soon: of a leader, which names a
   * timestamp at the moment when it tells its followers of it, so that this is only behind by what is on its way.
   */
  async #catchUp(timestamp: Timestamp, deadlineMs: number): Promise<void> {
    await this.#waiters.until(
      Math.min(deadlineMs, this.#replica.soonMs()),
      () => this.#replica.resolved() >= timestamp,
      () => this.#stale(`not ${formatTimestamp(timestamp)}, which the session has seen`),
    );
    this.#checkInstalled();
  }

  #stale(missing: string): TidemarkError {
    const resolved = this.#replica.resolved();
    const seen = resolved === 0 ? 'no moment yet' : `up to ${formatTimestamp(resolved)} only`;
    const message = `this replica of bucket ${this.#replica.bucket} is complete ${seen}, ${missing}`;
    return new TidemarkError('UNAVAILABLE', 'STALE', message, { retriable: true, details: { resolved: String(resolved) } });
  }

  /** This replica is no leader, and not complete up to that moment. */
  #behind(timestamp: Timestamp): TidemarkError {
    const { code, reason, message, retriable, details } = this.#replica.notLeader();
    const resolved = this.#replica.resolved();
    const far = `it is complete up to ${formatTimestamp(resolved)}, not ${formatTimestamp(timestamp)}, and ${message}`;
    return new TidemarkError(code, reason, far, { retriable, details: { ...details, resolved: String(resolved) } });
  }

  /** A bucket at rest has told of no timestamp since its last heartbeat: a later one is looked for only if somebody wants it. */
  #latestView(consistency: Consistency['kind'], atLeast: Timestamp = 0): View {
    const { raft, state } = this.#replica;
    const known = Math.max(raft.closedTimestamp, state.maxTimestamp);
    const named = known >= atLeast ? known : Math.max(known, this.#replica.clock.completeUpTo(atLeast));
    return this.#view(consistency, TIMESTAMP_MAX, named);
  }

  #view(consistency: Consistency['kind'], timestamp: Timestamp, asOf: Timestamp): View {
    return { timestamp, served: { node: nodeOfReplica(this.#replica.id), timestamp: asOf, consistency, hops: 0 } };
  }

  #checkInstalled(): void {
    if (this.#replica.installing) throw this.#replica.notLeader();
  }

  // --- driven by the replica

  /** Reads of this turn wait for a round that is still to be asked for. */
  get wantRound(): boolean {
    return this.#rounds.isWanted;
  }

  /** The turn ends: asks raft for the round that the reads of this turn wait for. */
  request(now: number): void {
    const context = this.#rounds.take();
    if (context !== undefined) this.#replica.raft.readIndex(context, now);
  }

  confirmed(reads: readonly ReadState[]): void {
    this.#rounds.confirmed(reads);
  }

  get areWaiting(): boolean {
    return !this.#waiters.isEmpty;
  }

  /** Wakes the reads whose gate has opened. */
  advance(): void {
    this.#waiters.advance();
  }

  /** Ends the reads that nobody waits for any more. */
  expire(now: number): void {
    this.#waiters.expire(now);
  }

  close(): void {
    this.#waiters.close(() => this.#replica.notLeader());
  }
}

/** What is true as of the latest, though these transactions may commit from their prepare timestamps on. */
function before(view: View, met: readonly Prepared[]): View {
  const lowest = Math.min(...met.map(({ timestamp }) => timestamp));
  const { served } = view;
  return { ...view, served: { ...served, timestamp: Math.min(served.timestamp, lowest - 1) } };
}
