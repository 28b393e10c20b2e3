import type { SwarmPlan } from './plan.js';

/**
 * Smaller plans than one that fails: fewer nodes, buckets, keys, clients, faults, sorts of work, limits, and less time. Each
 * differs from the plan in one respect; those that save most come first.
 */
export function smallerPlans(plan: SwarmPlan): SwarmPlan[] {
  const smaller: SwarmPlan[] = [];
  const add = (change: Partial<SwarmPlan>): void => void smaller.push({ ...plan, ...change });
  const half = (value: number): number => Math.floor(value / 2);
  if (plan.durationMs >= 1000) add({ durationMs: half(plan.durationMs) });
  if (plan.nodes > 3) add({ nodes: 3, replicas: 3 });
  if (plan.nodes === 2 || plan.nodes === 3) add({ nodes: 1, replicas: 1 });
  if (plan.faults.length > 1) {
    add({ faults: plan.faults.slice(0, half(plan.faults.length)) });
    add({ faults: plan.faults.slice(half(plan.faults.length)) });
  }
  plan.faults.forEach((_, at) => add({ faults: plan.faults.filter((_fault, other) => other !== at) }));
  if (plan.buckets > 1) add({ buckets: half(plan.buckets) });
  if (plan.renewEveryMs > 0) add({ renewEveryMs: 0 });
  if (plan.moveEveryMs > 0) add({ moveEveryMs: 0 });
  if (plan.replicaReads) add({ replicaReads: false });
  if (plan.pinners > 0) add({ pinners: 0 });
  if (plan.nearCache) add({ nearCache: false });
  if (plan.transactions > 0) add({ transactions: half(plan.transactions) });
  if (plan.transactions > 0 && plan.spreadTransactions) add({ spreadTransactions: false });
  if (plan.clients > 1) add({ clients: half(plan.clients) });
  if (plan.workers > 1) add({ workers: half(plan.workers) });
  if (plan.keys.length > 1) add({ keys: plan.keys.slice(0, half(plan.keys.length)) });
  if (plan.work.length > 1) plan.work.forEach((_, at) => add({ work: plan.work.filter((_work, other) => other !== at) }));
  for (const name of Object.keys(plan.limits)) {
    add({ limits: Object.fromEntries(Object.entries(plan.limits).filter(([other]) => other !== name)) });
  }
  if (plan.valueBytesMax > 0) add({ valueBytesMax: 0 });
  if (plan.gatewayChance > 0) add({ gatewayChance: 0 });
  return smaller;
}

/**
 * Goes from a failing plan to smaller ones that fail too, until none does or `mayGoOn` says no. It need not be the same
 * failure: a simpler one is as welcome.
 */
export async function shrinkPlan(
  failing: SwarmPlan,
  fails: (plan: SwarmPlan) => Promise<boolean>,
  mayGoOn: () => boolean,
): Promise<SwarmPlan> {
  let smallest = failing;
  for (let found = true; found; ) {
    found = false;
    for (const plan of smallerPlans(smallest)) {
      if (!mayGoOn()) return smallest;
      if (!(await fails(plan))) continue;
      smallest = plan;
      found = true;
      break;
    }
  }
  return smallest;
}
