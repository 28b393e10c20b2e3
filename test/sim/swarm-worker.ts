import { judge } from './judge.js';

/** What became of a seed that was run twice. */
export interface Verdict {
  readonly seed: number;
  /** What is wrong with it, as it is to be read; undefined if nothing is. */
  readonly failure: string | undefined;
}

/** A process that runs the seeds which it is sent, one after the other (swarm.test.ts). */
process.on('message', (seed: number) => {
  judge(seed).then(
    (failure) => process.send?.({ seed, failure } satisfies Verdict),
    (error: unknown) => {
      const failure = `seed ${seed}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
      process.send?.({ seed, failure } satisfies Verdict);
    },
  );
});

// Whoever asked is gone: nobody waits for a verdict.
process.on('disconnect', () => process.exit());
