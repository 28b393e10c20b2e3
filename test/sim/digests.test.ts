import { expect } from 'chai';
import { decodeEffects, encodeEffects } from '../../src/bucket/effects.js';
import type { SimCluster, SimClusterOptions } from '../../src/sim/cluster.js';
import type { NodeId } from '../../src/placement/map.js';
import { bytes, Counters, failure, leaderOf, replicasOf, startCluster, untilEqual, untilLed } from './support.js';

const KEYS = ['a', 'b', 'c'];
const BUCKETS = 1;
const CHECKED_MS = 12_000;

describe('replicas that have diverged', () => {
  const start = async (options: Partial<SimClusterOptions> & Pick<SimClusterOptions, 'seed'>): Promise<SimCluster> => {
    const cluster = await startCluster({ nodes: 3, buckets: BUCKETS, ...options });
    await untilLed(cluster);
    return cluster;
  };

  const leader = (cluster: SimCluster): NodeId => leaderOf(cluster, 'a', BUCKETS);
  const followers = (cluster: SimCluster): NodeId[] => cluster.ids.filter((id) => id !== leader(cluster));
  const write = (cluster: SimCluster, value: string): Promise<unknown> =>
    cluster.settle(cluster.client(`c-${value}`).put(bytes('a'), bytes(value)));

  /** The next write has another value on this node than on the others. */
  function corrupt(cluster: SimCluster, node: NodeId, value: string): void {
    const replica = replicasOf(cluster, 0).find((each) => each.node === node)?.replica;
    if (replica === undefined) throw new Error(`node ${node} has no replica`);
    const { state } = replica;
    const apply = state.apply.bind(state);
    state.apply = (entry, known) => {
      if (entry.kind !== 'data') return apply(entry, known);
      state.apply = apply;
      const effects = decodeEffects(entry.data);
      if (effects.kind !== 'write') throw new Error(`a ${effects.kind} is not what was to be changed`);
      const wrong = { ...effects, effects: effects.effects.map((effect) => ({ ...effect, value: bytes(value) })) };
      return apply({ ...entry, data: encodeEffects(wrong) }, wrong);
    };
  }

  const stopped = (cluster: SimCluster): NodeId[] => cluster.fatal.map(({ node }) => node);
  const untilStopped = async (cluster: SimCluster, count: number): Promise<void> => {
    expect(await cluster.loop.runUntil(() => cluster.fatal.length >= count, CHECKED_MS), 'stopped in time').to.equal(true);
    await cluster.loop.runFor(CHECKED_MS);
    for (const { error } of cluster.fatal) expect(error).to.include({ code: 'DATA_LOSS', reason: 'REPLICA_DIVERGED' });
  };
  const suspects = (cluster: SimCluster, node: NodeId): boolean =>
    cluster.log.lines.some((line) => line.includes('the replicas of a bucket have diverged') && line.includes(`"n${node}"`));

  it('are found out: the follower that differs from the other two stops, and says what differs', async () => {
    const cluster = await start({ seed: 'digest-follower' });
    const [wrong = 0] = followers(cluster);
    corrupt(cluster, wrong, 'planted');
    await write(cluster, 'true');
    await untilStopped(cluster, 1);
    expect(stopped(cluster)).to.deep.equal([wrong]);
    expect((cluster.fatal[0]?.error as Error).message).to.match(
      new RegExp(`bucket 0 on node ${wrong} has diverged: after entry \\d+ its digest is [0-9a-f]{8}, that of the others [0-9a-f]{8}`),
    );
    const { record } = await cluster.settle(cluster.client('after').get(bytes('a')));
    expect(record?.value.toString()).to.equal('true');
    // Nothing has been written since; it is asked again all the same when it comes back with what it had.
    await cluster.restart(wrong);
    await untilStopped(cluster, 2);
    expect(stopped(cluster)).to.deep.equal([wrong, wrong]);
  });

  it('are found out though the leader is the one that differs: it stops, and the truth is served again', async () => {
    const cluster = await start({ seed: 'digest-leader' });
    const wrong = leader(cluster);
    corrupt(cluster, wrong, 'planted');
    await write(cluster, 'true');
    await untilStopped(cluster, 1);
    expect(stopped(cluster)).to.deep.equal([wrong]);
    const { record } = await cluster.settle(cluster.client('after').get(bytes('a')));
    expect(record?.value.toString()).to.equal('true');
  });

  it('are found out under load, and again after a restart with the same state', async () => {
    // With a log that reaches back so far that no snapshot takes the place of what is wrong.
    const cluster = await start({ seed: 'digest-load', limits: { logEntriesKept: 100_000 } });
    const counters = new Counters(cluster, cluster.client('c1'), KEYS, 10);
    // Between two comparisons, so that what is wrong is on the disk when it is found.
    await cluster.loop.runFor(1500);
    const [wrong = 0] = followers(cluster);
    corrupt(cluster, wrong, '0');
    await untilStopped(cluster, 1);
    await counters.stop(cluster);
    await cluster.restart(wrong);
    await untilStopped(cluster, 2);
    expect(stopped(cluster)).to.deep.equal([wrong, wrong]);
    await counters.check(cluster, cluster.client('c2'));
  });

  it('are one against one while the third is away: both go on and say so, and the third decides when it is back', async () => {
    const cluster = await start({ seed: 'digest-pair' });
    const [wrong = 0, away = 0] = followers(cluster);
    cluster.crash(away);
    corrupt(cluster, wrong, 'planted');
    await write(cluster, 'true');
    await cluster.loop.runFor(2 * CHECKED_MS);
    for (const node of [leader(cluster), wrong]) expect(suspects(cluster, node), `node ${node} says so`).to.equal(true);
    expect(stopped(cluster)).to.deep.equal([]);
    await cluster.restart(away);
    await untilStopped(cluster, 1);
    expect(stopped(cluster)).to.deep.equal([wrong]);
  });

  it('are one against one for good in a bucket of two: the follower stops, and only local reads are served', async () => {
    const cluster = await start({ seed: 'digest-two', nodes: 2, replicas: 2 });
    const [wrong = 0] = followers(cluster);
    const left = leader(cluster);
    corrupt(cluster, wrong, 'planted');
    await write(cluster, 'true');
    await untilStopped(cluster, 1);
    expect(stopped(cluster)).to.deep.equal([wrong]);
    const client = cluster.client('after');
    const refused = await failure(cluster.settle(client.get(bytes('a'), { timeoutMs: 3000 })));
    expect(refused).to.include({ code: 'UNAVAILABLE' });
    const { record, served } = await cluster.settle(client.get(bytes('a'), { consistency: { kind: 'local' } }));
    expect([record?.value.toString(), served.node]).to.deep.equal(['true', left]);
  });

  it('are all different: the followers stop, the leader is left', async () => {
    const cluster = await start({ seed: 'digest-three' });
    const wrong = followers(cluster);
    for (const node of wrong) corrupt(cluster, node, `planted by ${node}`);
    await write(cluster, 'true');
    await untilStopped(cluster, 2);
    expect(stopped(cluster)).to.have.members(wrong);
  });
});

