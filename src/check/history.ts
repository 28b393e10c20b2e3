import { TidemarkError } from '../lib/errors.js';

/**
 * Histories: what clients asked a system and what they were told, as JSON lines in the order in which it happened.
 *
 *     {"index":0,"timeNs":1200,"process":3,"type":"invoke","f":"write","key":"x","value":5}
 *     {"index":1,"timeNs":4800,"process":3,"type":"ok","f":"write","key":"x","value":5}
 *
 * A process does one thing at a time: `invoke`, then how it ended.
 *
 * - `ok`: it took effect, and `value` is the answer.
 * - `fail`: it certainly did not and never will take effect.
 * - `info`: nobody knows; it may take effect now, at any later time, or never. Its process never comes back: whoever goes on
 *   in its place takes a new number, since a process that is still busy cannot begin anything.
 *
 * An operation without an end is one that ended with `info`. The order of the lines is the order of events; what ends in an
 * earlier line than another begins came before it in real time. docs/formats.md has the whole format.
 *
 * Lines of the process `nemesis` tell of faults; the checkers skip them.
 */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

export type EventType = 'invoke' | 'ok' | 'fail' | 'info';

export const NEMESIS = 'nemesis';

export interface HistoryEvent {
  /** Ascending from event to event. */
  readonly index: number;
  /** Nanoseconds since the run began, below 2^53; never goes back. */
  readonly timeNs: number;
  /** The number of a process, or NEMESIS. */
  readonly process: number | typeof NEMESIS;
  readonly type: EventType;
  readonly f: string;
  readonly key?: string | number;
  readonly value?: Json;
  readonly [extra: string]: Json | undefined;
}

/** An operation from its begin to its end. */
export interface Operation {
  readonly process: number;
  readonly f: string;
  /** The empty string if there was none. */
  readonly key: string;
  /** The value of the invocation: what was asked. */
  readonly input: Json | undefined;
  /** The value of the end: what was answered. */
  readonly output: Json | undefined;
  readonly outcome: 'ok' | 'fail' | 'info';
  /** A `fail` of a compare-and-set that was compared: the register certainly held another value at that time. */
  readonly mismatch: boolean;
  /** The version that the system named, if it did. */
  readonly version: number | undefined;
  /** Indexes of its events. An operation of unknown outcome has no end: it may take effect after everything else. */
  readonly begin: number;
  readonly end: number;
  readonly beginNs: number;
  readonly endNs: number;
}

/** What is wrong with a file of a history: `line` counts from 1. */
export function badHistory(line: number, message: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'BAD_HISTORY', `line ${line}: ${message}`, { details: { line: String(line) } });
}

/** One line of a history, with its end of line. */
export function formatEvent(event: HistoryEvent): string {
  const { index, timeNs, process: client, type, f, key, value, ...extra } = event;
  return `${JSON.stringify({ index, timeNs, process: client, type, f, key, value, ...extra })}\n`;
}

interface Open {
  readonly event: HistoryEvent;
  readonly line: number;
}

/**
 * Takes a history line by line, validates it, and hands out each operation when it has ended, those without an end at the very
 * end. It keeps only what is under way and the numbers of processes that ended with `info`. Throws INVALID_ARGUMENT /
 * BAD_HISTORY, naming the line.
 */
export class HistoryReader {
  readonly #sink: (operation: Operation) => void;
  readonly #open = new Map<number, Open>();
  /** Process -> the line of its `info`. */
  readonly #gone = new Map<number, number>();
  /** One string for all occurrences of a key, since each parsed line brings its own copy. */
  readonly #names = new Map<string, string>();
  #line = 0;
  #index = -1;
  #timeNs = 0;

  constructor(sink: (operation: Operation) => void) {
    this.#sink = sink;
  }

  /** An empty line counts and says nothing. */
  line(text: string): void {
    this.#line += 1;
    if (text.trim() !== '') this.#take(parseEvent(text, this.#line));
  }

  /** For histories that are not text; each event counts as a line. */
  event(event: HistoryEvent): void {
    this.#line += 1;
    this.#take(event);
  }

