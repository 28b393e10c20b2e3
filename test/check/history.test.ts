import { expect } from 'chai';
import { describe as describeOperation, formatEvent, HistoryReader, NEMESIS, type Operation } from '../../src/check/history.js';

const INVOKE = { index: 0, timeNs: 5, process: 1, type: 'invoke', f: 'read', key: 'x', value: null } as const;
const OK = { index: 1, timeNs: 6, process: 1, type: 'ok', f: 'read', key: 'x', value: 3, version: 7 } as const;

describe('histories', () => {
  it('are written one event a line, extra fields included', () => {
    expect(formatEvent(OK)).to.equal(
      '{"index":1,"timeNs":6,"process":1,"type":"ok","f":"read","key":"x","value":3,"version":7}\n',
    );
  });

  it('are read back as operations in the order of their ends, those without an end last', () => {
    const operations = read([
      formatEvent(INVOKE),
      formatEvent({ ...INVOKE, index: 1, process: 2, f: 'write', value: 4 }),
      '\n',
      formatEvent({ index: 2, timeNs: 6, process: NEMESIS, type: 'info', f: 'kill', value: 'n1' }),
      formatEvent({ ...OK, index: 3 }),
    ]);
    expect(operations.map(({ process, f, input, output, outcome, begin, end, version }) => ({ process, f, input, output, outcome, begin, end, version }))).to.deep.equal([
      { process: 1, f: 'read', input: null, output: 3, outcome: 'ok', begin: 0, end: 3, version: 7 },
      { process: 2, f: 'write', input: 4, output: undefined, outcome: 'info', begin: 1, end: Infinity, version: undefined },
    ]);
    expect(operations.map(describeOperation)).to.deep.equal([
      'process 1: read x -> 3  (events 0-3, 0.0000-0.0000 s)',
      'process 2: write x 4 info  (events 1-?, 0.0000- s)',
    ]);
  });

  const wrong: [title: string, lines: (string | object)[], message: RegExp][] = [
    ['no JSON', ['{"index":'], /^line 1: this is not JSON/],
    ['no object', ['[]'], /^line 1: this is not a JSON object/],
    ['a missing index', [{ ...INVOKE, index: undefined }], /^line 1: index is missing, expected a whole number/],
    ['an index that goes back', [INVOKE, { ...OK, index: 0 }], /^line 2: index 0 does not come after 0/],
    ['a time that goes back', [INVOKE, { ...OK, timeNs: 4 }], /^line 2: timeNs 4 is before the 5 of an earlier line/],
    ['a time that is no whole number below 2^53', [{ ...INVOKE, timeNs: 1e20 }], /^line 1: timeNs is 100000000000000000000, expected/],
    ['an unknown type', [{ ...INVOKE, type: 'begin' }], /^line 1: type is "begin", expected invoke, ok, fail, info/],
    ['a process with a name', [{ ...INVOKE, process: 'p' }], /^line 1: process is "p", expected a whole number or "nemesis"/],
    ['no operation', [{ ...INVOKE, f: '' }], /^line 1: f is "", expected/],
    ['a key that is neither text nor number', [{ ...INVOKE, key: {} }], /^line 1: key is {}, expected/],
    ['an end without a begin', [OK], /^line 1: process 1 ends \('ok'\) what it has not begun/],
    ['two begins', [INVOKE, { ...INVOKE, index: 1 }], /^line 2: process 1 is still busy with what it began in line 1/],
    ['an end of another operation', [INVOKE, { ...OK, f: 'write' }], /^line 2: process 1 ends another operation than it began in line 1/],
    [
      'a process that comes back after info',
      [INVOKE, { ...OK, type: 'info' }, '', { ...INVOKE, index: 2, timeNs: 9 }],
      /^line 4: process 1 ended with info in line 2 and must never be used again/,
    ],
  ];
  for (const [title, lines, message] of wrong) {
    it(`with ${title} are refused, naming the line`, () => {
      const texts = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)));
      expect(() => read(texts)).to.throw(message).with.property('reason', 'BAD_HISTORY');
    });
  }
});

function read(lines: readonly string[]): Operation[] {
  const operations: Operation[] = [];
  const reader = new HistoryReader((operation) => operations.push(operation));
  for (const line of lines) reader.line(line);
  reader.end();
  return operations;
}
