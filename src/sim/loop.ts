import { assert } from '../lib/assert.js';
import type { Timer, Timers } from '../env/env.js';
import { SimClock, type SimClockOptions } from './clock.js';
import { EventQueue, SimEvent } from './event-queue.js';
import { SimProcess, type Scheduler } from './process.js';
import { SimRandom } from './random.js';

/** The real one, whatever a program that is simulated finds under that name. */
const nextRound = setImmediate;

/** Told when the loop begins and ends to run code of its world: in between nothing else of this process runs. */
export interface Surroundings {
  enter(): void;
  leave(): void;
}

/**
 * The simulated event loop: one queue of events in virtual time for all processes of a simulated world.
 *
 * Invariants
 * - Virtual time moves only between events, to the time of the next event; a day without events takes no time.
 * - Events run in the order of their time, those of the same time in the order in which they were made.
 * - Between two events all promises settle that can: code under test may await as it likes, as long as everything that it
 *   awaits is in the end an event of this loop. Nothing of the real world (threads, sockets, real timers) may be in between;
 *   then a seed determines the run.
 * - `turnEnd` callbacks run when no event is left at the present virtual time.
 *
 * Example:
 *
 *   const loop = new SimLoop(42);
 *   const node = loop.process('n1');
 *   node.timers.after(500, () => node.kill());
 *   await loop.runFor(1000);          // loop.nowMs === 1000, node.alive === false
 *
 * It is not a model of the cost of computing: a callback takes no virtual time.
 */
export class SimLoop implements Scheduler {
  readonly random: SimRandom;
  /** For the world itself: networks, disks, and whoever injects faults. Never paused or killed. */
  readonly timers: Timers;
  readonly #queue = new EventQueue();
  readonly #turnEnds: (() => void)[] = [];
  surroundings: Surroundings | undefined;
  /** Told whenever time has moved on, before what happens then. Must leave the world as it is. */
  onAdvance: (() => void) | undefined;
  #nowMs = 0;
  #order = 0;
  #eventsRun = 0;
  #eventsAtThisTime = 0;
  #running = false;
  #calls: { readonly at: number; readonly call: () => void }[] = [];
  #nextCallAt = Infinity;

  constructor(seed: string | number | SimRandom) {
    this.random = seed instanceof SimRandom ? seed : new SimRandom(seed);
    this.timers = {
      after: (delayMs, callback) => this.schedule(delayMs, callback),
      turnEnd: (callback) => this.turnEnd(callback),
    };
  }

  /** True time: what a perfect clock would show, from 0. */
  get nowMs(): number {
    return this.#nowMs;
  }

  get eventsRun(): number {
    return this.#eventsRun;
  }

  /** Calls back before the event that comes after so many others, at whatever time that is. */
  beforeEvent(count: number, call: () => void): void {
    const at = this.#eventsRun + count;
    this.#calls.push({ at, call });
    this.#nextCallAt = Math.min(this.#nextCallAt, at);
  }

  /** The clocks of one machine. */
  clock(options?: SimClockOptions): SimClock {
    return new SimClock(() => this.#nowMs, options);
  }

  /** One life of a process on the machine with this clock. */
  process(name: string, clock: SimClock = this.clock()): SimProcess {
    return new SimProcess(this, name, clock);
  }

  schedule(delayMs: number, run: () => void): Timer {
    assert(!Number.isNaN(delayMs), 'a delay is a number');
    this.#order += 1;
    const event = new SimEvent(this.#nowMs + Math.max(0, delayMs), this.#order, run);
    this.#queue.push(event);
    return event;
  }

  turnEnd(run: () => void): void {
    this.#turnEnds.push(run);
  }

  /** Lets this much virtual time pass. */
  async runFor(durationMs: number): Promise<void> {
    await this.#run(this.#nowMs + durationMs, () => false);
  }

  /** Runs until the predicate, asked after every event, holds. False if it did not within `timeoutMs` of virtual time. */
  async runUntil(predicate: () => boolean, timeoutMs: number): Promise<boolean> {
    return this.#run(this.#nowMs + timeoutMs, predicate);
  }

  /** Runs until a promise of the code under test is settled, and answers as it does. */
  async runUntilSettled<T>(promise: Promise<T>, timeoutMs: number): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    const done = await this.runUntil(() => settled, timeoutMs);
    if (!done) throw new Error(`not settled after ${timeoutMs} ms of virtual time`);
    return promise;
  }

  /**
   * Every step is a setImmediate of its own: Node settles all promises between two of them. They are queued by the dozen,
   * since a round of the real event loop costs more than most steps.
   */
  #run(endMs: number, predicate: () => boolean): Promise<boolean> {
    assert(!this.#running, 'a simulated loop runs once at a time');
    this.#running = true;
    return new Promise<boolean>((resolve, reject) => {
      let ended = false;
      let queued = 0;
      const end = (settle: () => void): void => {
        ended = true;
        this.#running = false;
        settle();
      };
      const step = (): void => {
        queued -= 1;
        if (ended) return;
        try {
          if (predicate()) {
            end(() => resolve(true));
            return;
          }
          if (!this.#step(endMs)) {
            end(() => resolve(false));
            return;
          }
        } catch (error) {
          end(() => reject(error instanceof Error ? error : new Error(String(error))));
          return;
        }
        if (queued === 0) refill();
      };
      const refill = (): void => {
        const { surroundings } = this;
        // What a step leaves to promises runs before the next of these.
        if (surroundings !== undefined) nextRound(() => ended || surroundings.enter());
        for (; queued < STEPS_QUEUED; queued += 1) nextRound(step);
        if (surroundings !== undefined) nextRound(() => ended || surroundings.leave());
      };
      refill();
    });
  }

  /** Runs one event that is due by `endMs`; false if there is none, and then it is `endMs`. */
  #step(endMs: number): boolean {
    const next = this.#queue.peek();
    if (this.#turnEnds.length > 0 && (next === undefined || next.dueMs > this.#nowMs)) {
      this.#count();
      this.#turnEnds.shift()?.();
      return true;
    }
    if (next === undefined || next.dueMs > endMs) {
      this.#advanceTo(Math.max(this.#nowMs, endMs));
      return false;
    }
    this.#queue.pop();
    this.#advanceTo(Math.max(this.#nowMs, next.dueMs));
    this.#count();
    next.run();
    return true;
  }

  #advanceTo(timeMs: number): void {
    if (timeMs === this.#nowMs) return;
    this.#eventsAtThisTime = 0;
    this.#nowMs = timeMs;
    this.onAdvance?.();
  }

  #count(): void {
    this.#eventsRun += 1;
    this.#eventsAtThisTime += 1;
    assert(this.#eventsAtThisTime < EVENTS_AT_ONE_TIME_MAX, () => `virtual time stands still at ${this.#nowMs} ms`);
    if (this.#eventsRun >= this.#nextCallAt) this.#callBack();
  }

  #callBack(): void {
    const due = this.#calls.filter(({ at }) => at <= this.#eventsRun);
    this.#calls = this.#calls.filter(({ at }) => at > this.#eventsRun);
    this.#nextCallAt = Math.min(Infinity, ...this.#calls.map(({ at }) => at));
    for (const { call } of due) call();
  }
}

const STEPS_QUEUED = 32;
const EVENTS_AT_ONE_TIME_MAX = 1_000_000;
