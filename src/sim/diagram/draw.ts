import { SYSTEM_BUCKET } from '../../placement/map.js';
import { readable } from '../readable.js';
import { nameOf, nameOfRead } from '../swarm/names.js';
import type { Recorder } from '../swarm/record.js';
import { isSlow, type DiagramRecord, type Frame, type Phase } from './record.js';

/**
 * The space-time diagram of a run as an SVG: time goes down, each node and client has a line, each message goes slanted from one
 * to another. Whatever the length of the run, its size has a bound: messages and commits are thinned out evenly, slow and lost
 * messages last. Everything says more of itself when the pointer rests on it.
 */
export interface Drawing {
  readonly title: string;
  /** Lines under it. */
  readonly notes: readonly string[];
  readonly record: DiagramRecord;
  readonly recorder: Recorder;
}

const LANE_PX = 110;
const LEFT_PX = 80;
const HEIGHT_PX_MAX = 9000;
const PX_PER_MS_MAX = 1;
const FRAMES_MAX = 3000;
const OPERATIONS_MAX = 3000;
const COMMITS_MAX = 1500;
const PHASES_MAX = 3000;
const TICKS = 40;
const NOTE_LENGTH_MAX = 220;
const COLORS = ['#1f77b4', '#2ca02c', '#9467bd', '#8c564b', '#e377c2', '#7f7f7f', '#bcbd22', '#17becf'];
const OUTCOMES: Readonly<Record<string, string>> = { ok: '#3a9d4f', unknown: '#e8a317', none: '#c0392b' };
const SHADES: Readonly<Record<string, string>> = { down: '#444444', starting: '#999999', paused: '#e8a317', cut: '#c0392b' };

interface Operation {
  readonly who: string;
  readonly fromMs: number;
  readonly toMs: number;
  readonly outcome: string;
  readonly text: string;
}

export function drawDiagram(drawing: Drawing): string {
  return new Diagram(drawing).svg();
}

class Diagram {
  readonly #drawing: Drawing;
  readonly #lanes: readonly string[];
  readonly #operations: readonly Operation[];
  readonly #pxPerMs: number;
  readonly #top: number;
  readonly #parts: string[] = [];

