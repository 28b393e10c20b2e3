import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { smallerPlans, shrinkPlan } from '../../src/sim/swarm/shrink.js';
import { planOfSeed } from '../../src/sim/swarm/swarm.js';
import { planOfJob } from '../../src/cli/sim/job.js';
import { parsePlan } from '../../src/cli/sim/plan-schema.js';
import { tidemark } from './support.js';

const SHORT = JSON.stringify({ durationMs: 1000, nodes: 1, replicas: 1, buckets: 1, faults: [], workers: 1, clients: 1 });
const SMALL = { nodes: 3, replicas: 3, buckets: 1, clients: 2, workers: 2, thinkMs: 5, keys: ['a', 'b'], limits: {}, pinners: 0 };

describe('tidemark sim', () => {
  it('runs seeds, each twice, and says how fast', async () => {
    const { code, out } = await tidemark(['sim', '--seeds', '1..2', '--twice', '--plan', SHORT]);
    expect(code).to.equal(0);
    expect(out).to.match(/^2 seeds, \d+ simulated seconds: \d+ seeds a minute, \d+ times as fast as time\n$/);
  });

  it('prints a line of JSON for each seed, and writes the log', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-sim-'));
    try {
      const trace = join(folder, 'trace.log');
      const { code, out } = await tidemark(['sim', '--seed', '3', '--json', '--plan', SHORT, '--trace', trace]);
      expect(code).to.equal(0);
      expect(JSON.parse(out)).to.include({ seed: 3 }).and.to.have.property('problems').that.is.empty;
      expect(readFileSync(trace, 'utf8')).to.include('node is up');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('says so when there is nothing to make smaller', async () => {
    const { code, out, err } = await tidemark(['sim', '--seed', '3', '--shrink', '--plan', SHORT]);
    expect(code).to.equal(0);
    expect(out).to.match(/^1 seed, /);
    expect(err).to.include('nothing failed, so there is no plan to make smaller\n');
  });

  it('tells of a seed that fails what failed and how to see it again, and shrinks it', async function () {
    this.timeout(60_000);
    const bug = ['--mutant', 'answer-before-commit', '--plan', JSON.stringify({ durationMs: 2000, faults: [['crashAll', 1]] })];
    const { code, err } = await tidemark(['sim', '--seeds', '1..30', ...bug, '--shrink', '--shrink-for', '2s']);
    expect(code).to.equal(1);
    expect(err).to.match(/^tidemark \d+\.\d+\.\d+(, commit [0-9a-f]{12}(-dirty)?)?: seed \d+ fails:\n {2}- /m);
    expect(err).to.match(/^the last it logged:\n {3,}\d+\.\d{3} ms {2}(n\d|-) /m);
    const replays = [...err.matchAll(/^replay: tidemark sim --seed (\d+) --mutant answer-before-commit --plan '(.+)'$/gm)];
    expect(replays.length, 'commands to see it again').to.equal(2);
    for (const [, seed = '', plan = ''] of replays) {
      const again = await tidemark(['sim', '--seed', seed, '--mutant', 'answer-before-commit', '--plan', plan]);
      expect(again.code, plan).to.equal(1);
    }
  });

  it('runs seeds in several processes, tells of them in order, and finds what one process finds', async function () {
    this.timeout(60_000);
    const seeds = ['sim', '--seeds', '1..6', '--json', '--plan', SHORT];
    const one = await tidemark(seeds);
    const two = await tidemark([...seeds, '--jobs', '2']);
    expect(two.code).to.equal(0);
    expect(two.out).to.equal(one.out);
    expect(two.out.trim().split('\n').map((line) => (JSON.parse(line) as { seed: number }).seed)).to.deep.equal([1, 2, 3, 4, 5, 6]);
    expect(two.err).to.match(/^Simulating: 100%, 6 of 6 seeds/m);
  });

  it('stops at the first seed that fails, in several processes too, or goes on if it is told to', async function () {
    this.timeout(120_000);
    const bug = ['--mutant', 'answer-before-commit', '--plan', JSON.stringify({ ...SMALL, durationMs: 1500, faults: [['crashAll', 1]], faultEveryMs: 300 })];
    const all = await tidemark(['sim', '--seeds', '1..4', ...bug, '--jobs', '2', '--keep-going']);
    expect(all.code).to.equal(1);
    const [, failed = ''] = /^4 seeds, .*; \d+ failed: ([\d, ]+)$/m.exec(all.out) ?? [];
    const numbers = failed.split(', ').map(Number);
    expect(numbers.length).to.be.above(0);
    expect([...all.err.matchAll(/: seed (\d+) fails:/g)].map(([, seed]) => Number(seed))).to.deep.equal(numbers);
    const first = await tidemark(['sim', '--seeds', '1..4', ...bug, '--jobs', '3']);
    expect(first.code).to.equal(1);
    expect(first.out).to.match(new RegExp(`^${numbers[0]} seeds?, .*; 1 failed: ${numbers[0]}\n$`));
  });

  it('draws a run, within bounds, and watches it without changing it', async function () {
    this.timeout(60_000);
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-sim-'));
    try {
      const file = join(folder, 'run.svg');
      const plan = JSON.stringify({ ...SMALL, durationMs: 4000, faults: [['crash', 1], ['isolate', 1], ['pause', 1]], faultEveryMs: 300, faultMs: 500 });
      const { code } = await tidemark(['sim', '--seed', '3', '--svg', file, '--plan', plan]);
      expect(code).to.equal(0);
      const svg = readFileSync(file, 'utf8');
      expect(svg.length).to.be.below(3_000_000);
      expect(svg).to.include('seed 3: nothing is wrong').and.not.to.include('another run of the seed');
      for (const name of ['n1', 'n2', 'n3', 'c0', 'c1', 'prober']) expect(svg).to.match(new RegExp(`<text [^>]*>${name}</text>`));
      for (const part of ['is down,', 'is paused,', 'hears nothing from n', 'is elected: bucket 0 in term', 'commits up to', 'never arrived', 'put a;']) {
        expect(svg, part).to.match(new RegExp(`<title>[^<]*${part}`));
      }
      // Every element that was opened is closed, and nothing in a text looks like one.
      const open: string[] = [];
      for (const [, end = '', name = '', alone = ''] of svg.matchAll(/<(\/?)([a-z]+)[^<>]*?(\/?)>/g)) {
        if (end !== '') expect(open.pop()).to.equal(name);
        else if (alone === '') open.push(name);
      }
      expect(open).to.deep.equal([]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('refuses a plan that it does not understand, field by field', async () => {
    const refused = async (plan: unknown): Promise<string> => {
      const { code, err } = await tidemark(['sim', '--seed', '1', '--plan', typeof plan === 'string' ? plan : JSON.stringify(plan)]);
      expect(code, err).to.equal(2);
      return err;
    };
    expect(await refused('{')).to.include('--plan: plan: expected a JSON object with fields of a plan');
    expect(await refused([])).to.include('plan: expected a mapping with some of nodes, buckets, ');
    expect(await refused({ nodes: 9 })).to.include('--plan: plan.nodes: expected a whole number from 1 to 7, got 9');
    expect(await refused({ node: 3 })).to.include('plan.node: is not known; expected one of nodes, buckets, ');
    expect(await refused({ nodes: 1, replicas: 3 })).to.include('plan.replicas: expected at most the number of nodes, 1, got 3');
    expect(await refused({ faults: [['crush', 1]] })).to.match(/plan\.faults\[0\]\[0\]: expected one of .*crash.*, got "crush"/);
    expect(await refused({ faults: ['crash'] })).to.match(/plan\.faults\[0\]: expected a name and a weight, such as \[".*", 1\], got "crash"/);
    expect(await refused({ latency: { minMs: 1 } })).to.include('plan.latency.maxMs: expected a number from 0 to 3600000, and is missing');
    expect(await refused({ disk: { tornChance: 2 }, keys: [] })).to.match(
      /plan\.disk\.tornChance: expected a number from 0 to 1, got 2\n {2}plan\.keys: expected at least one key, got \[\]/,
    );
    expect(await refused({ limits: { pageEntriesMax: 0.5 } })).to.include('plan.limits.pageEntriesMax: expected a whole number');
    expect(await refused({ latency: { minMs: 9, maxMs: 5 }, disk: { syncMinMs: 3, syncMaxMs: 2 } })).to.match(
      /plan\.latency\.minMs: expected at most maxMs, 5, got 9\n {2}plan\.disk\.syncMinMs: expected at most syncMaxMs, 2, got 3/,
    );
    expect(await refused({ timing: { heartbeatMs: 700 } })).to.include(
      'plan.timing.heartbeatMs: expected less than electionTimeoutMs, 500, got 700',
    );
  });

  it('takes every plan that a seed draws', () => {
    for (let seed = 1; seed <= 200; seed += 1) {
      const plan = planOfSeed(seed);
      expect(parsePlan(JSON.stringify(plan)), `seed ${seed}`).to.deep.equal(plan);
    }
  });

  it('lets the number of nodes follow that of replicas, or the other way round, where a plan has one of them', () => {
    for (let seed = 1; seed <= 30; seed += 1) {
      const drawn = planOfSeed(seed);
      expect(planOfJob({ seed, plan: undefined })).to.deep.equal(drawn);
      expect(planOfJob({ seed, plan: { nodes: 2 } })).to.deep.equal({ ...drawn, nodes: 2, replicas: Math.min(2, drawn.replicas) });
      expect(planOfJob({ seed, plan: { replicas: 5 } })).to.deep.equal({ ...drawn, nodes: Math.max(5, drawn.nodes), replicas: 5 });
    }
  });

  it('refuses what it does not know', async () => {
    const refused = async (message: string, ...args: string[]): Promise<void> => {
      const { code, err } = await tidemark(['sim', ...args]);
      expect([code, err.includes(message)], err).to.deep.equal([2, true]);
    };
    await refused('The first seed, 9, is above the last one, 1.', '--seeds', '9..1');
    await refused('Expected a seed like 7, or seeds like 1..200, of at most 12 digits.', '--seeds', `1..${'9'.repeat(13)}`);
    await refused('Expected one seed like 7; --seeds takes several.', '--seed', '1..3');
    await refused('/nowhere/run.log', '--seeds', '1..1000000', '--trace', '/nowhere/run.log');
    await refused('/nowhere/run.svg', '--seeds', '1..1000000', '--svg', '/nowhere/run.svg');
    expect(await tidemark(['sim', '--jobs', '0'])).to.include({ code: 2 });
    expect((await tidemark(['sim', '--mutant', 'no-such'])).err).to.include('there is no such bug');
  });
});

describe('a failing plan', () => {
  it('is made smaller as long as it fails', async () => {
    const plan = planOfSeed(1);
    const smallest = await shrinkPlan(plan, async ({ work }) => work.some(([name]) => name === 'put'), () => true);
    expect(smallest.work.map(([name]) => name)).to.deep.equal(['put']);
    expect(smallest).to.include({ nodes: 1, buckets: 1, clients: 1, workers: 1 });
    expect(smallest).to.include({ renewEveryMs: 0, moveEveryMs: 0 });
    expect(smallest.limits).to.deep.equal({});
    expect(smallerPlans(smallest).filter(({ work }) => work.length > 0)).to.deep.equal([]);
  });
});
