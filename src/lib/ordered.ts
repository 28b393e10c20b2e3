import { EMPTY, type Bytes } from './bytes.js';

/**
 * Order-preserving encodings for keys of an ordered store: comparing the encoded bytes compares the values.
 *
 * A byte string is written with 0x00 escaped as 00 FF and closed by 00 01, so that what follows it never mixes into the
 * order, and so that a prefix sorts before its extensions.
 */
export function escape(data: Bytes): Bytes {
  let zeros = 0;
  for (let at = data.indexOf(0); at >= 0; at = data.indexOf(0, at + 1)) zeros += 1;
  const out = Buffer.allocUnsafe(data.length + zeros + 2);
  if (zeros === 0) {
    data.copy(out);
  } else {
    let to = 0;
    for (const byte of data) {
      out[to++] = byte;
      if (byte === 0) out[to++] = 0xff;
    }
  }
  out[out.length - 2] = 0;
  out[out.length - 1] = 1;
  return out;
}

/** Undoes `escape` from `offset` on; `next` is the offset behind the closing mark. */
export function unescape(data: Bytes, offset: number): { value: Bytes; next: number } {
  const parts: Bytes[] = [];
  let start = offset;
  for (let at = data.indexOf(0, start); at >= 0 && at + 1 < data.length; at = data.indexOf(0, start)) {
    const mark = data[at + 1];
    if (mark === 1) {
      const tail = data.subarray(start, at);
      if (parts.length === 0) return { value: tail, next: at + 2 };
      parts.push(tail);
      return { value: Buffer.concat(parts), next: at + 2 };
    }
    if (mark !== 0xff) break;
    parts.push(data.subarray(start, at + 1));
    start = at + 2;
  }
  throw new RangeError('not an escaped byte string');
}

/** The escaped form without its closing mark: where keys that begin with `data` start. */
export function escapePrefix(data: Bytes): Bytes {
  const whole = escape(data);
  return whole.subarray(0, whole.length - 2);
}

/** The smallest byte string above every string that begins with `prefix`; EMPTY when there is none (all 0xff). */
export function prefixEnd(prefix: Bytes): Bytes {
  let length = prefix.length;
  while (length > 0 && prefix[length - 1] === 0xff) length -= 1;
  if (length === 0) return EMPTY;
  const end = Buffer.from(prefix.subarray(0, length));
  end[length - 1] = (end[length - 1] ?? 0) + 1;
  return end;
}

/** The smallest byte string above this one: where a page goes on behind its last key. */
export function keyAfter(key: Bytes): Bytes {
  return Buffer.concat([key, ZERO]);
}

/** Whether a key is in [start, end); an empty end is behind all keys. */
export function isKeyIn(key: Bytes, { start, end }: { readonly start: Bytes; readonly end: Bytes }): boolean {
  return key.compare(start) >= 0 && (end.length === 0 || key.compare(end) < 0);
}

const ZERO = Buffer.alloc(1);
const TWO_32 = 0x1_0000_0000;

/** A whole number up to 2^53 as eight big-endian bytes, without bitwise operators (they would cut it to 32 bits). */
export function writeUint64(out: Bytes, value: number, offset: number): number {
  out.writeUInt32BE(Math.floor(value / TWO_32), offset);
  out.writeUInt32BE(value % TWO_32, offset + 4);
  return offset + 8;
}

export function readUint64(data: Bytes, offset: number): number {
  return data.readUInt32BE(offset) * TWO_32 + data.readUInt32BE(offset + 4);
}
