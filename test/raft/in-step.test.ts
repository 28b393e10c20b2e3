import { expect } from 'chai';
import { CommitTrail } from '../../src/raft/commit-trail.js';
import { Network, type Replica } from './network.js';

const ELECTION_MS = 1000;
const WRITE_EVERY_MS = 1;
const OPTIONS = {
  electionTimeoutMs: ELECTION_MS,
  electionJitterMs: 0,
  heartbeatMs: 250,
  driftBound: 0.1,
  appendBytesMax: 10_000,
  appendsInFlightMax: 10_000,
  appendBytesInFlightMax: 1e9,
  logCacheBytesMax: 1e9,
  random: () => 0,
};

/** A voter that leads alone, and a learner so far away that its answers take this long, under steady load. */
class Group {
  readonly network = new Network(OPTIONS);
  readonly leader: Replica;
  private readonly learner: Replica;
  private readonly under: { readonly atMs: number; readonly deliver: () => void }[] = [];
  awayMs: number;

  constructor(awayMs: number) {
    this.awayMs = awayMs;
    this.leader = this.network.add(1, [1]);
    this.learner = this.network.add(2, [1]);
    for (const replica of [this.leader, this.learner]) replica.start(false);
    this.leader.live.campaign(this.leader.now);
    this.run(50, false);
    this.leader.live.proposeConfig([{ addLearner: 2 }], this.leader.now);
    this.run(3 * awayMs + 500, false);
  }

  run(forMs: number, writes = true): void {
    const { network, leader } = this;
    for (const endMs = network.timeMs + forMs; network.timeMs < endMs; ) {
      network.timeMs += WRITE_EVERY_MS;
      if (writes) leader.live.propose(Buffer.alloc(10), leader.now);
      for (const replica of [leader, this.learner]) {
        replica.tick();
        replica.collect();
        replica.sync();
        replica.collect();
      }
      const wire = network.wire.splice(0);
      for (const message of wire) {
        this.under.push({ atMs: network.timeMs + this.awayMs / 2, deliver: () => network.replica(message.to).step(message) });
      }
      while ((this.under[0]?.atMs ?? Infinity) <= network.timeMs) this.under.shift()?.deliver();
    }
  }

  get lag(): number {
    return this.leader.live.commitIndex - (this.leader.live.progress()[0]?.match ?? 0);
  }

  get isInStep(): boolean {
    const [learner] = this.leader.live.progress();
    return learner !== undefined && this.leader.live.isInStep(learner, this.leader.now);
  }
}

describe('a follower under load', () => {
  it('is in step though it is far away, as long as it keeps up', () => {
    const group = new Group(300);
    for (let round = 0; round < 20; round += 1) {
      group.run(97);
      if (round < 6) continue;
      expect(group.lag).to.be.greaterThan(200);
      expect(group.isInStep).to.equal(true);
    }
  });

  it('is not in step if it is so far away that what needs it would wait for long', () => {
    const group = new Group(700);
    group.run(2000);
    for (let round = 0; round < 10; round += 1) {
      group.run(97);
      expect(group.isInStep).to.equal(false);
    }
  });

  it('is no more in step soon after it has stopped to keep up, whatever it lacks then for how long', () => {
    const group = new Group(20);
    group.run(1000);
    expect(group.isInStep).to.equal(true);
    group.awayMs = Infinity;
    group.run(ELECTION_MS / 2 + 100);
    expect(group.isInStep).to.equal(false);
    // Nothing more is written: it lacks what was committed long ago.
    group.run(3000, false);
    expect(group.isInStep).to.equal(false);
  });
});

describe('what was committed a while ago', () => {
  it('is never told older than that, and not much younger', () => {
    const trail = new CommitTrail(700);
    const committedAt: number[] = [];
    let commit = 0;
    for (let now = 1; now < 5000; now += 1) {
      if (now % 3 === 0 && (now < 2000 || now > 3500)) {
        trail.note(commit, now);
        commit += 1;
      }
      committedAt[now] = commit;
      const lately = trail.lately(commit, now);
      expect(lately).to.be.at.least(committedAt[now - 701] ?? 0);
      expect(lately).to.be.at.most(committedAt[now - 650] ?? commit);
    }
  });
});
