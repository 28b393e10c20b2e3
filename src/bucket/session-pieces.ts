import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { readUint64, writeUint64 } from '../lib/ordered.js';
import type { Timestamp } from './requests.js';
import { countOf, RESULT_FIELDS, type FrozenSessions, type Session, type Sessions } from './sessions.js';

/**
 * A bucket's sessions as bytes, in pieces: what a checkpoint puts on disk and a snapshot sends. A piece takes about a
 * millisecond to make or to read, however many sessions there are, so neither holds up the event loop.
 *
 *     piece    crc u32, format u8, last u8, number u32, horizon u64, sessions
 *     session  id u64, lowest u64, last used u64, count u32, results
 *     result   sequence u64, timestamp u64, failed condition i32 (-1: none failed), failed version u64
 *
 * The crc covers everything behind it. Pieces are numbered from 0; there is always a last one, if only an empty one.
 */
const FORMAT = 1;
const HEAD_BYTES = 18;
const SESSION_BYTES = 28;
const RESULT_BYTES = 28;

/** A piece is complete with the session that brings it here. */
const PIECE_BYTES = 64 * 1024;

export class SessionPieces {
  readonly #frozen: FrozenSessions;
  #at = 0;
  #number = 0;
  #done = false;

  constructor(frozen: FrozenSessions) {
    this.#frozen = frozen;
  }

  /** The next piece, of about that many bytes at most; undefined behind the last. */
  next(bytesMax = PIECE_BYTES): Bytes | undefined {
    if (this.#done) return undefined;
    const { sessions, horizon } = this.#frozen;
    const from = this.#at;
    let length = HEAD_BYTES;
    const enough = Math.min(bytesMax, PIECE_BYTES);
    // However little that is, one fits: or there would be no end of pieces.
    for (; this.#at < sessions.length && (length < enough || this.#at === from); this.#at += 1) {
      length += sizeOf(sessions[this.#at]);
    }
    this.#done = this.#at === sessions.length;
    const out = Buffer.allocUnsafe(length);
    out[4] = FORMAT;
    out[5] = this.#done ? 1 : 0;
    out.writeUInt32BE(this.#number, 6);
    writeUint64(out, horizon, 10);
    let offset = HEAD_BYTES;
    for (const session of sessions.slice(from, this.#at)) offset = writeSession(out, session, offset);
    out.writeUInt32BE(crc32(out.subarray(4)), 0);
    this.#number += 1;
    return out;
  }
}

/** Puts pieces together again. */
export class SessionLoader {
  readonly sessions: Sessions;
  #count = 0;
  #complete = false;

  /** Into an empty table. */
  constructor(sessions: Sessions) {
    this.sessions = sessions;
  }

  /** The last piece has come. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Throws DATA_LOSS / STATE_CORRUPT for a piece that is broken or does not follow, leaving a table that must not be used. */
  add(piece: Bytes): void {
    if (piece.length < HEAD_BYTES || piece.readUInt32BE(0) !== crc32(piece.subarray(4))) {
      throw corrupt(`piece ${this.#count} of a bucket's sessions fails its checksum`);
    }
    if (piece[4] !== FORMAT) {
      throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `sessions have format ${piece[4]}, not ${FORMAT}`);
    }
    const number = piece.readUInt32BE(6);
    if (this.#complete || number !== this.#count) {
      throw corrupt(`piece ${number} of a bucket's sessions came where ${this.#complete ? 'none' : this.#count} was due`);
    }
    this.sessions.restore(readUint64(piece, 10), readSessions(piece));
    this.#count += 1;
    this.#complete = piece[5] === 1;
  }
}

function sizeOf(session: Session | undefined): number {
  return SESSION_BYTES + (session === undefined ? 0 : countOf(session)) * RESULT_BYTES;
}

function writeSession(out: Bytes, session: Session, from: number): number {
  const { id, lowest, lastUsed, results, start } = session;
  let offset = writeUint64(out, id, from);
  offset = writeUint64(out, lowest, offset);
  offset = writeUint64(out, lastUsed, offset);
  offset = out.writeUInt32BE(countOf(session), offset);
  for (let at = start; at < results.length; at += RESULT_FIELDS) {
    offset = writeUint64(out, results[at] ?? 0, offset);
    offset = writeUint64(out, results[at + 1] ?? 0, offset);
    offset = out.writeInt32BE(results[at + 2] ?? 0, offset);
    offset = writeUint64(out, results[at + 3] ?? 0, offset);
  }
  return offset;
}

function readSessions(piece: Bytes): Session[] {
  const sessions: Session[] = [];
  let at = HEAD_BYTES;
  while (at < piece.length) {
    const count = at + SESSION_BYTES <= piece.length ? piece.readUInt32BE(at + 24) : Infinity;
    const end = at + SESSION_BYTES + count * RESULT_BYTES;
    if (end > piece.length) throw corrupt('a session ends beyond its piece');
    const results: number[] = [];
    for (let from = at + SESSION_BYTES; from < end; from += RESULT_BYTES) {
      results.push(readUint64(piece, from), readUint64(piece, from + 8));
      results.push(piece.readInt32BE(from + 16), readUint64(piece, from + 20));
    }
    const lastUsed: Timestamp = readUint64(piece, at + 16);
    sessions.push({ id: readUint64(piece, at), lowest: readUint64(piece, at + 8), lastUsed, results, start: 0 });
    at = end;
  }
  return sessions;
}

function corrupt(message: string): TidemarkError {
  return new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', message);
}
