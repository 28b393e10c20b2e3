import { expect } from 'chai';
import { NO_CONFIG } from '../../src/raft/config.js';
import { Raft } from '../../src/raft/raft.js';
import type { Entry, LogReader } from '../../src/raft/types.js';

/** A log of five entries of term 1. */
const LOG: LogReader = {
  firstIndex: () => 1,
  lastIndex: () => 5,
  term: (index) => (index === 0 ? 0 : 1),
  entries: (from, to) => {
    return Array.from({ length: to - from }, (_, i): Entry => ({ index: from + i, term: 1, kind: 'data', data: Buffer.alloc(1) }));
  },
};

function replica(): Raft {
  return new Raft({
    id: 1,
    config: { ...NO_CONFIG, voters: [1, 2, 3] },
    log: LOG,
    hardState: { term: 1, vote: 0, commit: 0 },
    applied: 0,
    now: 0,
    electionTimeoutMs: 1000,
    electionJitterMs: 500,
    heartbeatMs: 250,
    driftBound: 0.1,
    leaseReads: true,
    random: () => 0.5,
    promises: { offerFloor: () => 0, acceptFloor: () => 0, closed: () => 0 },
    appendBytesMax: 1000,
    appendsInFlightMax: 4,
    appendBytesInFlightMax: 4000,
    logCacheBytesMax: 1000,
    mayVote: () => true,
  });
}

describe('a snapshot that arrives late', () => {
  const meta = { index: 4, term: 1, config: { ...NO_CONFIG, voters: [1, 2, 3] } };

  it('is taken by a follower that does not know that its log holds all of it', () => {
    const raft = replica();
    expect(raft.canInstall(meta)).to.equal(true);
    expect(raft.restore(meta, 1)).to.equal(true);
    expect([raft.commitIndex, raft.appliedIndex, raft.firstIndex, raft.lastIndex]).to.deep.equal([4, 4, 5, 5]);
  });

  it('is refused by one that was elected meanwhile: its log holds all of it, though it cannot know yet', () => {
    const raft = replica();
    raft.campaign(2000);
    raft.step({ type: 'preVoteReply', from: 2, to: 1, term: 2, granted: true, floor: 0 }, 2000);
    raft.step({ type: 'voteReply', from: 2, to: 1, term: 2, granted: true, floor: 0 }, 2000);
    expect(raft.role).to.equal('leader');
    expect(raft.commitIndex).to.equal(0);
    expect(raft.canInstall(meta)).to.equal(false);
    expect(raft.restore(meta, 2000)).to.equal(false);
    expect(raft.role).to.equal('leader');
  });
});
