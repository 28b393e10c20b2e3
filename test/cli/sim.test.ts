import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { smallerPlans, shrinkPlan } from '../../src/sim/swarm/shrink.js';
import { planOfSeed } from '../../src/sim/swarm/swarm.js';
import { tidemark } from './support.js';

const SHORT = JSON.stringify({ durationMs: 1000, nodes: 1, replicas: 1, buckets: 1, faults: [], workers: 1, clients: 1 });

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

  it('tells of a seed that fails what failed and how to see it again, and shrinks it', async function () {
    this.timeout(60_000);
    const bug = ['--mutant', 'answer-before-commit', '--plan', JSON.stringify({ durationMs: 2000, faults: [['crashAll', 1]] })];
    const { code, err } = await tidemark(['sim', '--seeds', '1..30', ...bug, '--shrink', '--shrink-for', '2s']);
    expect(code).to.equal(1);
    expect(err).to.match(/^tidemark \d+\.\d+\.\d+: seed \d+ fails:\n {2}- /m);
    const replays = [...err.matchAll(/^replay: tidemark sim --seed (\d+) --mutant answer-before-commit --plan '(.+)'$/gm)];
    expect(replays.length, 'commands to see it again').to.equal(2);
    for (const [, seed = '', plan = ''] of replays) {
      const again = await tidemark(['sim', '--seed', seed, '--mutant', 'answer-before-commit', '--plan', plan]);
      expect(again.code, plan).to.equal(1);
    }
  });

  it('refuses what it does not know', async () => {
    expect(await tidemark(['sim', '--seeds', '9..1'])).to.include({ code: 2 });
    expect(await tidemark(['sim', '--plan', '[]'])).to.include({ code: 2 });
    expect((await tidemark(['sim', '--mutant', 'no-such'])).err).to.include('there is no such bug');
  });
});

describe('a failing plan', () => {
  it('is made smaller as long as it fails', async () => {
    const plan = planOfSeed(1);
    const smallest = await shrinkPlan(plan, async ({ work }) => work.some(([name]) => name === 'put'), () => true);
    expect(smallest.work.map(([name]) => name)).to.deep.equal(['put']);
    expect(smallest).to.include({ nodes: 1, buckets: 1, clients: 1, workers: 1 });
    expect(smallest.limits).to.deep.equal({});
    expect(smallerPlans(smallest).filter(({ work }) => work.length > 0)).to.deep.equal([]);
  });
});
