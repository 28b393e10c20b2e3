/** Keys, values and frames inside Tidemark. Always a Buffer: Node's comparisons and conversions on it are native. */
export type Bytes = Buffer;

export const EMPTY: Bytes = Buffer.alloc(0);

/** A Buffer over the same memory. */
export function toBytes(data: Uint8Array): Bytes {
  return Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

/** A string that is equal and ordered exactly as the bytes are: the key of a Map over byte strings. */
export function toMapKey(data: Bytes): string {
  return data.toString('latin1');
}

export function fromMapKey(key: string): Bytes {
  return Buffer.from(key, 'latin1');
}

/** Bytes for an error message: printable as they are, the rest escaped, cut at 64 bytes. */
export function printable(data: Bytes): string {
  const head = data.subarray(0, 64);
  const text = /^[\x20-\x7e]*$/.test(head.toString('latin1')) ? head.toString('latin1') : `0x${head.toString('hex')}`;
  return data.length > head.length ? `${text}… (${data.length} bytes)` : text;
}
