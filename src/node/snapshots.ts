import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Counter, Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import type { SnapshotSource } from '../bucket/snapshot-port.js';
import type { BucketId, NodeId } from '../placement/map.js';
import { Pace } from './pace.js';
import type { SnapshotItem, SnapshotOffer } from './peer-items.js';
import type { Peers } from './peers.js';
import { SnapshotReceiver } from './snapshot-receiver.js';
import { SnapshotSender } from './snapshot-sender.js';
import { abortedItem, type TransferHost } from './snapshot-transfer.js';

/**
 * Moves snapshots of buckets between nodes, over the same streams as all else that peers say.
 *
 *   sender      offer(header) .......... chunk 1  chunk 2  chunk 3 ................. end(count, checksum)
 *   receiver                  taken(0) ............................ taken(1) taken(2) ... taken(3) ..... installed
 *
 * - At most `snapshotChunksInFlightMax` chunks are sent and not yet taken by the receiver's sink: memory is bounded on both
 *   sides, and a slow disk slows its sender down.
 * - The chunks of all transfers from a node are at most `snapshotBytesPerSecond` together, and each gets its share (pace.ts).
 * - Every chunk has a checksum and a number; the end has the count and the checksum of all of them together.
 * - At most `snapshotsAtOnceMax` each way. More to send wait here; more to receive are refused, RESOURCE_EXHAUSTED.
 * - A transfer begins only while there are streams in both directions, and one that ends ends the transfers between the two
 *   nodes: else an answer could be lost unnoticed, and be waited for. They begin again when Raft asks again.
 * - A newer transfer of a bucket to the same node replaces the older one. At the receiver it starts when the older one's sink
 *   has been aborted (or has finished), so a bucket never has two sinks.
 *
 * Not here: what a snapshot holds, and whether it is still wanted; that is the bucket's business behind the two ports.
 */
export interface SnapshotTransferOptions {
  readonly env: Pick<Env, 'clock' | 'timers' | 'random' | 'log' | 'metrics'>;
  readonly limits: Pick<
    Limits,
    | 'snapshotChunkBytes'
    | 'snapshotChunksInFlightMax'
    | 'snapshotsAtOnceMax'
    | 'snapshotBytesPerSecond'
    | 'messageBytesMax'
  >;
  readonly peers: Pick<Peers, 'send' | 'flush' | 'hears' | 'onLost'>;
  /** Where an offered snapshot should go; undefined if it is not wanted. */
  accept: TransferHost['accept'];
  /** A sink or a source failed as only a broken disk or a bug makes it: the node must stop. */
  onFatal(error: unknown): void;
  /** How long one half waits for the other's next step. */
  readonly progressMsMax?: number;
}

interface Receiving {
  readonly receiver: SnapshotReceiver;
  readonly done: Promise<void>;
}

export class SnapshotTransfer {
  readonly #options: SnapshotTransferOptions;
  readonly #host: TransferHost;
  readonly #sending = new Map<string, SnapshotSender>();
  /** The newest of each bucket. */
  readonly #receiving = new Map<BucketId, Receiving>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #stopListening: () => void;
  readonly #sent: Counter;
  readonly #received: Counter;
  readonly #bytesSent: Counter;
  #slotsTaken = 0;
  #waiting: SnapshotSender[] = [];
  #nextTransfer: number;
  #flushing = false;
  #closed = false;