describe('replicas that are equal', () => {
  it('are not suspected over crashes, restarts, snapshots and leader changes', async () => {
    const cluster = await startCluster({
      seed: 'digest-equal',
      nodes: 3,
      buckets: 2,
      limits: { logEntriesKept: 5, snapshotChunkBytes: 300 },
    });
    const client = cluster.client('c1');
    const counters = new Counters(cluster, client, KEYS, 50);
    for (let round = 0; round < 2; round += 1) {
      for (const id of cluster.ids) {
        await cluster.loop.runFor(3000);
        cluster.crash(id);
        await cluster.loop.runFor(3000);
        await cluster.restart(id);
      }
    }
    await counters.stop(cluster);
    await untilEqual(cluster);
    await cluster.loop.runFor(CHECKED_MS);
    expect(cluster.log.lines.some((line) => line.includes('installed a snapshot'))).to.equal(true);
    expect(cluster.log.lines.filter((line) => line.includes('diverged'))).to.deep.equal([]);
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('say nothing of a bucket that is idle and was compared', async () => {
    const cluster = await startCluster({ seed: 'digest-idle', nodes: 3, buckets: 4 });
    await untilLed(cluster);
    const answers = { count: 0 };
    for (const { replica } of [0, 1, 2, 3].flatMap((bucket) => replicasOf(cluster, bucket))) {
      const { state } = replica;
      const watch = state.watchDigest.bind(state);
      state.watchDigest = (index, told) => {
        answers.count += 1;
        watch(index, told);
      };
    }
    await cluster.loop.runFor(3 * CHECKED_MS);
    const compared = answers.count;
    expect(compared).to.be.at.least(4 * 3);
    await cluster.loop.runFor(10 * CHECKED_MS);
    expect(answers.count).to.equal(compared);
  });
});
