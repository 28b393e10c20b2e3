import { open, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { messageOf } from '../lib/errors.js';
import { UsageError } from './exit.js';

export async function openFile(path: string, flags: 'r' | 'w'): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (error) {
    throw new UsageError(`the file cannot be opened: ${messageOf(error)}`);
  }
}

export interface Line {
  /** From 1. */
  readonly number: number;
  readonly data: Buffer;
  /** Where it ends in the input. */
  readonly endByte: number;
}

/** A value of 1 MiB in base64 is far below it; what is longer is no line of ours. */
const LINE_BYTES_MAX = 32 * 1024 * 1024;

/** The lines of a file of any size, from the given one on, one at a time. */
export async function* linesOf(input: Readable, first: number): AsyncGenerator<Line> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let number = 1;
  let endByte = 0;
  try {
    for await (const chunk of input) {
      const data = Buffer.from(chunk as Buffer);
      let start = 0;
      for (let end = data.indexOf(0x0a); end >= 0; end = data.indexOf(0x0a, start)) {
        const line = Buffer.concat([...rest, data.subarray(start, end)]);
        endByte += line.length + 1;
        if (number >= first) yield { number, data: line, endByte };
        number += 1;
        rest = [];
        restBytes = 0;
        start = end + 1;
      }
      rest.push(data.subarray(start));
      restBytes += data.length - start;
      if (restBytes > LINE_BYTES_MAX) throw new UsageError(`line ${number} is longer than ${LINE_BYTES_MAX} bytes`);
    }
  } catch (error) {
    throw error instanceof UsageError ? error : new UsageError(`the input cannot be read: ${messageOf(error)}`);
  }
  if (restBytes > 0 && number >= first) yield { number, data: Buffer.concat(rest), endByte: endByte + restBytes };
}
