import { expect } from 'chai';
import { Backlog } from '../../src/bucket/backlog.js';
import type { Entry } from '../../src/raft/types.js';

function entries(from: number, count: number, bytes = 10): Entry[] {
  const data = Buffer.alloc(bytes);
  return Array.from({ length: count }, (_, at) => ({ index: from + at, term: 1, kind: 'data', data }));
}

describe('the backlog of a replica', () => {
  let backlog: Backlog;
  let taken: number[];
  beforeEach(() => {
    backlog = new Backlog();
    taken = [];
  });
  const turn = (mayTake: () => boolean): number => {
    const before = taken.length;
    backlog.drain(mayTake, ({ index }) => taken.push(index));
    return taken.length - before;
  };
  const always = (): boolean => true;
  const never = (): boolean => false;

  it('hands over at once what nothing waits before, however much that is', () => {
    backlog.add(entries(1, 5000));
    expect(turn(always)).to.equal(5000);
    expect(backlog.isEmpty).to.equal(true);
  });

  it('hands over what has waited in portions, one in a turn, and in order, with what came meanwhile', () => {
    backlog.add(entries(1, 5000));
    expect(turn(never)).to.equal(0);
    backlog.add(entries(5001, 1000));
    const portions: number[] = [];
    while (!backlog.isEmpty) portions.push(turn(always));
    expect(Math.max(...portions)).to.be.at.most(256);
    expect(taken).to.deep.equal(Array.from({ length: 6000 }, (_, at) => at + 1));
    backlog.add(entries(6001, 3000));
    expect(turn(always), 'when it is worked off').to.equal(3000);
  });

  it('counts bytes as well, and takes one of any size', () => {
    backlog.add(entries(1, 10, 1024 * 1024));
    expect(turn(never)).to.equal(0);
    expect(turn(always)).to.equal(1);
    expect(turn(never)).to.equal(0);
    expect(turn(always)).to.equal(1);
  });
});
