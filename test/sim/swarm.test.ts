import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
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
      this.#resolve.get(seed)?.({ seed, failure: `seed ${seed} ended its process with code ${code}` });
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
});
