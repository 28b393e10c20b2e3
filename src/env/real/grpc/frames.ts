import type { Bytes } from '../../../lib/bytes.js';
import { messageOf, TidemarkError } from '../../../lib/errors.js';
import { detailOf, errorOfDetail, type ErrorDetail } from './errors.js';
import { messageNamed } from './protos.js';

/**
 * The codec of `Frame` (internal.proto). A frame with a payload is field 1 and nothing else: one byte of tag, the length, the
 * bytes. That is written and read by hand, the payload being copied once on its way out and not at all on its way in. The frame
 * that ends a stream is left to the general codec.
 *
 * Decoded payloads share memory with the message that they came in.
 */
export type Frame = Bytes | End;

/** A client's last frame. */
export interface End {
  readonly error: TidemarkError | undefined;
}

const TAG_PAYLOAD = 0x0a;
const codec = messageNamed('tidemark.v1.Frame');

/** The most bytes that a frame adds to its payload. */
export const FRAME_OVERHEAD = 6;

export function encodeFrame(frame: Frame): Buffer {
  if (!Buffer.isBuffer(frame)) return codec.encode({ end: frame.error === undefined ? {} : { error: detailOf(frame.error) } });
  const header = 1 + varintLength(frame.length);
  const out = Buffer.allocUnsafe(header + frame.length);
  out[0] = TAG_PAYLOAD;
  let at = 1;
  let rest = frame.length;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) out[at++] = (rest % 0x80) + 0x80;
  out[at] = rest;
  frame.copy(out, header);
  return out;
}

/** Bytes that are no frame become an end with INVALID_ARGUMENT / MALFORMED_FRAME. */
export function decodeFrame(data: Buffer): Frame {
  if (data[0] === TAG_PAYLOAD) {
    let length = 0;
    let scale = 1;
    for (let at = 1; at < data.length && at <= 4; at += 1) {
      const byte = data[at] ?? 0;
      length += (byte % 0x80) * scale;
      if (byte < 0x80) {
        if (at + 1 + length === data.length) return data.subarray(at + 1);
        break;
      }
      scale *= 0x80;
    }
  }
  return decodeAny(data);
}

function decodeAny(data: Buffer): Frame {
  try {
    const { payload, end } = codec.decode(data) as { payload: Bytes; end: { error: ErrorDetail | null } | null };
    if (end === null) return payload;
    return { error: end.error === null ? undefined : errorOfDetail(end.error) };
  } catch (error) {
    const message = `${data.length} bytes are no frame: ${messageOf(error)}`;
    return { error: new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_FRAME', message, { cause: error }) };
  }
}

function varintLength(value: number): number {
  let length = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) length += 1;
  return length;
}
