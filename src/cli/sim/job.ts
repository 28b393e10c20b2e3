import type { Mutant } from '../../lib/mutants.js';
import type { SwarmPlan } from '../../sim/swarm/plan.js';
import { planOfSeed, runSwarm, type SwarmResult } from '../../sim/swarm/swarm.js';

/** One seed to run, as it is handed to a worker. */
export interface Job {
  readonly seed: number;
  /** Instead of what the seed draws. */
  readonly plan: Partial<SwarmPlan> | undefined;
  readonly mutant: Mutant | undefined;
  readonly twice: boolean;
  /** The log is wanted also if nothing fails. */
  readonly keepLog: boolean;
}

/** What the seed draws, with what is given in its place. Of nodes and replicas, what is not given follows what is. */
export function planOfJob({ seed, plan }: Pick<Job, 'seed' | 'plan'>): SwarmPlan {
  const whole = { ...planOfSeed(seed), ...plan };
  if (plan?.replicas === undefined) return { ...whole, replicas: Math.min(whole.replicas, whole.nodes) };
  return { ...whole, nodes: Math.max(whole.nodes, whole.replicas) };
}

export async function runJob(job: Job): Promise<SwarmResult> {
  const { seed, mutant, twice, keepLog } = job;
  const run = (): Promise<SwarmResult> => runSwarm(seed, { plan: planOfJob(job), mutant });
  let result = await run();
  if (twice) {
    const { trace } = await run();
    const problem = `a second run has another trace: ${result.trace}, ${trace}`;
    if (trace !== result.trace) result = { ...result, problems: [...result.problems, problem] };
  }
  return keepLog || result.problems.length > 0 ? result : { ...result, log: [] };
}
