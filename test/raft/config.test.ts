import { expect } from 'chai';
import fc from 'fast-check';
import { changeConfig, ConfigHistory, countVotes, isJoint, leaveJoint, NO_CONFIG, quorumValue } from '../../src/raft/config.js';
import type { Config } from '../../src/raft/types.js';

function voters(...ids: number[]): Config {
  return { ...NO_CONFIG, voters: ids };
}

describe('configurations', () => {
  it('count what a majority has reached', () => {
    const reached = new Map([[1, 10], [2, 7], [3, 9], [4, 1]]);
    const valueOf = (id: number): number => reached.get(id) ?? 0;
    expect(quorumValue(voters(1), valueOf)).to.equal(10);
    expect(quorumValue(voters(1, 2), valueOf)).to.equal(7);
    expect(quorumValue(voters(1, 2, 3), valueOf)).to.equal(9);
    expect(quorumValue(voters(1, 2, 3, 4), valueOf)).to.equal(7);
    expect(quorumValue({ ...voters(1, 2, 3), outgoing: [3, 4, 5] }, valueOf)).to.equal(1);
    expect(quorumValue(NO_CONFIG, valueOf)).to.equal(0);
  });

  it('count votes', () => {
    expect(countVotes(voters(1, 2, 3), new Map([[1, true]]))).to.equal('open');
    expect(countVotes(voters(1, 2, 3), new Map([[1, true], [3, true]]))).to.equal('won');
    expect(countVotes(voters(1, 2, 3), new Map([[1, false], [3, false]]))).to.equal('lost');
    expect(countVotes(voters(1, 2, 3, 4), new Map([[1, false], [3, false]]))).to.equal('lost');
    expect(countVotes({ ...voters(1), outgoing: [2] }, new Map([[1, true]]))).to.equal('open');
    expect(countVotes(NO_CONFIG, new Map())).to.equal('lost');
  });

  it('change at once where majorities intersect, and through a joint one elsewhere', () => {
    const one = changeConfig(voters(1, 2, 3), [{ addVoter: 4 }, { addLearner: 5 }]);
    expect(one).to.deep.equal({ voters: [1, 2, 3, 4], outgoing: [], learners: [5], learnersNext: [] });
    const promoted = changeConfig(one, [{ addVoter: 5 }]);
    expect(promoted).to.deep.equal(voters(1, 2, 3, 4, 5));
    const joint = changeConfig(one, [{ addLearner: 1 }, { remove: 2 }, { addVoter: 5 }, { addLearner: 6 }]);
    expect(joint).to.deep.equal({ voters: [3, 4, 5], outgoing: [1, 2, 3, 4], learners: [6], learnersNext: [1] });
    expect(leaveJoint(joint)).to.deep.equal({ voters: [3, 4, 5], outgoing: [], learners: [1, 6], learnersNext: [] });
  });

  it('refuse to change into nothing or into themselves', () => {
    expect(() => changeConfig(voters(1), [{ remove: 1 }])).to.throw('at least one voter');
    expect(() => changeConfig(voters(1), [{ addVoter: 1 }])).to.throw('changes nothing');
    expect(() => changeConfig(voters(1), [{ addVoter: 0 }])).to.throw('not a replica id');
  });

  it('never let two neighbours decide apart', () => {
    const ids = fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(ids, ids, ids, (before, after, some) => {
        const old = voters(...before.sort((a, b) => a - b));
        const changes = [
          ...before.filter((id) => !after.includes(id)).map((remove) => ({ remove })),
          ...after.map((addVoter) => ({ addVoter })),
        ];
        if (after.length === before.length && changes.length === after.length) return;
        const next = changeConfig(old, changes);
        const path = isJoint(next) ? [old, next, leaveJoint(next)] : [old, next];
        path.slice(1).forEach((config, at) => {
          const previous = path[at] ?? old;
          const isIn = quorumValue(config, (id) => (some.includes(id) ? 1 : 0)) === 1;
          const isOut = quorumValue(previous, (id) => (some.includes(id) ? 0 : 1)) === 1;
          expect(isIn && isOut).to.equal(false);
        });
      }),
      { numRuns: 1000, seed: 1 },
    );
  });

  it('come back when the log is truncated', () => {
    const history = new ConfigHistory(5, voters(1));
    history.push(7, voters(1, 2));
    history.push(9, voters(1, 2, 3));
    expect(history.at(8)).to.deep.equal(voters(1, 2));
    expect(history.truncateFrom(10)).to.equal(false);
    expect(history.truncateFrom(8)).to.equal(true);
    expect(history.active).to.deep.equal(voters(1, 2));
    history.forgetBelow(8);
    history.truncateFrom(8);
    expect(history.active).to.deep.equal(voters(1, 2));
    history.push(12, voters(2));
    history.restart(10, voters(1, 4), true);
    expect([history.at(11), history.active]).to.deep.equal([voters(1, 4), voters(2)]);
    history.restart(20, voters(4), false);
    expect([history.active, history.activeIndex]).to.deep.equal([voters(4), 20]);
  });
});
