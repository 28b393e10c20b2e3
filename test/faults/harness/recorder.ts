import { closeSync, openSync, writeSync } from 'node:fs';
import type { EventType, Json } from '../../../src/check/history.js';
import { isTidemarkError, type TidemarkError } from '../../../src/client/index.js';
import { sharedNowMs } from './clock.js';

/**
 * One client process's part of the history of a workload, written as it happens: one JSON line for the begin of each operation
 * and one for its end, with the time on the clock that all processes share. An operation's begin is written before anything
 * of it is sent, its end after its answer has come, so that in the merged history (histories.ts) what ends before another
 * begins truly came first.
 */

/** `ok`: it took effect. `fail`: it certainly did not and never will. `info`: nobody knows. */
export type Outcome = Exclude<EventType, 'invoke'>;

export interface Sample {
  readonly group: number;
  readonly beginMs: number;
  readonly endMs: number;
  readonly outcome: Outcome;
}

export interface Asked {
  readonly f: string;
  readonly key: string;
  readonly value?: Json;
  /** It cannot change anything: an answer that is lost is a `fail`, not an `info`. */
  readonly isRead?: boolean;
}

/** `fail`: it was looked at and did not apply. Further fields go to the history. */
export interface Answered {
  readonly type?: 'ok' | 'fail';
  readonly value?: Json;
  readonly [extra: string]: Json | undefined;
}

/** Numbers for callers, from 0 on; each client process has its own part of them. */
export class Numbers {
  readonly #step: number;
  #next: number;

  /** `index` of so many who draw numbers. */
  constructor(index: number, step: number) {
    this.#next = index;
    this.#step = step;
  }

  next(): number {
    const number = this.#next;
    this.#next += this.#step;
    return number;
  }
}

/** Somebody who does one thing at a time. After an unknown outcome it is somebody new, since the old one may still be at it. */
export class Caller {
  readonly group: number;
  readonly #numbers: Numbers;
  process: number;

  constructor(group: number, numbers: Numbers) {
    this.group = group;
    this.#numbers = numbers;
    this.process = numbers.next();
  }

  renew(): void {
    this.process = this.#numbers.next();
  }
}

const FLUSH_BYTES = 64 * 1024;

export class Recorder {
  readonly #file: number;
  readonly #originMs: number;
  readonly #sampled: (sample: Sample) => void;
  #index = 0;
  #text = '';

  /** Times count from `originMs` of the shared clock. */
  constructor(path: string, originMs: number, sampled: (sample: Sample) => void) {
    this.#file = openSync(path, 'w');
    this.#originMs = originMs;
    this.#sampled = sampled;
  }

  /** Resolves with the answer, or undefined if there was none. Rejects if it was no honest one. */
  async record(caller: Caller, asked: Asked, act: () => Promise<Answered>): Promise<Answered | undefined> {
    const { isRead = false, ...operation } = asked;
    const { group, process } = caller;
    const beginMs = this.#line({ process, type: 'invoke', ...operation });
    const end = (outcome: Outcome, fields: { readonly [extra: string]: Json | undefined }): void => {
      const endMs = this.#line({ process, type: outcome, ...operation, ...fields });
      this.#sampled({ group, beginMs, endMs, outcome });
    };
    try {
      const { type = 'ok', ...answer } = await act();
      end(type, answer);
      return { type, ...answer };
    } catch (error) {
      if (!isTidemarkError(error) || !isHonest(error)) throw error;
      const outcome = error.outcome === 'none' || isRead ? 'fail' : 'info';
      end(outcome, { error: error.reason, message: error.message });
      if (outcome === 'info') caller.renew();
      return undefined;
    }
  }

  close(): void {
    this.#flush();
    closeSync(this.#file);
  }

  #line(event: Readonly<Record<string, Json | undefined>>): number {
    const timeMs = sharedNowMs() - this.#originMs;
    this.#text += `${JSON.stringify({ index: this.#index, timeNs: Math.round(timeMs * 1e6), ...event })}\n`;
    this.#index += 1;
    if (this.#text.length >= FLUSH_BYTES) this.#flush();
    return timeMs;
  }

  #flush(): void {
    writeSync(this.#file, this.#text);
    this.#text = '';
  }
}

/** What a caller may be told while nodes fail. Anything else, such as INVALID_ARGUMENT or DATA_LOSS, is a failure of the run. */
const HONEST: ReadonlySet<string> = new Set(['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED', 'ABORTED', 'FAILED_PRECONDITION']);

export function isHonest({ code }: TidemarkError): boolean {
  return HONEST.has(code);
}
