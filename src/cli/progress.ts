import { Presets, SingleBar } from 'cli-progress';
import type { Terminal } from './terminal.js';

/** Tells on standard error how far a long piece of work has come: a bar on a terminal, now and then a line elsewhere. */
export interface Progress {
  /** `done` of `total` so far; less than before counts for nothing. The note is shown behind it, until the next one. */
  update(done: number, now?: { readonly total: number; readonly note: string }): void;
  /** Shows the end and leaves the line. */
  end(): void;
}

const LINE_MS = 5000;

export interface ProgressOptions {
  readonly title: string;
  /** Undefined if nobody knows. */
  readonly total: number | undefined;
  readonly unit: string;
  /** Where it begins, if a part was done before. */
  readonly done?: number;
  /** No bar, also on a terminal: others write there. */
  readonly lines?: boolean;
}

export function showProgress(terminal: Terminal, options: ProgressOptions): Progress {
  const { total, lines: isLines = false } = options;
  const isBar = terminal.stderr.isTTY === true && !isLines;
  return isBar && total !== undefined ? bar(terminal, options, total) : lines(terminal, options);
}

function bar(terminal: Terminal, { title, unit, done = 0 }: ProgressOptions, total: number): Progress {
  const startedMs = performance.now();
  const single = new SingleBar(
    {
      stream: terminal.stderr,
      format: `${title} {bar} {percentage}%  {value}/{total} ${unit}  {rate}/s  {eta_formatted} left{note}`,
      hideCursor: true,
      etaBuffer: 200,
      formatValue: (value, _options, type) => (type === 'percentage' ? String(value).padStart(3) : value.toLocaleString('en')),
    },
    Presets.rect,
  );
  let at = done;
  let note = '';
  const payload = (): { rate: string; note: string } => ({ rate: rateSince(startedMs, at - done), note });
  single.start(total, done, payload());
  return {
    update: (value, now) => {
      at = Math.max(at, value);
      if (now !== undefined) {
        ({ note } = now);
        single.setTotal(now.total);
      }
      single.update(at, payload());
    },
    end: () => {
      single.update(at, payload());
      single.stop();
    },
  };
}

function lines(terminal: Terminal, { title, total: first, unit, done = 0 }: ProgressOptions): Progress {
  const startedMs = performance.now();
  let nextMs = startedMs + LINE_MS;
  let at = done;
  let printed = '';
  let total = first;
  let note = '';
  const print = (): void => {
    const part = total === undefined ? at : `${Math.floor((at / Math.max(1, total)) * 100)}%, ${at} of ${total}`;
    printed = `${at}${note}`;
    terminal.stderr.write(`${title}: ${part} ${unit}, ${rateSince(startedMs, at - done)}/s${note}\n`);
  };
  return {
    update: (value, now) => {
      at = Math.max(at, value);
      if (now !== undefined) ({ total, note } = now);
      if (performance.now() < nextMs) return;
      nextMs = performance.now() + LINE_MS;
      print();
    },
    end: () => {
      if (printed !== `${at}${note}`) print();
    },
  };
}

function rateSince(startedMs: number, count: number): string {
  const seconds = Math.max(0.001, (performance.now() - startedMs) / 1000);
  return Math.round(count / seconds).toLocaleString('en');
}
