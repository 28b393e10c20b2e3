import type { Timer } from '../env/env.js';

/** Something to do at a virtual time. `cancelled` events are skipped when their time comes. */
export class SimEvent implements Timer {
  readonly dueMs: number;
  /** Grows with every event: events that are due at the same time run in the order in which they were made. */
  readonly order: number;
  readonly run: () => void;
  cancelled = false;

  constructor(dueMs: number, order: number, run: () => void) {
    this.dueMs = dueMs;
    this.order = order;
    this.run = run;
  }

  cancel(): void {
    this.cancelled = true;
  }
}

/** A binary heap of events by (dueMs, order). */
export class EventQueue {
  readonly #heap: SimEvent[] = [];

  get length(): number {
    return this.#heap.length;
  }

  /** The next event that was not cancelled. */
  peek(): SimEvent | undefined {
    let first = this.#heap[0];
    while (first?.cancelled === true) {
      this.pop();
      first = this.#heap[0];
    }
    return first;
  }

  push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parentAt = (at - 1) >> 1;
      const parent = heap[parentAt];
      if (parent === undefined || !before(event, parent)) break;
      heap[at] = parent;
      at = parentAt;
    }
    heap[at] = event;
  }

  pop(): SimEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      const left = heap[2 * at + 1];
      const right = heap[2 * at + 2];
      if (left === undefined) break;
      const takeRight = right !== undefined && before(right, left);
      const child = takeRight ? right : left;
      if (!before(child, last)) break;
      heap[at] = child;
      at = 2 * at + (takeRight ? 2 : 1);
    }
    heap[at] = last;
    return first;
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.order < b.order);
}
