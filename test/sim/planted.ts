import type { WEATHERS } from './weathers.js';

/**
 * Every planted bug, the class of real bugs that it stands for, and who catches it:
 *
 *   swarm      seeds of the swarm from 1 on, in the weather of that name, of which one of the first `SEEDS_MAX` must fail
 *   raft       seeds of test/raft/chaos.ts, likewise
 *   golden     the scenario of that name in test/raft/golden: its trace is another
 *   test       a test, by its file and a part of its name: it fails
 *
 * `docs/reliability.md` has this as a table; mutants.test.ts holds both to be the same.
 */
export interface Planted {
  readonly like: string;
  readonly what: string;
  readonly by:
    | { readonly swarm: keyof typeof WEATHERS }
    | { readonly raft: true }
    | { readonly golden: string }
    | { readonly test: string; readonly name: string };
}