  constructor(drawing: Drawing) {
    const { record, recorder, notes } = drawing;
    this.#drawing = drawing;
    this.#operations = operationsOf(recorder, record.endMs);
    const clients = new Set(record.frames.flatMap(({ from, to }) => [from, to]));
    for (const { who } of this.#operations) if (!who.startsWith('visitor')) clients.add(who);
    const nodes = record.nodes;
    this.#lanes = [...nodes, ...[...clients].filter((name) => name !== '' && !nodes.includes(name)).sort()];
    this.#pxPerMs = Math.min(PX_PER_MS_MAX, HEIGHT_PX_MAX / Math.max(1, record.endMs));
    this.#top = 130 + 16 * notes.length;
  }

  svg(): string {
    const { record, title, notes } = this.#drawing;
    const width = Math.max(900, LEFT_PX + LANE_PX * (this.#lanes.length + 1));
    const height = Math.ceil(this.#y(record.endMs)) + 40;
    this.#text(20, 28, title, 'font-size="18" font-weight="bold"');
    notes.forEach((note, at) => this.#text(20, 50 + 16 * at, note.slice(0, NOTE_LENGTH_MAX), 'fill="#a02020"'));
    this.#legend(54 + 16 * notes.length);
    this.#axis(width);
    const shown = { frames: this.#frames(), phases: this.#phases() };
    this.#commits();
    this.#drawOperations();
    const kept = `${shown.frames} of ${record.frames.length} messages and ${shown.phases} of ${record.phases.length} phases`;
    this.#text(20, height - 12, `${kept} that were kept are shown; ${record.endMs.toFixed(0)} simulated ms`, 'fill="#666"');
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
        'font-family="sans-serif" font-size="12">',
      `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
      ...this.#parts,
      '</svg>\n',
    ].join('\n');
  }

  #legend(y: number): void {
    const items: [string, string][] = [
      ['down', '#444444'],
      ['starting', '#999999'],
      ['paused', '#e8a317'],
      ['hears nothing from somebody', '#c0392b'],
      ['leads a bucket; a ring: elected, a dot: commit', COLORS[0] ?? ''],
      ['message', '#b8c4d0'],
      ['slow or lost message', '#d35400'],
      ['request done', '#3a9d4f'],
      ['refused', '#c0392b'],
      ['outcome unknown', '#e8a317'],
    ];
    let x = 20;
    for (const [text, color] of items) {
      this.#parts.push(`<rect x="${x}" y="${y}" width="12" height="12" fill="${color}"/>`);
      this.#text(x + 16, y + 10, text);
      x += 34 + 6.4 * text.length;
      if (x < 820) continue;
      x = 20;
      y += 18;
    }
  }

  #axis(width: number): void {
    const { record } = this.#drawing;
    const bottom = this.#y(record.endMs);
    for (const name of this.#lanes) {
      const x = this.#x(name);
      this.#text(x, this.#top - 10, name, 'text-anchor="middle" font-weight="bold"');
      this.#parts.push(`<line x1="${x}" y1="${this.#top}" x2="${x}" y2="${round(bottom)}" stroke="#555" stroke-width="1"/>`);
    }
    const stepMs = niceStep(record.endMs / TICKS);
    for (let ms = 0; ms <= record.endMs; ms += stepMs) {
      const y = round(this.#y(ms));
      this.#text(LEFT_PX - 18, y + 4, `${ms} ms`, 'text-anchor="end" fill="#666"');
      this.#parts.push(`<line x1="${LEFT_PX - 12}" y1="${y}" x2="${width - 20}" y2="${y}" stroke="#eeeeee"/>`);
    }
    const style = 'stroke="#c0392b" stroke-dasharray="2 6" stroke-width="1.5"';
    for (const { atMs, text } of thin(record.faults, PHASES_MAX)) {
      const y = round(this.#y(atMs));
      const place = `x1="${LEFT_PX - 12}" y1="${y}" x2="${width - 20}" y2="${y}"`;
      this.#parts.push(`<line ${place} ${style}>${hover(readable(text))}</line>`);
    }
  }

  #phases(): number {
    const shown = thin(this.#drawing.record.phases, PHASES_MAX);
    for (const phase of shown) {
      if (phase.what === 'leads') this.#leads(phase);
      else this.#shade(phase);
    }
    return shown.length;
  }

  #shade({ who, what, detail, fromMs, toMs }: Phase): void {
    const [left, width] = what === 'cut' ? [-26 + 3 * this.#lanes.indexOf(detail), 2] : [-7, 14];
    const text = `${who} ${what === 'cut' ? `hears nothing from ${detail}` : `is ${what}`}, ${span(fromMs, toMs)}`;
    const [y, height] = [round(this.#y(fromMs)), this.#length(fromMs, toMs)];
    const place = `x="${this.#x(who) + left}" y="${y}" width="${width}" height="${height}"`;
    this.#parts.push(`<rect ${place} fill="${SHADES[what] ?? ''}" fill-opacity="0.55">${hover(text)}</rect>`);
  }

  #leads({ who, detail, bucket, fromMs, toMs }: Phase): void {
    const x = this.#x(who) + offsetOf(bucket);
    const y = round(this.#y(fromMs));
    const title = hover(`${who} leads ${detail}, ${span(fromMs, toMs)}`);
    const place = `x="${x - 1.5}" y="${y}" width="3" height="${this.#length(fromMs, toMs)}"`;
    this.#parts.push(`<rect ${place} fill="${colorOf(bucket)}">${title}</rect>`);
    const ring = `cx="${x}" cy="${y}" r="4" fill="#fff" stroke="${colorOf(bucket)}" stroke-width="1.5"`;
    this.#parts.push(`<circle ${ring}>${hover(`${who} is elected: ${detail}, ${fromMs.toFixed(1)} ms`)}</circle>`);
  }

  #commits(): void {
    for (const { who, bucket, index, atMs } of thin(this.#drawing.record.commits, COMMITS_MAX)) {
      const place = `cx="${this.#x(who) + offsetOf(bucket)}" cy="${round(this.#y(atMs))}" r="2.2"`;
      const text = `bucket ${bucket} commits up to ${index}, ${atMs.toFixed(1)} ms`;
      this.#parts.push(`<circle ${place} fill="${colorOf(bucket)}">${hover(text)}</circle>`);
    }
  }

  #frames(): number {
    const { frames } = this.#drawing.record;
    const known = frames.filter(({ from, to }) => this.#lanes.includes(from) && this.#lanes.includes(to));
    const slow = thin(known.filter(isSlow), FRAMES_MAX / 3);
    const shown = [...thin(known.filter((frame) => !isSlow(frame)), FRAMES_MAX - slow.length), ...slow];
    for (const frame of shown) this.#frame(frame);
    return shown.length;
  }

  #frame(frame: Frame): void {
    const { from, to, bytes, sentMs, arrivedMs } = frame;
    const [x1, x2] = [this.#x(from), this.#x(to)];
    // A lost one ends half-way.
    const end = arrivedMs === undefined ? (x1 + x2) / 2 : x2;
    const place = `x1="${x1}" y1="${round(this.#y(sentMs))}" x2="${end}" y2="${round(this.#y(arrivedMs ?? sentMs))}"`;
    const style = isSlow(frame) ? 'stroke="#d35400" stroke-width="1"' : 'stroke="#b8c4d0" stroke-width="0.8"';
    const dashes = arrivedMs === undefined ? ' stroke-dasharray="3 3"' : '';
    const when = arrivedMs === undefined ? 'never arrived' : `arrived after ${(arrivedMs - sentMs).toFixed(1)} ms`;
    const text = `${from} to ${to}: ${bytes} bytes, sent ${sentMs.toFixed(1)} ms, ${when}`;
    this.#parts.push(`<line ${place} ${style}${dashes}>${hover(text)}</line>`);
  }

  #drawOperations(): void {
    const known = this.#operations.filter(({ who }) => this.#lanes.includes(who));
    /** When the last one in each column of a client ends: those at the same time stand side by side. */
    const columns = new Map<string, number[]>();
    for (const { who, fromMs, toMs, outcome, text } of thin(known, OPERATIONS_MAX)) {
      const ends = columns.get(who) ?? [];
      columns.set(who, ends);
      const free = ends.findIndex((endMs) => endMs <= fromMs);
      const column = Math.min(free < 0 ? ends.length : free, 9);
      ends[column] = toMs;
      const y = round(this.#y(fromMs));
      const place = `x="${this.#x(who) + 3 + 6 * column}" y="${y}" width="5" height="${this.#length(fromMs, toMs)}"`;
      this.#parts.push(`<rect ${place} fill="${OUTCOMES[outcome] ?? ''}" fill-opacity="0.8">${hover(text)}</rect>`);
    }
  }

  #x(name: string): number {
    return LEFT_PX + 40 + LANE_PX * this.#lanes.indexOf(name);
  }

  #y(ms: number): number {
    return this.#top + ms * this.#pxPerMs;
  }

  #length(fromMs: number, toMs: number): number {
    return round(Math.max(1, (toMs - fromMs) * this.#pxPerMs));
  }

  #text(x: number, y: number, text: string, style = ''): void {
    this.#parts.push(`<text x="${round(x)}" y="${round(y)}" ${style}>${escaped(text)}</text>`);
  }
}

function operationsOf({ commands, reads }: Recorder, endMs: number): Operation[] {
  const writes = commands.flatMap((command) =>
    command.attempts.map(({ client, invokeMs, retMs, outcome, reason }): Operation => {
      const toMs = Math.min(retMs, endMs);
      const why = reason === '' ? '' : ` (${reason})`;
      const text = `${nameOf(command)}: ${outcome}${why}, ${span(invokeMs, toMs)}`;
      return { who: client, fromMs: invokeMs, toMs, outcome, text };
    }),
  );
  const done = reads.map((read): Operation => {
    return { who: read.client, fromMs: read.invokeMs, toMs: Math.min(read.retMs, endMs), outcome: 'ok', text: nameOfRead(read) };
  });
  return [...writes, ...done].sort((a, b) => a.fromMs - b.fromMs);
}

/** At most so many of them, evenly. */
function thin<T>(all: readonly T[], max: number): readonly T[] {
  if (all.length <= max) return all;
  const step = all.length / max;
  return all.filter((_, at) => Math.floor(at / step) !== Math.floor((at - 1) / step));
}

function offsetOf(bucket: number | undefined): number {
  return bucket === undefined || bucket === SYSTEM_BUCKET ? 12 : 18 + 5 * (bucket % 12);
}

function colorOf(bucket: number | undefined): string {
  if (bucket === undefined || bucket === SYSTEM_BUCKET) return '#000000';
  return COLORS[bucket % COLORS.length] ?? '#000000';
}

function span(fromMs: number, toMs: number): string {
  return `${fromMs.toFixed(1)} to ${toMs.toFixed(1)} ms`;
}

function hover(text: string): string {
  return `<title>${escaped(text)}</title>`;
}

function escaped(text: string): string {
  const plain = text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  // What no XML may contain.
  return [...plain].map((character) => (character < ' ' && character !== '\n' ? ' ' : character)).join('');
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function niceStep(ms: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, ms)));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= ms) ?? 10;
  return step * power;
}
