import type { Bytes } from '../lib/bytes.js';

/**
 * What a bucket gives and takes when its state moves to another node. Neither side knows how the bytes travel; whoever
 * carries them (node/snapshots.ts) guarantees their order and their checksums.
 */
export interface SnapshotSource {
  /** What the receiver must know before the first chunk. */
  readonly header: Bytes;
  /** The next chunk, of about `bytesMax` bytes; undefined behind the last. Not called again before it is fulfilled. */
  next(bytesMax: number): Promise<Bytes | undefined>;
  /** Called exactly once, at the end or at any failure. Releases what the source holds back. */
  close(): void;
}

/** One call at a time: any number of `write`, then exactly one of `finish` and `abort`, which also follows a failed call. */
export interface SnapshotSink {
  /** Takes the bytes, which are the sink's from then on. Fulfilled when it is ready for more. */
  write(chunk: Bytes): Promise<void>;
  /** Fulfilled when all of it is durably installed. */
  finish(): Promise<void>;
  /** Leaves the bucket as it was. Follows a failed `finish`, too. Must not reject. */
  abort(): Promise<void>;
}
