import type { Logger } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf } from '../lib/errors.js';
import type { Replica } from '../bucket/replica.js';
import { sweepSlot } from '../bucket/slots.js';
import { decodeHeader, StagedSnapshot, StateSnapshot } from '../bucket/snapshot.js';
import type { SnapshotSink } from '../bucket/snapshot-port.js';
import type { StateStore } from '../bucket/state-store.js';
import { nodeOfReplica, type BucketId } from '../placement/map.js';
import type { ReplicaId } from '../raft/types.js';
import type { Hosting } from './hosting.js';
import type { LogWriter } from './log-writer.js';
import type { SnapshotTransfer } from './snapshots.js';

/**
 * Snapshots in and out of this node's replicas: takes one where raft wants it, and puts a received one in a replica's place.
 *
 * The order of an install (design rule 5): stage everything in a new slot and sync it; stop the replica; turn the meta record
 * to the new slot, durably; restart the log behind the snapshot, durably; tell raft; go on. A crash between the last two
 * writes leaves a state ahead of its log, which the next start recognises.
 */
export interface InstallOptions {
  readonly hosting: Hosting;
  readonly state: StateStore;
  readonly writer: LogWriter;
  readonly log: Logger;
  readonly transfer: () => SnapshotTransfer;
  /** Resolves when nothing of this replica is on its way to the log. */
  readonly settled: (replica: Replica) => Promise<void>;
  readonly now: () => number;
  readonly onBug: (error: unknown) => void;
}

export class Installs {
  readonly #options: InstallOptions;
  readonly #sending = new Set<string>();

  constructor(options: InstallOptions) {
    this.#options = options;
  }

  /** Sends a snapshot of a replica's present state to a follower, unless one is on its way to it already. */
  send(replica: Replica, to: ReplicaId): void {
    const key = `${replica.bucket}/${to}`;
    if (this.#sending.has(key)) return;
    this.#sending.add(key);
    const source = new StateSnapshot(replica.state);
    const { log, now, transfer } = this.#options;
    const fields = { bucket: replica.bucket, to: nodeOfReplica(to), index: source.meta.index };
    log.info('sending a snapshot', fields);
    void transfer()
      .send(nodeOfReplica(to), replica.bucket, to, source)
      .then(
        () => true,
        (error: unknown) => {
          // It has this much already, perhaps by a snapshot whose end was not heard of here: then its log is to be probed.
          if (isTidemarkError(error) && error.reason === 'SNAPSHOT_NOT_WANTED') return true;
          log.warn('a snapshot was not delivered', { ...fields, error: messageOf(error) });
          return false;
        },
      )
      .then((delivered) => {
        this.#sending.delete(key);
        replica.snapshotSent(to, source.meta.index, delivered, now());
      })
      .catch(this.#options.onBug);
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
    if (replica.installing || !replica.raft.canInstall(staged.meta)) {
      await sweepSlot(state, staged.slot);
      return;
    }
    const oldSlot = replica.state.slot;
    replica.beginInstall();
    await settled(replica);
    if (!replica.raft.canInstall(staged.meta)) {
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
