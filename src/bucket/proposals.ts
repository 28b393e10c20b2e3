import { toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError, type Outcome } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Limits } from '../env/limits.js';
import { NO_VERSION, type Pointer, type VersionId } from '../mvcc/records.js';
import { readRecord } from '../mvcc/reader.js';
import { formatTimestamp } from '../mvcc/timestamp.js';
import type { LogIndex, Term } from '../raft/types.js';
import { encodeEffects, type Effect, type Effects } from './effects.js';
import { RangeChecks, type WatchedRanges } from './range-conditions.js';
import type { Condition, KeyCondition, RequestId, WriteRequest, WriteResult } from './requests.js';
import type { BucketState } from './state.js';

/**
 * The leader's commands between evaluation and apply.
 *
 * A command is evaluated against the applied state plus the overlay of proposals in flight, and conditions, previous links,
 * timestamp and log index are fixed in one synchronous turn. The overlay belongs to one term: when leadership ends, what is
 * in flight may still commit or vanish, so its outcome is unknown to the waiting caller, and nothing may build on it.
 *
 * Conditions on ranges may take several turns to look at (range-conditions.ts). A command that has some waits for that; it is
 * known by its id from the start, is evaluated in the turn in which all has been looked at, and others may overtake it.
 */
interface Proposal {
  readonly effects: Effects;
  readonly bytes: number;
  readonly promise: Promise<WriteResult>;
  readonly resolve: (result: WriteResult) => void;
  readonly reject: (error: unknown) => void;
}

/** What proposing needs of its replica. */
export interface ProposalHost {
  readonly state: BucketState;
  readonly limits: Limits;
  /** Leads, and may evaluate and propose. */
  canServe(): boolean;
  /** A commit timestamp above everything that this bucket has committed, proposed or promised. */
  nextTimestamp(): number;
  append(data: Bytes): LogIndex;
}

interface PendingVersion extends Pointer {
  readonly value: Bytes;
}

export class Proposals {
  readonly #host: ProposalHost;
  readonly #term: Term;
  readonly #byIndex = new Map<LogIndex, Proposal>();
  readonly #byId = new Map<string, Proposal>();
  readonly #overlay = new Map<string, PendingVersion>();
  readonly #ranges: RangeChecks;
  /** Commands whose ranges are being looked at, by their ids. */
  readonly #examined = new Map<string, Pick<Proposal, 'promise' | 'reject'>>();
  #bytes = 0;

  constructor(host: ProposalHost, term: Term) {
    this.#host = host;
    this.#term = term;
    this.#ranges = new RangeChecks(host.state, host.limits);
  }

  get term(): Term {
    return this.#term;
  }

  /** Evaluates and proposes a command; resolves when it is applied. */
  write(request: WriteRequest): Promise<WriteResult> {
    const { state, limits } = this.#host;
    const known = state.sessions.lookup(request.id);
    if (known.kind === 'done') return Promise.resolve(known.result);
    if (known.kind === 'unknown') return Promise.reject(forgotten(request.id, state));
    const name = idKey(request.id);
    const running = mutant('retry-in-flight-runs-again') ? undefined : (this.#byId.get(name) ?? this.#examined.get(name));
    if (running !== undefined) return running.promise;
    const count = this.#byIndex.size + this.#examined.size;
    if (count >= limits.proposalsPerBucketMax || this.#bytes >= limits.proposalBytesPerBucketMax) {
      return Promise.reject(
        new TidemarkError(
          'RESOURCE_EXHAUSTED',
          'BUCKET_OVERLOADED',
          `bucket ${state.bucket} has ${count} commands (${this.#bytes} bytes) in flight; try again later`,
          { retriable: true },
        ),
      );
    }
    const ranges = this.#ranges.watch(request.conditions, this.#overlay);
    if (ranges.examined !== undefined) return this.#proposeExamined(request, ranges, ranges.examined);
    try {
      return this.#propose(request, ranges);
    } finally {
      ranges.end();
    }
  }

  /** Proposes when the ranges have been looked at, some turns later. */
  #proposeExamined(request: WriteRequest, ranges: WatchedRanges, examined: Promise<void>): Promise<WriteResult> {
    const { promise, resolve, reject } = withResolvers<WriteResult>();
    const name = idKey(request.id);
    const entry = { promise, reject };
    this.#examined.set(name, entry);
    const propose = async (): Promise<WriteResult> => {
      const { state } = this.#host;
      await examined;
      if (this.#examined.get(name) !== entry || !this.#host.canServe()) {
        throw leadershipLost(state, 'leadership changed while ranges were looked at', 'none');
      }
      if (state.sessions.lookup(request.id).kind === 'unknown') throw forgotten(request.id, state);
      this.#examined.delete(name);
      return this.#propose(request, ranges);
    };
    const done = (): void => {
      ranges.end();
      if (this.#examined.get(name) === entry) this.#examined.delete(name);
    };
    propose().finally(done).then(resolve, reject);
    return promise;
  }

  #propose(request: WriteRequest, ranges: WatchedRanges): Promise<WriteResult> {
    const effects = this.#evaluate(request, ranges);
    const data = encodeEffects(effects);
    const index = this.#host.append(data);
    effects.effects.forEach(({ key, deleted, value }, position) => {
      const timestamp = effects.result.timestamp;
      const mapKey = toMapKey(key);
      this.#overlay.set(mapKey, { timestamp, index, position, deleted, value });
      if (!mutant('range-misses-overtaking')) this.#ranges.note(mapKey, timestamp);
    });
    const { promise, resolve, reject } = withResolvers<WriteResult>();
    const proposal: Proposal = { effects, bytes: data.length, promise, resolve, reject };
    this.#byIndex.set(index, proposal);
    this.#byId.set(idKey(request.id), proposal);
    this.#bytes += data.length;
    if (mutant('answer-before-commit')) resolve(effects.result);
    return promise;
  }

