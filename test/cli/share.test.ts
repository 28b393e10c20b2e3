import { expect } from 'chai';
import { PassThrough } from 'node:stream';
import { showShare } from '../../src/cli/cluster/share.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { Planner } from './planner.js';
import { tidemark } from './support.js';

const NODE = 5;

describe('a node that has joined', function () {
  this.timeout(40_000);
  let planner: Planner;

  beforeEach(async () => {
    planner = new Planner();
    await planner.start();
  });

  afterEach(() => planner.close());

  /** As the planner tells it: nodes 1 to 3 have what node 5 does not have yet. */
  const placed = (own: number, moving: number[], draining = false): Planner['replies'][number] => {
    const others = [1, 2, 3].map((id) => ({ id, replicas: 8 - own / 3, draining: false, leads: 0 }));
    return { nodes: [...others, { id: NODE, replicas: own, draining, leads: 0 }], moving, epoch: own + 2, wanted: { steps: 6 - own } };
  };

  async function shown(json: boolean, signal = new AbortController().signal): Promise<{ readonly out: string; readonly err: string }> {
    const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
    const connection = { endpoint: [planner.address], timeout: 2000, json };
    await showShare({ node: NODE, connection, terminal: { stdin, stdout, stderr }, signal });
    const text = (stream: PassThrough): string => String(stream.read() ?? '');
    return { out: text(stdout), err: text(stderr) };
  }

  it('shows how its share of the buckets comes, until all of it is there', async () => {
    planner.replies = [placed(0, []), placed(3, [1, 2, 3]), placed(6, [4, 5, 6]), placed(6, [])];
    const { out, err } = await shown(false);
    expect(out).to.equal('node 5 has its share of the buckets: 6 replicas\n');
    expect(err).to.match(/^(node 5 gets its share: \d+%, [036] of 6 replicas, \d\/s\n)*node 5 gets its share: 100%, 6 of 6 replicas, \d\/s\n$/);
  });

  it('tells programs each change, on a line of its own', async () => {
    planner.replies = [placed(0, []), placed(3, [1, 2, 3]), placed(6, [4, 5, 6]), placed(6, [])];
    const { out, err } = await shown(true);
    const lines = out.trimEnd().split('\n').map((line) => JSON.parse(line) as object);
    const line = (replicas: number, moving: number, complete = false): object => ({ node: NODE, replicas, share: 6, moving, complete });
    expect(lines).to.deep.equal([line(0, 0), line(0, 3), line(3, 3), line(6, 0), line(6, 0, true)]);
    expect(err).to.equal('');
  });

  it('counts as there with one less than others have, if the planner wants no more', async () => {
    planner.replies = [placed(5, [5]), { ...placed(5, []), wanted: { steps: 0 } }];
    const { out, err } = await shown(false);
    expect(out).to.equal('node 5 has its share of the buckets: 5 replicas\n');
    expect(err).to.match(/node 5 gets its share: 100%, 5 of 5 replicas, \d\/s\n$/);
  });

  it('has no progress to show when it is started again and all is there', async () => {
    planner.replies = [placed(6, [])];
    expect(await shown(false)).to.deep.equal({ out: 'node 5 has its share of the buckets: 6 replicas\n', err: '' });
  });

  it('says what goes on when it is stopped before that', async () => {
    planner.replies = [placed(3, [3])];
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 1500);
    const { out, err } = await shown(false, controller.signal);
    expect(out).to.equal('');
    expect(err).to.match(/\ntidemark: node 5 has 2 replicas of the 6 that are its share and stops; it stays a member: the same command starts it/);
    expect(err).to.match(/'tidemark cluster remove 5' ends it\n$/);
  });

  it('says why when nothing moves, and that the cluster goes on', async () => {
    planner.replies = [{ ...placed(3, []), unreachable: [2] }];
    const { err } = await shown(false);
    expect(err).to.match(/node 5 has 3 replicas of the 6 that are its share, and nothing moves: node 2 cannot be reached; the cluster goes on by itself/);
  });

  it('waits for what is on its way, however long that takes', async () => {
    planner.replies = [...new Array<object>(12).fill({ ...placed(6, [3]), unreachable: [2] }), placed(6, [])];
    const { out } = await shown(false);
    expect(out).to.equal('node 5 has its share of the buckets: 6 replicas\n');
  });

  it('waits for who can tell, and gives up when it is to have no buckets', async () => {
    planner.refusal = new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'somebody else', { retriable: true });
    planner.replies = [placed(3, [3], true)];
    setTimeout(() => {
      planner.refusal = undefined;
    }, 3000);
    expect(await shown(false)).to.deep.equal({ out: '', err: 'tidemark: node 5 gets no buckets: it is to be emptied, or no member any more\n' });
  });

  it('is told of by the help of the command', async () => {
    const { out, code } = await tidemark(['cluster', 'add', '--help']);
    expect(code).to.equal(0);
    expect(out).to.include('--json').and.to.include('{node, replicas, share, moving, complete}');
  });
});
