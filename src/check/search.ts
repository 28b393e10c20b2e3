import { assert } from '../lib/assert.js';

/**
 * Is there an order of these operations, each somewhere between its call and its return, in which each has the outcome that it
 * had? This is the search of Wing and Gong (1993) in the form of Lowe (2017): a doubly linked list of what has not been placed,
 * from which an operation is lifted when it is placed and into which it is put back on the way back; operations are placed
 * just in time, that is, when one of them returns; and a configuration (what is placed, state) is not entered twice.
 *
 * The search stands at a *deadline*: the next return whose operation is not placed. Everything called before it may be placed
 * now; that operation must be. Four observations keep the search small without losing an answer:
 *
 * 1. Everything that returned before the deadline is placed, so a configuration is only (deadline, which of the operations under
 *    way are placed, state). That is as small as the concurrency, not as the history.
 * 2. A *read*, which never changes the state, is placed as soon as it fits: that cannot hinder anything.
 * 3. A *blind* operation, which fits every state and whose result does not depend on it, leaves no trace if another blind one is
 *    placed directly behind it. So it need not be placed in the midst: it is enough to remember since when there was a blind one
 *    (`coveredUntil`) in front of which it can be thought. At its own deadline it is then dropped (`COVER`) or placed, as fits.
 *    In the midst it is placed only if an operation under way would see its result.
 * 4. Operations of unknown outcome need not be placed, so they are placed only if an operation under way would see the result.
 *    Equal ones are one *pool*.
 *
 * Equal operations under way stand for each other: the one that must return first goes first. And there is no way on if an
 * operation under way wants a state to which nothing leads any more before it returns.
 */
export type State = string | number;

/** What an operation does to a state, as the model of the object sees it. */
export interface Step {
  /** Equal for operations that are equal in every state. */
  readonly name: string;
  readonly kind: 'read' | 'blind' | 'update';
  /** The state after it; undefined if it cannot have had its outcome in this one. */
  apply(state: State): State | undefined;
  /** The only state that it fits, and the only one to which it leads, if there is one. */
  readonly wants?: State;
  readonly result?: State;
}

export interface Call {
  readonly step: Step;
  readonly call: number;
  /** Infinity: its outcome is unknown. */
  readonly return: number;
}

export interface Order<C extends Call> {
  /** The last few, and how many there are in all. */
  readonly placed: readonly C[];
  readonly placedCount: number;
  /** The state to which it leads. */
  readonly state: State;
  /** Called, but neither returned nor in this order. */
  readonly underWay: readonly C[];
}

const PLACED_SHOWN = 10;
const UNDER_WAY_SHOWN = 30;
const LOOK_AHEAD = 64;
const WORD_BITS = 16;
const HEAD = 0;

/** Operations of unknown outcome that are equal. */
interface Pool<C> {
  readonly id: number;
  readonly step: Step;
  readonly calls: C[];
  used: number;
}

type Choice =
  | { readonly kind: 'place'; readonly node: number }
  | { readonly kind: 'cover'; readonly node: number }
  | { readonly kind: 'draw'; readonly pool: number };

/** A place where several ways lead on, as it was when it was reached. */
interface Fork {
  readonly deadline: number;
  readonly state: State;
  readonly coveredUntil: number;
  readonly drawn: number;
  readonly trailLength: number;
  readonly choices: readonly Choice[];
  next: number;
}

export class Search<C extends Call> {
  /** Nodes 1 to n are the operations that returned, in the order of their calls; 0 is the head of the list. */
  readonly #calls: (C | undefined)[] = [undefined];
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #lifted: Uint8Array;
  /** Nodes in the order of their returns. */
  readonly #returns: Int32Array;
  /** Different for any two operations that overlap, and as small as that allows. */
  readonly #slots: Int32Array;
  readonly #slotWords: Uint16Array;
  readonly #pools: Pool<C>[] = [];
  readonly #poolsByName = new Map<string, Pool<C>>();
  /** Blind pools by what they lead to, others by the state that they fit; those that fit several states apart. */
  readonly #blindPools = new Map<State, Pool<C>>();
  readonly #updatePools = new Map<State, Pool<C>[]>();
  readonly #freePools: Pool<C>[] = [];
  readonly #sources: Sources<C> | undefined;
  readonly #stateNumbers = new Map<State, number>();

