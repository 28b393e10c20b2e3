import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';

/** Small records that a node keeps about itself carry a checksum in front, as all others do. */
export const CRC_BYTES = 4;

export function seal(body: Bytes): Bytes {
  const out = Buffer.allocUnsafe(CRC_BYTES + body.length);
  body.copy(out, CRC_BYTES);
  return sealInPlace(out);
}

/** Puts the checksum into the first bytes of a record that was made with room for it. */
export function sealInPlace(out: Bytes): Bytes {
  out.writeUInt32BE(crc32(out.subarray(CRC_BYTES)), 0);
  return out;
}

export function isSealed(data: Bytes): boolean {
  return data.length >= CRC_BYTES && data.readUInt32BE(0) === crc32(data.subarray(CRC_BYTES));
}

/** Throws DATA_LOSS / STATE_CORRUPT if it is not what was sealed. `what` it is, for the message. */
export function unseal(data: Bytes, what: string): Bytes {
  if (isSealed(data)) return data.subarray(CRC_BYTES);
  throw new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', `${what} fails its checksum`);
}
