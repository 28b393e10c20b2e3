import { crc32 } from 'node:zlib';
import { pack, unpack } from 'msgpackr';
import type { Limits } from '../env/limits.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { later } from '../mvcc/timestamp.js';
import type { BucketId } from '../placement/map.js';
import { Home } from '../txn/home.js';
import { Participant, type EndedAttempt, type FrozenParticipant, type ParticipantLimits } from '../txn/participant.js';
import type { CommittedRecord } from '../txn/transaction.js';
import { preparedFromTuple, preparedToTuple, type PreparedTuple } from './effects.js';
import { SessionLoader, SessionPieces } from './session-pieces.js';
import { sessionLimitsOf, Sessions, type SessionLimits } from './sessions.js';

/**
 * The small tables of a bucket's replicated state: results of recent requests, what is prepared here, and what is committed here
 * and not resolved everywhere. They live in memory, and are written now and then in pieces (a checkpoint); the log is kept from
 * there on, and replaying it restores them. A snapshot sends the same pieces.
 *
 *     piece         kind u8, then by kind:
 *     0 sessions    as session-pieces.ts says
 *     1 transactions  crc u32, format u8, last u8, number u32, msgpack [refused up to, prepared, ended, committed]
 *
 * Sessions come first, and there is always a last piece of transactions, if only an empty one.
 */
export interface TableLimits {
  readonly sessions: SessionLimits;
  readonly participant: ParticipantLimits;
}

export function tableLimitsOf(limits: Limits): TableLimits {
  return {
    sessions: sessionLimitsOf(limits),
    participant: { life: later(0, limits.transactionLifeMs), endedMax: limits.endedAttemptsPerBucketMax },
  };
}

export class Tables {
  readonly sessions: Sessions;
  readonly participant: Participant;
  readonly home = new Home();

  constructor(limits: TableLimits) {
    this.sessions = new Sessions(limits.sessions);
    this.participant = new Participant(limits.participant);
  }

  /** What they take in memory, about. */
  get bytes(): number {
    return this.sessions.bytes + this.participant.bytes + (this.participant.endedCount + this.home.count) * ENDED_BYTES;
  }
}

const ENDED_BYTES = 128;
const FORMAT = 1;
const KIND_SESSIONS = 0;
const KIND_TRANSACTIONS = 1;
const HEAD_BYTES = 11;
/** A piece is complete with the item that brings it here. */
const PIECE_BYTES = 64 * 1024;

type Item =
  | { readonly kind: 'prepared'; readonly tuple: PreparedTuple; readonly bytes: number }
  | { readonly kind: 'ended'; readonly ended: EndedAttempt }
  | { readonly kind: 'committed'; readonly record: CommittedRecord };
type CommittedTuple = [session: number, sequence: number, attempt: number, start: number, timestamp: number, to: BucketId[]];
type PieceTuple = [
  refusedUpTo: number,
  prepared: PreparedTuple[],
  ended: [key: string, start: number][],
  committed: CommittedTuple[],
];

/** The tables as they are now, as bytes, in pieces of about a millisecond each. */
export class TablePieces {
  readonly #sessions: SessionPieces;
  readonly #refusedUpTo: number;
  readonly #items: Iterator<Item>;
  #number = 0;
  #count = 0;
  #done = false;

  constructor({ sessions, participant, home }: Tables) {
    this.#sessions = new SessionPieces(sessions.freeze());
    const frozen = participant.freeze();
    this.#refusedUpTo = frozen.refusedUpTo;
    this.#items = itemsOf(frozen, home.freeze());
  }

  /** How many were made. */
  get count(): number {
    return this.#count;
  }

  /** The last one was made. */
  get done(): boolean {
    return this.#done;
  }

