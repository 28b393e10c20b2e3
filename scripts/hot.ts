/**
 * What a hot key gets: `npx tsx scripts/hot.ts [seconds] [rounds] [reads a second]`. Five local nodes, reads of which half are of
 * one key and half follow a Zipf distribution over 10,000 others, beside a few writes to the bucket of that key.
 *
 * Each kind of read is measured while its bucket may have no read replicas, and again with as many as five nodes allow. Then
 * how long help takes from the first hot read, and how long it stays when nobody reads any more (`coolMs` is 10 s here, not 60).
 *
 * Last, reads at a given rate, so that latencies can be compared: two clusters, one without and one with read replicas, are
 * measured in turn, so that what else the machine does befalls both alike; the latencies of all rounds count as one.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { build, type Histogram } from 'hdr-histogram-js';
import { keyPicker, seededRandom } from '../src/cli/bench/keys.js';
import type { Database } from '../src/client/index.js';
import { TestCluster } from '../test/faults/cluster.js';

const SECONDS = Number(process.argv[2] ?? 10);
const ROUNDS = Number(process.argv[3] ?? 8);
const WARMUP_MS = 3000;
const NODES = 5;
const KEYS = 10_000;
const IN_FLIGHT = 64;
/** What the machine does with a part of its time only: else what is measured is how processes wait for each other. */
const PACED_READS = Number(process.argv[4] ?? 2000);
/** So low that reads at that rate make a bucket hot. */
const PACED_HOT = PACED_READS / 10;
const WRITES = 100;
const COOL_MS = 10_000;
/** A quarter of the default, so that slower machines make a bucket hot as well: it is so at this many for each of its voters. */
const HOT_READS = 500;
const HELP_MS_MAX = 60_000;
const HOT = '{hot}';

const KINDS = ['linearizable', 'bounded'] as const;
type Consistency = (typeof KINDS)[number];

interface Measured {
  readonly readsPerSecond: number;
  /** Share of the reads of the hot key that its busiest node has served. */
  readonly busiest: number;
  readonly nodes: number;
  readonly read: Histogram;
  readonly write: Histogram;
}

function histogram(): Histogram {
  return build({ lowestDiscernibleValue: 1, highestTrackableValue: 60_000_000, numberOfSignificantValueDigits: 3 });
}

/** Reads with so many in flight, or with so many a second, and writes beside them. */
async function load(db: Database, consistency: Consistency, rate?: number, seconds = SECONDS): Promise<Measured> {
  const random = seededRandom(1);
  const pick = keyPicker('zipf', KEYS, random);
  const options = consistency === 'bounded' ? { maxStalenessMs: 2000 } : {};
  const read = histogram();
  const write = histogram();
  const served = new Map<number, number>();
  const startMs = performance.now();
  const fromMs = startMs + WARMUP_MS;
  const untilMs = fromMs + seconds * 1000;
  const timed = async (into: Histogram, work: () => Promise<void>): Promise<void> => {
    const beganMs = performance.now();
    await work();
    if (beganMs >= fromMs) into.recordValue(Math.max(1, Math.round((performance.now() - beganMs) * 1000)));
  };
  const readOne = (): Promise<void> => {
    const isHot = random() < 0.5;
    return timed(read, async () => {
      const { served: by } = await db.get(isHot ? HOT : `k/${pick()}`, options);
      if (isHot && performance.now() >= fromMs) served.set(by.node, (served.get(by.node) ?? 0) + 1);
    });
  };
  const paced = async (perSecond: number, work: () => Promise<void>): Promise<void> => {
    const under = new Set<Promise<void>>();
    for (let count = 0; performance.now() < untilMs;) {
      for (const due = ((performance.now() - startMs) / 1000) * perSecond; count < due; count += 1) {
        const one: Promise<void> = work().finally(() => under.delete(one));
        under.add(one);
      }
      await sleep(1);
    }
    await Promise.all(under);
  };
  const closed = async (): Promise<void> => {
    while (performance.now() < untilMs) await readOne();
  };
  let writes = 0;
  const reads = rate === undefined ? Array.from({ length: IN_FLIGHT }, closed) : [paced(rate, readOne)];
  await Promise.all([
    ...reads,
    paced(WRITES, () => timed(write, async () => void (await db.put(`${HOT}${(writes += 1) % 100}`, 'x'.repeat(256))))),
  ]);
  const counts = [...served.values()];
  const all = counts.reduce((sum, count) => sum + count, 0);
  return { readsPerSecond: read.totalCount / seconds, busiest: Math.max(...counts) / all, nodes: counts.length, read, write };
}

