import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import { Strides } from '../../src/bucket/strides.js';
import { isTidemarkError, type TidemarkError } from '../../src/lib/errors.js';
import { bucketOf, SYSTEM_BUCKET, type NodeId } from '../../src/placement/map.js';
import type { PlacementRecord } from '../../src/placement/record.js';
import type { Router } from '../../src/router/router.js';
import { SimCluster, type SimClusterOptions } from '../../src/sim/cluster.js';

/** Of reads that do not reach far back. */
export const strides = new Strides(() => Promise.resolve());

export const bytes = (text: string): Buffer => Buffer.from(text);

export async function startCluster(options: SimClusterOptions): Promise<SimCluster> {
  const cluster = new SimCluster(options);
  await cluster.start();
  return cluster;
}

export function replicasOf(cluster: SimCluster, bucket: number): { node: NodeId; replica: Replica }[] {
  return cluster.ids.flatMap((node) => {
    const replica = cluster.running(node) ? cluster.node(node).hosting.replicas.get(bucket) : undefined;
    return replica === undefined ? [] : [{ node, replica }];
  });
}

/** The node that leads the bucket of a key and can serve. */
export function leaderOf(cluster: SimCluster, key: string, buckets: number): NodeId {
  const bucket = bucketOf(bytes(key), buckets);
  const leaders = replicasOf(cluster, bucket).filter(({ replica }) => replica.raft.canServe());
  leaders.sort((a, b) => b.replica.raft.term - a.replica.raft.term);
  const [leader] = leaders;
  if (leader === undefined) throw new Error(`nobody leads bucket ${bucket}`);
  return leader.node;
}

/** Changes the placement through whoever leads the system bucket. */
export async function change(cluster: SimCluster, next: (record: PlacementRecord) => PlacementRecord): Promise<PlacementRecord> {
  for (;;) {
    const leader = replicasOf(cluster, SYSTEM_BUCKET).find(({ replica }) => replica.raft.canServe());
    try {
      if (leader !== undefined) {
        return await cluster.settle(cluster.node(leader.node).keeper.system.change(next, cluster.clock(leader.node).monotonicMs() + 2000));
      }
    } catch (error) {
      if (!isTidemarkError(error) || !error.retriable) throw error;
    }
    await cluster.loop.runFor(50);
  }
}

export async function untilLed(cluster: SimCluster, withinMs = 20_000): Promise<void> {
  const led = (): boolean => {
    const buckets = new Set<number>();
    const served = new Set<number>();
    for (const id of cluster.ids) {
      if (!cluster.running(id)) continue;
      for (const { bucket, raft } of cluster.node(id).hosting.replicas.values()) {
        buckets.add(bucket);
        if (raft.canServe()) served.add(bucket);
      }
    }
    return buckets.size === served.size;
  };
  expect(await cluster.loop.runUntil(led, withinMs), 'every bucket has a leader in time').to.equal(true);
}

/** What all replicas of all buckets hold, by bucket; equal lists are equal replicas. */
export function digests(cluster: SimCluster): string[][] {
  return cluster.ids
    .filter((id) => cluster.running(id))
    .map((id) =>
      [...cluster.node(id).hosting.replicas.values()].map(({ bucket, state }) => {
        const { applied, digest, maxTimestamp } = state.meta;
        return `${bucket}: ${applied.index} ${digest} ${maxTimestamp}`;
      }),
    );
}

export async function untilEqual(cluster: SimCluster, withinMs = 20_000): Promise<void> {
  const equal = (): boolean => {
    const [first, ...rest] = digests(cluster).map((list) => list.join());
    return rest.every((other) => other === first);
  };
  await cluster.loop.runUntil(equal, withinMs);
  const [first, ...rest] = digests(cluster);
  for (const other of rest) expect(other).to.deep.equal(first);
}

export async function failure(promise: Promise<unknown>): Promise<TidemarkError> {
  try {
    await promise;
  } catch (error) {
    if (isTidemarkError(error)) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

/** Whether a bucket is one of data. */
export const isData = (bucket: number): boolean => bucket !== SYSTEM_BUCKET;

/**
 * Writers of growing numbers, each to a key of its own, and what was acknowledged of them. A number whose outcome is unknown
 * may be there; one above the last that was tried may not, nor one below the last acknowledged.
 */
export class Counters {
  readonly acknowledged = new Map<string, number>();
  readonly tried = new Map<string, number>();
  readonly errors: TidemarkError[] = [];
  readonly #running: Promise<void>[] = [];
  #stopped = false;

  constructor(cluster: SimCluster, router: Router, keys: readonly string[], pauseMs = 5) {
    for (const key of keys) this.#running.push(this.#count(cluster, router, key, pauseMs));
  }

  async #count(cluster: SimCluster, router: Router, key: string, pauseMs: number): Promise<void> {
    for (let n = 1; !this.#stopped; n += 1) {
      this.tried.set(key, n);
      try {
        await router.put(bytes(key), bytes(String(n)));
        this.acknowledged.set(key, n);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        this.errors.push(error);
      }
      await new Promise<void>((resolve) => {
        cluster.loop.timers.after(pauseMs, resolve);
      });
    }
  }

  get count(): number {
    return [...this.acknowledged.values()].reduce((sum, n) => sum + n, 0);
  }

  async stop(cluster: SimCluster): Promise<void> {
    this.#stopped = true;
    await cluster.settle(Promise.all(this.#running));
  }

  /** Nothing acknowledged is missing and nothing is there that nobody wrote. */
  async check(cluster: SimCluster, router: Router): Promise<void> {
    for (const [key, tried] of this.tried) {
      const { record } = await cluster.settle(router.get(bytes(key)));
      const found = Number(record?.value.toString() ?? 0);
      expect(found, key).to.be.within(this.acknowledged.get(key) ?? 0, tried);
    }
  }
}
