import type { SimLog } from '../telemetry.js';

const PROBLEMS_MAX = 20;
const MESSAGE = 'problem';

/** The first that a run was found to do wrong. Each is in its log as well, where it was noticed. */
export class Problems {
  readonly found: string[] = [];
  readonly #log: SimLog;

  constructor(log: SimLog) {
    this.#log = log;
  }

  add(problem: string): void {
    if (this.found.length >= PROBLEMS_MAX) return;
    this.found.push(problem);
    this.#log.logger({}).error(MESSAGE, { problem });
  }
}

/** Where in a log the first problem was noticed; -1 if none was while the run went on. */
export function firstProblem(log: readonly string[]): number {
  return log.findIndex((line) => line.includes(` error ${MESSAGE} {`));
}