  #evaluate({ id, conditions, mutations }: WriteRequest, ranges: WatchedRanges): Effects {
    const timestamp = this.#host.nextTimestamp();
    for (const [position, condition] of conditions.entries()) {
      const failedVersion = this.#failedVersion(condition, ranges);
      if (failedVersion !== undefined) {
        return { id, result: { applied: false, timestamp, failedCondition: position, failedVersion }, effects: [] };
      }
    }
    const effects = mutations.map((mutation): Effect => {
      const latest = this.#latest(mutation.key);
      const previous: VersionId =
        latest === undefined
          ? NO_VERSION
          : { timestamp: latest.timestamp, index: latest.index, position: latest.position };
      return mutation.kind === 'put'
        ? { key: mutation.key, deleted: false, value: mutation.value, previous }
        : { key: mutation.key, deleted: true, value: EMPTY_VALUE, previous };
    });
    return { id, result: { applied: true, timestamp, failedCondition: -1, failedVersion: 0 }, effects };
  }

  /** What a condition that does not hold found instead; undefined if it holds. */
  #failedVersion(condition: Condition, ranges: WatchedRanges): number | undefined {
    if (condition.kind === 'unchanged') {
      const changed = ranges.change(condition);
      return changed > 0 ? changed : undefined;
    }
    const latest = this.#latest(condition.key);
    if (this.#holds(condition, latest)) return undefined;
    return latest === undefined || latest.deleted ? 0 : latest.timestamp;
  }

  #latest(key: Bytes): Pointer | undefined {
    const pending = mutant('conditions-miss-in-flight') ? undefined : this.#overlay.get(toMapKey(key));
    return pending ?? this.#host.state.pointer(key);
  }

  #holds(condition: KeyCondition, latest: Pointer | undefined): boolean {
    const exists = latest !== undefined && !latest.deleted;
    switch (condition.kind) {
      case 'exists':
        return exists;
      case 'absent':
        return !exists;
      case 'version':
        return (exists ? latest.timestamp : 0) === condition.version;
      case 'value':
        return exists && this.#valueOf(condition.key, latest).equals(condition.value);
    }
  }

  #valueOf(key: Bytes, latest: Pointer): Bytes {
    const { state } = this.#host;
    const pending = this.#overlay.get(toMapKey(key));
    return pending === undefined ? readRecord(state.store, state.slot, latest).value : pending.value;
  }

  /** The effects of a proposal of this replica, for apply. */
  effectsAt(index: LogIndex, term: Term): Effects | undefined {
    return term === this.#term || mutant('effects-over-terms') ? this.#byIndex.get(index)?.effects : undefined;
  }

  /** The entry at `index` was applied. */
  applied(index: LogIndex, term: Term): void {
    const proposal = this.#byIndex.get(index);
    if (proposal === undefined || term !== this.#term) return;
    this.#byIndex.delete(index);
    this.#byId.delete(idKey(proposal.effects.id));
    this.#bytes -= proposal.bytes;
    for (const { key } of proposal.effects.effects) {
      const mapKey = toMapKey(key);
      if (this.#overlay.get(mapKey)?.index === index) this.#overlay.delete(mapKey);
    }
    proposal.resolve(proposal.effects.result);
  }

  /** Leadership ended: whatever is in flight may or may not commit. */
  abandon(reason: string): void {
    for (const { reject } of this.#byIndex.values()) reject(leadershipLost(this.#host.state, reason, 'unknown'));
    for (const { reject } of this.#examined.values()) reject(leadershipLost(this.#host.state, reason, 'none'));
    this.#examined.clear();
    this.#byIndex.clear();
    this.#byId.clear();
    this.#overlay.clear();
    this.#bytes = 0;
  }
}

const EMPTY_VALUE: Bytes = Buffer.alloc(0);

function leadershipLost({ bucket }: BucketState, reason: string, outcome: Outcome): TidemarkError {
  return new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', `bucket ${bucket}: ${reason}`, { outcome, retriable: true });
}

function idKey(id: RequestId): string {
  return `${id.session}:${id.sequence}`;
}

/** The detail `horizon`: sessions born behind it are not forgotten here. */
function forgotten({ session, born, sequence }: RequestId, { bucket, sessions: { horizon } }: BucketState): TidemarkError {
  const since = born <= horizon ? `; it knows all sessions that began after ${formatTimestamp(horizon)}` : '';
  return new TidemarkError(
    'FAILED_PRECONDITION',
    'REQUEST_FORGOTTEN',
    `bucket ${bucket} does not know any more whether request ${sequence} of session ${session} was applied${since}. ` +
      'Look what stands there, then go on in a new session',
    { outcome: 'unknown', details: { horizon: String(horizon) } },
  );
}

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: unknown) => void } {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}
