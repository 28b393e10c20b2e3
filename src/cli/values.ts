import { readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { isUtf8 } from 'node:buffer';
import type { Bytes } from '../lib/bytes.js';
import { messageOf } from '../lib/errors.js';
import { UsageError } from './exit.js';

/**
 * Keys and values are bytes; the command line is text. By default text stands for its UTF-8 bytes, in and out; `--hex` and
 * `--base64` switch both directions.
 */
export type Encoding = 'text' | 'hex' | 'base64';

export function decode(text: string, encoding: Encoding, what: string): Bytes {
  switch (encoding) {
    case 'text':
      return Buffer.from(text, 'utf8');
    case 'hex':
      if (!/^(?:[0-9a-f]{2})*$/i.test(text)) throw new UsageError(`${what} '${text}' is not hexadecimal (pairs of 0-9, a-f)`);
      return Buffer.from(text, 'hex');
    case 'base64':
      if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) {
        throw new UsageError(`${what} '${text}' is not padded base64`);
      }
      return Buffer.from(text, 'base64');
  }
}

/** For a line meant for people: never a control character, so that a terminal is safe and a line stays a line. */
export function encode(data: Bytes, encoding: Encoding): string {
  if (encoding !== 'text') return data.toString(encoding);
  const text = data.toString('utf8');
  return isUtf8(data) && !/\p{Cc}/u.test(text) ? text : `0x${data.toString('hex')}`;
}

/**
 * Fields of a JSON object: `{ key: 'text' }`, or `{ keyBase64: '...' }` for bytes that are not UTF-8, so that nothing is lost.
 * With an encoding asked for, `key` holds exactly that.
 */
export function jsonFields(name: string, data: Bytes, encoding: Encoding = 'text'): Readonly<Record<string, string>> {
  if (encoding !== 'text') return { [name]: data.toString(encoding) };
  return isUtf8(data) ? { [name]: data.toString('utf8') } : { [`${name}Base64`]: data.toString('base64') };
}

/** Undoes `jsonFields`. */
export function fromJsonFields(object: Readonly<Record<string, unknown>>, name: string, encoding: Encoding = 'text'): Bytes {
  const plain = object[name];
  const encoded = object[`${name}Base64`];
  if ((plain === undefined) === (encoded === undefined)) {
    throw new UsageError(`expected either '${name}' or '${name}Base64'`);
  }
  if (typeof (plain ?? encoded) !== 'string') throw new UsageError(`'${name}' is not a string`);
  return typeof plain === 'string' ? decode(plain, encoding, name) : decode(String(encoded), 'base64', `${name}Base64`);
}

/** A value as an argument: `-` is standard input, `@file` a file's content, `@@x` the text `@x`; both sources give raw bytes. */
export async function readValue(argument: string, encoding: Encoding, stdin: Readable): Promise<Bytes> {
  if (argument === '-') return readAll(stdin);
  if (argument.startsWith('@@')) return decode(argument.slice(1), encoding, 'value');
  if (!argument.startsWith('@')) return decode(argument, encoding, 'value');
  try {
    return readFileSync(argument.slice(1));
  } catch (error) {
    throw new UsageError(`the value's file cannot be read: ${messageOf(error)}`);
  }
}

async function readAll(stream: Readable): Promise<Bytes> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(Buffer.from(chunk as Buffer));
  return Buffer.concat(chunks);
}
