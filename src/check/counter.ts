import { describe, shown, type Operation } from './history.js';
import { unfit } from './register.js';
import { Findings, type Result } from './result.js';
import type { Work } from './work.js';

/**
 * Counters that begin at 0, one for each key: `increment` by a number (1 if none is given), `read` of the sum. Every read lies
 * between what certainly had happened before it began and what can have happened before it ended: acknowledged increments that
 * ended before it began count, those that failed do not, all others that began before it ended may or may not. And where nothing
 * is ever subtracted, no read is below one that ended before it began.
 */
interface Counter {
  readonly increments: Operation[];
  readonly reads: Operation[];
}

const KEYS_A_YIELD = 64;

export class CounterChecker {
  readonly #counters = new Map<string, Counter>();
  #count = 0;

  add(operation: Operation): void {
    this.#count += 1;
    const { f, key, outcome, output } = operation;
    let counter = this.#counters.get(key);
    if (counter === undefined) this.#counters.set(key, (counter = { increments: [], reads: [] }));
    if (f === 'increment') {
      amountOf(operation);
      if (outcome !== 'fail') counter.increments.push(operation);
    } else if (f !== 'read') {
      throw unfit(operation, 'a counter has increment and read');
    } else if (outcome === 'ok') {
      if (typeof output !== 'number') throw unfit(operation, 'a read of a counter answers a number');
      counter.reads.push(operation);
    }
  }

  *check(): Work<Result> {
    const findings = new Findings();
    let done = 0;
    let reads = 0;
    for (const [key, counter] of this.#counters) {
      checkCounter(key, counter, findings);
      done += 1;
      reads += counter.reads.length;
      if (done % KEYS_A_YIELD !== 0) continue;
      if ((yield { stage: 'Counters', done, total: this.#counters.size }) !== true) continue;
      findings.unknown.push(`${this.#counters.size - done} counters were not looked at: the check was given up`);
      break;
    }
    return findings.result({ operations: this.#count, counters: this.#counters.size, reads });
  }
}

function amountOf(increment: Operation): number {
  const amount = increment.input ?? 1;
  if (typeof amount !== 'number') throw unfit(increment, 'the value of an increment is a number');
  return amount;
}

/** Sums of positive and of negative amounts. */
interface Sums {
  readonly up: number;
  readonly down: number;
}

function plus({ up, down }: Sums, amount: number): Sums {
  return amount < 0 ? { up, down: down + amount } : { up: up + amount, down };
}

/** Goes through the begins and ends once, in order. */
function checkCounter(key: string, { increments, reads }: Counter, findings: Findings): void {
  const onlyUp = increments.every((increment) => amountOf(increment) >= 0);
  let begun: Sums = { up: 0, down: 0 };
  let acknowledged: Sums = begun;
  let highest: Operation | undefined;
  const atBegin = new Map<Operation, { readonly acknowledged: Sums; readonly highest: Operation | undefined }>();
  const events = [...increments, ...reads].flatMap((operation) => [
    { at: operation.begin, operation, begins: true },
    { at: operation.end, operation, begins: false },
  ]);
  events.sort((a, b) => a.at - b.at);
  for (const { operation, begins } of events) {
    if (operation.f === 'increment') {
      if (begins) begun = plus(begun, amountOf(operation));
      else if (operation.outcome === 'ok') acknowledged = plus(acknowledged, amountOf(operation));
    } else if (begins) {
      atBegin.set(operation, { acknowledged, highest });
    } else {
      const before = atBegin.get(operation);
      const value = operation.output as number;
      const min = (before?.acknowledged.up ?? 0) + begun.down;
      const max = begun.up + (before?.acknowledged.down ?? 0);
      if (value < min || value > max) {
        const range = min === max ? `it must be ${min}` : `it must be within ${min} and ${max}`;
        findings.add('out-of-bounds', key, `a read shows ${value}; ${range}`, [describe(operation)]);
      } else if (onlyUp && before?.highest !== undefined && value < (before.highest.output as number)) {
        const details = [`first: ${describe(before.highest)}`, `then: ${describe(operation)}`];
        const title = `a read shows ${value} after another had shown ${shown(before.highest.output ?? 0)}`;
        findings.add('backwards', key, title, details);
      }
      if (highest === undefined || value > (highest.output as number)) highest = operation;
    }
  }
}
