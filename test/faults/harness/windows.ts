import type { Outcome, Sample } from './recorder.js';

/** A fault in time: it began, was healed, and then all groups of clients were served again. Times in ms since the load began. */
export interface FaultWindow {
  readonly nemesis: string;
  readonly what: string;
  readonly beginMs: number;
  readonly healMs: number;
  readonly endMs: number;
  /** The longest time in it in which a group of clients heard nothing. */
  readonly unavailableMs: number;
}

/** One line of the table: a workload under a nemesis, over all windows of that nemesis. */
export interface Row {
  readonly workload: string;
  readonly nemesis: string;
  readonly faults: number;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  /** The longest time in which a group of clients, who all work on one bucket, heard nothing. */
  readonly unavailableMs: number;
}

export const NO_FAULT = 'none';

export function rowsOf(workload: string, samples: readonly Sample[], windows: readonly FaultWindow[]): Row[] {
  const names = [...new Set(windows.map(({ nemesis }) => nemesis))];
  const quiet = quietOf(windows, samples);
  const row = (nemesis: string, own: readonly Span[]): Row => ({
    workload,
    nemesis,
    faults: nemesis === NO_FAULT ? 0 : own.length,
    outcomes: countIn(samples, own),
    unavailableMs: longestSilence(samples, own),
  });
  return [row(NO_FAULT, quiet), ...names.map((name) => row(name, windows.filter(({ nemesis }) => nemesis === name)))];
}

interface Span {
  readonly beginMs: number;
  readonly endMs: number;
}

/** The time between the faults. */
function quietOf(windows: readonly FaultWindow[], samples: readonly Sample[]): Span[] {
  const endMs = samples.reduce((latest, sample) => Math.max(latest, sample.endMs), 0);
  const ends = [0, ...windows.map((window) => window.endMs)];
  return [...windows.map(({ beginMs }) => beginMs), endMs].map((until, index) => ({ beginMs: ends[index] ?? 0, endMs: until }));
}

/** An operation counts where it began. */
function countIn(samples: readonly Sample[], spans: readonly Span[]): Record<Outcome, number> {
  const counts = { ok: 0, fail: 0, info: 0 };
  for (const { beginMs, outcome } of samples) {
    if (spans.some((span) => beginMs >= span.beginMs && beginMs < span.endMs)) counts[outcome] += 1;
  }
  return counts;
}

/**
 * The longest time within one of the spans in which no operation of one group succeeded. A refused compare-and-set is an answer
 * like another, but it cannot be told here from a refusal for want of a leader; leaving it out makes the number larger, never
 * smaller.
 */
export function longestSilence(samples: readonly Sample[], spans: readonly Span[]): number {
  const groups = new Map<number, number[]>();
  for (const { group, endMs, outcome } of samples) {
    if (outcome !== 'ok') continue;
    const times = groups.get(group);
    if (times === undefined) groups.set(group, [endMs]);
    else times.push(endMs);
  }
  let longestMs = 0;
  for (const times of groups.values()) {
    times.sort((a, b) => a - b);
    for (const { beginMs, endMs } of spans) {
      let lastMs = beginMs;
      for (const timeMs of [...times.filter((each) => each > beginMs && each < endMs), endMs]) {
        longestMs = Math.max(longestMs, timeMs - lastMs);
        lastMs = timeMs;
      }
    }
  }
  return longestMs;
}
