import { expect } from 'chai';
import { HistoryReader, type HistoryEvent, type Json } from '../../src/check/history.js';
import { run } from '../../src/check/work.js';
import { ListChecker } from './harness/lists.js';
import type { Sample } from './harness/recorder.js';
import { longestSilence, rowsOf } from './harness/windows.js';

type Step = readonly [process: number, type: HistoryEvent['type'], micros: Json];

/** Kinds of what is wrong with a history of transactions. */
function judge(...steps: readonly Step[]): string[] {
  const checker = new ListChecker();
  const reader = new HistoryReader((operation) => checker.add(operation));
  for (const [index, [process, type, value]] of steps.entries()) reader.event({ index, timeNs: index, process, type, f: 'txn', value });
  reader.end();
  const { verdict, findings } = run(checker.check());
  return findings.length > 0 ? findings.map(({ kind }) => kind) : [verdict];
}

function append(process: number, element: number, end: HistoryEvent['type'] = 'ok'): Step[] {
  const micros = [['append', 'x', element]];
  return [[process, 'invoke', micros], [process, end, micros]];
}

function read(process: number, ...elements: number[]): Step[] {
  return [[process, 'invoke', [['r', 'x', null]]], [process, 'ok', [['r', 'x', elements]]]];
}

describe('what judges the lists of scripts/faults', () => {
  it('accepts what a correct store answers, unknown appends with or without effect', () => {
    expect(judge(...append(1, 1), ...append(2, 2, 'info'), ...read(1, 1, 2), ...append(3, 3, 'info'), ...read(1, 1, 2))).to.deep.equal(['valid']);
    const both: Step[] = [
      [1, 'invoke', [['append', 'x', 1], ['r', 'x', null]]],
      [1, 'ok', [['append', 'x', 1], ['r', 'x', [1]]]],
    ];
    expect(judge(...both, ...read(2, 1))).to.deep.equal(['valid']);
  });

  it('finds what is lost, stale, aborted, twice, or in another order', () => {
    expect(judge(...append(1, 1), ...append(1, 2), ...read(1, 2))).to.deep.equal(['lost']);
    expect(judge(...append(1, 1), ...read(2), ...read(2, 1))).to.deep.equal(['stale']);
    expect(judge(...append(1, 1, 'info'), ...read(2, 1), ...read(3), ...read(2, 1))).to.deep.equal(['stale']);
    expect(judge(...append(1, 1, 'fail'), ...read(2, 1))).to.deep.equal(['aborted-read']);
    expect(judge(...append(1, 1), ...read(2, 1, 1))).to.deep.equal(['duplicated']);
    expect(judge(...append(1, 1), ...append(1, 2), ...read(2, 1, 2), ...read(2, 2, 1))).to.include('incompatible-order');
  });

  it('does not pass what was never read', () => {
    expect(judge(...append(1, 1))).to.deep.equal(['unknown']);
  });
});

describe('the unavailability that scripts/faults reports', () => {
  const sample = (group: number, endMs: number, outcome: Sample['outcome'] = 'ok'): Sample => ({ group, beginMs: endMs - 1, endMs, outcome });
  const samples = [sample(0, 100), sample(1, 150), sample(0, 400, 'fail'), sample(1, 450), sample(0, 900), sample(1, 950)];

  it('is the longest time within a fault in which a group was served nothing', () => {
    expect(longestSilence(samples, [{ beginMs: 50, endMs: 1000 }])).to.equal(800);
    expect(longestSilence(samples, [{ beginMs: 300, endMs: 1000 }])).to.equal(600);
    expect(longestSilence(samples, [{ beginMs: 960, endMs: 970 }])).to.equal(10);
  });

  it('stands in a row with the operations that began in the faults of one name', () => {
    const window = { nemesis: 'kill', what: 'killed 1', beginMs: 300, healMs: 500, endMs: 1000 };
    const [quiet, kill] = rowsOf('set', samples, [window]);
    expect(quiet).to.deep.include({ nemesis: 'none', faults: 0, outcomes: { ok: 2, fail: 0, info: 0 } });
    expect(kill).to.deep.include({ nemesis: 'kill', faults: 1, outcomes: { ok: 3, fail: 1, info: 0 }, unavailableMs: 600 });
  });
});
