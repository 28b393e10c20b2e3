import type { Limits } from '../env/limits.js';
import type { Placement, NodeId } from '../placement/map.js';
import type { Timestamp } from '../bucket/requests.js';
import { later } from '../mvcc/timestamp.js';
import type { Alarm, Alarms } from './alarms.js';
import { cancelledError } from '../lib/cancel.js';
import { TidemarkError, messageOf } from '../lib/errors.js';
import {
  leavesDoubt,
  type Answer,
  type LeaderHint,
  type NodeHandle,
  type Operation,
  type OperationContext,
} from './operations.js';
import type { ToldClock } from './node-clock.js';
import { Pipeline, type PipelineEnv, type PipelineListener } from './pipeline.js';
import type { PlacementCache } from './placement-cache.js';
import { PROTOCOL_VERSION, type Role, type Welcome } from './wire.js';

/**
 * The streams of one router, by address: to its seeds always, to nodes of the placement when they are first asked. A seed
 * that turns out to be a node of the placement is used as such even if the placement gives another address for it, because
 * that one is known to work from here.
 */
export interface ConnectionsOptions {
  readonly env: PipelineEnv;
  readonly limits: Limits;
  readonly alarms: Alarms;
  readonly cache: PlacementCache;
  readonly role: Role;
  readonly seeds: readonly string[];
  /** The node in this process. */
  readonly self?: { readonly node: NodeId; readonly handle: NodeHandle } | undefined;
}

export class Connections implements PipelineListener {
  readonly #options: ConnectionsOptions;
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #byNode = new Map<NodeId, Pipeline>();
  readonly #self: LocalHandle | undefined;
  /** What the latest node that said anything told of its clock. */
  #lastClock: ToldClock | undefined;
  #closed = false;

