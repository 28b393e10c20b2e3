import { expect } from 'chai';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatEvent, HistoryReader, type HistoryEvent, type Json, type Operation } from '../../src/check/history.js';
import { run } from '../../src/check/work.js';
import { TidemarkError } from '../../src/client/index.js';
import { commitOf } from './harness/commit.js';
import { checkHistory } from './harness/check.js';
import { mergeHistories } from './harness/histories.js';
import { ReadListChecker } from './harness/lists.js';
import { Caller, Numbers, Recorder, type Sample } from './harness/recorder.js';
import { run as runProcess } from './process.js';
import { longestSilence, rowsOf } from './harness/windows.js';

type Step = readonly [process: number, type: HistoryEvent['type'], micros: Json];

/** Kinds of what is wrong with a history of transactions. */
function judge(...steps: readonly Step[]): string[] {
  const checker = new ReadListChecker();
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
  });

  it('finds what is lost, stale or aborted', () => {
    expect(judge(...append(1, 1), ...append(1, 2), ...read(1, 2))).to.deep.equal(['G0-process']);
    expect(judge(...append(1, 1), ...read(2), ...read(2, 1))).to.deep.equal(['G-single-realtime']);
    expect(judge(...append(1, 1, 'fail'), ...read(2, 1))).to.deep.equal(['G1a']);
  });

  it('does not pass what was not read after it was appended', () => {
    expect(judge(...append(1, 1))).to.deep.equal(['unknown']);
    expect(judge(...append(1, 1), ...read(1, 1), ...append(1, 2))).to.deep.equal(['unknown']);
    expect(judge(...append(1, 1), ...read(1, 1), ...append(1, 2, 'fail'))).to.deep.equal(['valid']);
  });
});

describe('the histories of scripts/faults', () => {
  let folder: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidemark-histories-'));
  });

  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  async function merged(...parts: readonly string[]): Promise<HistoryEvent[]> {
    const path = join(folder, 'merged.jsonl');
    await mergeHistories(parts, [{ timeMs: 0.002, what: 'kill begins' }], path);
    return readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as HistoryEvent);
  }

  function written(name: string, events: readonly HistoryEvent[]): string {
    const path = join(folder, name);
    writeFileSync(path, events.map(formatEvent).join(''));
    return path;
  }

  it('are one of several, in the order of the clock that all share; what has one time overlaps', async () => {
    const event = (index: number, timeNs: number, process: number, type: HistoryEvent['type']): HistoryEvent => ({ index, timeNs, process, type, f: 'read', key: 'x' });
    const one = written('one', [event(0, 1000, 0, 'invoke'), event(1, 3000, 0, 'ok'), event(2, 5000, 0, 'invoke')]);
    const two = written('two', [event(0, 2500, 1, 'invoke'), event(1, 5000, 1, 'ok')]);
    const events = await merged(one, two);
    expect(events.map(({ index, timeNs, process, type }) => [index, timeNs, process, type])).to.deep.equal([
      [0, 1000, 0, 'invoke'],
      [1, 2000, 'nemesis', 'info'],
      [2, 2500, 1, 'invoke'],
      [3, 3000, 0, 'ok'],
      [4, 5000, 0, 'invoke'],
      [5, 5000, 1, 'ok'],
    ]);
  });

  it('never name a process again after an unknown outcome, whichever of several client processes it was', async () => {
    const unknown = new TidemarkError('UNAVAILABLE', 'STREAM_LOST', 'nobody knows', { outcome: 'unknown' });
    const refused = new TidemarkError('UNAVAILABLE', 'NO_LEADER', 'nothing was done');
    const paths = await Promise.all([0, 1].map(async (index) => {
      const path = join(folder, `part-${index}`);
      const samples: Sample[] = [];
      const recorder = new Recorder(path, 0, (sample) => void samples.push(sample));
      const numbers = new Numbers(index, 2);
      const callers = [new Caller(0, numbers), new Caller(0, numbers)];
      for (const error of [unknown, refused, unknown, undefined]) {
        for (const caller of callers) {
          await recorder.record(caller, { f: 'write', key: 'x', value: 1 }, () => (error === undefined ? Promise.resolve({}) : Promise.reject(error)));
        }
      }
      recorder.close();
      expect(samples.map(({ outcome }) => outcome)).to.deep.equal(['info', 'info', 'fail', 'fail', 'info', 'info', 'ok', 'ok']);
      return path;
    }));
    const operations: Operation[] = [];
    // It throws if one is used again, or is busy with two things.
    const reader = new HistoryReader((operation) => void operations.push(operation));
    for (const event of await merged(...paths)) reader.event(event);
    reader.end();
    const gone = operations.filter(({ outcome }) => outcome === 'info').map(({ process }) => process);
    expect([operations.length, new Set(gone).size]).to.deep.equal([16, 8]);
  });
});

