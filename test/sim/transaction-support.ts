import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { Condition, Mutation } from '../../src/bucket/requests.js';
import { bucketOf, type BucketId, type NodeId } from '../../src/placement/map.js';
import type { Router } from '../../src/router/router.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import type { SimProcess } from '../../src/sim/process.js';
import type { Outcome } from '../../src/lib/errors.js';
import { isTidemarkError } from '../../src/lib/errors.js';
import { bytes, isData, replicasOf } from './support.js';

/** Keys of different buckets, one for each: the first is in that of home. */
export function keysOf(count: number, buckets: number): string[] {
  const found = new Map<number, string>();
  for (let n = 0; found.size < count; n += 1) {
    const bucket = bucketOf(bytes(`k${n}`), buckets);
    if (!found.has(bucket)) found.set(bucket, `k${n}`);
  }
  return [...found.values()];
}

/** A key whose bucket that node leads, other than those of `taken`. */
export function keyLedBy(cluster: SimCluster, node: NodeId, taken: readonly string[] = []): string {
  const used = new Set(taken.map((key) => bucketOf(bytes(key), cluster.buckets)));
  for (let n = 0; n < 1000; n += 1) {
    const bucket = bucketOf(bytes(`k${n}`), cluster.buckets);
    if (!used.has(bucket) && cluster.node(node).hosting.replicas.get(bucket)?.raft.canServe() === true) return `k${n}`;
  }
  throw new Error(`node ${node} leads too little`);
}

/** The replica that leads the bucket of a key. */
export function leadingReplica(cluster: SimCluster, key: string): Replica {
  const leading = replicasOf(cluster, bucketOf(bytes(key), cluster.buckets)).filter(({ replica }) => replica.raft.canServe());
  leading.sort((a, b) => b.replica.raft.term - a.replica.raft.term);
  return leading[0]?.replica ?? expect.fail(`nobody leads the bucket of ${key}`);
}

export function puts(keys: readonly string[], value: string): Mutation[] {
  return keys.map((key) => ({ kind: 'put', key: bytes(key), value: bytes(value) }));
}

export const absent = (key: string): Condition => ({ kind: 'absent', key: bytes(key) });

export async function valueOf(router: Router, key: string): Promise<string | undefined> {
  return (await router.get(bytes(key))).record?.value.toString();
}

export async function versionsOf(router: Router, key: string): Promise<number> {
  let count = 0;
  for await (const { versions } of router.history(bytes(key))) count += versions.length;
  return count;
}

/** Everything that is prepared, or committed and not resolved everywhere, on any running node. */
export function leftovers(cluster: SimCluster): number {
  let count = 0;
  for (const id of cluster.ids) {
    if (!cluster.running(id)) continue;
    for (const { bucket, state } of cluster.node(id).hosting.replicas.values()) {
      if (isData(bucket)) count += state.participant.count + state.home.count;
    }
  }
  return count;
}

export async function untilSettled(cluster: SimCluster, withinMs = 5000): Promise<void> {
  const settled = await cluster.loop.runUntil(() => leftovers(cluster) === 0, withinMs);
  expect(settled, 'no intent, lock or record outlives its time').to.equal(true);
}

/** Hands the lead of a bucket to the replica on that node, and waits until it serves. */
export async function handOver(cluster: SimCluster, bucket: BucketId, to: NodeId): Promise<Replica> {
  const replicas = replicasOf(cluster, bucket);
  const heir = replicas.find(({ node }) => node === to)?.replica ?? expect.fail(`node ${to} has no replica of ${bucket}`);
  if (heir.raft.canServe()) return heir;
  const leader = replicas.find(({ replica }) => replica.raft.canServe())?.replica ?? expect.fail(`nobody leads bucket ${bucket}`);
  leader.transferLeadership(heir.id);
  expect(await cluster.loop.runUntil(() => heir.raft.canServe(), 5000), 'leadership is handed over').to.equal(true);
  return heir;
}

/** Counts the steps of a process from now on. */
export function stepsOf(process: SimProcess): () => number {
  let steps = 0;
  const enter = process.enter.bind(process);
  process.enter = (callback) => {
    steps += 1;
    enter(callback);
  };
  return () => steps;
}

/** How a call has ended, once it has. */
export interface Ending<T> {
  readonly reply?: T | undefined;
  readonly outcome?: Outcome | undefined;
}

export async function endingOf<T>(call: Promise<T>): Promise<Ending<T>> {
  try {
    return { reply: await call };
  } catch (error) {
    if (!isTidemarkError(error)) throw error;
    return { outcome: error.outcome };
  }
}

/** A step of a transaction that waits until the test lets it go, as if its process had been given no time before. */
export interface HeldUp {
  /** How many have come to it. */
  readonly count: number;
  letGo(): void;
}

/** `look`: what stands there is looked at, by a replica that is known to lead. */
export function holdUp({ commands, reads }: Replica, step: 'decide' | 'forget' | 'resolve' | 'look'): HeldUp {
  let count = 0;
  let letGo: () => void = () => undefined;
  const free = new Promise<void>((resolve) => (letGo = resolve));
  const held = <A extends unknown[], R>(go: (...args: A) => Promise<R>) => async (...args: A): Promise<R> => {
    count += 1;
    await free;
    return go(...args);
  };
  if (step === 'decide') commands.decide = held(commands.decide.bind(commands));
  else if (step === 'forget') commands.forget = held(commands.forget.bind(commands));
  else if (step === 'resolve') commands.resolve = held(commands.resolve.bind(commands));
  else {
    const open = reads.open.bind(reads);
    reads.open = async (...args) => {
      const view = await open(...args);
      await held(() => Promise.resolve())();
      return view;
    };
  }
  return {
    get count() {
      return count;
    },
    letGo,
  };
}
