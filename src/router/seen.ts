import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Consistency, Timestamp } from '../bucket/requests.js';
import { EPOCH_MS, checkNotAhead, checkTimestamp, later } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import type { Role } from './wire.js';

/**
 * What the callers of one router have seen, and what time it is by that.
 *
 * The timestamps as of which they were answered are noted here: in all, since what is written next is to be above them, and by
 * bucket, since a bounded read must not fall behind them. Both only grow. A moment that a caller chose itself is not noted.
 *
 * The time in the cluster is what the clock of the node in this process shows. Where there is none, it is what the nodes have
 * said of their clocks, or, before any has, what this machine's shows; and what was seen is not ahead of it, whatever they say.
 *
 * Example: a client reads at a node whose clock is 300 ms fast. What it saw is ahead of all other clocks: `now` stands still at
 * it for 300 ms, while `wallNow` goes on.
 *
 * What it is not: no answer is correct because of this time. It serves to tell births and ages, and moments that lie ahead.
 */
export interface SeenPorts {
  readonly clock: Pick<Env['clock'], 'wallMs'>;
  readonly limits: Pick<Limits, 'maxClockOffsetMs'>;
  readonly role: Role;
  /** By the clocks of the nodes; undefined if none has ever told its own. */
  readonly clusterNow: () => Timestamp | undefined;
  /** The clock of the node in this process. */
  readonly nodeNow: (() => Timestamp) | undefined;
}

export class Seen {
  readonly #ports: SeenPorts;
  #latest: Timestamp = 0;
  readonly #ofBucket = new Map<BucketId, Timestamp>();

  constructor(ports: SeenPorts) {
    this.#ports = ports;
  }

  /** The highest timestamp that callers have seen, in any bucket. */
  get latest(): Timestamp {
    return this.#latest;
  }

  /** What a bounded read must not fall behind. Only a client is one session; others serve many, which ask for nothing alike. */
  inSession(bucket: BucketId): Timestamp {
    return this.#ports.role === 'client' ? (this.#ofBucket.get(bucket) ?? 0) : 0;
  }

  /** A caller has seen the bucket as of a timestamp. */
  note(bucket: BucketId, timestamp: Timestamp): void {
    this.#latest = Math.max(this.#latest, timestamp);
    if (timestamp > (this.#ofBucket.get(bucket) ?? 0)) this.#ofBucket.set(bucket, timestamp);
  }

  /** The cluster's present time, as well as it is known here; no proof of anything. */
  now(): Timestamp {
    return this.#ports.nodeNow?.() ?? Math.max(this.wallNow(), this.#latest);
  }

  /** The same by clocks alone: it goes on by itself. What was seen may be ahead of all clocks, and stands still until then. */
  wallNow(): Timestamp {
    return this.#ports.clusterNow() ?? this.#ownNow();
  }

  /** The same for who must rather take it for too late than for too early. */
  lateNow(): Timestamp {
    return Math.max(this.wallNow(), this.#ownNow());
  }

  /** By the clock of this machine. */
  #ownNow(): Timestamp {
    return later(0, Math.max(0, this.#ports.clock.wallMs() - EPOCH_MS));
  }

  /** Of a timestamp that the caller has chosen; `now` tells the cluster's time only when the placement is known. */
  checkNotAhead(timestamp: Timestamp, field: string): void {
    checkNotAhead(timestamp, field, this.now(), this.#ports.limits.maxClockOffsetMs);
  }

  /** The token of a session that was begun elsewhere; 0 without one. */
  checkAtLeast(atLeast: Timestamp | undefined, { kind }: Consistency): Timestamp {
    if (atLeast === undefined || atLeast === 0) return 0;
    checkTimestamp(atLeast, 'at_least');
    if (kind !== 'bounded') {
      const message = `at_least is set; it goes with a bounded read, and this one is ${kind}`;
      throw new TidemarkError('INVALID_ARGUMENT', 'READ_OPTIONS_CONFLICT', message, { details: { field: 'at_least' } });
    }
    this.checkNotAhead(atLeast, 'at_least');
    return mutant('token-ignored') ? 0 : atLeast;
  }
}