  constructor(options: ConnectionsOptions) {
    this.#options = options;
    const { self, env, alarms } = options;
    if (self !== undefined) this.#self = new LocalHandle(self.handle, env, alarms);
    options.cache.watch(() => this.#prune());
    for (const seed of options.seeds) this.#pipeline(seed).connect();
  }

  get selfNode(): NodeId {
    return this.#options.self?.node ?? 0;
  }

  /** Undefined if nothing is known about the node. */
  handleOf(node: NodeId): NodeHandle | undefined {
    if (this.#self !== undefined && node === this.selfNode) return this.#self;
    return this.#pipelineOf(node);
  }

  /** Whether an operation sent there now has a fair chance of an answer. */
  isHealthy(node: NodeId): boolean {
    if (this.#self !== undefined && node === this.selfNode) return true;
    return this.#pipelineOf(node)?.healthy ?? false;
  }

  /** Whether there is a stream to the node now; if not, one is tried. */
  isConnected(node: NodeId): boolean {
    if (this.#self !== undefined && node === this.selfNode) return true;
    const pipeline = this.#pipelineOf(node);
    pipeline?.connect();
    return pipeline?.welcome !== undefined;
  }

  addressOf(node: NodeId): string {
    return this.#byNode.get(node)?.address ?? this.#options.cache.node(node)?.address ?? 'an unknown address';
  }

  /**
   * The cluster's present time: the median of the clocks of the nodes that are connected, so that a few wrong ones say nothing;
   * else by what a node said last; undefined if none ever has.
   */
  clusterNow(): Timestamp | undefined {
    const nowMs = this.#options.env.clock.monotonicMs();
    const clocks: ToldClock[] = [];
    for (const { clock } of this.#pipelines.values()) if (clock !== undefined) clocks.push(clock);
    if (clocks.length === 0 && this.#lastClock !== undefined) clocks.push(this.#lastClock);
    const times = clocks.map(({ now, atMs }) => later(now, nowMs - atMs)).sort((a, b) => a - b);
    return times[(times.length - 1) >> 1];
  }

  /** Why the seeds cannot be reached, for a message. */
  troubles(): string {
    const lines = this.#options.seeds.map((seed) => {
      const pipeline = this.#pipelines.get(seed);
      return `${seed} (${pipeline?.lastError?.message ?? 'no answer yet'})`;
    });
    return lines.length === 0 ? 'no endpoints are given' : lines.join(', ');
  }

  /** An error that waiting will not cure, if all seeds answer with one. */
  refusal(): TidemarkError | undefined {
    const errors = this.#options.seeds.map((seed) => this.#pipelines.get(seed)?.lastError);
    const permanent = errors.filter((error) => error !== undefined && error.code !== 'UNAVAILABLE');
    return permanent.length === errors.length ? permanent[0] : undefined;
  }

  /** No stream is opened any more, whatever is still under way. */
  close(): void {
    this.#closed = true;
    for (const pipeline of this.#pipelines.values()) pipeline.close();
    this.#pipelines.clear();
    this.#byNode.clear();
  }

  welcome(pipeline: Pipeline, welcome: Welcome): void {
    this.#options.cache.checkCluster(welcome.clusterId, pipeline.address);
    for (const [node, known] of this.#byNode) {
      if (known === pipeline && node !== welcome.node) this.#byNode.delete(node);
    }
    this.#byNode.set(welcome.node, pipeline);
    this.#lastClock = pipeline.clock ?? this.#lastClock;
  }

  placement(pipeline: Pipeline, placement: Placement): void {
    this.#options.cache.learn(placement, pipeline.address);
  }

  leaders(_pipeline: Pipeline, hints: readonly LeaderHint[]): void {
    for (const hint of hints) this.#options.cache.hint(hint);
  }

  /**
   * The stream on which the node has introduced itself, else the one to its address in the placement. Without an address there
   * (a sidecar knows none that holds for all its callers) it can be reached only where it was.
   */
  #pipelineOf(node: NodeId): Pipeline | undefined {
    if (this.#closed) return undefined;
    const known = this.#byNode.get(node);
    if (known?.welcome?.node === node) return known;
    for (const pipeline of this.#pipelines.values()) {
      if (pipeline.welcome?.node === node) return pipeline;
    }
    const address = this.#options.cache.node(node)?.address;
    return address === undefined || address === '' ? known : this.#pipeline(address);
  }

  #pipeline(address: string): Pipeline {
    const existing = this.#pipelines.get(address);
    if (existing !== undefined) return existing;
    const { env, limits, alarms, cache, role } = this.#options;
    const hello = () => ({ protocol: PROTOCOL_VERSION, clusterId: cache.clusterId, role });
    const pipeline = new Pipeline({ env, limits, alarms, address, hello, listener: this });
    this.#pipelines.set(address, pipeline);
    return pipeline;
  }

  /** Closes streams to addresses at which the placement has no node any more. */
  #prune(): void {
    const { cache, seeds } = this.#options;
    const wanted = new Set([...seeds, ...(cache.placement?.nodes.map(({ address }) => address) ?? [])]);
    for (const [address, pipeline] of this.#pipelines) {
      if (wanted.has(address)) continue;
      this.#pipelines.delete(address);
      for (const [node, known] of this.#byNode) {
        if (known === pipeline) this.#byNode.delete(node);
      }
      pipeline.close();
    }
  }
}

/** The node in this very process, which is not trusted to keep deadlines either. */
class LocalHandle implements NodeHandle {
  readonly #handle: NodeHandle;
  readonly #env: PipelineEnv;
  readonly #alarms: Alarms;

  constructor(handle: NodeHandle, env: PipelineEnv, alarms: Alarms) {
    this.#handle = handle;
    this.#env = env;
    this.#alarms = alarms;
  }

  execute<O extends Operation>(operation: O, context: OperationContext): Promise<Answer<O['kind']>> {
    return new Promise((resolve, reject) => {
      const { signal, deadlineMs } = context;
      const outcome = leavesDoubt(operation) ? 'unknown' : 'none';
      let alarm: Alarm | undefined = undefined;
      const finish = (): void => {
        alarm?.cancel();
        signal?.removeEventListener('abort', abort);
      };
      const abort = (): void => {
        finish();
        reject(cancelledError(outcome));
      };
      alarm = this.#alarms.at(Math.max(deadlineMs, this.#env.clock.monotonicMs()), () => {
        finish();
        const message = 'this node did not answer in time';
        reject(new TidemarkError('UNAVAILABLE', 'TIMED_OUT', message, { outcome, retriable: true }));
      });
      signal?.addEventListener('abort', abort);
      this.#handle.execute(operation, context).then(
        (answer) => {
          finish();
          resolve(answer);
        },
        (error: unknown) => {
          finish();
          reject(error instanceof Error ? error : new Error(messageOf(error)));
        },
      );
    });
  }
}
