import type { Logger } from '../env/env.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { Replica } from '../bucket/replica.js';
import type { RequestId } from '../bucket/requests.js';
import { SYSTEM_BUCKET } from '../placement/map.js';
import type { PlacementRecord } from '../placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../placement/record-format.js';

/**
 * The system bucket holds membership and placement, as an ordinary versioned key. Its leader writes the initial placement once,
 * and every later one on the condition that nobody else has written meanwhile; every node that hosts it takes newer epochs from
 * its own replica, and tells the others (membership.ts). No read or write of data waits for it: a node serves the replicas that
 * it has on disk, and routers correct each other by redirects.
 */
const PLACEMENT_KEY = Buffer.from('!placement');
const TRIES_MAX = 5;

export interface SystemOptions {
  readonly replica: () => Replica | undefined;
  readonly record: () => PlacementRecord;
  readonly log: Logger;
  /** Gives a command its id, and another one if the bucket does not know its session any more; see Sessions. */
  readonly asRequest: AsRequest;
  readonly adopt: (record: PlacementRecord) => void;
}

export type AsRequest = <T>(execute: (id: RequestId) => Promise<T>) => Promise<T>;

export class SystemBucket {
  readonly #options: SystemOptions;
  #writing = false;
  #seenVersion = 0;

  constructor(options: SystemOptions) {
    this.#options = options;
  }

  /** This node may change the placement. */
  get isLeading(): boolean {
    const replica = this.#options.replica();
    return replica !== undefined && replica.raft.canServe() && replica.state.pointer(PLACEMENT_KEY) !== undefined;
  }

  /** The refusal of whoever does not lead the system bucket, with its best guess of who does. */
  notLeading(): TidemarkError {
    const { replica, record } = this.#options;
    const leader = replica()?.leaderNode ?? record().system.replicas[0]?.node ?? 0;
    const message = 'the placement is changed by the node that leads the system bucket, and that is not this one';
    return new TidemarkError('UNAVAILABLE', 'NOT_LEADER', message, { retriable: true, details: { leader: String(leader) } });
  }

  /** Looks at this node's replica, if it has one: adopts what is newer, and writes what is missing. */
  tick(): void {
    const replica = this.#options.replica();
    if (replica === undefined || replica.installing) return;
    const pointer = replica.state.pointer(PLACEMENT_KEY);
    if (pointer === undefined) {
      if (replica.raft.canServe() && replica.state.meta.config.voters.length > 0) this.#found(replica);
      return;
    }
    if (pointer.timestamp === this.#seenVersion) return;
    this.#seenVersion = pointer.timestamp;
    const record = readRecord(replica)?.record;
    if (record !== undefined) this.#options.adopt(record);
  }

  #found(replica: Replica): void {
    if (this.#writing) return;
    this.#writing = true;
    const absent = { kind: 'absent', key: PLACEMENT_KEY } as const;
    this.#put(replica, this.#options.record(), absent, Infinity)
      .catch((error: unknown) => {
        this.#options.log.debug('the placement was not written yet', { bucket: SYSTEM_BUCKET, error: messageOf(error) });
      })
      .finally(() => {
        this.#writing = false;
      });
  }

  async #put(replica: Replica, record: PlacementRecord, condition: Condition, deadlineMs: number): Promise<boolean> {
    const mutations = [{ kind: 'put', key: PLACEMENT_KEY, value: encodeRecordOf(record) }] as const;
    const write = { conditions: [condition], mutations };
    const { applied } = await this.#options.asRequest((id) => replica.commands.write({ id, ...write }, deadlineMs));
    return applied;
  }

  /**
   * Makes the next placement of the latest one; `next` throws if that cannot be, and nothing is changed then. Only on the node
   * that leads the system bucket: others answer NOT_LEADER, with the detail `leader` if they know who does.
   */
  async change(next: (record: PlacementRecord) => PlacementRecord, deadlineMs: number): Promise<PlacementRecord> {
    const replica = this.#options.replica();
    if (replica === undefined) throw this.notLeading();
    for (let tries = 0; tries < TRIES_MAX; tries += 1) {
      await replica.reads.open({ kind: 'linearizable' }, deadlineMs);
      if (!replica.isLeader) throw this.notLeading();
      const present = readRecord(replica);
      if (present === undefined) throw notFounded();
      const record = next(present.record);
      if (record === present.record) return record;
      const unchanged = { kind: 'version', key: PLACEMENT_KEY, version: present.version } as const;
      if (!(await this.#put(replica, record, unchanged, deadlineMs))) continue;
      this.#options.adopt(record);
      return record;
    }
    const message = 'the placement was changed by others again and again; try again later';
    throw new TidemarkError('ABORTED', 'PLACEMENT_CONTENDED', message, { retriable: true });
  }
}

type Condition =
  | { readonly kind: 'absent'; readonly key: Buffer }
  | { readonly kind: 'version'; readonly key: Buffer; readonly version: number };

function readRecord(replica: Replica): { readonly record: PlacementRecord; readonly version: number } | undefined {
  const found = replica.reads.latest(PLACEMENT_KEY);
  return found && { record: decodeRecordOf(found.value), version: found.version };
}

function notFounded(): TidemarkError {
  const message = 'the cluster has just been founded, and its placement is not written yet; try again in a moment';
  return new TidemarkError('UNAVAILABLE', 'NOT_FOUNDED', message, { retriable: true });
}
