import { expect } from 'chai';
import { BucketLog } from '../../src/bucket/log-storage.js';
import type { Reading } from '../../src/raft/reading.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { bytes, isData, startCluster, untilEqual, untilLed } from './support.js';

const BUCKETS = 24;
const ENTRIES_PER_TURN = 64;

/** What is read of the stored logs of a node, turn by turn: how much of each bucket. */
function watchReads(cluster: SimCluster, node: number): Map<number, number>[] {
  const turns: Map<number, number>[] = [];
  let turn: Reading | undefined;
  for (const replica of cluster.node(node).hosting.replicas.values()) {
    const { bucket, log } = replica;
    if (!isData(bucket)) continue;
    const collect = replica.collect.bind(replica);
    let reading: Reading | undefined;
    replica.collect = (now) => {
      reading = now;
      const ready = collect(now);
      reading = undefined;
      return ready;
    };
    log.entries = (from, to, bytesMax) => {
      const found = BucketLog.prototype.entries.call(log, from, to, bytesMax);
      if (reading !== turn) turns.push(new Map());
      turn = reading;
      const reads = turns.at(-1);
      reads?.set(bucket, (reads.get(bucket) ?? 0) + found.length);
      return found;
    };
  }
  return turns;
}

describe('a node that comes back', () => {
  it('is sent what it lacks in many short turns of those that lead, every bucket as soon as others', async () => {
    const limits = { logEntriesReadPerTurn: ENTRIES_PER_TURN, bucketsMovingMax: 0 };
    const cluster = await startCluster({ seed: 'one-turn', nodes: 3, buckets: BUCKETS, limits });
    await untilLed(cluster);
    const client = cluster.client('c1');
    cluster.crash(3);
    await untilLed(cluster);
    for (let n = 0; n < 3000; n += 100) {
      const puts = Array.from({ length: 100 }, (_, i) => client.put(bytes(`k${n + i}`), Buffer.alloc(1500, 1)));
      await cluster.settle(Promise.all(puts));
    }
    const all = [1, 2].map((node) => watchReads(cluster, node));
    const terms = (): number[] => [...cluster.node(1).hosting.replicas.values()].map(({ raft }) => raft.term);
    const before = terms();
    await cluster.restart(3);
    await untilEqual(cluster);
    for (const turns of all) {
      const sums = turns.map((reads) => [...reads.values()].reduce((sum, count) => sum + count, 0));
      expect(Math.max(...sums)).to.equal(ENTRIES_PER_TURN);
      const first = turns.slice(0, 6).flatMap((reads) => [...reads.keys()]);
      expect(first, 'no bucket twice before each').to.have.length(new Set(first).size);
    }
    expect(terms()).to.deep.equal(before);
    expect(cluster.fatal).to.deep.equal([]);
  });
});
