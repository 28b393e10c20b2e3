import type { Outcome, Sample } from './recorder.js';
import type { FaultWindow } from './windows.js';

/**
 * Latencies over time as a picture (SVG), one panel for each workload, with the faults shaded: the darker part until it was
 * healed, the lighter one until all were served again. Both axes are cut into small cells and a cell is drawn once for each
 * outcome, so that the file stays small however long the run was.
 */
const WIDTH = 1400;
const LEFT = 70;
const RIGHT = 20;
const TOP = 60;
const PANEL = 220;
const GAP = 50;
const CELL = 2;
const LATENCY_MS_MIN = 1;
const LATENCY_MS_MAX = 30_000;
const COLOURS: Readonly<Record<Outcome, string>> = { ok: '#4a78c8', info: '#e8920c', fail: '#d0338a' };
const SHADES = ['#c7d8c0', '#e2cdb8', '#cfc6e0', '#c2dadd', '#e3c6cc'];
const TICKS_MAX = 14;

export function plot(title: string, panels: ReadonlyMap<string, readonly Sample[]>, windows: readonly FaultWindow[]): string {
  const samples = [...panels.values()].flat();
  const lastMs = samples.reduce((latest, { endMs }) => Math.max(latest, endMs), 1);
  const x = (ms: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * ms) / lastMs;
  const names = [...new Set(windows.map(({ nemesis }) => nemesis))];
  const height = TOP + panels.size * (PANEL + GAP);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="11">`,
    `<rect width="${WIDTH}" height="${height}" fill="white"/>`,
    text(LEFT, 20, title, 'font-size="15"'),
    ...Object.entries(COLOURS).map(([outcome, colour], index) => {
      return `${dot(LEFT + 70 * index, 32, colour, 8)}${text(LEFT + 70 * index + 12, 40, outcome)}`;
    }),
  ];
  for (const [index, [name, own]] of [...panels].entries()) {
    const top = TOP + index * (PANEL + GAP);
    const bottom = top + PANEL;
    const y = (ms: number): number => bottom - (PANEL * Math.log10(clamp(ms) / LATENCY_MS_MIN)) / Math.log10(LATENCY_MS_MAX / LATENCY_MS_MIN);
    parts.push(text(LEFT, top - 4, `${name}: ${own.length} operations`, 'font-weight="bold"'));
    for (const window of windows) {
      const colour = SHADES[names.indexOf(window.nemesis) % SHADES.length] ?? '';
      parts.push(shade(x(window.beginMs), x(window.healMs), top, colour, 0.9), shade(x(window.healMs), x(window.endMs), top, colour, 0.45));
      const at = x(window.beginMs) + 3;
      parts.push(`<text x="${at.toFixed(0)}" y="${top + 4}" transform="rotate(90 ${at.toFixed(0)} ${top + 4})" fill="#555">${escape(window.nemesis)}</text>`);
    }
    parts.push(...axes(lastMs, x, y, bottom), ...dots(own, x, y));
  }
  return `${parts.join('\n')}\n</svg>\n`;
}

function clamp(ms: number): number {
  return Math.min(Math.max(ms, LATENCY_MS_MIN), LATENCY_MS_MAX);
}

function axes(lastMs: number, x: (ms: number) => number, y: (ms: number) => number, bottom: number): string[] {
  const lines: string[] = [];
  for (let ms = LATENCY_MS_MIN; ms <= LATENCY_MS_MAX; ms *= 10) {
    const at = y(ms).toFixed(0);
    lines.push(`<path d="M${LEFT} ${at}H${WIDTH - RIGHT}" stroke="#ddd"/>`);
    lines.push(text(LEFT - 6, Number(at) + 4, ms < 1000 ? `${ms} ms` : `${ms / 1000} s`, 'text-anchor="end"'));
  }
  const stepS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800].find((step) => lastMs / 1000 / step <= TICKS_MAX) ?? 3600;
  for (let s = 0; s * 1000 <= lastMs; s += stepS) lines.push(text(x(s * 1000), bottom + 14, `${s} s`, 'text-anchor="middle"'));
  return lines;
}

/** At the moment in which an operation began, as high as it took long. */
function dots(samples: readonly Sample[], x: (ms: number) => number, y: (ms: number) => number): string[] {
  const cells: Record<Outcome, Set<string>> = { ok: new Set(), fail: new Set(), info: new Set() };
  for (const { beginMs, endMs, outcome } of samples) {
    cells[outcome].add(`${CELL * Math.round(x(beginMs) / CELL)} ${CELL * Math.round(y(endMs - beginMs) / CELL)}`);
  }
  // The rare ones last, on top.
  const order: readonly Outcome[] = ['ok', 'fail', 'info'];
  return order.map((outcome) => `<path d="${[...cells[outcome]].map((at) => `M${at}h${CELL}`).join('')}" stroke="${COLOURS[outcome]}" stroke-width="${CELL}"/>`);
}

function shade(from: number, to: number, top: number, colour: string, opacity: number): string {
  return `<rect x="${from.toFixed(1)}" y="${top}" width="${(to - from).toFixed(1)}" height="${PANEL}" fill="${colour}" fill-opacity="${opacity}"/>`;
}

function dot(x: number, y: number, colour: string, size: number): string {
  return `<rect x="${x}" y="${y}" width="${size}" height="${size}" fill="${colour}"/>`;
}

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${x.toFixed(0)}" y="${y.toFixed(0)}" ${attributes}>${escape(content)}</text>`;
}

function escape(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
