import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { SwarmResult } from '../../sim/swarm/swarm.js';
import { planOfJob, runJob, type Job } from './job.js';
import type { Reply } from './worker.js';

/** How far processes may run ahead of the first seed that is not done, for each of them: its results wait in memory. */
const AHEAD_MAX = 8;

/** Very many jobs, made one by one. */
export interface Jobs {
  readonly count: number;
  readonly at: (index: number) => Job;
}

/** The results of the jobs, in the order of the jobs, from so many processes. Leaving the loop over them ends those. */
export async function* runJobs(jobs: Jobs, processes: number): AsyncGenerator<SwarmResult> {
  if (processes === 1 || jobs.count === 1) {
    for (let at = 0; at < jobs.count; at += 1) yield await runJob(jobs.at(at));
    return;
  }
  const pool = new Pool(jobs, Math.min(processes, jobs.count));
  try {
    for (let at = 0; at < jobs.count; at += 1) yield await pool.take(at);
  } finally {
    await pool.end();
  }
}

class Pool {
  readonly #jobs: Jobs;
  readonly #ahead: number;
  readonly #workers = new Set<ChildProcess>();
  readonly #idle: ChildProcess[] = [];
  readonly #results = new Map<number, SwarmResult>();
  #next = 0;
  #taken = 0;
  #changed: () => void = () => undefined;
  #ended = false;

  constructor(jobs: Jobs, processes: number) {
    this.#jobs = jobs;
    this.#ahead = processes * AHEAD_MAX;
    for (let count = 0; count < processes; count += 1) this.#start();
  }

  async take(at: number): Promise<SwarmResult> {
    this.#taken = at;
    this.#hire();
    for (;;) {
      const result = this.#results.get(at);
      if (result !== undefined) {
        this.#results.delete(at);
        return result;
      }
      await new Promise<void>((changed) => {
        this.#changed = changed;
      });
    }
  }

  async end(): Promise<void> {
    this.#ended = true;
    const ends = [...this.#workers].map((worker) => once(worker, 'exit'));
    for (const worker of this.#workers) worker.kill('SIGKILL');
    await Promise.all(ends);
  }

  #start(): void {
    // Run from its sources, this file is a .ts, and so is that.
    const file = import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js';
    const worker = fork(fileURLToPath(new URL(file, import.meta.url)), [], { serialization: 'advanced' });
    this.#workers.add(worker);
    this.#idle.push(worker);
    this.#hire();
  }

  #hire(): void {
    while (!this.#ended && this.#next < Math.min(this.#jobs.count, this.#taken + this.#ahead)) {
      const worker = this.#idle.shift();
      if (worker === undefined) return;
      if (!worker.connected) {
        // Somebody killed it while it had nothing to do.
        this.#workers.delete(worker);
        this.#start();
        return;
      }
      this.#give(worker, this.#jobs.at(this.#next), this.#next);
      this.#next += 1;
    }
  }

  #give(worker: ChildProcess, job: Job, at: number): void {
    const done = (result: SwarmResult): void => {
      worker.removeAllListeners();
      this.#results.set(at, result);
      this.#changed();
    };
    worker.once('message', (reply) => {
      done(reply as Reply);
      this.#idle.push(worker);
      this.#hire();
    });
    worker.once('exit', (code, signal) => {
      this.#workers.delete(worker);
      if (this.#ended) return;
      done(ended(job, `its process ended with ${signal ?? `code ${code}`}; what it said is above`));
      this.#start();
    });
    worker.send(job);
  }
}

/** An error that nobody caught: of the run there is nothing but that. */
function ended(job: Job, problem: string): SwarmResult {
  const { seed } = job;
  return {
    seed: String(seed),
    plan: planOfJob(job),
    problems: [problem],
    trace: '',
    log: [],
    simulatedMs: 0,
    events: 0,
    counts: {},
  };
}