async function readReplicas(cluster: TestCluster): Promise<number> {
  const asked = cluster.nodeIds.map(async (id) => {
    const reply = await cluster
      .rpc(id)
      .unary<{ nodes: readonly { readReplicas: number }[] }>('tidemark.v1.Cluster', 'Heat', { buckets: 1, keys: 1 }, 2000)
      .catch(() => undefined);
    return reply?.nodes.reduce((sum, node) => sum + node.readReplicas, 0) ?? 0;
  });
  return Math.max(...(await Promise.all(asked)));
}

/** Seconds until it is so. */
async function until(startMs: number, holds: () => Promise<boolean>): Promise<string> {
  while (!(await holds())) await sleep(100);
  return ((performance.now() - startMs) / 1000).toFixed(1);
}

function show(name: string, { readsPerSecond, busiest, nodes, read, write }: Measured): void {
  const at = (of: Histogram, percentile: number): string => (of.getValueAtPercentile(percentile) / 1000).toFixed(1);
  const share = `${nodes} nodes serve the hot key, the busiest ${Math.round(busiest * 100)} %`;
  const latencies = `reads p50 ${at(read, 50)} p99 ${at(read, 99)} ms, writes p50 ${at(write, 50)} p99 ${at(write, 99)} ms`;
  console.log(`${name}: ${Math.round(readsPerSecond)} reads/s; ${latencies}; ${share}`);
}

async function fill(db: Database): Promise<void> {
  await db.put(HOT, 'x'.repeat(256));
  for (let from = 0; from < KEYS; from += 500) {
    await Promise.all(Array.from({ length: 500 }, (_, at) => db.put(`k/${from + at}`, 'x'.repeat(256))));
  }
}

function start(limits: object): Promise<TestCluster> {
  return TestCluster.start({ nodes: NODES, buckets: 64, limits });
}

async function measure(readReplicasMax: number): Promise<void> {
  await using cluster = await start({ readReplicasMax, coolMs: COOL_MS, hotReadsPerSecond: HOT_READS });
  const db = await cluster.connect();
  await fill(db);
  for (const kind of KINDS) {
    const startMs = performance.now();
    let helped: string | undefined;
    if (readReplicasMax > 0) {
      void until(startMs, async () => (await readReplicas(cluster)) > 0).then((seconds) => (helped = seconds));
      while (helped === undefined) {
        if (performance.now() - startMs > HELP_MS_MAX) throw new Error('too few reads to make a bucket hot');
        await load(db, kind, undefined, 5);
      }
    }
    show(`${kind}, ${IN_FLIGHT} in flight, ${readReplicasMax} read replicas`, await load(db, kind));
    if (helped === undefined) continue;
    console.log(`${kind}: the first read replica ${helped} s behind the first read; now ${await readReplicas(cluster)}`);
    const cool = await until(performance.now(), async () => (await readReplicas(cluster)) === 0);
    console.log(`${kind}: the last read replica gone ${cool} s behind the last read`);
  }
}

/** Two clusters in turn at the same rate of reads. */
async function compare(): Promise<void> {
  await using without = await start({ readReplicasMax: 0 });
  await using helped = await start({ readReplicasMax: NODES - 3, hotReadsPerSecond: PACED_HOT });
  const clusters = [without, helped];
  const dbs = await Promise.all(clusters.map((cluster) => cluster.connect()));
  for (const db of dbs) await fill(db);
  for (const kind of KINDS) {
    await until(performance.now(), async () => {
      await load(dbs[1] as Database, kind, PACED_READS, 5);
      return (await readReplicas(helped)) > 0;
    });
    const sums = clusters.map(() => ({ read: histogram(), write: histogram() }));
    const last: Measured[] = [];
    for (let round = 0; round < ROUNDS * 2; round += 1) {
      // Each goes first in every other round.
      const which = (round + (round >> 1)) % 2;
      const measured = await load(dbs[which] as Database, kind, PACED_READS);
      sums[which]?.read.add(measured.read);
      sums[which]?.write.add(measured.write);
      last[which] = measured;
    }
    clusters.forEach((_, which) => {
      const name = `${kind}, ${PACED_READS} a second, ${which === 0 ? 'no' : 'with'} read replicas, ${ROUNDS} rounds`;
      show(name, { ...(last[which] as Measured), ...(sums[which] as Pick<Measured, 'read' | 'write'>) });
    });
  }
}

await measure(0);
await measure(NODES - 3);
await compare();
