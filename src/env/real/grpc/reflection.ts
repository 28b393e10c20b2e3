import type { Server } from '@grpc/grpc-js';
import { loadSync, type MessageTypeDefinition, type PackageDefinition } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { protoPath as healthProto } from 'grpc-health-check';
import { assert } from '../../../lib/assert.js';
import { loadProtos } from './protos.js';

/**
 * Server reflection: a client that has no proto files asks for them here. Fields have the names that they have in the files.
 *
 * proto-loader calls the entry of a map field `details` `Details`; by the rules of protobuf it is `DetailsEntry`, and clients
 * that hold to them, all that are written in Go for instance, grpcurl among them, refuse the whole package for one such name
 * (fullstorydev/grpcurl#519). So the names are mended before they are handed out.
 */
export function addReflection(server: Server, services: readonly string[]): void {
  served ??= { ...mended(loadProtos({ keepCase: true })), ...loadSync(healthProto, { keepCase: true }) };
  new ReflectionService(served, { services: [...services, 'grpc.health.v1.Health'] }).addToServer(server);
}

/** The same for all listeners of this process. */
let served: PackageDefinition | undefined;

interface FieldShape {
  readonly name: string;
  typeName?: string;
}

interface MessageShape {
  name: string;
  readonly field: readonly FieldShape[];
  readonly nestedType: readonly MessageShape[];
  readonly options?: { readonly mapEntry?: boolean };
}

interface FileShape {
  readonly messageType: readonly MessageShape[];
}

/** One message type: each carries the files of all of them, and only these are looked at. */
function mended(definition: PackageDefinition): PackageDefinition {
  const found = Object.entries(definition).find(([, { format }]) => typeof format === 'string');
  assert(found !== undefined, 'the proto files have no message');
  const [name, type] = found as [string, MessageTypeDefinition<object, object>];
  // It comes with the loader.
  const descriptors = loadSync('google/protobuf/descriptor.proto', { arrays: true });
  const codec = descriptors['google.protobuf.FileDescriptorProto'] as MessageTypeDefinition<FileShape, FileShape>;
  const fileDescriptorProtos = type.fileDescriptorProtos.map((data) => {
    const file = codec.deserialize(data);
    for (const message of file.messageType) nameEntries(message);
    return codec.serialize(file);
  });
  return { [name]: { ...type, fileDescriptorProtos } };
}

function nameEntries(message: MessageShape): void {
  for (const nested of message.nestedType) {
    nameEntries(nested);
    if (nested.options?.mapEntry !== true) continue;
    const field = message.field.find(({ typeName }) => typeName === nested.name);
    assert(field !== undefined, () => `no field for the map entry ${nested.name} of ${message.name}`);
    nested.name = mapEntryName(field.name);
    field.typeName = nested.name;
  }
}

/** `some_field` is a map of `SomeFieldEntry`. */
function mapEntryName(field: string): string {
  return `${field.replace(/(?:^|_)([a-z0-9]?)/g, (_, first: string) => first.toUpperCase())}Entry`;
}
