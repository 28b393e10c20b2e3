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
