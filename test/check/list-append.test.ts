import { expect } from 'chai';
import type { Json, Operation } from '../../src/check/history.js';
import { LEVELS, ListAppendChecker, type Level } from '../../src/check/list-append.js';
import type { Result } from '../../src/check/result.js';
import { run } from '../../src/check/work.js';
import { SimRandom } from '../../src/sim/random.js';
import { operationsOf, Recorder, runLoad, type End } from './support.js';

/** All of these transactions overlap, so that real time says nothing. */
function together(...transactions: [answer: Json[], type?: 'ok' | 'fail' | 'info'][]): (history: Recorder) => void {
  return (history) => {
    const ends = transactions.map(([answer, type = 'ok'], at): [End, Json[], 'ok' | 'fail' | 'info'] => {
      return [history.call(at, 'txn', undefined, answer), answer, type];
    });
    for (const [end, answer, type] of ends) end(type, answer);
  };
}

/** One after the other, each by the process of its place. */
function inTurn(...transactions: [process: number, answer: Json[]][]): (history: Recorder) => void {
  return (history) => {
    for (const [process, answer] of transactions) history.call(process, 'txn', undefined, answer)('ok', answer);
  };
}

/** `weakest` is the weakest level that forbids it. */
const ANOMALIES: [kind: string, weakest: Level, play: (history: Recorder) => void, evidence: RegExp][] = [
  [
    'G0',
    'read-uncommitted',
    together([[['append', 'x', 1], ['append', 'y', 1]]], [[['append', 'x', 2], ['append', 'y', 2]]], [[['r', 'x', [1, 2]], ['r', 'y', [2, 1]]]]),
    /T1 must come before T2: T2 appended \d to [xy] behind what T1 had appended/,
  ],
  ['G1a', 'read-committed', together([[['append', 'x', 1]], 'fail'], [[['r', 'x', [1]]]]), /1 was read of x, though its transaction failed/],
  [
    'G1b',
    'read-committed',
    together([[['append', 'x', 1], ['append', 'x', 2]]], [[['r', 'x', [1]]]]),
    /a read of x ends with 1, behind which the same transaction appended more/,
  ],
  [
    'G1c',
    'read-committed',
    together([[['append', 'x', 1], ['r', 'y', [1]]]], [[['append', 'y', 1], ['r', 'x', [1]]]]),
    /T2 read 1 of [xy], which T1 had appended/,
  ],
  [
    'G-single',
    'snapshot-isolation',
    together([[['append', 'x', 1], ['append', 'y', 1]]], [[['r', 'x', [1]], ['r', 'y', []]]], [[['r', 'y', [1]]]]),
    /read y without 1, which T\d appended/,
  ],
  [
    'G-nonadjacent',
    'snapshot-isolation',
    together(
      [[['append', 'x', 1]]],
      [[['append', 'y', 1]]],
      [[['r', 'x', [1]], ['r', 'y', []]]],
      [[['r', 'x', []], ['r', 'y', [1]]]],
    ),
    /4 transactions that must each come before the next/,
  ],
  [
    'G2-item',
    'serializable',
    together([[['r', 'x', []], ['append', 'y', 1]]], [[['r', 'y', []], ['append', 'x', 1]]], [[['r', 'x', [1]], ['r', 'y', [1]]]]),
    /T1 read [xy] without 1, which T2 appended/,
  ],
  [
    'G-single-process',
    'strong-session-serializable',
    (history) => {
      const other = history.call(7, 'txn', undefined, [['r', 'x', null]]);
      inTurn([0, [['append', 'x', 1]]], [0, [['r', 'x', []]]])(history);
      other('ok', [['r', 'x', [1]]]);
    },
    /the same process ran T\d first/,
  ],
  [
    'G-single-realtime',
    'strict-serializable',
    inTurn([0, [['append', 'x', 1]]], [1, [['r', 'x', []]]], [2, [['r', 'x', [1]]]]),
    /T\d had ended before T\d began/,
  ],
  // Nobody ever read it: it can only stand behind all that was read.
  ['G-single-realtime', 'strict-serializable', inTurn([0, [['append', 'x', 1]]], [1, [['r', 'x', []]]]), /without 1, which T\d appended/],
  [
    'incompatible-order',
    'read-uncommitted',
    together([[['append', 'x', 1]]], [[['append', 'x', 2]]], [[['r', 'x', [1, 2]]]], [[['r', 'x', [2]]]]),
    /two reads of x disagree about the order: \[2\] is no beginning of \[1, 2\]/,
  ],
  ['duplicate-elements', 'read-uncommitted', together([[['append', 'x', 1]]], [[['r', 'x', [1, 1]]]]), /1 is in one read of x more than once/],
  ['unexpected-element', 'read-uncommitted', together([[['r', 'x', [9]]]]), /9 was read of x, and nobody appended it/],
  [
    'internal',
    'snapshot-isolation',
    together([[['append', 'x', 1], ['r', 'x', []]]], [[['r', 'x', [1]]]]),
    /reads \[\] of x, though for itself it is \[\.\.\., 1\]/,
  ],
  [
    'internal',
    'snapshot-isolation',
    together([[['r', 'x', []], ['r', 'x', [1]]]], [[['append', 'x', 1]]]),
    /reads \[1\] of x, though for itself it is \[\]/,
  ],
  [
    'lost-update',
    'snapshot-isolation',
    together([[['r', 'x', []], ['append', 'x', 1]]], [[['r', 'x', []], ['append', 'x', 2]]], [[['r', 'x', [1, 2]]]]),
    /2 transactions read the same 0 elements of x and then appended to it/,
  ],
];

