import { expect } from 'chai';
import { HistoryReader, type HistoryEvent, type Json } from '../../src/check/history.js';
import { run } from '../../src/check/work.js';
import { BankChecker } from './harness/bank.js';

type Event = Pick<HistoryEvent, 'process' | 'type' | 'f' | 'value'> & { readonly version?: number };

/** Kinds of what is wrong with a history of one bank with the accounts a, b and c. */
function judge(...events: readonly (readonly Event[])[]): string[] {
  const checker = new BankChecker();
  const reader = new HistoryReader((operation) => checker.add(operation));
  for (const [index, event] of events.flat().entries()) reader.event({ ...event, index, timeNs: index, key: 'bank' });
  reader.end();
  const { verdict, findings } = run(checker.check());
  return findings.length > 0 ? findings.map(({ kind }) => kind) : [verdict];
}

let processes = 0;

/** What is between begin and end happens meanwhile. */
function act(f: string, input: Json, type: HistoryEvent['type'], output: Json, version?: number, meanwhile: readonly Event[] = []): Event[] {
  processes += 1;
  const common = { process: processes, f };
  return [
    { ...common, type: 'invoke', value: input },
    ...meanwhile,
    { ...common, type, value: output, ...(version === undefined ? {} : { version }) },
  ];
}

/** Ten from a to b. */
function transfer(version: number, [left, grown]: readonly [number, number], type: HistoryEvent['type'] = 'ok', meanwhile: readonly Event[] = []): Event[] {
  const input = { from: 'a', to: 'b', amount: 10 };
  return type === 'ok' ? act('transfer', input, 'ok', { ...input, left, grown }, version, meanwhile) : act('transfer', input, type, input, undefined, meanwhile);
}

function read(f: string, asOf: number | null, a: readonly [number, number], b: readonly [number, number]): Event[] {
  return act(f, null, 'ok', { asOf, accounts: [['a', ...a], ['b', ...b], ['c', 100, 0]] });
}

describe('what judges the bank of scripts/faults', () => {
  it('accepts all accounts of one moment, whichever that is, and transfers of unknown outcome with or without effect', () => {
    const first = transfer(5, [90, 110]);
    expect(judge(read('scan', null, [100, 0], [100, 0]), first, read('scan', 7, [90, 5], [110, 5]))).to.deep.equal(['valid']);
    expect(judge(first, transfer(9, [80, 120]), read('as-of', 8, [90, 5], [110, 5]), read('strict', 9, [80, 9], [120, 9]))).to.deep.equal(['valid']);
    expect(judge(transfer(0, [0, 0], 'info'), read('scan', 7, [100, 0], [100, 0]))).to.deep.equal(['valid']);
    expect(judge(transfer(0, [0, 0], 'info'), read('scan', 7, [90, 6], [110, 6]))).to.deep.equal(['valid']);
    // It was acknowledged after the read had begun, which may have chosen a moment before it.
    const during = transfer(6, [90, 110], 'ok', read('scan', 3, [100, 0], [100, 0]));
    expect(judge(during, read('scan', 7, [90, 6], [110, 6]))).to.deep.equal(['valid']);
  });

  it('finds half of a transfer, what is missing, and what is to come', () => {
    const first = transfer(5, [90, 110]);
    expect(judge(first, read('scan', 7, [90, 5], [100, 0]))).to.deep.equal(['wrong-total', 'missing']);
    expect(judge(first, read('scan', 7, [100, 0], [100, 0]))).to.deep.equal(['missing', 'missing']);
    expect(judge(first, read('as-of', 4, [90, 5], [110, 5]))).to.deep.equal(['future', 'future']);
    // It was acknowledged later, and yet committed before the moment that had been read.
    expect(judge(transfer(6, [90, 110], 'ok', read('as-of', 7, [100, 0], [100, 0])), read('scan', 8, [90, 6], [110, 6]))).to.deep.equal(['missing', 'missing']);
  });

  it('finds what nobody wrote, what is read otherwise the second time, and a moment before what had been acknowledged', () => {
    const first = transfer(5, [90, 110]);
    expect(judge(first, read('scan', 7, [95, 5], [105, 5]))).to.deep.equal(['invented', 'invented']);
    expect(judge(first, read('scan', 7, [90, 6], [110, 6]))).to.deep.equal(['invented', 'invented']);
    expect(judge(transfer(0, [0, 0], 'fail'), read('scan', 7, [90, 6], [110, 6]))).to.deep.equal(['invented', 'invented']);
    const doubtful = transfer(0, [0, 0], 'info');
    expect(judge(doubtful, read('as-of', 7, [100, 0], [100, 0]), read('as-of', 7, [90, 6], [110, 6]))).to.deep.equal(['changed']);
    expect(judge(first, read('scan', 4, [100, 0], [100, 0]))).to.deep.equal(['stale']);
    expect(judge(first, read('as-of', 4, [100, 0], [100, 0]))).to.deep.equal(['valid']);
  });

  it('does not pass what was not read after its last transfer', () => {
    expect(judge(read('scan', 3, [100, 0], [100, 0]), transfer(5, [90, 110]))).to.deep.equal(['unknown']);
  });
});
