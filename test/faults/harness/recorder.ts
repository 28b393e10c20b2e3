import { closeSync, openSync, writeSync } from 'node:fs';
import { isTidemarkError } from '../../../src/client/index.js';

/**
 * The history of one workload, written as it happens: one JSON line for the begin of each operation and one for its end, in the
 * order in which they happened. All clients are in this process, so that order and time have one source.
 */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

/** `ok`: it took effect. `fail`: it certainly did not and never will. `info`: nobody knows. */
export type Outcome = 'ok' | 'fail' | 'info';

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

let processes = 0;

/** Somebody who does one thing at a time. After an unknown outcome it is somebody new, since the old one may still be at it. */
export class Caller {
  readonly group: number;
  process: number;

  constructor(group: number) {
    this.group = group;
    this.process = processes;
    processes += 1;
  }

  renew(): void {
    this.process = processes;
    processes += 1;
  }
}

const FLUSH_BYTES = 64 * 1024;

export class Recorder {
  readonly path: string;
  readonly samples: Sample[] = [];
  /** Group -> when the latest operation began that is known to have had its effect. */
  readonly lastOkMs = new Map<number, number>();
  readonly #file: number;
  readonly #originMs: number;
  #index = 0;
  #text = '';

  /** Times count from `originMs` of the monotonic clock. */
  constructor(path: string, originMs: number) {
    this.path = path;
    this.#file = openSync(path, 'w');
    this.#originMs = originMs;
  }

  /** Resolves with the answer, or undefined if there was none. Rejects if it was no honest one. */
  async record(caller: Caller, asked: Asked, act: () => Promise<Answered>): Promise<Answered | undefined> {
    const { isRead = false, ...operation } = asked;
    const { group, process } = caller;
    const beginMs = this.#line({ process, type: 'invoke', ...operation });
    const end = (outcome: Outcome, fields: { readonly [extra: string]: Json | undefined }): void => {
      const endMs = this.#line({ process, type: outcome, ...operation, ...fields });
      this.samples.push({ group, beginMs, endMs, outcome });
      if (outcome === 'ok') this.lastOkMs.set(group, Math.max(beginMs, this.lastOkMs.get(group) ?? 0));
    };
    try {
      const { type = 'ok', ...answer } = await act();
      end(type, answer);
      return { type, ...answer };
    } catch (error) {
      if (!isTidemarkError(error) || !HONEST.has(error.code)) throw error;
      const outcome = error.outcome === 'none' || isRead ? 'fail' : 'info';
      end(outcome, { error: error.reason, message: error.message });
      if (outcome === 'info') caller.renew();
      return undefined;
    }
  }

  nemesis(value: string): void {
    this.#line({ process: 'nemesis', type: 'info', f: 'nemesis', value });
  }

  close(): void {
    this.#flush();
    closeSync(this.#file);
  }

  #line(event: Readonly<Record<string, Json | undefined>>): number {
    const timeMs = performance.now() - this.#originMs;
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