describe('transactions over lists', () => {
  for (const [kind, weakest, play, evidence] of ANOMALIES) {
    it(`show ${kind}, which ${weakest} is the first to forbid: ${evidence.source}`, () => {
      const history = new Recorder();
      play(history);
      for (const level of LEVELS) {
        const { findings } = check(history.operations, level);
        const found = findings.filter((finding) => finding.kind === kind);
        const forbidden = LEVELS.indexOf(level) >= LEVELS.indexOf(weakest);
        expect(found.length, `${level}: ${JSON.stringify(findings)}`).to.equal(forbidden ? 1 : 0);
        if (forbidden) expect([found[0]?.title, ...(found[0]?.details ?? [])].join('\n')).to.match(evidence);
      }
    });
  }

  it('accept single appends and reads, unknown outcomes that were read, and those that were not', () => {
    const history = new Recorder();
    history.call(0, 'append', 'x', 1)('ok');
    history.call(1, 'append', 'x', 2)('info');
    history.call(2, 'append', 'x', 3)('info');
    history.call(0, 'read', 'x')('ok', [1]);
    history.call(0, 'read', 'x')('ok', [1, 3]);
    const { verdict, findings } = check(history.operations, 'strict-serializable');
    expect([verdict, findings]).to.deep.equal(['valid', []]);
  });

  it('explain a cycle edge by edge', () => {
    const history = new Recorder();
    inTurn([0, [['append', 'x', 1]]], [1, [['r', 'x', []]]])(history);
    const { findings } = check(history.operations, 'strict-serializable');
    expect(findings.map(({ title, details }) => [title, ...details])).to.deep.equal([
      [
        'a cycle of 2 transactions that must each come before the next, and the last before the first',
        'T1: process 1: txn [["r","x",[]]] ok  (events 2-3, 0.0000-0.0000 s)',
        'T2: process 0: txn [["append","x",1]] ok  (events 0-1, 0.0000-0.0000 s)',
        'T1 must come before T2: T1 read x without 1, which T2 appended',
        'T2 must come before T1: T2 had ended before T1 began',
      ],
    ]);
  });

  it('refuse what they cannot tell apart or understand', () => {
    const play = (play: (history: Recorder) => void): (() => Result) => {
      const history = new Recorder();
      play(history);
      return () => check(history.operations, 'serializable');
    };
    expect(play(together([[['append', 'x', 1]]], [[['append', 'x', 1]]]))).to.throw(/nothing is appended to one key twice, and event 0/);
    expect(play(together([[['w', 'x', 1]]]))).to.throw(/\["w","x",1\] is neither/);
    expect(play(together([[['r', 'x', 5]]]))).to.throw(/a read of a list answers a list/);
    expect(play((history) => history.call(0, 'write', 'x', 1)('ok'))).to.throw(/lists have txn, append and read/);
  });

  it('refuse answers that leave out what was asked for', () => {
    const asked: Json[] = [['append', 'x', 1], ['r', 'x', null]];
    const answer = (value: Json, steps = asked): (() => Result) => {
      const history = new Recorder();
      history.call(0, 'txn', undefined, steps);
      history.events.push({ index: 1, timeNs: 1, process: 0, type: 'ok', f: 'txn', value });
      return () => check(history.operations, 'serializable');
    };
    expect(answer([['append', 'x', 1], ['r', 'x', [1]]])().verdict).to.equal('valid');
    expect(answer([['append', 'x', 1]])).to.throw(/step 2 was \["r","x"\], and the answer has none/);
    expect(answer([['append', 'x', 2], ['r', 'x', [2]]])).to.throw(/step 1 was \["append","x",1\], and the answer has \["append","x",2\]/);
    expect(answer([['append', 'x', 1], ['r', 'x', [1]], ['r', 'y', []]])).to.throw(/step 3 was not there, and the answer has \["r","y"\]/);
    expect(answer(null)).to.throw(/it ended with ok, but without what it has read/);
    expect(answer(null, [['append', 'x', 1]])().verdict).to.equal('valid');
  });

  it('are unknown when the check is given up', () => {
    const { events } = serialRun(1);
    const checker = new ListAppendChecker('serializable');
    // A cycle to look for, and no time to do it.
    const history = new Recorder();
    ANOMALIES.find(([kind]) => kind === 'G2-item')?.[2](history);
    for (const operation of history.operations) checker.add(operation);
    expect(run(checker.check(), () => true).verdict).to.equal('unknown');
    expect(events.length).to.be.greaterThan(0);
  });
});

