import { expect } from 'chai';
import { NO_CONFIG } from '../../src/raft/config.js';
import { Raft } from '../../src/raft/raft.js';
import { logOf, optionsOf } from './support.js';

const LOG = logOf(5);

function replica(): Raft {
  return new Raft(optionsOf(LOG, [1, 2, 3], 1000));
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
