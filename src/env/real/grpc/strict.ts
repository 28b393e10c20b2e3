import type { PackageDefinition } from '@grpc/proto-loader';
import { assert } from '../../../lib/assert.js';
import { TidemarkError } from '../../../lib/errors.js';

/**
 * Finds fields that a request should not have. Protocol buffers skip unknown fields; for a request that may mean to drop a
 * condition or a bound, and to do what nobody asked for. So requests are scanned before they are decoded: every field number
 * must be known, with the wire type of its field, down through all embedded messages.
 *
 * It checks structure, not content, and costs one step a field.
 */
export interface FieldTable {
  /** The short name, for messages: `WriteRequest`. */
  readonly message: string;
  readonly fields: ReadonlyMap<number, Field>;
}

interface Field {
  readonly name: string;
  readonly wireType: number;
  /** Repeated numbers may come packed into one length-delimited field. */
  readonly packable: boolean;
  readonly inner: (() => FieldTable) | undefined;
}

interface Descriptor {
  readonly name: string;
  readonly field: readonly {
    readonly name: string;
    readonly number: number;
    readonly type: string;
    readonly label: string;
    readonly typeName: string;
  }[];
  readonly nestedType: readonly Descriptor[];
}

const VARINT = 0;
const FIXED64 = 1;
const DELIMITED = 2;
const FIXED32 = 5;

const DELIMITED_TYPES = new Set(['TYPE_STRING', 'TYPE_BYTES', 'TYPE_MESSAGE']);
const FIXED64_TYPES = new Set(['TYPE_DOUBLE', 'TYPE_FIXED64', 'TYPE_SFIXED64']);
const FIXED32_TYPES = new Set(['TYPE_FLOAT', 'TYPE_FIXED32', 'TYPE_SFIXED32']);

/** Every message of a package by its full name. */
export function fieldTables(definition: PackageDefinition): ReadonlyMap<string, FieldTable> {
  const tables = new Map<string, FieldTable>();
  const collect = (descriptor: Descriptor, scope: string): void => {
    const full = `${scope}.${descriptor.name}`;
    const fields = new Map<number, Field>();
    for (const field of descriptor.field) {
      const wireType = wireTypeOf(field.type);
      const packable = field.label === 'LABEL_REPEATED' && wireType !== DELIMITED;
      const inner = field.type === 'TYPE_MESSAGE' ? (): FieldTable => resolve(tables, full, field.typeName) : undefined;
      fields.set(field.number, { name: field.name, wireType, packable, inner });
    }
    tables.set(full, { message: descriptor.name, fields });
    for (const nested of descriptor.nestedType) collect(nested, full);
  };
  for (const [name, entry] of Object.entries(definition)) {
    if (typeof entry.format === 'string' && entry.format.endsWith(' DescriptorProto')) {
      collect(entry.type as Descriptor, name.slice(0, name.lastIndexOf('.')));
    }
  }
  return tables;
}

function wireTypeOf(type: string): number {
  if (DELIMITED_TYPES.has(type)) return DELIMITED;
  if (FIXED64_TYPES.has(type)) return FIXED64;
  return FIXED32_TYPES.has(type) ? FIXED32 : VARINT;
}

/** A type name is looked up from the innermost scope outwards; one that begins with a dot is absolute. */
function resolve(tables: ReadonlyMap<string, FieldTable>, from: string, typeName: string): FieldTable {
  if (typeName.startsWith('.')) return found(tables.get(typeName.slice(1)), typeName);
  for (let scope = from; ; scope = scope.slice(0, scope.lastIndexOf('.'))) {
    const table = tables.get(`${scope}.${typeName}`);
    if (table !== undefined || !scope.includes('.')) return found(table ?? tables.get(typeName), typeName);
  }
}

function found(table: FieldTable | undefined, name: string): FieldTable {
  assert(table !== undefined, `no message type ${name}`);
  return table;
}

/**
 * Of one message, each element of a list being one. Millions of empty elements fit into what a message may be, and to decode them
 * takes seconds; no configuration lets a request have more than 65,535 of anything.
 */
const FIELDS_MAX = 2 ** 16 + 64;

/** Throws INVALID_ARGUMENT / UNKNOWN_FIELD, TOO_MANY_FIELDS or MALFORMED_MESSAGE; all name the message and the field. */
export function scan(data: Buffer, table: FieldTable, path = table.message, start = 0, end = data.length): void {
  let at = start;
  for (let fields = 1; at < end; fields += 1) {
    const tag = readVarint(data, at, end, path);
    at = tag.next;
    const number = Math.floor(tag.value / 8);
    const wireType = tag.value % 8;
    const field = table.fields.get(number);
    if (field === undefined) throw unknownField(path, number);
    const where = `${path}.${field.name}`;
    if (fields > FIELDS_MAX) throw tooManyFields(where);
    if (wireType !== field.wireType && !(field.packable && wireType === DELIMITED)) throw malformed(where, 'has another type');
    if (wireType === VARINT) {
      at = readVarint(data, at, end, where).next;
    } else if (wireType === DELIMITED) {
      const length = readVarint(data, at, end, where);
      at = length.next + length.value;
      if (at > end) throw malformed(where, 'is cut off');
      if (field.inner !== undefined) scan(data, field.inner(), where, length.next, at);
    } else {
      at += wireType === FIXED64 ? 8 : 4;
      if (at > end) throw malformed(where, 'is cut off');
    }
  }
}

const cursor = { value: 0, next: 0 };

/** Up to ten bytes, of which all but the last have the high bit. The result is overwritten by the next call. */
function readVarint(data: Buffer, start: number, end: number, where: string): { value: number; next: number } {
  let value = 0;
  let scale = 1;
  for (let at = start; at < end && at < start + 10; at += 1) {
    const byte = data[at] ?? 0;
    value += (byte % 128) * scale;
    if (byte < 128) {
      cursor.value = value;
      cursor.next = at + 1;
      return cursor;
    }
    scale *= 128;
  }
  throw malformed(where, 'holds no whole number');
}

function tooManyFields(where: string): TidemarkError {
  const message = `a message has more than ${FIELDS_MAX} fields and elements of lists, here ${where}; send less at a time`;
  const details = { field: where, limit: String(FIELDS_MAX) };
  return new TidemarkError('INVALID_ARGUMENT', 'TOO_MANY_FIELDS', message, { details });
}

function unknownField(path: string, number: number): TidemarkError {
  return new TidemarkError(
    'INVALID_ARGUMENT',
    'UNKNOWN_FIELD',
    `${path} has a field number ${number}, which this version does not know`,
    { details: { field: path, number: String(number) } },
  );
}

function malformed(where: string, what: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_MESSAGE', `${where} ${what}`, { details: { field: where } });
}