describe('random transactions over lists', () => {
  it('are clean at every level if they ran one after the other, whatever the clients were told', () => {
    for (let seed = 0; seed < 150; seed += 1) {
      const { events } = serialRun(seed);
      const { verdict, findings } = check(operationsOf(events), 'strict-serializable');
      expect([verdict, findings], `seed ${seed}`).to.deep.equal(['valid', []]);
    }
  });

  it('are not if an anomaly is planted among them', () => {
    for (let seed = 0; seed < 150; seed += 1) {
      const { events } = serialRun(seed);
      const [kind, weakest, play] = ANOMALIES[seed % ANOMALIES.length] ?? ['', 'serializable', () => undefined];
      const planted = new Recorder();
      play(planted);
      const at = events.length;
      const all = planted.events.map((event) => ({
        ...event,
        index: at + event.index,
        timeNs: at * 1000 + event.timeNs,
        process: 10_000 + Number(event.process),
      }));
      const { findings } = check(operationsOf([...events, ...all]), weakest);
      expect(findings.map((finding) => finding.kind), `seed ${seed}`).to.include(kind);
    }
  });

  it('are not if one of them reads the past', () => {
    let found = 0;
    for (let seed = 0; seed < 100; seed += 1) {
      const { events } = serialRun(seed);
      const victim = events.findLast(({ type, value }) => type === 'ok' && JSON.stringify(value).includes(',["'));
      const steps = ((victim?.value ?? []) as Json[][]).map((step) => (step[0] === 'r' ? ['r', step[1] ?? '', []] : step));
      const stale = events.map((event) => (event === victim ? { ...event, value: steps } : event));
      if (check(operationsOf(stale), 'strict-serializable').verdict === 'invalid') found += 1;
    }
    expect(found).to.be.greaterThan(80);
  });
});

function serialRun(seed: number): { events: Recorder['events'] } {
  const random = new SimRandom(`lists ${seed}`);
  const lists = new Map<string, Json[]>();
  let next = 0;
  const events = runLoad(random, {
    operations: 120,
    processes: 8,
    apply: (_f, _key, value) => {
      const answer = (value as [f: string, key: string, element: Json][]).map(([f, key, element]): Json => {
        const list = lists.get(key) ?? [];
        if (f === 'r') return ['r', key, list];
        lists.set(key, [...list, element]);
        return ['append', key, element];
      });
      return { type: 'ok', value: answer };
    },
    draw: (luck) => ({
      f: 'txn',
      value: Array.from({ length: 1 + luck.below(4) }, () => {
        const key = luck.pick(['a', 'b', 'c']);
        return luck.chance(0.5) ? ['r', key, null] : ['append', key, (next += 1)];
      }),
    }),
    infos: 0.1,
    fails: 0.05,
  });
  return { events: [...events] };
}

function check(operations: readonly Operation[], level: Level): Result {
  const checker = new ListAppendChecker(level);
  for (const operation of operations) checker.add(operation);
  return run(checker.check());
}