  constructor(options: SnapshotTransferOptions) {
    const { env, limits, peers } = options;
    this.#options = options;
    this.#sent = env.metrics.counter('tidemark_snapshots_sent_total', 'Snapshots that a peer has installed from here.');
    this.#received = env.metrics.counter('tidemark_snapshots_received_total', 'Snapshots from peers installed here.');
    this.#bytesSent = env.metrics.counter('tidemark_snapshot_bytes_sent_total', 'Bytes of records in snapshots sent to peers.');
    this.#nextTransfer = 1 + env.random.uint32();
    this.#host = {
      env,
      limits,
      log: env.log,
      pace: new Pace(env, limits.snapshotBytesPerSecond),
      progressMsMax: options.progressMsMax ?? 30_000,
      accept: (from, bucket, header, toReplica) => options.accept(from, bucket, header, toReplica),
      hears: (from) => options.peers.hears(from),
      post: (to, item) => this.#post(to, item),
      fatal: (error) => options.onFatal(error),
    };
    this.#stopListening = peers.onLost((nodeId, error) => this.#onLost(nodeId, error));
  }

  /**
   * Sends a snapshot, which `open` makes when its turn has come; fulfilled when the receiver has it durably installed. Rejects
   * with a TidemarkError; then the receiver may still have installed it if the outcome was on its way. What was opened is closed
   * in any case.
   */
  async send(to: NodeId, bucket: BucketId, toReplica: number, open: () => SnapshotSource): Promise<void> {
    if (this.#closed) throw stopping();
    const key = `${to}/${bucket}`;
    const transfer = this.#nextTransfer++;
    const sender = new SnapshotSender(this.#host, { to, bucket, transfer, toReplica, open });
    this.#sending.get(key)?.abort(replaced(bucket));
    this.#sending.set(key, sender);
    this.#takeSlot(sender);
    const running = sender.run();
    this.#track(running);
    try {
      await running;
      this.#sent.add();
    } finally {
      this.#giveSlot(sender);
      if (this.#sending.get(key) === sender) this.#sending.delete(key);
    }
  }

  /** Takes what a peer said about a transfer. What belongs to none that is under way is ignored. */
  onItem(from: NodeId, item: SnapshotItem): void {
    if (this.#closed) return;
    switch (item.kind) {
      case 'snapshotOffer':
        this.#onOffer(from, item);
        break;
      case 'snapshotChunk':
      case 'snapshotEnd':
        this.#receiverOf(from, item)?.arrived(item);
        break;
      case 'snapshotTaken':
        this.#senderOf(from, item)?.taken(item.sequence);
        break;
      case 'snapshotInstalled':
        this.#senderOf(from, item)?.installed();
        break;
      case 'snapshotAborted':
        if (item.by === 'sender') this.#receiverOf(from, item)?.aborted(item);
        else this.#senderOf(from, item)?.aborted(item);
        break;
    }
  }

  /** Ends all transfers; fulfilled when no source or sink is in use any more. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#stopListening();
    for (const sender of this.#sending.values()) sender.abort(stopping());
    for (const { receiver } of this.#receiving.values()) receiver.abort(stopping());
    await Promise.allSettled(this.#running);
  }

  #onOffer(from: NodeId, offer: SnapshotOffer): void {
    const former = this.#receiving.get(offer.bucket);
    if (former === undefined && this.#receiving.size >= this.#options.limits.snapshotsAtOnceMax) {
      const message = `this node receives ${this.#receiving.size} snapshots already`;
      this.#post(from, abortedItem(offer, 'receiver', { code: 'RESOURCE_EXHAUSTED', reason: 'SNAPSHOTS_BUSY', message }));
      return;
    }
    former?.receiver.abort(replaced(offer.bucket));
    const receiver = new SnapshotReceiver(this.#host, from, offer);
    const done = receiver.run(mutant('snapshots-overlap') ? undefined : former?.done).then((installed) => {
      if (installed) this.#received.add();
      if (this.#receiving.get(offer.bucket)?.receiver === receiver) this.#receiving.delete(offer.bucket);
    });
    this.#receiving.set(offer.bucket, { receiver, done });
    this.#track(done);
  }

  #receiverOf(from: NodeId, item: SnapshotItem): SnapshotReceiver | undefined {
    const receiver = this.#receiving.get(item.bucket)?.receiver;
    return receiver?.peer === from && receiver.transfer === item.transfer ? receiver : undefined;
  }

  #senderOf(to: NodeId, item: SnapshotItem): SnapshotSender | undefined {
    const sender = this.#sending.get(`${to}/${item.bucket}`);
    return sender?.transfer === item.transfer ? sender : undefined;
  }

  #takeSlot(sender: SnapshotSender): void {
    if (this.#slotsTaken >= this.#options.limits.snapshotsAtOnceMax) {
      this.#waiting.push(sender);
      return;
    }
    this.#slotsTaken += 1;
    sender.giveSlot();
  }

  #giveSlot(sender: SnapshotSender): void {
    if (!sender.hasSlot) {
      this.#waiting = this.#waiting.filter((one) => one !== sender);
      return;
    }
    const next = this.#waiting.shift();
    if (next === undefined) this.#slotsTaken -= 1;
    else next.giveSlot();
  }

  #onLost(nodeId: NodeId, error: TidemarkError): void {
    // Who waits for a slot has sent nothing yet.
    for (const sender of this.#sending.values()) if (sender.peer === nodeId && sender.hasSlot) sender.abort(error);
    for (const { receiver } of this.#receiving.values()) if (receiver.peer === nodeId) receiver.abort(error);
  }

  #post(to: NodeId, item: SnapshotItem): boolean {
    if (item.kind === 'snapshotChunk') this.#bytesSent.add(item.data.length);
    if (!this.#flushing) {
      this.#flushing = true;
      this.#options.env.timers.turnEnd(() => {
        this.#flushing = false;
        this.#options.peers.flush();
      });
    }
    return this.#options.peers.send(to, item);
  }

  #track(promise: Promise<unknown>): void {
    const ended = (): void => void this.#running.delete(promise);
    this.#running.add(promise);
    promise.then(ended, ended);
  }
}

function replaced(bucket: BucketId): TidemarkError {
  const message = `a newer snapshot of bucket ${bucket} took the place of this one`;
  return new TidemarkError('ABORTED', 'SNAPSHOT_REPLACED', message, { retriable: true });
}

function stopping(): TidemarkError {
  return new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', 'the node is stopping', { retriable: true });
}
