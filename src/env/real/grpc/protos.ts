import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  loadSync,
  type MessageTypeDefinition,
  type MethodDefinition,
  type Options,
  type PackageDefinition,
  type ServiceDefinition,
} from '@grpc/proto-loader';
import { assert } from '../../../lib/assert.js';
import { messageOf, TidemarkError } from '../../../lib/errors.js';
import { fieldTables, scan, type FieldTable } from './strict.js';

/**
 * The proto files are the only description of the wire: services, codecs and reflection all come from them. Messages are plain
 * objects with camelCase fields, Buffers for bytes, enum values by name, and numbers for uint64: exact below 2^53, and never
 * below 2^53 if the value was not, so that checking the number refuses exactly what it cannot hold.
 */
const FILES = ['common', 'commands', 'queries', 'changes', 'cluster', 'internal'];
const INCLUDED = protoDirectory();

export const packageDefinition = loadProtos({ longs: Number, enums: String, defaults: true, oneofs: true });

export function loadProtos(options: Options): PackageDefinition {
  return loadSync(FILES.map((name) => `tidemark/v1/${name}.proto`), { ...options, includeDirs: [INCLUDED] });
}

const tables = fieldTables(packageDefinition);

/** Works from `src/` as well as from the built `dist/`: both have the same depth below the package. */
function protoDirectory(): string {
  for (let at = dirname(fileURLToPath(import.meta.url)); at !== dirname(at); at = dirname(at)) {
    if (existsSync(join(at, 'proto', 'tidemark', 'v1', 'common.proto'))) return join(at, 'proto');
  }
  throw new TidemarkError('FAILED_PRECONDITION', 'INSTALLATION_BROKEN', 'the proto/ directory of the package is missing');
}

/** By full name, `tidemark.v1.Commands`. */
export function serviceNamed(name: string): ServiceDefinition {
  const definition = packageDefinition[name];
  assert(definition !== undefined && typeof definition.format !== 'string', `no service ${name} in the proto files`);
  return definition;
}

export function methodNamed(service: string, method: string): MethodDefinition<object, object> {
  const definition = serviceNamed(service)[method];
  assert(definition !== undefined, `no method ${method} in ${service}`);
  return definition;
}

export interface MessageCodec {
  encode(message: object): Buffer;
  decode(data: Buffer): object;
}

export function messageNamed(name: string): MessageCodec {
  const definition = packageDefinition[name];
  assert(definition !== undefined && typeof definition.format === 'string', `no message ${name} in the proto files`);
  const { serialize, deserialize } = definition as MessageTypeDefinition<object, object>;
  return { encode: (message) => serialize(message), decode: (data) => deserialize(data) };
}

/** What a handler gets: the request, or why the bytes are none. Never throws: grpc-js would call that an internal error. */
export function strictDecoder(method: MethodDefinition<object, object>): (data: Buffer) => object {
  const name = tableName(method);
  const table = tables.get(name);
  assert(table !== undefined, `no fields known of ${name}`);
  return (data) => decodeStrictly(data, method, table);
}

function decodeStrictly(data: Buffer, method: MethodDefinition<object, object>, table: FieldTable): object {
  try {
    scan(data, table);
    return method.requestDeserialize(data);
  } catch (error) {
    if (error instanceof TidemarkError) return error;
    const message = `the request is no ${table.message}: ${messageOf(error)}`;
    return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_MESSAGE', message, { cause: error });
  }
}

function tableName(method: MethodDefinition<object, object>): string {
  const { name } = method.requestType.type as { name: string };
  return `tidemark.v1.${name}`;
}
