import { codeVersion } from '../../src/cli/sim/commit.js';
import { readable } from '../../src/sim/readable.js';
import { explain, runSwarm, type SwarmOptions } from '../../src/sim/swarm/swarm.js';

const LINES_SHOWN = 20;

/** Runs a seed twice. What is wrong with it, for people: which seed of which commit, how to see it again, what happened. */
export async function judge(seed: number, options: SwarmOptions = {}): Promise<string | undefined> {
  const failure = await failureOf(seed, options);
  return failure === undefined ? undefined : `tidemark ${await codeVersion()}: ${failure}`;
}

async function failureOf(seed: number, options: SwarmOptions): Promise<string | undefined> {
  const one = await runSwarm(seed, options);
  if (one.problems.length > 0) return explain(one);
  const other = await runSwarm(seed, options);
  if (one.trace === other.trace) return undefined;
  const differs = one.log.findIndex((line, index) => line !== other.log[index]);
  // Answers may differ where logs do not.
  const at = differs === -1 ? one.log.length : differs;
  const [first, second] = [one.log[at], other.log[at]].map((line) => `  ${line === undefined ? '(nothing)' : readable(line)}`);
  return [
    `seed ${seed} gives two different runs, from line ${at + 1} of their logs on:`,
    `${first}`,
    `${second}`,
    `replay: tidemark sim --seed ${seed} --twice`,
    'what both had logged until then:',
    ...one.log.slice(Math.max(0, at - LINES_SHOWN), at).map((line) => `  ${readable(line)}`),
  ].join('\n');
}
