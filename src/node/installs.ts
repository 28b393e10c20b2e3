import type { Logger } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import { sweepSlot } from '../bucket/slots.js';
import { decodeHeader, StagedSnapshot, StateSnapshot } from '../bucket/snapshot.js';
import type { SnapshotSink } from '../bucket/snapshot-port.js';
import type { StateStore } from '../bucket/state-store.js';
import { nodeOfReplica, type BucketId } from '../placement/map.js';
import type { LogIndex, ReplicaId } from '../raft/types.js';
import type { Hosting } from './hosting.js';
import type { LogWriter } from './log-writer.js';
import type { SnapshotTransfer } from './snapshots.js';

/**
 * Snapshots in and out of this node's replicas: takes one where raft wants it, and puts a received one in a replica's place.
 *
 * The order of an install: stage everything in a new slot and sync it; stop the replica; turn the meta record to the new slot,
 * durably; restart the log behind the snapshot, durably; tell raft; go on. A crash between the last two writes leaves a state
 * ahead of its log, which the next start recognises.
 */
export interface InstallOptions {
  readonly hosting: Hosting;
  readonly state: StateStore;
  readonly writer: Pick<LogWriter, 'reset'>;
  readonly log: Logger;
  readonly transfer: () => SnapshotTransfer;
  /** Resolves when nothing of this replica is on its way to the log. */
  readonly settled: (replica: Replica) => Promise<void>;
  readonly now: () => number;
  readonly onBug: (error: unknown) => void;
}

/** Nobody keeps log for a receiver that was not heard of for so long. */
const SILENT_MS = 5000;

interface Receiver {
  readonly to: ReplicaId;
  /** Of the snapshot, when it is made. */
  index: LogIndex;
  delivered: boolean;
}

export class Installs {
  readonly #options: InstallOptions;
  /** For whom, by bucket and receiver: another replica of the bucket that comes to this node later has to send for itself. */
  readonly #sending = new Map<string, Replica>();
  /** Who gets a snapshot, or has got one and is not in step yet; by bucket. */
  readonly #receivers = new Map<BucketId, Receiver[]>();

  constructor(options: InstallOptions) {
    this.#options = options;
  }

