import type { ProgressReply } from '../../src/cli/cluster/settling.js';
import type { TidemarkError } from '../../src/lib/errors.js';
import { TestNetwork } from '../network/support.js';
import { tidemark, type Outcome } from './support.js';

const STILL = { tooFewVoters: 0, tooManyVoters: 0, onDraining: 0, onLost: 0, crowded: 0, short: 0, steps: 0 };

/** What a node that plans answers, one reply after the other, and the last one for ever. */
export class Planner {
  readonly #net = new TestNetwork();
  readonly changes: string[] = [];
  replies: Partial<Omit<ProgressReply, 'wanted'> & { wanted: Partial<ProgressReply['wanted']> }>[] = [{}];
  /** Where each bucket is, as another node knows it, that learns of a later epoch with each answer. */
  voters: readonly (readonly number[])[] = [];
  refusal: TidemarkError | undefined;
  /** With these a node is not removed at first. */
  readonly early: TidemarkError[] = [];
  address = '';
  #asked = 0;
  #looked = 0;

  async start(): Promise<void> {
    const unary = (handle: (request: never) => Promise<object>) => ({ kind: 'unary', handle }) as const;
    const server = await this.#net.serve({
      services: {
        'tidemark.v1.Cluster': {
          Status: unary(async () => ({ clusterId: 'c', epoch: 1, node: 1, buckets: 8, nodes: this.#nodes() })),
          ChangePlacement: unary(async ({ change }: { change: string }) => {
            this.changes.push(change);
            const early = change === 'remove' ? this.early.shift() : undefined;
            if (early !== undefined) throw early;
            return this.#next();
          }),
          Buckets: unary(async () => this.#placed()),
          PlacementProgress: unary(async () => this.#next()),
        },
      },
    });
    this.address = server.address;
  }

  #nodes(): object[] {
    return [{ id: 1, address: this.address, zone: '', host: '', reachable: true, replicas: 8, leaders: 8 }];
  }

  #placed(): object {
    const nodes = this.voters[Math.min(this.#looked, this.voters.length - 1)] ?? [];
    this.#looked += 1;
    const replicas = nodes.map((node) => ({ id: node, node, learner: false }));
    return { epoch: this.#looked, buckets: [{ bucket: { id: 7, replicas, leader: 0 }, local: null }] };
  }

  #next(): object {
    if (this.refusal !== undefined) throw this.refusal;
    const reply = this.replies[Math.min(this.#asked, this.replies.length - 1)];
    this.#asked += 1;
    const nodes = [1, 5].map((id) => ({ id, replicas: 0, draining: id === 5 }));
    const placement = { epoch: 1, replicas: 3, bucketReplicas: [], nodes, moving: [], unreachable: [] };
    return { ...placement, ...reply, wanted: { ...STILL, ...reply?.wanted } };
  }

  run(command: string, ...args: string[]): Promise<Outcome> {
    return tidemark(['cluster', command, '--endpoint', this.address, '--timeout', '3s', ...args]);
  }

  close(): Promise<void> {
    return this.#net.close();
  }
}