  #deadline = 0;
  #state: State;
  #coveredUntil = -1;
  /** Stands for how often each pool was drawn from. */
  #drawn = 0;
  readonly #drawnNumbers = new Map<State, number>([['', 0]]);
  /** What was done since the begin, to be undone: a node that was lifted, or ~pool that was drawn from. */
  readonly #trail: number[] = [];
  readonly #forks: Fork[] = [];
  readonly #seen = new Set<string>();

  #furthest = 0;
  #begun = false;

  constructor(calls: readonly C[], initial: State) {
    this.#state = initial;
    for (const call of calls) {
      if (call.return === Infinity) this.#addToPool(call);
      else this.#calls.push(call);
    }
    const count = this.#calls.length;
    this.#next = Int32Array.from({ length: count }, (_, at) => (at + 1) % count);
    this.#previous = Int32Array.from({ length: count }, (_, at) => (at + count - 1) % count);
    this.#lifted = new Uint8Array(count);
    this.#returns = Int32Array.from({ length: count - 1 }, (_, at) => at + 1);
    this.#returns.sort((a, b) => this.#at(a).return - this.#at(b).return);
    this.#slots = new Int32Array(count);
    this.#slotWords = new Uint16Array(Math.ceil(this.#assignSlots() / WORD_BITS));
    const leading = calls.filter(({ step }) => step.kind !== 'read');
    if (leading.every(({ step }) => step.result !== undefined)) this.#sources = new Sources(leading, this.#pools);
  }

  /** How many slots there are. */
  #assignSlots(): number {
    const free: number[] = [];
    let slots = 0;
    let returned = 0;
    for (let node = 1; node < this.#calls.length; node += 1) {
      const { call } = this.#at(node);
      for (; ; returned += 1) {
        const first = this.#returns[returned];
        if (first === undefined || this.#at(first).return > call) break;
        free.push(this.#slots[first] ?? 0);
      }
      this.#slots[node] = free.pop() ?? slots++;
    }
    return slots;
  }

  get configurations(): number {
    return this.#seen.size;
  }

  get deadlines(): number {
    return this.#returns.length;
  }

  get deadlinesMet(): number {
    return this.#furthest;
  }

  /** Goes to the next fork, forward or, from a dead end, back. */
  step(): 'valid' | 'invalid' | 'on' {
    if (!this.#begun) {
      this.#begun = true;
      return this.#arrive() ? 'valid' : 'on';
    }
    const fork = this.#forks.at(-1);
    if (fork === undefined) return 'invalid';
    this.#undo(fork);
    const choice = fork.choices[fork.next];
    if (choice === undefined) {
      this.#forks.pop();
      return 'on';
    }
    fork.next += 1;
    this.#take(choice);
    return this.#arrive() ? 'valid' : 'on';
  }

  /** The order that was found. */
  order(): Order<C> {
    const placed = this.#trail.slice(-PLACED_SHOWN).map((done) => {
      const pool = done < 0 ? this.#pools[~done] : undefined;
      return pool === undefined ? this.#at(done) : (pool.calls[pool.used - 1] ?? this.#at(HEAD));
    });
    const underWay = this.#pools.flatMap(({ calls, used }) => calls.slice(used)).slice(-UNDER_WAY_SHOWN);
    return { placed, placedCount: this.#trail.length, state: this.#state, underWay };
  }