  /** Sends a follower a snapshot of the state that a replica has when its turn comes, unless one is on its way to it already. */
  send(replica: Replica, to: ReplicaId): void {
    const { bucket } = replica;
    const key = `${bucket}/${to}`;
    if (this.#sending.get(key) === replica) return;
    this.#sending.set(key, replica);
    const { log, now, transfer } = this.#options;
    const node = nodeOfReplica(to);
    const receiver: Receiver = { to, index: 0, delivered: false };
    void transfer()
      .send(node, bucket, to, () => this.#open(replica, receiver))
      .then(
        () => true,
        (error: unknown) => {
          // It has this much already, perhaps by a snapshot whose end was not heard of here: then its log is to be probed.
          if (isTidemarkError(error) && error.reason === 'SNAPSHOT_NOT_WANTED') return true;
          log.warn('a snapshot was not delivered', { bucket, to: node, index: receiver.index, error: messageOf(error) });
          return false;
        },
      )
      .then((delivered) => {
        if (this.#sending.get(key) === replica) this.#sending.delete(key);
        if (delivered) receiver.delivered = true;
        else this.#forget(bucket, receiver);
        replica.snapshotSent(to, receiver.index, delivered, now());
      })
      .catch(this.#options.onBug);
  }

  #open(replica: Replica, receiver: Receiver): StateSnapshot {
    const { bucket } = replica;
    const isHosted = this.#options.hosting.replicas.get(bucket) === replica;
    // The receiver would give up what the present leader sends it for what comes from here.
    const isWanted = replica.raft.progress().some(({ id, state }) => id === receiver.to && state === 'snapshot');
    if (!isHosted || !isWanted) {
      throw new TidemarkError('UNAVAILABLE', 'SNAPSHOT_OUTDATED', `replica ${receiver.to} wants none of this node any more`);
    }
    const source = new StateSnapshot(replica.state);
    receiver.index = source.meta.index;
    const others = this.#receivers.get(bucket)?.filter((each) => each.to !== receiver.to) ?? [];
    this.#receivers.set(bucket, [...others, receiver]);
    this.#options.log.info('sending a snapshot', { bucket, to: nodeOfReplica(receiver.to), index: receiver.index });
    return source;
  }

  /**
   * The log behind this index stays, beyond the `kept` entries that stay in any case: somebody needs it to go on from a snapshot.
   * Or one that takes longer than those entries last would be followed by the next, for ever. What is `gone`, or has to go, up to
   * that index, is kept for nobody: who needs it gets another snapshot, and nothing that is kept would help until that is made.
   */
  logWantedBehind({ bucket, raft }: Replica, kept: number, gone: LogIndex): LogIndex {
    const { now, log } = this.#options;
    let lowest = Infinity;
    if (mutant('snapshot-chases-log')) return lowest;
    for (const receiver of this.#receivers.get(bucket) ?? []) {
      const peer = raft.progress().find(({ id }) => id === receiver.to);
      const isSilent = peer === undefined || now() - peer.heardMs > SILENT_MS;
      const isInStep = peer?.state === 'replicate' && peer.match + kept / 2 >= raft.lastIndex;
      const behind = Math.max(receiver.index, peer?.match ?? 0);
      if (receiver.delivered && (isSilent || isInStep)) {
        this.#forget(bucket, receiver);
      } else if (behind < gone) {
        this.#forget(bucket, receiver);
        const message = 'the log behind a snapshot had to go before its receiver was in step: another snapshot will follow';
        log.warn(message, { bucket, to: nodeOfReplica(receiver.to), index: behind, gone });
      } else {
        lowest = Math.min(lowest, behind);
      }
    }
    return lowest;
  }

  #forget(bucket: BucketId, receiver: Receiver): void {
    const others = this.#receivers.get(bucket)?.filter((each) => each !== receiver) ?? [];
    if (others.length > 0) this.#receivers.set(bucket, others);
    else this.#receivers.delete(bucket);
  }

  /** Where an arriving snapshot goes; undefined if it is not wanted. Throws INVALID_ARGUMENT if its header cannot be read. */
  accept(bucket: BucketId, header: Bytes): SnapshotSink | undefined {
    const { hosting, state } = this.#options;
    const replica = hosting.replicas.get(bucket);
    if (replica === undefined || replica.installing) return undefined;
    const source = decodeHeader(header);
    const staged = new StagedSnapshot(source, hosting.newSlot(), state, hosting.tableLimits);
    if (!replica.raft.canInstall(staged.meta)) return undefined;
    let ended = false;
    return {
      write: (chunk) => staged.write(chunk),
      finish: async () => {
        staged.checkComplete();
        ended = true;
        await this.#install(replica, staged);
      },
      abort: async () => {
        if (ended) return;
        ended = true;
        await sweepSlot(state, staged.slot);
      },
    };
  }

  async #install(replica: Replica, staged: StagedSnapshot): Promise<void> {
    const { state, writer, log, settled, now } = this.#options;
    const isWanted = (): boolean => replica.raft.canInstall(staged.meta) || mutant('snapshot-goes-back');
    if (replica.installing || !isWanted()) {
      await sweepSlot(state, staged.slot);
      return;
    }
    const oldSlot = replica.state.slot;
    replica.beginInstall();
    await settled(replica);
    if (!isWanted()) {
      replica.endInstall();
      await sweepSlot(state, staged.slot);
      return;
    }
    const { index, term } = staged.meta;
    await staged.flip(replica.state);
    await writer.reset(replica, index, term);
    replica.restored(staged.meta, now());
    replica.endInstall();
    log.info('installed a snapshot', { bucket: replica.bucket, index, term });
    await sweepSlot(state, oldSlot);
  }
}
