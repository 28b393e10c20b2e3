import { assert } from '../lib/assert.js';
import { Search, type Call, type Order, type State } from './search.js';
import type { Work } from './work.js';

export type Linearization<C extends Call> =
  | { readonly verdict: 'valid' }
  | { readonly verdict: 'unknown'; readonly why: string }
  | { readonly verdict: 'invalid'; readonly witness: Witness<C> };

/** The history up to the return of `stuck` cannot be ordered; what had returned before, by itself, can. */
export interface Witness<C extends Call> {
  readonly stuck: C;
  /** False if it took too long to find the first such operation: there may be an earlier one. */
  readonly first: boolean;
  /** One order of what had returned before; undefined if it took too long. */
  readonly order: Order<C> | undefined;
}

/** Bounds memory: a remembered configuration takes 100 to 200 bytes. */
export const CONFIGURATIONS_MAX = 2_000_000;

const STEPS_A_YIELD = 2048;

/** Progress counts returns. */
export function* linearize<C extends Call>(
  calls: readonly C[],
  initial: State,
  configurationsMax: number = CONFIGURATIONS_MAX,
): Work<Linearization<C>> {
  const sorted = [...calls].sort((a, b) => a.call - b.call);
  const orphan = firstOrphan(sorted, initial);
  if (orphan !== undefined) {
    return { verdict: 'invalid', witness: yield* beforeOrphan(sorted, initial, orphan, configurationsMax) };
  }
  const answer = yield* decide(sorted, initial, configurationsMax);
  switch (answer.verdict) {
    case 'valid':
      return { verdict: 'valid' };
    case 'unknown':
      return answer;
    case 'invalid':
      return { verdict: 'invalid', witness: yield* narrow(sorted, initial, answer.explained, configurationsMax) };
  }
}

/**
 * The first return of an operation that wants a state to which nothing can have led: no search is needed to refute that, and a
 * search might try too many orders before it comes to the same.
 */
function firstOrphan<C extends Call>(calls: readonly C[], initial: State): C | undefined {
  const earliest = new Map<State, number>([[initial, -1]]);
  for (const { step, call } of calls) {
    if (step.kind === 'read') continue;
    if (step.result === undefined) return undefined;
    if (!earliest.has(step.result)) earliest.set(step.result, call);
  }
  let first: C | undefined;
  for (const call of calls) {
    const { wants } = call.step;
    const possible = wants === undefined || (earliest.get(wants) ?? Infinity) < call.return;
    if (call.return !== Infinity && !possible && call.return < (first?.return ?? Infinity)) first = call;
  }
  return first;
}

/** Whether what had returned before the orphan can be explained, and how; if not, what cannot. */
function* beforeOrphan<C extends Call>(
  calls: readonly C[],
  initial: State,
  orphan: C,
  configurationsMax: number,
): Work<Witness<C>> {
  const ends = calls.filter((call) => call.return < orphan.return).sort((a, b) => a.return - b.return);
  const before = until(calls, ends.at(-1));
  const answer = yield* decide(before, initial, configurationsMax);
  if (answer.verdict === 'valid') return { stuck: orphan, first: true, order: answer.order };
  if (answer.verdict === 'unknown') return { stuck: orphan, first: false, order: undefined };
  return yield* narrow(before, initial, answer.explained, configurationsMax);
}

type Decision<C extends Call> =
  | { readonly verdict: 'valid'; readonly order: Order<C> }
  | { readonly verdict: 'unknown'; readonly why: string }
  /** The first `explained` returns by themselves are no problem. */
  | { readonly verdict: 'invalid'; readonly explained: number };

function* decide<C extends Call>(calls: readonly C[], initial: State, configurationsMax: number): Work<Decision<C>> {
  const search = new Search(calls, initial);
  for (let count = 1; ; count += 1) {
    const verdict = search.step();
    if (verdict === 'valid') return { verdict, order: search.order() };
    if (verdict === 'invalid') return { verdict, explained: search.deadlinesMet };
    if (search.configurations > configurationsMax) {
      return { verdict: 'unknown', why: `more than ${configurationsMax} configurations had to be remembered` };
    }
    if (count % STEPS_A_YIELD !== 0) continue;
    const giveUp = yield { stage: 'Linearizability', done: search.deadlinesMet, total: search.deadlines };
    if (giveUp === true) return { verdict: 'unknown', why: 'the search was given up' };
  }
}

/**
 * Finds the shortest beginning of a history that cannot be ordered. The search itself does not tell, since it turns back as soon
 * as it sees that an operation is lost, long before that returns. The first
 * `explained` returns can be ordered, all of them cannot.
 */
function* narrow<C extends Call>(
  calls: readonly C[],
  initial: State,
  explained: number,
  configurationsMax: number,
): Work<Witness<C>> {
  const returned = calls.filter((call) => call.return !== Infinity).sort((a, b) => a.return - b.return);
  let [good, bad] = [explained, returned.length];
  let order: Order<C> | undefined;
  let tried = true;
  for (let width = 1, found = false; good + 1 < bad && tried; ) {
    const middle: number = found ? Math.floor((good + bad) / 2) : Math.min(good + width, bad - 1);
    const answer = yield* decide(until(calls, returned[middle - 1]), initial, configurationsMax);
    if (answer.verdict === 'valid') [good, order] = [middle, answer.order];
    else if (answer.verdict === 'invalid') [bad, found] = [middle, true];
    else tried = false;
    width *= 2;
  }
  if (order === undefined) {
    const answer = yield* decide(until(calls, returned[good - 1]), initial, configurationsMax);
    if (answer.verdict === 'valid') order = answer.order;
  }
  const stuck = returned[bad - 1];
  assert(stuck !== undefined, 'a history without returns can be ordered');
  return { stuck, first: good + 1 === bad, order };
}

/** The history as it was when `last` had just returned. */
function until<C extends Call>(calls: readonly C[], last: C | undefined): C[] {
  const end = last?.return ?? -1;
  return calls.filter(({ call }) => call < end).map((call) => (call.return > end ? { ...call, return: Infinity } : call));
}
