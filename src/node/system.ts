import type { Logger } from '../env/env.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { Replica } from '../bucket/replica.js';
import { TIMESTAMP_MAX } from '../mvcc/timestamp.js';
import { SYSTEM_BUCKET, type BucketInfo, type NodeInfo, type Placement } from '../placement/map.js';
import type { Ticket } from '../router/session.js';

/**
 * The system bucket holds membership and placement, as ordinary versioned keys. Its leader writes the initial placement once;
 * every node that hosts it takes newer epochs from its own replica. No read or write of data waits for it: a node serves the
 * replicas that it has on disk, and routers correct each other by redirects.
 */
const PLACEMENT_KEY = Buffer.from('!placement');
const FORMAT = 1;

interface StoredPlacement {
  readonly format: number;
  readonly clusterId: string;
  readonly epoch: number;
  readonly buckets: number;
  readonly nodes: readonly NodeInfo[];
  readonly map: readonly BucketInfo[];
}

export interface SystemOptions {
  readonly replica: () => Replica | undefined;
  readonly log: Logger;
  readonly beginRequest: () => Ticket;
  readonly adopt: (placement: Placement) => void;
}

export class SystemBucket {
  readonly #options: SystemOptions;
  readonly #initial: Placement;
  #writing = false;
  #seenVersion = 0;

  constructor(options: SystemOptions, initial: Placement) {
    this.#options = options;
    this.#initial = initial;
  }

  /** Looks at this node's replica, if it has one: adopts what is newer, and writes what is missing. */
  tick(): void {
    const replica = this.#options.replica();
    if (replica === undefined || replica.installing || replica.id === 0) return;
    const pointer = replica.state.pointer(PLACEMENT_KEY);
    if (pointer === undefined) {
      if (replica.raft.canServe()) this.#write(replica);
      return;
    }
    if (pointer.timestamp === this.#seenVersion) return;
    this.#seenVersion = pointer.timestamp;
    const view = { timestamp: TIMESTAMP_MAX, served: { node: 0, timestamp: 0, consistency: 'local', hops: 0 } } as const;
    const record = replica.reads.get(PLACEMENT_KEY, view);
    if (record !== undefined) this.#options.adopt(decode(record.value));
  }

  #write(replica: Replica): void {
    if (this.#writing) return;
    this.#writing = true;
    const stored: StoredPlacement = { format: FORMAT, ...this.#initial };
    const ticket = this.#options.beginRequest();
    const request = {
      id: ticket.id,
      conditions: [{ kind: 'absent', key: PLACEMENT_KEY }],
      mutations: [{ kind: 'put', key: PLACEMENT_KEY, value: Buffer.from(JSON.stringify(stored)) }],
    } as const;
    const ended = (): void => {
      this.#writing = false;
      ticket.end();
    };
    replica.write(request).then(
      ended,
      (error: unknown) => {
        ended();
        this.#options.log.debug('the placement was not written yet', { bucket: SYSTEM_BUCKET, error: messageOf(error) });
      },
    );
  }
}

function decode(value: Buffer): Placement {
  const stored = JSON.parse(value.toString()) as StoredPlacement;
  if (stored.format !== FORMAT) {
    throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `the placement has format ${stored.format}, not ${FORMAT}`);
  }
  const { clusterId, epoch, buckets, nodes, map } = stored;
  return { clusterId, epoch, buckets, nodes, map };
}
