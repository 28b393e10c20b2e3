import { closeSync, createReadStream, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { formatEvent, NEMESIS, type HistoryEvent } from '../../../src/check/history.js';

/**
 * One history out of the parts that client processes wrote, in the order of the clock that they share. Of what has the same
 * time, begins come first: then the operations overlap, and nothing is claimed about their order.
 */
export interface FaultNote {
  readonly timeMs: number;
  /** For people: `kill begins`. */
  readonly what: string;
}

const FLUSH_BYTES = 256 * 1024;

/** `parts` and `notes` are each in the order of time. */
export async function mergeHistories(parts: readonly string[], notes: readonly FaultNote[], path: string): Promise<void> {
  const sources: AsyncIterator<HistoryEvent>[] = [...parts.map(eventsOf), noteEvents(notes)];
  const heads = await Promise.all(sources.map((source) => source.next()));
  const file = openSync(path, 'w');
  let text = '';
  for (let index = 0; ; index += 1) {
    const from = firstOf(heads);
    const head = heads[from];
    const source = sources[from];
    if (head === undefined || source === undefined || head.done === true) break;
    text += formatEvent({ ...head.value, index });
    if (text.length >= FLUSH_BYTES) {
      writeSync(file, text);
      text = '';
    }
    heads[from] = await source.next();
  }
  writeSync(file, text);
  closeSync(file);
}

/** The position of the earliest; -1 if all have come to their end. */
function firstOf(heads: readonly IteratorResult<HistoryEvent>[]): number {
  let first = -1;
  let earliest: HistoryEvent | undefined;
  for (const [at, head] of heads.entries()) {
    if (head.done === true) continue;
    const event = head.value;
    if (earliest !== undefined && !isBefore(event, earliest)) continue;
    first = at;
    earliest = event;
  }
  return first;
}

function isBefore(a: HistoryEvent, b: HistoryEvent): boolean {
  return a.timeNs < b.timeNs || (a.timeNs === b.timeNs && a.type === 'invoke' && b.type !== 'invoke');
}

async function* eventsOf(path: string): AsyncGenerator<HistoryEvent> {
  for await (const line of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
    yield JSON.parse(line) as HistoryEvent;
  }
}

async function* noteEvents(notes: readonly FaultNote[]): AsyncGenerator<HistoryEvent> {
  for (const { timeMs, what } of notes) {
    yield { index: 0, timeNs: Math.round(timeMs * 1e6), process: NEMESIS, type: 'info', f: NEMESIS, value: what };
  }
}
