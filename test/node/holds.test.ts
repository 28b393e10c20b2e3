import { expect } from 'chai';
import type { Timestamp } from '../../src/mvcc/timestamp.js';
import { Holds } from '../../src/node/holds.js';

function holdsThatTell(): { readonly holds: Holds; readonly told: Timestamp[] } {
  const told: Timestamp[] = [];
  const clock = { monotonicMs: () => 1000, wallMs: () => 1000 };
  return { told, holds: new Holds({ clock, tell: (lowest) => void told.push(lowest) }) };
}

describe('holds of the horizon', () => {
  it('are told at once when they are the lowest, and with every tick', () => {
    const { holds, told } = holdsThatTell();
    holds.hold(100);
    holds.hold(120);
    holds.touch(90);
    holds.tick(50);
    expect(told).to.deep.equal([100, 90, 90]);
  });

  it('over their budget hide from nobody those that are within', () => {
    const { holds, told } = holdsThatTell();
    const old = holds.hold(100);
    holds.tick(110);
    expect(told, 'it was within the budget once').to.deep.equal([100, 0]);
    holds.hold(150);
    holds.touch(105);
    holds.hold(106);
    expect(told.slice(2), 'other nodes keep one number of this one').to.deep.equal([150]);
    holds.touch(140);
    holds.tick(110);
    old.release();
    expect(told.slice(3)).to.deep.equal([140, 140]);
    expect(holds.lowest(110)).to.equal(140);
  });

  it('that are all over their budget are not told', () => {
    const { holds, told } = holdsThatTell();
    holds.tick(110);
    holds.hold(100);
    holds.touch(90);
    holds.tick(110);
    expect(told).to.deep.equal([]);
  });
});
