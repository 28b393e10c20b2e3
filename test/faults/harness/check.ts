import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { CounterChecker } from '../../../src/check/counter.js';
import { HistoryReader, type Operation } from '../../../src/check/history.js';
import type { Result } from '../../../src/check/result.js';
import { SetChecker } from '../../../src/check/set.js';
import { run, type Work } from '../../../src/check/work.js';
import { BankChecker } from './bank.js';
import { ReadListChecker } from './lists.js';
import { RegisterChecker } from './registers.js';
import { StreamChecker } from './streams.js';

/** Which checker judges the history of which workload. */
interface Checker {
  add(operation: Operation): void;
  check(): Work<Result>;
  /** Is shown each line beside its operation, for fields that only this workload has. */
  line?(text: string): void;
}

const CHECKERS: Readonly<Record<string, () => Checker>> = {
  register: () => new RegisterChecker(),
  set: () => new SetChecker(),
  counter: () => new CounterChecker(),
  append: () => new ReadListChecker(),
  bank: () => new BankChecker(),
  stream: () => new StreamChecker(),
};

/** A checker that is not done by then says `unknown`, which fails the run. */
const CHECK_MS_MAX = 120_000;

export async function checkHistory(workload: string, path: string): Promise<Result> {
  const checker = CHECKERS[workload]?.();
  if (checker === undefined) throw new RangeError(`no checker for '${workload}'`);
  const reader = new HistoryReader((operation) => checker.add(operation));
  for await (const line of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
    reader.line(line);
    checker.line?.(line);
  }
  reader.end();
  const untilMs = performance.now() + CHECK_MS_MAX;
  return run(checker.check(), () => performance.now() > untilMs);
}
