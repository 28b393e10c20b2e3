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

interface Task {
  readonly job: Job;
  readonly at: number;
}

class Pool {
  readonly #jobs: Jobs;
  readonly #ahead: number;
  /** Processes that have not ended, with what they are doing; undefined: nothing. */
  readonly #workers = new Map<ChildProcess, Task | undefined>();
  readonly #count: number;
  readonly #results = new Map<number, SwarmResult>();
  #next = 0;
  #taken = 0;
  #changed: () => void = () => undefined;
  #ended = false;

  constructor(jobs: Jobs, processes: number) {
    this.#jobs = jobs;
    this.#count = processes;
    this.#ahead = processes * AHEAD_MAX;
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
    const workers = [...this.#workers.keys()];
    const ends = workers.map((worker) => once(worker, 'exit'));
    for (const worker of workers) worker.kill('SIGKILL');
    await Promise.all(ends);
  }

  #hire(): void {
    while (!this.#ended && this.#next < Math.min(this.#jobs.count, this.#taken + this.#ahead)) {
      const worker = this.#free();
      if (worker === undefined) return;
      const task = { job: this.#jobs.at(this.#next), at: this.#next };
      this.#next += 1;
      this.#workers.set(worker, task);
      // Where it cannot be sent its process is at an end, which is told of as what ended the task.
      worker.send(task.job, () => undefined);
    }
  }

  /** One that has nothing to do; undefined if all have. */
  #free(): ChildProcess | undefined {
    for (const [worker, task] of this.#workers) if (task === undefined) return worker;
    return this.#workers.size < this.#count ? this.#start() : undefined;
  }

  #start(): ChildProcess {
    // Run from its sources, this file is a .ts, and so is that.
    const file = import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js';
    const worker = fork(fileURLToPath(new URL(file, import.meta.url)), [], { serialization: 'advanced' });
    this.#workers.set(worker, undefined);
    worker.on('message', (reply) => {
      const task = this.#workers.get(worker);
      this.#workers.set(worker, undefined);
      if (task !== undefined) this.#done(task, reply as Reply);
    });
    worker.on('exit', (code, signal) => {
      const task = this.#workers.get(worker);
      this.#workers.delete(worker);
      if (task === undefined || this.#ended) return;
      const how = signal ?? `code ${code}`;
      this.#done(task, ended(task.job, `its process ended with ${how}; what it said is above`));
    });
    return worker;
  }

  #done({ at }: Task, result: SwarmResult): void {
    this.#results.set(at, result);
    this.#changed();
    this.#hire();
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
