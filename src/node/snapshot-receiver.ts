import { crc32 } from 'node:zlib';
import { TidemarkError } from '../lib/errors.js';
import type { SnapshotSink } from '../bucket/snapshot-port.js';
import type { NodeId } from '../placement/map.js';
import type { SnapshotChunk, SnapshotEnd, SnapshotOffer } from './peer-items.js';
import { TransferHalf, type TransferHost } from './snapshot-transfer.js';

/**
 * The receiving half. Calls its sink one call at a time, in order, and acknowledges a chunk when the sink has taken it. An
 * installation that has begun is not interrupted.
 */
export class SnapshotReceiver extends TransferHalf {
  readonly #offer: SnapshotOffer;
  readonly #queue: (SnapshotChunk | SnapshotEnd)[] = [];

  constructor(host: TransferHost, from: NodeId, offer: SnapshotOffer) {
    super(host, from, offer.bucket, offer.transfer);
    this.#offer = offer;
  }

  arrived(item: SnapshotChunk | SnapshotEnd): void {
    // The end may follow a full window.
    if (this.#queue.length > this.host.limits.snapshotChunksInFlightMax) {
      this.abort(broken('more chunks came than were acknowledged'));
      return;
    }
    this.#queue.push(item);
    this.changed();
  }

  /**
   * Tells whether it was installed; never rejects. `former` is fulfilled when an older transfer of the same bucket has let go
   * of it.
   */
  async run(former: Promise<unknown> | undefined): Promise<boolean> {
    let sink: SnapshotSink | undefined;
    try {
      await former;
      this.check();
      const { bucket, header, toReplica } = this.#offer;
      sink = await this.host.accept(this.peer, bucket, header, toReplica);
      this.check();
      if (sink === undefined) {
        const message = `the receiver has no use for this snapshot of bucket ${bucket}`;
        throw new TidemarkError('FAILED_PRECONDITION', 'SNAPSHOT_NOT_WANTED', message);
      }
      await this.#receive(sink);
      return true;
    } catch (cause) {
      const error = this.failed(cause, 'receiver');
      const fields = { peer: this.peer, bucket: this.bucket, code: error.code, reason: error.reason, error: error.message };
      const atFault = error.code === 'INVALID_ARGUMENT' || error.code === 'DATA_LOSS';
      this.host.log[atFault ? 'error' : 'info']('a snapshot was not received', fields);
      await sink?.abort().catch((broken: unknown) => this.host.fatal(broken));
      return false;
    }
  }

  async #receive(sink: SnapshotSink): Promise<void> {
    const { bucket, transfer } = this;
    let sequence = 0;
    let crc = 0;
    for (;;) {
      this.post({ kind: 'snapshotTaken', bucket, transfer, sequence });
      await this.within(this.host.progressMsMax, 'next chunk', () => this.#queue.length > 0);
      const item = this.#queue.shift();
      if (item === undefined) continue;
      if (item.kind === 'snapshotEnd') {
        if (item.chunks !== sequence || item.crc !== crc) {
          throw broken(`${sequence} chunks came with checksum ${crc}, sent were ${item.chunks} with ${item.crc}`);
        }
        await sink.finish();
        // Whoever sent it may be gone: the installation counts all the same.
        this.host.post(this.peer, { kind: 'snapshotInstalled', bucket, transfer });
        return;
      }
      sequence += 1;
      if (item.sequence !== sequence) throw broken(`chunk ${item.sequence} came where ${sequence} was due`);
      if (crc32(item.data) !== item.crc) throw broken(`the checksum of chunk ${sequence} does not match`);
      crc = crc32(item.data, crc);
      await sink.write(item.data);
    }
  }
}

function broken(message: string): TidemarkError {
  return new TidemarkError('DATA_LOSS', 'SNAPSHOT_BROKEN', `broken snapshot transfer: ${message}`, { retriable: true });
}
