import { toMapKey, type Bytes } from '../lib/bytes.js';
import { assert } from '../lib/assert.js';
import { mutant } from '../lib/mutants.js';
import type { Timestamp } from '../mvcc/timestamp.js';
import { transactionKey, type Prepared, type TransactionId, type TransactionKey } from './transaction.js';

/**
 * What one bucket knows of transactions whose home is elsewhere: which are prepared, and which attempts have ended. Part of the
 * replicated state: it changes in apply only, equally on every replica.
 *
 * Ended attempts are remembered so that a prepare which arrives late, or twice, cannot bring an attempt back: one that was
 * committed and forgotten by its home would be prepared, and resolved, a second time. They need not be remembered for ever: an
 * attempt that began more than `life` before the bucket's clock is refused unseen. `refusedUpTo` says up to which start; it is
 * also raised when there are too many to remember.
 *
 * Example, life 10: attempt X began at 100 and is resolved at 105. Its prepare, sent twice, arrives again at 108: known, refused.
 * At 111 X is forgotten; whatever began at 101 or before is refused.
 *
 * An attempt begins by the clock of home's node. If the bucket's is ahead of that by more than `life`, every attempt would be too
 * old; so who refuses one says where the next may begin. When an attempt began is a matter of counting, not of time.
 */
export interface ParticipantLimits {
  /** For how long, in timestamp units, an attempt may be prepared after it began. */
  readonly life: number;
  readonly endedMax: number;
}

export interface EndedAttempt {
  readonly key: TransactionKey;
  readonly start: Timestamp;
}

export interface FrozenParticipant {
  readonly refusedUpTo: Timestamp;
  readonly prepared: readonly Prepared[];
  readonly ended: readonly EndedAttempt[];
}

/** What a prepared transaction takes in memory beside its keys and values, about. */
const PREPARED_BYTES = 512;
const INTENT_BYTES = 256;

export class Participant {
  readonly #limits: ParticipantLimits;
  /** In the order of their prepare timestamps. */
  readonly #prepared = new Map<TransactionKey, Prepared>();
  /** Those among them that will write, in the same order. */
  readonly #writing = new Map<TransactionKey, Prepared>();
  readonly #byKey = new Map<string, Prepared>();
  /** In the order in which they ended. */
  readonly #ended = new Map<TransactionKey, Timestamp>();
  #refusedUpTo: Timestamp = 0;
  #bytes = 0;

  constructor(limits: ParticipantLimits) {
    this.#limits = limits;
  }

  get count(): number {
    return this.#prepared.size;
  }

  /** What the prepared ones take in memory, about. */
  get bytes(): number {
    return this.#bytes;
  }

  get endedCount(): number {
    return this.#ended.size;
  }

  /** All that are prepared, in the order of their prepare timestamps. */
  prepared(): Iterable<Prepared> {
    return this.#prepared.values();
  }

  /** Those among them with intents, in the same order. */
  writing(): Iterable<Prepared> {
    return this.#writing.values();
  }

  find(id: TransactionId): Prepared | undefined {
    return this.#prepared.get(transactionKey(id));
  }

  /** The transaction that has an intent on this key. */
  intentOn(key: Bytes): Prepared | undefined {
    return this.#byKey.size === 0 ? undefined : this.#byKey.get(toMapKey(key));
  }

  /** The lowest prepare timestamp of an intent: nothing from there on is settled. */
  lowestIntent(): Timestamp | undefined {
    for (const { timestamp } of this.#writing.values()) return timestamp;
    return undefined;
  }

  /** Whether an attempt may not be prepared any more, at `now` on the bucket's clock. */
  hasEnded(id: TransactionId, start: Timestamp, now: Timestamp): boolean {
    return start <= Math.max(this.#refusedUpTo, earlierBy(now, this.#limits.life)) || this.#ended.has(transactionKey(id));
  }

  /** An attempt that begins above it is not refused for its age, nor will be for all its life, at `now` on the bucket's clock. */
  tooOldFor(now: Timestamp): Timestamp {
    return Math.max(this.#refusedUpTo, now);
  }

  /** Apply only. */
  prepare(prepared: Prepared): void {
    const key = transactionKey(prepared.id);
    assert(!this.#prepared.has(key) && !this.#ended.has(key), `attempt ${key} is prepared twice`);
    this.#add(key, prepared);
  }

  #add(key: TransactionKey, prepared: Prepared): void {
    this.#prepared.set(key, prepared);
    if (prepared.intents.length > 0) this.#writing.set(key, prepared);
    for (const intent of prepared.intents) {
      const mapKey = toMapKey(intent.key);
      assert(!this.#byKey.has(mapKey), 'a key has two intents');
      this.#byKey.set(mapKey, prepared);
    }
    this.#bytes += bytesOf(prepared);
  }

  /** Apply only: the attempt is decided. Answers with what was prepared, if it was. */
  resolve(id: TransactionId, start: Timestamp, now: Timestamp): Prepared | undefined {
    const key = transactionKey(id);
    const prepared = this.#prepared.get(key);
    if (prepared !== undefined) {
      this.#prepared.delete(key);
      this.#writing.delete(key);
      for (const intent of prepared.intents) this.#byKey.delete(toMapKey(intent.key));
      this.#bytes -= bytesOf(prepared);
    }
    this.#forgetEnded(now);
    if (start > this.#refusedUpTo && !mutant('ended-attempts-forgotten')) this.#ended.set(key, start);
    return prepared;
  }

  /** Drops what began too long ago to be prepared again, and the oldest of what is too much. */
  #forgetEnded(now: Timestamp): void {
    this.#refusedUpTo = Math.max(this.#refusedUpTo, earlierBy(now, this.#limits.life));
    for (const [key, start] of this.#ended) {
      if (start > this.#refusedUpTo && this.#ended.size < this.#limits.endedMax) return;
      this.#ended.delete(key);
      this.#refusedUpTo = Math.max(this.#refusedUpTo, start);
    }
  }

  freeze(): FrozenParticipant {
    return {
      refusedUpTo: this.#refusedUpTo,
      prepared: [...this.#prepared.values()],
      ended: [...this.#ended].map(([key, start]) => ({ key, start })),
    };
  }

  /** Adds a part of a frozen one, in its order, to one that is being restored. */
  restore({ refusedUpTo, prepared, ended }: FrozenParticipant): void {
    this.#refusedUpTo = Math.max(this.#refusedUpTo, refusedUpTo);
    for (const each of prepared) this.#add(transactionKey(each.id), each);
    for (const { key, start } of ended) this.#ended.set(key, start);
  }
}

function earlierBy(now: Timestamp, span: number): Timestamp {
  return Math.max(0, now - span);
}

function bytesOf({ intents, reads, ranges }: Prepared): number {
  let bytes = PREPARED_BYTES;
  for (const { key, value } of intents) bytes += INTENT_BYTES + key.length + value.length;
  for (const key of reads) bytes += INTENT_BYTES + key.length;
  for (const { start, end } of ranges) bytes += INTENT_BYTES + start.length + end.length;
  return bytes;
}
