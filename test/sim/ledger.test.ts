import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { Entry } from '../../src/raft/types.js';
import { Ledger } from '../../src/sim/swarm/ledger.js';
import { firstProblem, Problems } from '../../src/sim/swarm/problems.js';
import { SimLog } from '../../src/sim/telemetry.js';
import { bytes } from './support.js';

function entry(index: number, term: number, data: string): Entry {
  return { index, term, kind: 'data', data: bytes(data) };
}

/** A replica that starts with entries of these terms, the first of index 1. */
function starting(terms: readonly number[]): Replica {
  const nothing = (): undefined => undefined;
  const raft = { firstIndex: 1, lastIndex: terms.length, termAt: (index: number) => (index === 0 ? 0 : terms[index - 1]) };
  const reads = { open: nothing, tryOpen: nothing, openKey: nothing, openKeyHere: nothing };
  return { bucket: 0, id: 1, raft, reads, state: { apply: nothing } } as unknown as Replica;
}

describe('the ledger of all logs', () => {
  let log: SimLog;
  let problems: Problems;
  let ledger: Ledger;

  beforeEach(() => {
    log = new SimLog(() => 7);
    problems = new Problems(log);
    ledger = new Ledger(problems);
    ledger.sent(0, 1, [entry(2, 1, 'a'), entry(3, 2, 'b')]);
  });

  it('finds nothing in entries that are sent again, replaced in a later term, or of another bucket', () => {
    ledger.sent(0, 1, [entry(3, 2, 'b')]);
    ledger.sent(0, 1, [entry(2, 3, 'c')]);
    ledger.sent(1, 1, [entry(2, 1, 'other')]);
    ledger.attach(starting([1, 1, 2]));
    expect(problems.found).to.deep.equal([]);
    expect(firstProblem(log.lines)).to.equal(-1);
  });

  it('finds two entries of one index and term: with other data, or behind another term', () => {
    ledger.sent(0, 1, [entry(2, 1, 'x')]);
    ledger.sent(0, 2, [entry(3, 2, 'b')]);
    expect(problems.found).to.deep.equal([
      'bucket 0: there are two entries 2 of term 1, behind terms 1 and 1',
      'bucket 0: there are two entries 3 of term 2, behind terms 1 and 2',
    ]);
    expect(firstProblem(log.lines)).to.equal(0);
  });

  it('finds a log, of a replica that starts, whose entry is behind another than it was sent behind', () => {
    ledger.attach(starting([1, 2, 2]));
    expect(problems.found).to.have.length(1);
    expect(problems.found[0]).to.include('starts with entry 3 of term 2 behind one of term 2; it was sent behind term 1');
  });
});