  end(): void {
    for (const { event } of this.#open.values()) this.#finish(event, undefined);
    this.#open.clear();
  }

  #take(event: HistoryEvent): void {
    if (event.index <= this.#index) throw this.#bad(`index ${event.index} does not come after ${this.#index}`);
    if (event.timeNs < this.#timeNs) throw this.#bad(`timeNs ${event.timeNs} is before the ${this.#timeNs} of an earlier line`);
    this.#index = event.index;
    this.#timeNs = event.timeNs;
    const client = event.process;
    if (client === NEMESIS) return;
    const gone = this.#gone.get(client);
    if (gone !== undefined) {
      throw this.#bad(`process ${client} ended with info in line ${gone} and must never be used again; take a new number`);
    }
    const open = this.#open.get(client);
    if (event.type === 'invoke') {
      if (open !== undefined) throw this.#bad(`process ${client} is still busy with what it began in line ${open.line}`);
      this.#open.set(client, { event, line: this.#line });
      return;
    }
    if (open === undefined) throw this.#bad(`process ${client} ends ('${event.type}') what it has not begun`);
    const same = event.f === open.event.f && (event.key === undefined || event.key === open.event.key);
    if (!same) throw this.#bad(`process ${client} ends another operation than it began in line ${open.line}: f or key differ`);
    this.#open.delete(client);
    if (event.type === 'info') this.#gone.set(client, this.#line);
    this.#finish(open.event, event);
  }

  #finish(begin: HistoryEvent, end: HistoryEvent | undefined): void {
    const outcome = end === undefined || end.type === 'invoke' ? 'info' : end.type;
    const known = outcome !== 'info';
    const version = end?.['version'];
    this.#sink({
      process: begin.process as number,
      f: this.#name(begin.f),
      key: this.#name(String(begin.key ?? '')),
      input: begin.value,
      output: end?.value,
      outcome,
      mismatch: end?.['mismatch'] === true,
      version: typeof version === 'number' ? version : undefined,
      begin: begin.index,
      end: known && end !== undefined ? end.index : Infinity,
      beginNs: begin.timeNs,
      endNs: known && end !== undefined ? end.timeNs : Infinity,
    });
  }

  #name(text: string): string {
    const known = this.#names.get(text);
    if (known === undefined) this.#names.set(text, text);
    return known ?? text;
  }

  #bad(message: string): TidemarkError {
    return badHistory(this.#line, message);
  }
}

const TYPES: readonly EventType[] = ['invoke', 'ok', 'fail', 'info'];

function parseEvent(text: string, line: number): HistoryEvent {
  let event: unknown;
  try {
    event = JSON.parse(text);
  } catch {
    throw badHistory(line, `this is not JSON: ${text.slice(0, 60)}`);
  }
  if (typeof event !== 'object' || event === null || Array.isArray(event)) throw badHistory(line, 'this is not a JSON object');
  const { index, timeNs, process: client, type, f, key } = event as Readonly<Record<string, unknown>>;
  const expect = (good: boolean, field: string, expected: string, value: unknown): void => {
    if (!good) throw badHistory(line, `${field} is ${JSON.stringify(value) ?? 'missing'}, expected ${expected}`);
  };
  expect(isCount(index), 'index', 'a whole number', index);
  expect(isCount(timeNs), 'timeNs', 'nanoseconds since the run began, a whole number below 2^53', timeNs);
  expect(isCount(client) || client === NEMESIS, 'process', `a whole number or "${NEMESIS}"`, client);
  expect(TYPES.includes(type as EventType), 'type', TYPES.join(', '), type);
  expect(typeof f === 'string' && f !== '', 'f', 'the name of an operation', f);
  expect(key === undefined || typeof key === 'string' || typeof key === 'number', 'key', 'text or a number', key);
  return event as HistoryEvent;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** An operation as a line for people. Times are in seconds since the run began. */
export function describe(operation: Operation): string {
  const { process: client, f, key, input, output, outcome, begin, end, beginNs, endNs } = operation;
  const asked = input === undefined || input === null ? '' : ` ${shown(input)}`;
  const repeats = output === undefined || JSON.stringify(output) === JSON.stringify(input);
  const answered = outcome === 'ok' ? (repeats && f !== 'read' ? 'ok' : `-> ${shown(output ?? null)}`) : outcome;
  const where = outcome === 'info' ? `events ${begin}-?` : `events ${begin}-${end}`;
  const time = `${seconds(beginNs)}-${outcome === 'info' ? '' : seconds(endNs)} s`;
  return `process ${client}: ${f}${key === '' ? '' : ` ${key}`}${asked} ${answered}  (${where}, ${time})`;
}

const SHOWN_MAX = 120;

/** A value for people, cut if it is long. */
export function shown(value: Json): string {
  const text = JSON.stringify(value);
  return text.length <= SHOWN_MAX ? text : `${text.slice(0, SHOWN_MAX)}…`;
}

function seconds(ns: number): string {
  return (ns / 1e9).toFixed(4);
}
