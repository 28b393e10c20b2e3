import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';

/** Small records that a node keeps about itself carry a checksum in front, as all others do. */
const CRC_BYTES = 4;

export function seal(body: Bytes): Bytes {
  const out = Buffer.allocUnsafe(CRC_BYTES + body.length);
  out.writeUInt32BE(crc32(body), 0);
  body.copy(out, CRC_BYTES);
  return out;
}

/** Throws DATA_LOSS / STATE_CORRUPT if it is not what was sealed. `what` it is, for the message. */
export function unseal(data: Bytes, what: string): Bytes {
  const body = data.subarray(CRC_BYTES);
  if (data.length >= CRC_BYTES && data.readUInt32BE(0) === crc32(body)) return body;
  throw new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', `${what} fails its checksum`);
}
