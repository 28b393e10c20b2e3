import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf, TidemarkError, type StatusCode } from '../lib/errors.js';
import type { Env, Logger } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import type { SnapshotSink } from '../bucket/snapshot-port.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Pace } from './pace.js';
import type { SnapshotAborted, SnapshotItem } from './peer-items.js';

type MaybePromise<T> = T | Promise<T>;

/** What both halves of a transfer ask of the class that runs them. */
export interface TransferHost {
  readonly env: Pick<Env, 'timers'>;
  readonly limits: Pick<Limits, 'snapshotChunkBytes' | 'snapshotChunksInFlightMax' | 'messageBytesMax'>;
  readonly log: Logger;
  /** Of the chunks of all transfers together. */
  readonly pace: Pace;
  readonly progressMsMax: number;
  accept(from: NodeId, bucket: BucketId, header: Bytes, toReplica: number): MaybePromise<SnapshotSink | undefined>;
  /** Whether the peer can answer. */
  hears(from: NodeId): boolean;
  /** False: the peer is out of reach. */
  post(to: NodeId, item: SnapshotItem): boolean;
  fatal(error: unknown): void;
}

/**
 * One half of a transfer: a task that waits for what the other half says. Whatever ends it early is noted by `abort`, and
 * thrown where the task waits; so the task alone decides what is still to be cleaned up, one step at a time.
 */
export abstract class TransferHalf {
  readonly peer: NodeId;
  readonly bucket: BucketId;
  readonly transfer: number;
  protected readonly host: TransferHost;
  #failure: TidemarkError | undefined;
  #wake: (() => void) | undefined;
  /** What the other half gave up with: it knows, and nothing is broken here. */
  #told: TidemarkError | undefined;

  constructor(host: TransferHost, peer: NodeId, bucket: BucketId, transfer: number) {
    this.host = host;
    this.peer = peer;
    this.bucket = bucket;
    this.transfer = transfer;
  }

  /** Ends the task with this error as soon as it waits for the other half. The first reason counts. */
  abort(error: TidemarkError): void {
    this.#failure ??= error;
    this.changed();
  }

  /** The other half gave up. */
  aborted({ code, reason, message }: SnapshotAborted): void {
    const text = `node ${this.peer} ended the transfer of bucket ${this.bucket}: ${message}`;
    this.#told = new TidemarkError(code, reason, text, { retriable: RETRIABLE.has(code) });
    this.abort(this.#told);
  }

  protected changed(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  protected check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Waits until `done`, however long that takes. Throws the reason of an abort. */
  protected async until(done: () => boolean): Promise<void> {
    this.check();
    while (!done()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.check();
    }
  }

  /** Waits until `done`, at most so long. */
  protected async within(msMax: number, what: string, done: () => boolean): Promise<void> {
    const timer = this.host.env.timers.after(msMax, () => {
      const message = `bucket ${this.bucket}, node ${this.peer}: no ${what} within ${msMax} ms`;
      this.abort(new TidemarkError('DEADLINE_EXCEEDED', 'SNAPSHOT_STALLED', message, { retriable: true }));
    });
    try {
      await this.until(done);
    } finally {
      timer.cancel();
    }
  }

  protected post(item: SnapshotItem): void {
    if (!this.host.post(this.peer, item)) throw this.unreachable('is out of reach');
  }

  protected unreachable(how: string): TidemarkError {
    return new TidemarkError('UNAVAILABLE', 'PEER_UNREACHABLE', `node ${this.peer} ${how}`, { retriable: true });
  }

  /** Tells the other half of the failure, unless it is the one that told. Returns what to report for `cause`. */
  protected failed(cause: unknown, by: 'sender' | 'receiver'): TidemarkError {
    const error = isTidemarkError(cause)
      ? cause
      : new TidemarkError('INTERNAL', 'SNAPSHOT_FAILED', messageOf(cause), { cause });
    const isOwn = !isTidemarkError(cause) || DISK_FAILURES.has(error.reason) || (by === 'sender' && error.code === 'DATA_LOSS');
    if (isOwn && cause !== this.#told) this.host.fatal(cause);
    if (this.#told === undefined) {
      const { code, reason, message } = error;
      this.host.post(this.peer, abortedItem(this, by, { code, reason, message }));
    }
    return error;
  }
}

const RETRIABLE: ReadonlySet<StatusCode> = new Set(['UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'ABORTED', 'DEADLINE_EXCEEDED']);
const DISK_FAILURES: ReadonlySet<string> = new Set(['DISK_FAILED', 'DISK_FULL']);

export function abortedItem(
  { bucket, transfer }: { readonly bucket: BucketId; readonly transfer: number },
  by: 'sender' | 'receiver',
  why: { readonly code: StatusCode; readonly reason: string; readonly message: string },
): SnapshotAborted {
  return { kind: 'snapshotAborted', bucket, transfer, by, ...why };
}
