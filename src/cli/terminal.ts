import type { Readable, Writable } from 'node:stream';
import { once } from 'node:events';

/** Where a command reads and prints. Results go to stdout, everything else (progress, remarks, errors) to stderr. */
export interface Terminal {
  readonly stdin: Readable;
  readonly stdout: Writable & { readonly isTTY?: boolean };
  readonly stderr: Writable & { readonly isTTY?: boolean };
}

/** Writes and, if the reader is slow, waits until it has caught up. Rejects when an earlier write has failed. */
export async function write(stream: Writable, data: string | Uint8Array): Promise<void> {
  if (stream.errored !== null) throw stream.errored;
  if (!stream.write(data)) await once(stream, 'drain');
}

/** One result for programs. */
export function jsonLine(result: object): string {
  return `${JSON.stringify(result)}\n`;
}

const LINES_BYTES = 64 * 1024;

/** Gathers many short lines into few writes, and waits for a slow reader. */
export class LineWriter {
  readonly #stream: Writable;
  #lines: string[] = [];
  #length = 0;

  constructor(stream: Writable) {
    this.#stream = stream;
  }

  async add(line: string): Promise<void> {
    this.#lines.push(line);
    this.#length += line.length;
    if (this.#length >= LINES_BYTES) await this.flush();
  }

  async flush(): Promise<void> {
    const text = this.#lines.join('');
    this.#lines = [];
    this.#length = 0;
    if (text !== '') await write(this.#stream, text);
  }
}

/** Rows as columns: text to the left, columns of numbers (`-` is none) to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, at) => Math.max(title.length, ...rows.map((row) => [...(row[at] ?? '')].length)));
  const numeric = head.map((_, at) => {
    const cells = rows.map((row) => row[at] ?? '').filter((cell) => cell !== '-');
    return cells.length > 0 && cells.every((cell) => /^[\d.,]+$/.test(cell));
  });
  const line = (cells: readonly string[]): string =>
    widths
      .map((width, at) => {
        const cell = cells[at] ?? '';
        const fill = ' '.repeat(Math.max(0, width - [...cell].length));
        return numeric[at] === true ? fill + cell : cell + fill;
      })
      .join('  ')
      .trimEnd();
  return `${[line(head), ...rows.map(line)].join('\n')}\n`;
}
