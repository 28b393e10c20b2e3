import type { Env } from '../env/env.js';
import { Cancellation } from '../lib/cancel.js';
import { isTidemarkError } from '../lib/errors.js';
import type { Consistency, Timestamp } from '../bucket/requests.js';
import { earlier, unixMsOf } from '../mvcc/timestamp.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Alarms } from './alarms.js';
import type { Call } from './call.js';
import type { Hedging } from './hedging.js';
import type { NodeLoads } from './node-loads.js';
import type { Answer, Operation } from './operations.js';
import { FOLLOWERS_LAG_MS, type ReplicaChoice, type ReadNeed } from './replica-choice.js';
import type { Trail } from './trail.js';

/**
 * Reads of one key that more than one replica can serve: of a moment that followers have passed, and linearizable ones of
 * buckets that have read replicas, where whoever serves asks the leader how far it must be, and the leader is spared the rest.
 *
 * Which replica is asked is the choice of replica-choice.ts. If it takes its time a second one is asked as well (hedging.ts): the
 * first answer counts, and the other request is called back.
 *
 * Example: 95 of 100 reads take less than 6 ms. Node 4 has not answered one after 6 ms; node 2 is asked too, and answers at
 * 7 ms. Node 4 is told that nobody waits any more, and counts as one that takes at least 7 ms.
 */
export type KeyRead = Extract<Operation, { readonly kind: 'get' | 'history' }>;

export interface ReplicaRead extends ReadNeed {
  readonly operation: KeyRead;
}

/** What came of it: an answer, or what went wrong where; nothing where nobody was left to ask. */
export interface Asked {
  readonly answer?: Answer;
  readonly failures: readonly { readonly node: NodeId; readonly error: unknown }[];
}

export interface ReplicaReadsOptions {
  readonly env: Pick<Env, 'clock'>;
  readonly alarms: Alarms;
  readonly choice: ReplicaChoice;
  readonly loads: NodeLoads;
  readonly hedging: Hedging;
  readonly linearizableAnywhere: 'hot' | 'always';
  readonly now: () => Timestamp;
  readonly attempt: (node: NodeId, operation: KeyRead, call: Call, trail: Trail | undefined) => Promise<Answer>;
}

export class ReplicaReads {
  readonly #options: ReplicaReadsOptions;

  constructor(options: ReplicaReadsOptions) {
    this.#options = options;
  }

  /**
   * Whether any replica is likely to serve it at once. As of a moment so late that followers will not have heard of it the leader
   * is asked first.
   */
  isAnywhere(consistency: Consistency): boolean {
    if (consistency.kind !== 'asOf') return consistency.kind !== 'linearizable';
    return consistency.timestamp <= earlier(this.#options.now(), FOLLOWERS_LAG_MS);
  }

  /** The operation as a read for any replica; undefined if only the leader should be asked. */
  of(operation: Operation, call: Call): ReplicaRead | undefined {
    if (operation.kind !== 'get' && operation.kind !== 'history') return undefined;
    const { bucket, consistency } = operation;
    if (consistency.kind === 'linearizable') {
      if (operation.kind !== 'get' || call.atLeader === true || !this.#spreads(bucket)) return undefined;
      return { bucket, sort: 'confirmed', staleMs: 0, operation: { ...operation, anyReplica: true } };
    }
    if (!this.isAnywhere(consistency)) return undefined;
    return { bucket, sort: 'settled', staleMs: this.#staleMsOf(consistency, call.seen), operation };
  }

  #spreads(bucket: BucketId): boolean {
    const { choice, linearizableAnywhere } = this.#options;
    return linearizableAnywhere === 'always' || choice.shouldSpread(bucket);
  }

  #staleMsOf(consistency: Exclude<Consistency, { kind: 'linearizable' }>, seen: Timestamp): number {
    if (consistency.kind === 'local') return Infinity;
    const nowMs = unixMsOf(this.#options.now());
    if (consistency.kind === 'asOf') return nowMs - unixMsOf(consistency.timestamp);
    // Nor does it go back behind what its session has seen.
    return Math.min(consistency.maxStalenessMs, Math.max(0, nowMs - unixMsOf(seen)));
  }

  /** One try at one replica, or at two. */
  async ask(read: ReplicaRead, call: Call, trail: Trail | undefined): Promise<Asked> {
    const { choice, hedging } = this.#options;
    const first = choice.pick(read, trail?.asked);
    if (first === undefined) return { failures: [] };
    const afterMs = hedging.begin(read.sort);
    if (afterMs < Infinity) return this.#hedged(first, afterMs, read, call, trail);
    try {
      return { answer: await this.#timed(first, read, call, trail), failures: [] };
    } catch (error) {
      return { failures: [{ node: first, error }] };
    }
  }

  #hedged(first: NodeId, afterMs: number, read: ReplicaRead, call: Call, trail: Trail | undefined): Promise<Asked> {
    const { env, alarms, choice, hedging } = this.#options;
    return new Promise((resolve) => {
      const open = new Set<Cancellation>();
      let isDecided = false;
      const failures: { node: NodeId; error: unknown }[] = [];
      const cancelAll = (): void => {
        for (const cancellation of open) cancellation.abort();
      };
      const end = (answer: Answer | undefined): void => {
        isDecided = true;
        alarm.cancel();
        call.signal?.removeEventListener('abort', cancelAll);
        resolve(answer === undefined ? { failures } : { answer, failures });
        cancelAll();
      };
      const send = (node: NodeId, answered: () => void): void => {
        const signal = new Cancellation();
        open.add(signal);
        // Once it is decided nothing more counts, neither a second answer nor the failure of what was called back; before that an
        // answer does, also when its caller goes away in this very turn.
        this.#timed(node, read, { ...call, signal }, trail).then(
          (answer) => {
            open.delete(signal);
            if (isDecided) return;
            answered();
            end(answer);
          },
          (error: unknown) => {
            open.delete(signal);
            failures.push({ node, error });
            if (open.size === 0 && !isDecided) end(undefined);
          },
        );
      };
      const alarm = alarms.at(env.clock.monotonicMs() + afterMs, () => {
        const second = choice.pickBeside(read, first, trail?.asked);
        if (second !== undefined && open.size > 0 && hedging.take()) send(second, () => hedging.won());
      });
      call.signal?.addEventListener('abort', cancelAll);
      send(first, () => undefined);
      if (call.signal?.aborted === true) cancelAll();
    });
  }

  /** One attempt, of which everything is remembered that helps to choose the next replica. */
  async #timed(node: NodeId, read: ReplicaRead, call: Call, trail: Trail | undefined): Promise<Answer> {
    const { env, choice, loads, hedging, attempt } = this.#options;
    const { sort, operation } = read;
    const beganMs = env.clock.monotonicMs();
    try {
      const answer = await attempt(node, operation, call, trail);
      const tookMs = env.clock.monotonicMs() - beganMs;
      loads.took(node, sort, tookMs);
      hedging.took(sort, tookMs);
      return answer;
    } catch (error) {
      if (isTidemarkError(error)) {
        choice.refused(read, node, error);
        const isSilence = error.reason === 'TIMED_OUT' || error.reason === 'CANCELLED';
        if (isSilence) loads.took(node, sort, env.clock.monotonicMs() - beganMs, true);
      }
      throw error;
    }
  }
}
