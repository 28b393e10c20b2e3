/**
 * A long computation in small steps. It yields now and then how far it has come; whoever runs it answers whether it shall give
 * up, so that a time limit, a progress bar and other work of the process need no clock and no promise in here. A checker that
 * is told to give up says `unknown` about what it has not finished, and keeps what it has found.
 */
export type Work<R> = Generator<Progress, R, boolean | undefined>;

export interface Progress {
  /** What is being done, as the title of a bar: `linearizability`. */
  readonly stage: string;
  readonly done: number;
  readonly total: number;
}

/** Runs to the end, or gives up as soon as `giveUp` says so. */
export function run<R>(work: Work<R>, giveUp: () => boolean = () => false): R {
  let step = work.next();
  while (step.done !== true) step = work.next(giveUp());
  return step.value;
}