describe('the commit that scripts/faults reports', () => {
  it('is that of the checkout, with a mark if files differ from it', () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-commit-'));
    const git = (...args: string[]): void => {
      const author = ['-c', 'user.name=nobody', '-c', 'user.email=nobody@localhost'];
      expect(spawnSync('git', ['-C', folder, ...author, ...args]).status, args.join(' ')).to.equal(0);
    };
    try {
      expect(commitOf(folder)).to.equal('unknown, not a checkout');
      git('init', '--quiet');
      git('commit', '--quiet', '--allow-empty', '--message', 'first');
      const clean = commitOf(folder);
      expect(clean).to.match(/^[0-9a-f]{40}$/);
      writeFileSync(join(folder, 'new'), '');
      expect(commitOf(folder)).to.equal(`${clean}+changes`);
    } finally {
      rmSync(folder, { recursive: true });
    }
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
    const window = { nemesis: 'kill', what: 'killed 1', beginMs: 300, healMs: 500, endMs: 1000, unavailableMs: 600 };
    const [quiet, kill] = rowsOf('set', samples, [window]);
    expect(quiet).to.deep.include({ nemesis: 'none', faults: 0, outcomes: { ok: 2, fail: 0, info: 0 } });
    expect(kill).to.deep.include({ nemesis: 'kill', faults: 1, outcomes: { ok: 3, fail: 1, info: 0 }, unavailableMs: 600 });
  });
});

describe('what judges the registers of scripts/faults', () => {
  const judged = async (versions?: readonly (readonly [number, number])[]): Promise<string[]> => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-register-'));
    try {
      const history: [f: string, asked: Json, answered: Readonly<Record<string, Json>>][] = [
        ['write', 1, { value: 1, version: 5 }],
        ['write', 2, { value: 2, version: 7 }],
        ['read', null, { value: 2, version: 7, ...(versions === undefined ? {} : { versions }) }],
      ];
      const path = join(folder, 'register.jsonl');
      const events = history.flatMap(([f, value, answer], at): HistoryEvent[] => [
        { index: 2 * at, timeNs: 2 * at, process: 1, type: 'invoke', f, key: 'x', value },
        { index: 2 * at + 1, timeNs: 2 * at + 1, process: 1, type: 'ok', f, key: 'x', ...answer },
      ]);
      writeFileSync(path, events.map(formatEvent).join(''));
      const { verdict, findings, unknown } = await checkHistory('register', path);
      return [verdict, ...findings.map(({ kind }) => kind), ...unknown];
    } finally {
      rmSync(folder, { recursive: true });
    }
  };

  it('holds them against all versions that their keys had: a write that was lost before anybody read it is found', async () => {
    expect(await judged([[7, 2], [5, 1]])).to.deep.equal(['valid']);
    expect(await judged([[7, 2]])).to.deep.equal(['invalid', 'missing']);
    expect(await judged()).to.deep.equal(['unknown', 'nobody read the versions of 1 keys in the end']);
  });
});

describe('the arguments of scripts/faults', () => {
  const SCRIPT = fileURLToPath(new URL('../../scripts/faults-run.ts', import.meta.url));
  let folder: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidemark-out-'));
  });

  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  it('name no folder in which somebody keeps other things, nor delete anything when others are wrong', async function () {
    this.timeout(120_000);
    const refused = async (...args: string[]): Promise<string> => {
      const { code, stderr } = await runProcess(['--import', 'tsx', SCRIPT, '--loopback', '--out', folder, ...args], 100_000);
      expect(code, stderr).to.equal(2);
      return stderr;
    };
    const [report, thesis] = [join(folder, 'report.json'), join(folder, 'thesis.md')];
    writeFileSync(report, '');
    expect(await refused('--minutes', 'x')).to.include("--minutes is 'x', expected a number above 0");
    expect(existsSync(report)).to.equal(true);
    writeFileSync(thesis, '');
    expect(await refused()).to.include('holds thesis.md, which is of no run of this script');
    expect([existsSync(report), existsSync(thesis)]).to.deep.equal([true, true]);
  });
});
