import { HistoryReader, type HistoryEvent, type Json, type Operation } from '../../src/check/history.js';
import type { SimRandom } from '../../src/sim/random.js';

/** A history in the making: `call` begins, the function that it returns ends. Each event takes a microsecond. */
export class Recorder {
  readonly events: HistoryEvent[] = [];

  call(process: number, f: string, key: string | undefined, value?: Json): End {
    const common = { process, f, ...(key === undefined ? {} : { key }) };
    this.#add({ ...common, type: 'invoke', value: value ?? null });
    return (type, answer = value ?? null, extra = {}) => this.#add({ ...common, type, value: answer, ...extra });
  }

  #add(event: Omit<HistoryEvent, 'index' | 'timeNs'>): void {
    const index = this.events.length;
    this.events.push({ ...event, index, timeNs: index * 1000 } as HistoryEvent);
  }

  get operations(): Operation[] {
    return operationsOf(this.events);
  }
}

export type End = (type: 'ok' | 'fail' | 'info', answer?: Json, extra?: Readonly<Record<string, Json>>) => void;

export function operationsOf(events: readonly HistoryEvent[]): Operation[] {
  const operations: Operation[] = [];
  const reader = new HistoryReader((operation) => operations.push(operation));
  for (const event of events) reader.event(event);
  reader.end();
  return operations;
}

export interface LoadOptions {
  readonly operations: number;
  readonly processes: number;
  /** Applies an operation to the real object at one moment between its call and its return. */
  readonly apply: (f: string, key: string | undefined, value: Json) => Applied;
  readonly draw: (random: SimRandom) => { readonly f: string; readonly key?: string; readonly value?: Json };
  /** The share of operations that end without an answer, of which half take effect, at once or much later. */
  readonly infos?: number;
  /** The share of operations that are refused without an effect. */
  readonly fails?: number;
}

export interface Applied {
  readonly type: 'ok' | 'fail';
  readonly value?: Json;
  readonly extra?: Readonly<Record<string, Json>>;
}

interface Running {
  readonly f: string;
  readonly key: string | undefined;
  readonly value: Json;
  readonly end: End;
  readonly process: number;
  applied: Applied | undefined;
}

/** Runs concurrent processes against an object that is atomic, so that the history is right by construction. */
export function runLoad(random: SimRandom, options: LoadOptions): HistoryEvent[] {
  const { operations, processes, apply, draw, infos = 0, fails = 0 } = options;
  const recorder = new Recorder();
  const running: (Running | undefined)[] = Array.from({ length: processes }, () => undefined);
  const late: Running[] = [];
  let nextProcess = processes;
  const numbers = Array.from({ length: processes }, (_, at) => at);
  for (let begun = 0; begun < operations || running.some((each) => each !== undefined); ) {
    const slot = random.below(processes);
    const current = running[slot];
    if (current === undefined) {
      if (begun >= operations) continue;
      const { f, key, value = null } = draw(random);
      const process = numbers[slot] ?? 0;
      running[slot] = { f, key, value, process, end: recorder.call(process, f, key, value), applied: undefined };
      begun += 1;
    } else if (current.applied === undefined) {
      const luck = random.float();
      if (luck < infos) {
        if (random.float() < 0.3) late.push(current);
        else if (random.float() < 0.3) apply(current.f, current.key, current.value);
        current.end('info');
        numbers[slot] = nextProcess++;
        running[slot] = undefined;
      } else if (luck < infos + fails) {
        current.end('fail');
        running[slot] = undefined;
      } else {
        current.applied = apply(current.f, current.key, current.value);
      }
    } else {
      const { type, value, extra } = current.applied;
      current.end(type, value, extra);
      running[slot] = undefined;
    }
    if (late.length > 0 && random.float() < 0.05) {
      const { f, key, value } = late.shift() ?? { f: '', key: '', value: null };
      apply(f, key, value);
    }
  }
  return recorder.events;
}

/** Registers by key, as the load needs them. */
export function registers(): LoadOptions['apply'] {
  const values = new Map<string, Json>();
  return (f, key = '', value) => {
    const now = values.get(key) ?? null;
    if (f === 'read') return { type: 'ok', value: now };
    if (f === 'write') {
      values.set(key, value);
      return { type: 'ok' };
    }
    const [old, next] = value as [Json, Json];
    if (old !== now) return { type: 'fail', extra: { mismatch: true } };
    values.set(key, next);
    return { type: 'ok' };
  };
}
