/** Pairs of nodes that cannot reach each other, in partitions that are more than two sides. */
export type Pairs = readonly (readonly [string, string])[];

function pairs(names: readonly string[], isCut: (one: number, other: number) => boolean): Pairs {
  return names.flatMap((name, one) => {
    return names.flatMap((other, at) => (at > one && isCut(one, at) ? [[name, other] as const] : []));
  });
}

/** Two sides, and the first node in both. */
export function bridge(names: readonly string[]): Pairs {
  const middle = 1 + Math.floor((names.length - 1) / 2);
  return pairs(names, (one, other) => one > 0 && one < middle && other >= middle);
}

/** Everybody reaches a majority, and no two the same one: each node only those that are next to it in a circle. */
export function majorityRing(names: readonly string[]): Pairs {
  const reach = Math.ceil(Math.floor(names.length / 2) / 2);
  return pairs(names, (one, other) => Math.min(other - one, names.length - other + one) > reach);
}
