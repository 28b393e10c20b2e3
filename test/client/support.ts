import { createNetwork } from '../../src/env/real/network.js';
import { systemClock } from '../../src/env/real/clock.js';
import { systemTimers } from '../../src/env/real/timers.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { Server } from '../../src/env/network.js';
import { toMapKey } from '../../src/lib/bytes.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { HybridClock } from '../../src/mvcc/timestamp.js';
import type { Condition, KeyRange, RangeCondition, Record, Version } from '../../src/bucket/requests.js';
import { bucketOf, type Placement } from '../../src/placement/map.js';
import type { Answer, NodeHandle, Operation, OperationContext } from '../../src/router/operations.js';
import { PipelineServer } from '../../src/router/pipeline-server.js';
import { silentLog } from '../router/support.js';

const BUCKETS = 16;

/** The keys of all buckets in memory, with all their versions, newest first. */
class Store {
  readonly keys = new Map<string, { readonly key: Buffer; readonly versions: Version[] }>();
  readonly clock = new HybridClock(() => Date.now(), 1000);

  at(key: Buffer, timestamp: number): Record | undefined {
    const version = this.keys.get(toMapKey(key))?.versions.find((each) => each.version <= timestamp);
    return version === undefined || version.deleted ? undefined : { key, value: version.value, version: version.version };
  }

  /** The last change in a range since a timestamp; 0 if there is none. */
  changedIn({ range, since }: RangeCondition): number {
    const keys = [...this.keys.values()].filter(({ key }) => inRange(key, range));
    const last = Math.max(0, ...keys.map(({ versions }) => versions[0]?.version ?? 0));
    return last > since ? last : 0;
  }

  add(key: Buffer, version: Version): void {
    const known = this.keys.get(toMapKey(key));
    if (known === undefined) this.keys.set(toMapKey(key), { key, versions: [version] });
    else known.versions.unshift(version);
  }

  holds(condition: Condition): boolean {
    if (condition.kind === 'unchanged') return this.changedIn(condition) === 0;
    const record = this.at(condition.key, Infinity);
    switch (condition.kind) {
      case 'exists':
        return record !== undefined;
      case 'absent':
        return record === undefined;
      case 'version':
        return (record?.version ?? 0) === condition.version;
      case 'value':
        return record?.value.equals(condition.value) === true;
    }
  }
}

function inRange(key: Buffer, { start, end }: KeyRange): boolean {
  return key.compare(start) >= 0 && (end.length === 0 || key.compare(end) < 0);
}

/** A node that leads the buckets with its parity, over a store that it shares with the other. */
class StoreNode implements NodeHandle {
  readonly id: number;
  readonly #store: Store;

  constructor(id: number, store: Store) {
    this.id = id;
    this.#store = store;
  }

  async execute<O extends Operation>(operation: O, { hops }: OperationContext): Promise<Answer<O['kind']>> {
    return this.#answer(operation, hops + 1);
  }

  #answer(operation: Operation, hops: number): Answer {
    const store = this.#store;
    const now = store.clock.now();
    switch (operation.kind) {
      case 'write': {
        const { conditions, mutations } = operation.request;
        const served = { node: this.id, timestamp: now, consistency: 'linearizable' as const, hops };
        const failedCondition = conditions.findIndex((condition) => !store.holds(condition));
        const failed = conditions[failedCondition];
        if (failed !== undefined) {
          const failedVersion =
            failed.kind === 'unchanged' ? store.changedIn(failed) : (store.at(failed.key, Infinity)?.version ?? 0);
          return { result: { applied: false, timestamp: now, failedCondition, failedVersion }, served };
        }
        for (const mutation of mutations) {
          const deleted = mutation.kind === 'delete';
          const value = mutation.kind === 'put' ? Buffer.from(mutation.value) : Buffer.alloc(0);
          store.add(Buffer.from(mutation.key), { version: now, deleted, value });
        }
        return { result: { applied: true, timestamp: now, failedCondition: -1, failedVersion: 0 }, served };
      }
      case 'get': {
        const { kind } = operation.consistency;
        const timestamp = operation.consistency.kind === 'asOf' ? operation.consistency.timestamp : now;
        const served = { node: this.id, timestamp, consistency: kind, hops };
        return { result: { record: store.at(operation.key, timestamp) }, served };
      }
      case 'history': {
        const { from, to, limit } = operation;
        const all = store.keys.get(toMapKey(operation.key))?.versions ?? [];
        const wanted = all.filter(({ version }) => version <= from && version >= to);
        const served = { node: this.id, timestamp: now, consistency: 'linearizable' as const, hops };
        return { result: { versions: wanted.slice(0, limit), more: wanted.length > limit }, served };
      }
      case 'scan': {
        const { buckets, range, reverse, limit, keysOnly, consistency } = operation;
        const timestamp = consistency.kind === 'asOf' ? consistency.timestamp : now;
        const records = [...store.keys.values()]
          .filter(({ key }) => buckets.includes(bucketOf(key, BUCKETS)))
          .filter(({ key }) => inRange(key, range))
          .flatMap(({ key }) => store.at(key, timestamp) ?? [])
          .map((record) => (keysOnly ? { ...record, value: Buffer.alloc(0) } : record))
          .sort((a, b) => a.key.compare(b.key) * (reverse ? -1 : 1));
        const served = { node: this.id, timestamp, consistency: consistency.kind, hops };
        return { result: { records: records.slice(0, limit), more: records.length > limit }, served };
      }
      case 'readTimestamp':
        return { result: { timestamp: now }, served: { node: this.id, timestamp: now, consistency: 'linearizable', hops } };
      case 'changes':
      case 'awaitMark':
        throw new TidemarkError('UNAVAILABLE', 'NOT_HOSTED', 'this store tells no changes');
      default:
        throw new Error(`a client asks for '${operation.kind}'`);
    }
  }
}

/** Two nodes behind real gRPC on loopback, sharing a store in memory. */
export class MemoryCluster {
  readonly bugs: unknown[] = [];
  readonly #servers: Server[] = [];
  #placement: Placement | undefined;

  static async start(): Promise<MemoryCluster> {
    const cluster = new MemoryCluster();
    const store = new Store();
    const clock = systemClock();
    const fatal = (error: unknown): void => void cluster.bugs.push(error);
    const network = createNetwork({ clock, onBug: fatal });
    for (const id of [1, 2]) {
      const pipelines = new PipelineServer({
        env: { clock, timers: systemTimers(), log: silentLog },
        limits: DEFAULT_LIMITS,
        node: id,
        handle: new StoreNode(id, store),
        placement: () => cluster.#placement,
        wallNow: () => store.clock.physicalNow(),
        fatal,
      });
      const accept = pipelines.accept.bind(pipelines);
      const address = '127.0.0.1:0';
      cluster.#servers.push(await network.serve({ address, services: {}, accept: (_, hello, stream) => accept(hello, stream) }));
    }
    const nodes = cluster.#servers.map(({ address }, index) => ({ id: index + 1, address, zone: '', host: '' }));
    const replicas = nodes.map(({ id }) => ({ id, node: id, learner: false }));
    const map = Array.from({ length: BUCKETS }, (_, id) => ({ id, replicas, leader: (id % 2) + 1 }));
    cluster.#placement = { clusterId: 'memory', epoch: 1, buckets: BUCKETS, nodes, map };
    return cluster;
  }

  get endpoints(): string[] {
    return this.#servers.map(({ address }) => address);
  }

  async close(): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.close(0)));
  }
}