  /** The next piece, of about that many bytes at most; undefined behind the last. */
  next(bytesMax = PIECE_BYTES): Bytes | undefined {
    if (this.#done) return undefined;
    this.#count += 1;
    const sessions = this.#sessions.next(bytesMax);
    if (sessions !== undefined) return Buffer.concat([Buffer.from([KIND_SESSIONS]), sessions]);
    return this.#transactions(Math.min(bytesMax, PIECE_BYTES));
  }

  #transactions(bytesMax: number): Bytes {
    const tuple: PieceTuple = [this.#refusedUpTo, [], [], []];
    const [, prepared, ended, committed] = tuple;
    for (let bytes = 0; bytes < bytesMax; ) {
      const { value, done } = this.#items.next() as IteratorResult<Item, undefined>;
      if (done === true) {
        this.#done = true;
        break;
      }
      bytes += ENDED_BYTES;
      if (value.kind === 'prepared') {
        prepared.push(value.tuple);
        bytes += value.bytes;
      } else if (value.kind === 'ended') {
        ended.push([value.ended.key, value.ended.start]);
      } else {
        const { id, start, timestamp, participants } = value.record;
        committed.push([id.session, id.sequence, id.attempt, start, timestamp, [...participants]]);
      }
    }
    const body = pack(tuple);
    const out = Buffer.allocUnsafe(HEAD_BYTES + body.length);
    out[0] = KIND_TRANSACTIONS;
    out[5] = FORMAT;
    out[6] = this.#done ? 1 : 0;
    out.writeUInt32BE(this.#number, 7);
    body.copy(out, HEAD_BYTES);
    out.writeUInt32BE(crc32(out.subarray(5)), 1);
    this.#number += 1;
    return out;
  }
}

function* itemsOf({ prepared, ended }: FrozenParticipant, committed: readonly CommittedRecord[]): Generator<Item, undefined> {
  for (const each of prepared) {
    const bytes = each.intents.reduce((sum, { key, value }) => sum + key.length + value.length, 0);
    yield { kind: 'prepared', tuple: preparedToTuple(each), bytes };
  }
  for (const each of ended) yield { kind: 'ended', ended: each };
  for (const record of committed) yield { kind: 'committed', record };
  return undefined;
}

/** Puts pieces together again. */
export class TableLoader {
  readonly tables: Tables;
  readonly #sessions: SessionLoader;
  #number = 0;
  #count = 0;
  #complete = false;

  /** Into empty tables. */
  constructor(tables: Tables) {
    this.tables = tables;
    this.#sessions = new SessionLoader(tables.sessions);
  }

  get count(): number {
    return this.#count;
  }

  /** The last piece has come. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Throws DATA_LOSS / STATE_CORRUPT for a piece that is broken or does not follow, leaving tables that must not be used. */
  add(piece: Bytes): void {
    if (this.#complete) throw corrupt('a piece came behind the last');
    if (piece[0] === KIND_SESSIONS) this.#sessions.add(piece.subarray(1));
    else if (piece[0] === KIND_TRANSACTIONS) this.#addTransactions(piece);
    else throw corrupt(`a piece is of the unknown kind ${piece[0]}`);
    this.#count += 1;
  }

  #addTransactions(piece: Bytes): void {
    if (piece.length < HEAD_BYTES || piece.readUInt32BE(1) !== crc32(piece.subarray(5))) {
      throw corrupt(`piece ${this.#count} fails its checksum`);
    }
    if (piece[5] !== FORMAT) {
      throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `transactions have format ${piece[5]}, not ${FORMAT}`);
    }
    if (!this.#sessions.complete || piece.readUInt32BE(7) !== this.#number) throw corrupt(`piece ${this.#count} does not follow`);
    const [refusedUpTo, prepared, ended, committed] = unpack(piece.subarray(HEAD_BYTES)) as PieceTuple;
    this.#number += 1;
    this.#complete = piece[6] === 1;
    this.tables.participant.restore({
      refusedUpTo,
      prepared: mutant('snapshot-without-intents') ? [] : prepared.map(preparedFromTuple),
      ended: ended.map(([key, start]) => ({ key, start })),
    });
    this.tables.home.restore(
      committed.map(([session, sequence, attempt, start, timestamp, participants]) => {
        return { id: { session, sequence, attempt }, start, timestamp, participants };
      }),
    );
  }
}

function corrupt(what: string): TidemarkError {
  return new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', `of a bucket's tables ${what}`);
}
