import { toMapKey, type Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Limits } from '../env/limits.js';
import { NO_VERSION, type Pointer, type VersionId } from '../mvcc/records.js';
import { readRecord } from '../mvcc/reader.js';
import { formatTimestamp } from '../mvcc/timestamp.js';
import type { LogIndex, Term } from '../raft/types.js';
import { encodeEffects, type Effect, type Effects } from './effects.js';
import type { Condition, RequestId, WriteRequest, WriteResult } from './requests.js';
import type { BucketState } from './state.js';

/**
 * The leader's commands between evaluation and apply.
 *
 * A command is evaluated against the applied state plus the overlay of proposals in flight, and conditions, previous links,
 * timestamp and log index are fixed in one synchronous turn. The overlay belongs to one term: when leadership ends, what is
 * in flight may still commit or vanish, so its outcome is unknown to the waiting caller, and nothing may build on it.
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
  #bytes = 0;

  constructor(host: ProposalHost, term: Term) {
    this.#host = host;
    this.#term = term;
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
    const running = mutant('retry-in-flight-runs-again') ? undefined : this.#byId.get(idKey(request.id));
    if (running !== undefined) return running.promise;
    if (this.#byIndex.size >= limits.proposalsPerBucketMax || this.#bytes >= limits.proposalBytesPerBucketMax) {
      return Promise.reject(
        new TidemarkError(
          'RESOURCE_EXHAUSTED',
          'BUCKET_OVERLOADED',
          `bucket ${state.bucket} has ${this.#byIndex.size} commands (${this.#bytes} bytes) in flight; try again later`,
          { retriable: true },
        ),
      );
    }
    return this.#propose(request);
  }

  #propose(request: WriteRequest): Promise<WriteResult> {
    const effects = this.#evaluate(request);
    const data = encodeEffects(effects);
    const index = this.#host.append(data);
    effects.effects.forEach(({ key, deleted, value }, position) => {
      const timestamp = effects.result.timestamp;
      this.#overlay.set(toMapKey(key), { timestamp, index, position, deleted, value });
    });
    const { promise, resolve, reject } = withResolvers<WriteResult>();
    const proposal: Proposal = { effects, bytes: data.length, promise, resolve, reject };
    this.#byIndex.set(index, proposal);
    this.#byId.set(idKey(request.id), proposal);
    this.#bytes += data.length;
    if (mutant('answer-before-commit')) resolve(effects.result);
    return promise;
  }

  #evaluate({ id, conditions, mutations }: WriteRequest): Effects {
    const timestamp = this.#host.nextTimestamp();
    for (const [position, condition] of conditions.entries()) {
      const latest = this.#latest(condition.key);
      if (!this.#holds(condition, latest)) {
        const failedVersion = latest === undefined || latest.deleted ? 0 : latest.timestamp;
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

  #latest(key: Bytes): Pointer | undefined {
    const pending = mutant('conditions-miss-in-flight') ? undefined : this.#overlay.get(toMapKey(key));
    return pending ?? this.#host.state.pointer(key);
  }

  #holds(condition: Condition, latest: Pointer | undefined): boolean {
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
    for (const { reject } of this.#byIndex.values()) {
      reject(
        new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', `bucket ${this.#host.state.bucket}: ${reason}`, {
          outcome: 'unknown',
          retriable: true,
        }),
      );
    }
    this.#byIndex.clear();
    this.#byId.clear();
    this.#overlay.clear();
    this.#bytes = 0;
  }
}

const EMPTY_VALUE: Bytes = Buffer.alloc(0);

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
