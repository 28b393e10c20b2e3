import { crc32 } from 'node:zlib';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { SnapshotSource } from '../bucket/snapshot-port.js';
import type { BucketId, NodeId } from '../placement/map.js';
import { TransferHalf, type TransferHost } from './snapshot-transfer.js';

/** How long it waits for the end of the installation, once all is sent. */
const INSTALL_MS_MAX = 300_000;

export interface Outgoing {
  readonly to: NodeId;
  readonly bucket: BucketId;
  readonly transfer: number;
  readonly toReplica: number;
  /** Called when the transfer may begin: what waits for its turn holds nothing back, and is then no older than it must be. */
  readonly open: () => SnapshotSource;
}

/** The sending half. Reads the next chunk while those before it are on their way, but at most a window of them. */
export class SnapshotSender extends TransferHalf {
  readonly #toReplica: number;
  readonly #open: () => SnapshotSource;
  #hasSlot = false;
  /** Whether the receiver wants it. */
  #wanted = false;
  #sent = 0;
  #taken = 0;
  #ended = false;
  #installed = false;

  constructor(host: TransferHost, { to, bucket, transfer, toReplica, open }: Outgoing) {
    super(host, to, bucket, transfer);
    this.#toReplica = toReplica;
    this.#open = open;
  }

  get hasSlot(): boolean {
    return this.#hasSlot;
  }

  /** It may begin. */
  giveSlot(): void {
    this.#hasSlot = true;
    this.changed();
  }

  taken(sequence: number): void {
    if (sequence > this.#sent || sequence < this.#taken) return;
    this.#wanted = true;
    this.#taken = sequence;
    this.changed();
  }

  installed(): void {
    if (!this.#ended) return;
    this.#installed = true;
    this.changed();
  }

  /** Fulfilled when the receiver has it durably installed. The source, once it is open, is closed in any case. */
  async run(): Promise<void> {
    let source: SnapshotSource | undefined;
    try {
      await this.until(() => this.#hasSlot);
      source = this.#open();
      await this.#send(source);
    } catch (error) {
      throw this.failed(error, 'sender');
    } finally {
      source?.close();
    }
  }

  async #send(source: SnapshotSource): Promise<void> {
    const { bucket, transfer } = this;
    const { limits, progressMsMax } = this.host;
    const { header } = source;
    const headerBytesMax = limits.messageBytesMax / 2;
    if (header.length > headerBytesMax) {
      const message = `the snapshot of bucket ${bucket} has a header of ${header.length} bytes, over ${headerBytesMax}`;
      throw new TidemarkError('RESOURCE_EXHAUSTED', 'SNAPSHOT_HEADER_TOO_LARGE', message);
    }
    if (!this.host.hears(this.peer)) throw this.unreachable('has no stream to this one, and could not answer');
    this.post({ kind: 'snapshotOffer', bucket, transfer, toReplica: this.#toReplica, header });
    await this.within(progressMsMax, 'answer to the offer', () => this.#wanted);
    let crc = 0;
    for (;;) {
      const data = await source.next(limits.snapshotChunkBytes);
      this.check();
      if (data === undefined) break;
      await this.within(progressMsMax, 'progress', () => this.#sent - this.#taken < limits.snapshotChunksInFlightMax);
      crc = crc32(data, crc);
      await this.#sendInTurn(data);
    }
    this.#ended = true;
    this.post({ kind: 'snapshotEnd', bucket, transfer, chunks: this.#sent, crc });
    await this.within(INSTALL_MS_MAX, 'installation', () => this.#installed);
  }

  async #sendInTurn(data: Bytes): Promise<void> {
    const { bucket, transfer } = this;
    const turn = this.host.pace.take(() => this.changed());
    let bytesSent = 0;
    try {
      await this.until(() => turn.come);
      this.#sent += 1;
      this.post({ kind: 'snapshotChunk', bucket, transfer, sequence: this.#sent, crc: crc32(data), data });
      bytesSent = data.length;
    } finally {
      turn.end(bytesSent);
    }
  }
}
