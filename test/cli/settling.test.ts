import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import { changed } from '../../src/placement/record.js';
import { clusterOf, withNode } from '../placement/support.js';
import { isStuck, type ProgressReply } from '../../src/cli/cluster/settling.js';
import { Planner } from './planner.js';

describe('commands that wait for the planner', () => {
  let planner: Planner;

  beforeEach(async () => {
    planner = new Planner();
    await planner.start();
  });

  afterEach(() => planner.close());

  it('say that everything is in its place only when it is, and else what is not, and why', async () => {
    planner.replies = [{ wanted: { tooFewVoters: 1, steps: 1 }, unreachable: [5] }];
    const { code, out, err } = await planner.run('replicas', '5', '--bucket', '7');
    expect(code).to.equal(6);
    expect(out).to.match(/^placement epoch 1, 3 replicas of each bucket: 1 bucket has fewer voters than wanted\n\nnode /);
    expect(err).to.match(/not everything is in its place: 1 bucket has fewer voters than wanted; node 5 cannot be reached; the cluster goes on/);
    expect(err).to.include('(UNAVAILABLE, NOT_IN_PLACE)');
  });

  it('count down what is left, and end when nothing is', async () => {
    const under = { moving: [1, 2, 3], wanted: { tooFewVoters: 1, steps: 1 }, epoch: 2 };
    planner.replies = [{ wanted: { tooFewVoters: 4, steps: 4 } }, under, {}];
    const { code, out, err } = await planner.run('rebalance');
    expect(code).to.equal(0);
    expect(err).to.match(/^moving replicas: 100%, 4 of 4 replicas, \d\/s\n$/);
    expect(out).to.match(/: everything is in its place\n/);
  });

  it('show no progress where there is nothing to do', async () => {
    const { code, err } = await planner.run('drain', '5');
    expect([code, err]).to.deep.equal([0, '']);
  });

  it('do not say what comes of it when they do not wait', async () => {
    for (const [command, ...args] of [['rebalance'], ['undrain', '5'], ['drain', '5'], ['move', '7', '--from', '1', '--to', '5']] as const) {
      const { code, out, err } = await planner.run(command, ...args, '--no-wait');
      expect([code, err]).to.deep.equal([0, '']);
      expect(out).to.match(/: noted, and the cluster goes on with it\n/);
    }
  });

  it('say that a move is done only when the replica is where it was asked for', async () => {
    planner.replies = [{ moving: [7] }, { epoch: 3 }];
    planner.voters = [[1, 2, 5], [1, 2, 5], [1, 2, 3]];
    const { code, out, err } = await planner.run('move', '7', '--from', '3', '--to', '5');
    expect([code, out]).to.deep.equal([6, '']);
    expect(err).to.match(/node 5 has no replica of bucket 7, nodes 1, 2, 3 have: the cluster has placed it otherwise since.*\(UNAVAILABLE, NOT_IN_PLACE\)/);
    planner.voters = [[1, 2, 5]];
    const moved = await planner.run('move', '7', '--from', '3', '--to', '5');
    expect(moved.code).to.equal(0);
    expect(moved.out).to.match(/: everything is in its place\n/);
  });

  it('remove no node that could not be emptied, and say what goes on', async () => {
    planner.replies = [{ nodes: [{ id: 5, replicas: 2, draining: true, leads: 0 }], wanted: { onDraining: 2, steps: 2 }, unreachable: [4] }];
    const { code, err } = await planner.run('remove', '5');
    expect(code).to.equal(6);
    expect(err).to.match(/node 5 still has 2 replicas; node 4 cannot be reached; node 5 goes on being emptied; 'tidemark cluster undrain 5'/);
    expect(planner.changes).to.deep.equal(['drain']);
  });

  it('remove a node that is empty as soon as that is certain', async () => {
    const moved = changed(withNode(clusterOf(3, 8)), { kind: 'drain', node: 4 });
    const early = (): unknown => changed(moved, { kind: 'remove', node: 4 }, { moving: [1] });
    expect(early).to.throw(TidemarkError).that.satisfies((error: TidemarkError) => planner.early.push(error, error));
    const { code } = await planner.run('remove', '5');
    expect(code).to.equal(0);
    expect(planner.changes).to.deep.equal(['drain', 'remove', 'remove', 'remove']);
  });

  it('say why nothing moves while they wait', async function () {
    this.timeout(30_000);
    planner.replies = [{ nodes: [{ id: 5, replicas: 2, draining: true, leads: 0 }], wanted: { onDraining: 2, steps: 2 }, unreachable: [4] }];
    const { code, err } = await planner.run('drain', '5', '--timeout', '6500ms');
    expect(code).to.equal(6);
    expect(err).to.match(/^emptying node 5: 0%, 0 of 2 replicas, 0\/s; nothing moves: node 4 cannot be reached\ntidemark: not everything/);
  });

  it('wait for what is on its way, also while a node cannot be reached', async function () {
    this.timeout(30_000);
    planner.replies = [...new Array<object>(11).fill({ moving: [1, 2, 3], leaderless: [3], unreachable: [4] }), {}];
    const { code, err } = await planner.run('rebalance', '--timeout', '3s');
    expect(code).to.equal(0);
    expect(err).to.match(/0 of 3 replicas, 0\/s; 2 buckets are on their way, and node 4 cannot be reached\n/);
  });

  it('wait no longer than is of use', () => {
    const progress = (moving: number[], leaderless: number[], unreachable: number[]): ProgressReply => {
      const wanted = { tooFewVoters: 0, tooManyVoters: 0, onDraining: 0, onLost: 0, crowded: 0, short: 0, steps: 0 };
      return { epoch: 1, replicas: 3, bucketReplicas: [], nodes: [], moving, leaderless, wanted, unreachable };
    };
    const patience = (...of: Parameters<typeof progress>): number | undefined => {
      return [10_000, 300_000, Infinity].find((ms) => isStuck(progress(...of), ms, 10_000) && !isStuck(progress(...of), ms - 1, 10_000));
    };
    expect(patience([], [], [])).to.equal(10_000);
    expect(patience([1], [1], []), 'of what nobody leads nothing moves').to.equal(10_000);
    expect(patience([1, 2], [1], [4])).to.equal(300_000);
    expect(isStuck(progress([1], [], []), Infinity, 10_000), 'all that it needs is there').to.equal(false);
  });

  it('say what goes on when they are interrupted', async () => {
    planner.replies = [{ moving: [1], nodes: [{ id: 5, replicas: 2, draining: true, leads: 0 }] }];
    setTimeout(() => process.emit('SIGINT'), 1000);
    const { code, err } = await planner.run('remove', '5');
    expect(code).to.equal(130);
    expect(err).to.match(/\ntidemark: interrupted: node 5 goes on being emptied; 'tidemark cluster undrain 5' takes it back/);
    expect(planner.changes).to.deep.equal(['drain']);
  });

  it('are shown by the status of the cluster, as far as anybody knows', async () => {
    planner.replies = [{ moving: [1, 2], wanted: { onDraining: 3 }, nodes: [{ id: 1, replicas: 3, draining: true, leads: 5 }] }];
    const { code, out } = await planner.run('status');
    expect(code).to.equal(0);
    expect(out).to.include('\nplacement: 2 buckets are on their way, 3 replicas are on nodes that are drained\n');
    expect(out).to.match(/ reachable, draining +8 +5\n/);
    planner.refusal = new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'somebody else', { retriable: true });
    const alone = await planner.run('status');
    expect(alone.code).to.equal(0);
    expect(alone.out).to.not.include('placement: ');
  });
});
