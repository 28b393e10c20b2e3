import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { planOfSeed, runSwarm } from '../../src/sim/swarm/swarm.js';
import { judge } from './judge.js';
import type { Verdict } from './swarm-worker.js';

/** `TIDEMARK_SEEDS=1000-1999` runs other seeds than usual; a failure prints its seed and how to run it again. */
const [FIRST = 1, LAST = FIRST] = (process.env['TIDEMARK_SEEDS'] ?? '1-200').split('-').map(Number);
const GROUP = 20;
const WORKERS_MAX = 2;
/** For two runs of one seed, on a machine with much else to do. */
const SEED_MS = 40_000;
const WORKER = fileURLToPath(new URL('swarm-worker.ts', import.meta.url));

/** Runs seeds in processes beside this one, as many as there are cores to use: a run keeps one busy. */
class Pool {
  readonly #workers: ChildProcess[] = [];
  readonly #waiting: number[];
  readonly #verdicts = new Map<number, Promise<Verdict>>();
  readonly #resolve = new Map<number, (verdict: Verdict) => void>();

  constructor(seeds: readonly number[]) {
    this.#waiting = [...seeds];
    for (const seed of seeds) {
      this.#verdicts.set(seed, new Promise((resolve) => void this.#resolve.set(seed, resolve)));
    }
    for (let count = Math.min(WORKERS_MAX, availableParallelism()); count > 0; count -= 1) this.#start();
  }

  async verdict(seed: number): Promise<Verdict> {
    const verdict = this.#verdicts.get(seed);
    if (verdict === undefined) throw new RangeError(`seed ${seed} is not run`);
    return verdict;
  }

  #start(): void {
    const worker = fork(WORKER, { execArgv: ['--import=tsx', '--enable-source-maps'] });
    this.#workers.push(worker);
    let seed: number | undefined;
    const next = (): void => {
      seed = this.#waiting.shift();
      if (seed !== undefined) worker.send(seed);
    };
    worker.on('message', (verdict: Verdict) => {
      this.#resolve.get(verdict.seed)?.(verdict);
      next();
    });
    worker.on('exit', (code) => {
      if (seed === undefined) return;
      const failure = `seed ${seed} ended its process with code ${code}; what it said is above\nreplay: tidemark sim --seed ${seed}`;
      this.#resolve.get(seed)?.({ seed, failure });
      this.#start();
    });
    next();
  }

  /** Nothing that is not running yet is run any more. */
  stop(): void {
    this.#waiting.length = 0;
    for (const worker of this.#workers) {
      worker.removeAllListeners('exit');
      worker.kill();
    }
  }
}

describe('a swarm of simulated clusters under random faults', () => {
  let pool: Pool | undefined;

  before(() => {
    pool = new Pool(Array.from({ length: LAST - FIRST + 1 }, (_, at) => FIRST + at));
  });

  after(() => pool?.stop());

  for (let from = FIRST; from <= LAST; from += GROUP) {
    const to = Math.min(from + GROUP - 1, LAST);
    it(`holds what it promises, twice in the same way, with seeds ${from} to ${to}`, async function () {
      this.timeout(GROUP * SEED_MS);
      for (let seed = from; seed <= to; seed += 1) {
        const failure = (await pool?.verdict(seed))?.failure;
        if (failure !== undefined) expect.fail(failure);
      }
    });
  }

  it('has nodes that come and go', async function () {
    this.timeout(3 * SEED_MS);
    const small = { nodes: 3, replicas: 3, buckets: 1, clients: 1, workers: 1, transactions: 0, streams: 0, pinners: 0, limits: {} };
    const plan = { ...small, durationMs: 20_000, renewEveryMs: 500, faults: [['crash', 1] as const], faultEveryMs: 4000 };
    const { problems, counts } = await runSwarm(1, { plan: { ...planOfSeed(1), ...plan } });
    expect(problems).to.deep.equal([]);
    expect(counts['joined']).to.be.at.least(2);
    expect(counts['left']).to.be.at.least(2);
  });

  it('would say which seed of which commit fails, how to see it again, and what it had logged, then and at last', async () => {
    const small = { nodes: 3, replicas: 3, buckets: 1, durationMs: 3000, faults: [['pause', 1] as const], faultEveryMs: 100 };
    const failure = await judge(1, { plan: { ...planOfSeed(1), ...small }, mutant: 'ack-before-sync' });
    expect(failure).to.match(/^tidemark \d+\.\d+\.\d+(, commit [0-9a-f]{12}(-dirty)?)?: seed 1 fails:\n {2}- bucket \d+ on node \d /);
    expect(failure).to.match(/^replay: tidemark sim --seed 1$/m);
    const logged = (failure ?? '').split(/^what it logged until the first problem was noticed:$|^the last it logged:$/m).slice(1);
    const [then = '', last = ''] = logged.map((part) => part.trimEnd().split('\n').at(-1) ?? '');
    expect(then).to.match(/ms {2}- {5}ERROR: problem {2}problem="bucket \d+ on node \d acknowledged entry /);
    expect(Number.parseFloat(last)).to.be.above(Number.parseFloat(then));
  });
});
