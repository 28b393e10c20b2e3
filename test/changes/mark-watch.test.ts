import { expect } from 'chai';
import type { BucketState } from '../../src/bucket/state.js';
import type { FeedReplica } from '../../src/changes/feed.js';
import { MarkWatch, type MarkAnswer } from '../../src/changes/mark-watch.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { FakeTime } from '../router/support.js';

/** A replica that counts how often it is looked at. */
class Watched implements FeedReplica {
  readonly bucket: number;
  mark = 10;
  looks = 0;
  closes = 0;
  isInstalling = false;

  constructor(bucket: number) {
    this.bucket = bucket;
  }

  get state(): BucketState {
    throw new Error('nobody looks at its state');
  }

  get installing(): boolean {
    this.looks += 1;
    return this.isInstalling;
  }

  resolved(): number {
    this.looks += 1;
    return this.mark;
  }

  closeNow(): void {
    this.closes += 1;
  }

  notLeader(): TidemarkError {
    return new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'ask elsewhere', { retriable: true });
  }
}

describe('who waits for marks', () => {
  const WAITERS = 100;
  let time: FakeTime;
  let watch: MarkWatch;
  let replicas: Watched[];

  beforeEach(() => {
    time = new FakeTime();
    watch = new MarkWatch(time, time, 1000);
    replicas = [0, 1, 2, 3].map((bucket) => new Watched(bucket));
  });

  const wait = (some: readonly Watched[], above: number, ms: number): Promise<MarkAnswer> =>
    watch.wait(some, above, time.nowMs + ms);

  it('costs a look at each bucket, however many wait for the same', async () => {
    const answers = Array.from({ length: WAITERS }, () => wait(replicas, 10, 10_000));
    await time.pass(10);
    for (const replica of replicas) replica.looks = 0;
    await time.pass(400);
    for (const { looks, closes } of replicas) {
      expect(looks).to.be.within(20, 45);
      expect(closes).to.be.within(5, 11);
    }
    for (const replica of replicas) replica.mark = 20;
    const all = await time.run(Promise.all(answers));
    expect(all).to.deep.equal(Array.from({ length: WAITERS }, () => ({ mark: 20, behind: [] })));
  });

  it('is told which buckets are behind when the time is up, each by what it has asked', async () => {
    const [first, ...others] = replicas;
    for (const replica of others) replica.mark = 15;
    const answers = [wait(replicas, 10, 100), wait(replicas, 15, 100), wait(others, 12, 100)];
    expect(await time.run(Promise.all(answers))).to.deep.equal([
      { mark: 10, behind: [first?.bucket] },
      { mark: 10, behind: [0, 1, 2, 3] },
      { mark: 15, behind: [] },
    ]);
  });

  it('is refused where a replica gets another state', async () => {
    const [first = expect.fail(), second = expect.fail()] = replicas;
    const both = wait([first, second], 10, 10_000).catch((error: unknown) => error);
    const again = wait([first, second], 10, 10_000).catch((error: unknown) => error);
    const other = wait([second], 10, 10_000);
    await time.pass(50);
    first.isInstalling = true;
    for (const refused of [both, again]) expect(await time.run(refused)).to.include({ reason: 'NOT_LEADER' });
    second.mark = 11;
    expect(await time.run(other)).to.deep.equal({ mark: 11, behind: [] });
  });
});
