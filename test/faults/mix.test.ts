import { expect } from 'chai';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Report } from './harness/run.js';
import { run, type Ended } from './process.js';

const SCRIPT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'scripts', 'faults.mjs');
/** Every class of faults, each once. */
const MIX = [
  'kill',
  'pause',
  'restart-storm',
  'partition-halves',
  'partition-ring',
  'partition-leader',
  'partition-one-way',
  'clock-jump',
  'clock-drift',
  'disk-full',
  'disk-stall',
  'disk-fail',
  'membership',
  'combination',
];
/** It takes about one minute; what has not begun after two is left out, aloud: starting nodes takes long on a busy machine. */
const MINUTES_MAX = 2;
const RUN_MS_MAX = 300_000;
/** What scripts/faults ends with where no namespaces can be made. */
const USAGE = 2;

/** As it is written. */
type Written = Pick<Report, 'windows' | 'rows' | 'seconds' | 'commit'> & { readonly verdicts: Readonly<Record<string, { readonly verdict: string }>> };

/** The short mix of scripts/faults; its `--help` tells of long ones. */
describe('five nodes under a mix of faults', function () {
  this.timeout(2 * RUN_MS_MAX);
  let out: string;

  beforeEach(() => {
    out = mkdtempSync(join(tmpdir(), 'tidemark-mix-'));
  });

  afterEach(() => {
    rmSync(out, { recursive: true });
  });

  type Finished = Ended & { readonly stdout: string; readonly stderr: string };

  async function once(nemeses: readonly string[]): Promise<Finished> {
    const faults = (...args: readonly string[]): Promise<Finished> => {
      const mix = ['--rounds', '1', '--minutes', String(MINUTES_MAX), '--hold', '1.5', '--nemesis', nemeses.join(','), '--seed', '1', '--out', out];
      return run([SCRIPT, ...mix, ...args], RUN_MS_MAX);
    };
    const ended = await faults();
    if (ended.code !== USAGE) return ended;
    console.log(`      WITHOUT PARTITIONS AND DISK FAULTS: ${ended.stderr.trim()}`);
    return faults('--loopback');
  }

  function report(): Written {
    return JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')) as Written;
  }

  it('answer as a correct store could have, and serve again after each', async () => {
    const ended = await once(MIX);
    const lines = ended.stdout.split('\n');
    for (const line of lines) if (/^(NOT DONE HERE|LIBFAKETIME)/.test(line)) console.log(`      ${line}`);
    const isPossible = (name: string): boolean => !lines.some((line) => line.startsWith(`NOT DONE HERE: ${name},`));
    expect(ended.code, `${ended.stdout}\n${ended.stderr}`).to.equal(0);
    const { windows, rows, seconds, verdicts } = report();
    const done = windows.map(({ nemesis }) => nemesis);
    const left = MIX.filter((name) => isPossible(name) && !done.includes(name));
    expect(done.length).to.be.above(1);
    if (seconds < MINUTES_MAX * 60) expect(left).to.deep.equal([]);
    else if (left.length > 0) console.log(`      LEFT OUT AFTER ${MINUTES_MAX} MINUTES: ${left.join(', ')}`);
    for (const workload of ['register', 'set', 'counter', 'append', 'bank', 'stream']) {
      expect(verdicts[workload]?.verdict, workload).to.equal('valid');
      const served = rows.filter((row) => row.workload === workload).reduce((sum, { outcomes }) => sum + outcomes.ok, 0);
      expect(served, `operations of ${workload}`).to.be.above(50);
      expect(existsSync(join(out, `${workload}.jsonl`))).to.equal(true);
    }
    expect(readFileSync(join(out, 'latency.svg'), 'utf8')).to.match(/^<svg [^]*<\/svg>\n$/);
  });

  it('likewise while nodes join and others leave, and a hot key gets read replicas and loses them', async () => {
    const ended = await once(['join-leave', 'hot']);
    expect(ended.code, `${ended.stdout}\n${ended.stderr}`).to.equal(0);
    const { windows, verdicts, commit } = report();
    expect(commit).to.match(/^[0-9a-f]{40}(\+changes)?$|^unknown/);
    const whatOf = (name: string): string | undefined => windows.find(({ nemesis }) => nemesis === name)?.what;
    expect(whatOf('join-leave')).to.match(/\d joined at [1-7].*\d left [1-7]/);
    expect(whatOf('hot')).to.match(/reads of a key in bucket \d, \d read replicas at most/);
    for (const { unavailableMs } of windows) expect(unavailableMs).to.be.above(0);
    for (const [workload, { verdict }] of Object.entries(verdicts)) expect(verdict, workload).to.equal('valid');
  });
});