  /** Meets the deadlines that need no choice. True if there are none left. */
  #arrive(): boolean {
    for (;;) {
      let due = this.#returns[this.#deadline];
      for (; due !== undefined && this.#lifted[due] === 1; due = this.#returns[this.#deadline]) this.#deadline += 1;
      if (due === undefined) return true;
      const limit = this.#at(due).return;
      for (let node = this.#next[HEAD] ?? HEAD; node !== HEAD; node = this.#next[node] ?? HEAD) {
        const { step, call } = this.#at(node);
        if (call > limit) break;
        if (step.kind === 'read' && step.apply(this.#state) !== undefined) this.#lift(node);
      }
      if (this.#lifted[due] === 1) continue;
      this.#furthest = Math.max(this.#furthest, this.#deadline);
      const configuration = this.#configuration(limit);
      if (this.#seen.has(configuration)) return false;
      this.#seen.add(configuration);
      if (!this.#hasSources(limit)) return false;
      const choices = this.#choices(due, limit);
      if (choices.length === 0) return false;
      this.#forks.push({
        deadline: this.#deadline,
        state: this.#state,
        coveredUntil: this.#coveredUntil,
        drawn: this.#drawn,
        trailLength: this.#trail.length,
        choices,
        next: 0,
      });
      return false;
    }
  }

  /** Deadline, state, what was drawn, how many may be dropped (the first ones in the order of calls), what is not placed. */
  #configuration(limit: number): string {
    let covered = 0;
    this.#slotWords.fill(0);
    for (let node = this.#next[HEAD] ?? HEAD; node !== HEAD; node = this.#next[node] ?? HEAD) {
      const { step, call } = this.#at(node);
      if (call > limit) break;
      if (step.kind === 'blind' && call < this.#coveredUntil) covered += 1;
      const slot = this.#slots[node] ?? 0;
      const word = Math.floor(slot / WORD_BITS);
      this.#slotWords[word] = (this.#slotWords[word] ?? 0) | (1 << slot % WORD_BITS);
    }
    const numbers = [this.#deadline, covered, this.#drawn, numberOf(this.#stateNumbers, this.#state)];
    const halves = numbers.flatMap((number) => [number % 65_536, Math.floor(number / 65_536)]);
    return String.fromCharCode(...halves, ...this.#slotWords);
  }

  /** False if an operation under way wants a state that nothing leads to any more. */
  #hasSources(limit: number): boolean {
    if (this.#sources === undefined) return true;
    const underWay = new Set<State | undefined>([this.#state]);
    const wanting: Call[] = [];
    for (let node = this.#next[HEAD] ?? HEAD; node !== HEAD; node = this.#next[node] ?? HEAD) {
      const call = this.#at(node);
      if (call.call > limit) break;
      underWay.add(call.step.result);
      if (call.step.wants !== undefined) wanting.push(call);
    }
    return wanting.every(
      ({ step: { wants = '' }, return: until }) => underWay.has(wants) || this.#sources?.has(wants, limit, until) === true,
    );
  }

  #choices(due: number, limit: number): Choice[] {
    const first = this.#choicesForDue(due);
    const helpful: Choice[] = [];
    const others: Choice[] = [];
    const dueStep = this.#at(due).step;
    const add = (choice: Choice, after: State): void => {
      (dueStep.apply(after) === undefined || dueStep.kind === 'blind' ? others : helpful).push(choice);
    };
    const taken = new Map<string, number>([[dueStep.name, due]]);
    for (let node = this.#next[HEAD] ?? HEAD; node !== HEAD; node = this.#next[node] ?? HEAD) {
      const { step, call } = this.#at(node);
      if (call > limit) break;
      if (node === due || step.kind === 'read') continue;
      const twin = taken.get(step.name);
      if (twin === undefined || this.#at(twin).return > this.#at(node).return) taken.set(step.name, node);
    }
    for (const node of taken.values()) {
      if (node === due) continue;
      const { step } = this.#at(node);
      const after = step.apply(this.#state);
      if (after === undefined || (step.kind === 'blind' && !this.#isSeen(after, limit, node))) continue;
      add({ kind: 'place', node }, after);
    }
    for (const pool of this.#usefulPools(limit)) {
      if (taken.has(pool.step.name) || !this.#available(pool, limit)) continue;
      const after = pool.step.apply(this.#state);
      if (after === undefined || !this.#isSeen(after, limit, HEAD)) continue;
      add({ kind: 'draw', pool: pool.id }, after);
    }
    return [...first, ...helpful, ...others];
  }

  #choicesForDue(due: number): Choice[] {
    const { step, call } = this.#at(due);
    const after = step.apply(this.#state);
    if (after === undefined) return [];
    const place: Choice = { kind: 'place', node: due };
    if (step.kind !== 'blind' || call >= this.#coveredUntil) return [place];
    const cover: Choice = { kind: 'cover', node: due };
    return this.#isWantedSooner(after) ? [place, cover] : [cover, place];
  }

  /** Whether the next operation that would tell the two states apart asks for this one. Only a guess where to look first. */
  #isWantedSooner(after: State): boolean {
    const end = Math.min(this.#returns.length, this.#deadline + LOOK_AHEAD);
    for (let at = this.#deadline + 1; at < end; at += 1) {
      const node = this.#returns[at] ?? HEAD;
      const { wants } = this.#at(node).step;
      if (this.#lifted[node] === 1 || wants === undefined) continue;
      if (wants === after) return true;
      if (wants === this.#state) return false;
    }
    return false;
  }

  /**
   * Whether an operation that must be placed, other than the one that leads there, is under way, fits the state and is not blind;
   * or one of unknown outcome, which leads to a state of which the same is true.
   */
  #isSeen(state: State, limit: number, except: number, known = new Set<State>()): boolean {
    known.add(state);
    for (let node = this.#next[HEAD] ?? HEAD; node !== HEAD; node = this.#next[node] ?? HEAD) {
      const { step, call } = this.#at(node);
      if (call > limit) break;
      if (node !== except && step.kind !== 'blind' && step.apply(state) !== undefined) return true;
    }
    // One that fits many states may be seen by another of its kind, and so on without an end: taken as seen.
    if (this.#freePools.some((pool) => pool.step.kind !== 'blind' && this.#available(pool, limit))) return true;
    return (this.#updatePools.get(state) ?? []).some((pool) => {
      const after = this.#available(pool, limit) ? pool.step.apply(state) : undefined;
      return after !== undefined && !known.has(after) && this.#isSeen(after, limit, except, known);
    });
  }

  /** All pools that could be drawn from here, and some that could not. */
  #usefulPools(limit: number): Iterable<Pool<C>> {
    const found = new Set<Pool<C>>([...(this.#updatePools.get(this.#state) ?? []), ...this.#freePools]);
    for (let node = this.#next[HEAD] ?? HEAD; node !== HEAD; node = this.#next[node] ?? HEAD) {
      const { step, call } = this.#at(node);
      if (call > limit) break;
      if (step.kind === 'blind') continue;
      // What fits more than one state may be helped by any.
      if (step.wants === undefined) return this.#pools;
      const pool = this.#blindPools.get(step.wants);
      if (pool !== undefined) found.add(pool);
    }
    for (const wanted of this.#updatePools.keys()) {
      const pool = this.#blindPools.get(wanted);
      if (pool !== undefined) found.add(pool);
    }
    return this.#freePools.length > 0 ? this.#pools : found;
  }

  #available({ calls, used }: Pool<C>, limit: number): boolean {
    const next = calls[used];
    return next !== undefined && next.call < limit;
  }

  #take(choice: Choice): void {
    if (choice.kind === 'cover') {
      this.#lift(choice.node);
      return;
    }
    const pool = choice.kind === 'draw' ? this.#pools[choice.pool] : undefined;
    const step = choice.kind === 'place' ? this.#at(choice.node).step : pool?.step;
    const after = step?.apply(this.#state);
    assert(step !== undefined && after !== undefined, 'a choice fits the state in which it was made');
    if (choice.kind === 'place') {
      this.#lift(choice.node);
    } else if (pool !== undefined) {
      pool.used += 1;
      this.#trail.push(~pool.id);
      this.#drawn = this.#numberOfDrawn();
    }
    this.#state = after;
    if (step.kind === 'blind') this.#coveredUntil = this.#at(this.#returns[this.#deadline] ?? HEAD).return;
  }

  #numberOfDrawn(): number {
    let name = '';
    for (const { id, used } of this.#pools) if (used > 0) name += `${id}:${used},`;
    return numberOf(this.#drawnNumbers, name);
  }

  #lift(node: number): void {
    const [before, after] = [this.#previous[node] ?? HEAD, this.#next[node] ?? HEAD];
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#lifted[node] = 1;
    this.#trail.push(node);
  }

  #undo({ deadline, state, coveredUntil, drawn, trailLength }: Fork): void {
    while (this.#trail.length > trailLength) {
      const done = this.#trail.pop() ?? HEAD;
      const pool = done < 0 ? this.#pools[~done] : undefined;
      if (pool !== undefined) {
        pool.used -= 1;
        continue;
      }
      // It still points to its neighbours of that time: what was lifted later is back already.
      const [before, after] = [this.#previous[done] ?? HEAD, this.#next[done] ?? HEAD];
      this.#next[before] = done;
      this.#previous[after] = done;
      this.#lifted[done] = 0;
    }
    this.#deadline = deadline;
    this.#state = state;
    this.#coveredUntil = coveredUntil;
    this.#drawn = drawn;
  }

  #at(node: number): C {
    const call = this.#calls[node];
    assert(call !== undefined, `node ${node} stands for an operation`);
    return call;
  }

  /** A read that nobody got an answer from says nothing. */
  #addToPool(call: C): void {
    const { step } = call;
    if (step.kind === 'read') return;
    const known = this.#poolsByName.get(step.name);
    if (known !== undefined) {
      known.calls.push(call);
      return;
    }
    const pool: Pool<C> = { id: this.#pools.length, step, calls: [call], used: 0 };
    this.#pools.push(pool);
    this.#poolsByName.set(step.name, pool);
    if (step.kind === 'blind' && step.result !== undefined) this.#blindPools.set(step.result, pool);
    else if (step.wants === undefined) this.#freePools.push(pool);
    else append(this.#updatePools, step.wants, pool);
  }
}

/** What leads to a state: operations by the time of their call, and pools. */
class Sources<C extends Call> {
  readonly #calls = new Map<State, number[]>();
  readonly #pools = new Map<State, Pool<C>[]>();

  /** `calls` in the order of their calls, each with a result. */
  constructor(calls: readonly C[], pools: readonly Pool<C>[]) {
    for (const { step, call, return: end } of calls) {
      if (end !== Infinity) append(this.#calls, step.result ?? '', call);
    }
    for (const pool of pools) append(this.#pools, pool.step.result ?? '', pool);
  }

  /** Whether something leads there that is called between `after` and `until`, or of unknown outcome and not drawn yet. */
  has(state: State, after: number, until: number): boolean {
    const next = firstAbove(this.#calls.get(state) ?? [], after);
    if (next !== undefined && next < until) return true;
    return (this.#pools.get(state) ?? []).some(({ calls, used }) => (calls[used]?.call ?? Infinity) < until);
  }
}

function firstAbove(ascending: readonly number[], bound: number): number | undefined {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if ((ascending[middle] ?? Infinity) > bound) high = middle;
    else low = middle + 1;
  }
  return ascending[low];
}

function append<K, V>(lists: Map<K, V[]>, key: K, item: V): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [item]);
  else list.push(item);
}

function numberOf(numbers: Map<State, number>, name: State): number {
  const known = numbers.get(name);
  const number = known ?? numbers.size;
  if (known === undefined) numbers.set(name, number);
  return number;
}
