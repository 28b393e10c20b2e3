import { explain, runSwarm } from '../../src/sim/swarm/swarm.js';

/** What became of a seed that was run twice. */
export interface Verdict {
  readonly seed: number;
  /** What is wrong with it, as it is to be read; undefined if nothing is. */
  readonly failure: string | undefined;
}

/** A process that runs the seeds which it is sent, one after the other (swarm.test.ts). */
async function judge(seed: number): Promise<Verdict> {
  const one = await runSwarm(seed);
  if (one.problems.length > 0) return { seed, failure: explain(one) };
  const other = await runSwarm(seed);
  if (one.trace === other.trace) return { seed, failure: undefined };
  const at = one.log.findIndex((line, index) => line !== other.log[index]);
  const lines = [one.log[at], other.log[at]].map((line) => `  ${line ?? '(nothing)'}`);
  return { seed, failure: [`seed ${seed} gives two different runs, from line ${at + 1} of their logs on:`, ...lines].join('\n') };
}

process.on('message', (seed: number) => {
  judge(seed).then(
    (verdict) => process.send?.(verdict),
    (error: unknown) => {
      const failure = `seed ${seed}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
      process.send?.({ seed, failure } satisfies Verdict);
    },
  );
});

// Whoever asked is gone: nobody waits for a verdict.
process.on('disconnect', () => process.exit());
