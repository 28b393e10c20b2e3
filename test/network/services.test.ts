import { Client, credentials, type ServiceError } from '@grpc/grpc-js';
import {
  loadFileDescriptorSetFromBuffer,
  loadSync,
  type MessageTypeDefinition,
  type MethodDefinition,
  type ServiceDefinition,
} from '@grpc/proto-loader';
import { protoPath as healthProto } from 'grpc-health-check';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import type { RpcContext, RpcService, Server } from '../../src/env/network.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { errorOfStatus } from '../../src/env/real/grpc/errors.js';
import { packageDefinition } from '../../src/env/real/grpc/protos.js';
import { failureOf, TestNetwork } from './support.js';

const COMMANDS = 'tidemark.v1.Commands';
const QUERIES = 'tidemark.v1.Queries';
const header = { node: 1, timestamp: 2 ** 53 - 1, consistency: 'CONSISTENCY_LINEARIZABLE', hops: 1 };

describe('public services on the network', () => {
  let net: TestNetwork;
  let rpc: RpcClient;
  let server: Server;

  async function serve(service: string, methods: RpcService, limits = {}): Promise<void> {
    net = new TestNetwork(limits);
    server = await net.serve({ services: { [service]: methods } });
    rpc = net.network.rpcClient(server.address);
  }

  const put = (handle: (request: never, context: RpcContext) => Promise<unknown>): RpcService => ({
    Put: { kind: 'unary', handle },
  });

  afterEach(async () => {
    rpc.close();
    await net.close();
  });

  it('carry bytes and numbers up to 2^53 exactly, and tell greater ones apart', async () => {
    const requests: unknown[] = [];
    await serve(COMMANDS, put(async (request) => {
      requests.push(request);
      return { version: 2 ** 53 - 1, header };
    }));
    const id = { session: 2 ** 53 - 1, born: 2 ** 53 - 2, sequence: 1, lowest: 1 };
    const whole = { key: Buffer.from([0, 255]), value: Buffer.alloc(0), id, atLeast: 2 ** 53 - 3 };
    const reply = await rpc.unary(COMMANDS, 'Put', whole);
    expect(reply).to.deep.equal({ version: 2 ** 53 - 1, header });
    expect(requests[0]).to.deep.equal(whole);
    // 2^53 + 1 and 2^64 - 1 as varints, in RequestId.session.
    for (const varint of ['8180808080808010', 'ffffffffffffffffff01']) {
      await raw(server.address, Buffer.from(`0a016b1a${hexLength(1 + varint.length / 2)}08${varint}`, 'hex'));
    }
    for (const request of requests.slice(1) as { id: { session: number } }[]) {
      expect(request.id.session).to.be.at.least(2 ** 53);
    }
    expect(requests).to.have.lengthOf(3);
    expect(net.bugs).to.deep.equal([]);
  });

  it('refuse unknown fields, wrong types, cut messages and endless lists, naming where', async () => {
    await serve(COMMANDS, put(async () => ({ version: 1, header })));
    const cases: [hex: string, reason: string, message: string][] = [
      ['0a016b7a0178', 'UNKNOWN_FIELD', 'PutRequest has a field number 15, which this version does not know'],
      ['0a016b1a022801', 'UNKNOWN_FIELD', 'PutRequest.id has a field number 5, which this version does not know'],
      ['0801', 'MALFORMED_MESSAGE', 'PutRequest.key has another type'],
      ['0a0561', 'MALFORMED_MESSAGE', 'PutRequest.key is cut off'],
      ['0a', 'MALFORMED_MESSAGE', 'PutRequest.key holds no whole number'],
      ['1a0208ff', 'MALFORMED_MESSAGE', 'PutRequest.id.session holds no whole number'],
      ['ffffffffffffffffffffff01', 'MALFORMED_MESSAGE', 'PutRequest holds no whole number'],
      [
        '0a00'.repeat(2 ** 16 + 65),
        'TOO_MANY_FIELDS',
        'a message has more than 65600 fields and elements of lists, here PutRequest.key; send less at a time',
      ],
    ];
    for (const [hex, reason, message] of cases) {
      const error = await failureOf(raw(server.address, Buffer.from(hex, 'hex')));
      expect([error.code, error.reason, error.message], hex).to.deep.equal(['INVALID_ARGUMENT', reason, message]);
    }
    await raw(server.address, Buffer.from('0a016b', 'hex'));
  });

  it('carry errors with code, reason, outcome and details, and a message of any text', async () => {
    const thrown = new TidemarkError('OUT_OF_RANGE', 'BEFORE_HORIZON', `history \ud800 is gone: ${'ä'.repeat(3000)}`, {
      outcome: 'unknown',
      retriable: true,
      details: { earliestReadable: '17' },
    });
    await serve(COMMANDS, put(() => Promise.reject(thrown)));
    const error = await failureOf(rpc.unary(COMMANDS, 'Put', { key: Buffer.from('k') }));
    expect({ ...error }).to.deep.equal({ ...thrown });
    expect(error.message).to.match(/^history \ufffd is gone: ä{1400,1500}…$/);
  });

  it('answer a bug with INTERNAL and report it', async () => {
    await serve(COMMANDS, put(async () => {
      throw new TypeError('oops');
    }));
    const error = await failureOf(rpc.unary(COMMANDS, 'Put', { key: Buffer.from('k') }));
    expect([error.code, error.outcome]).to.deep.equal(['INTERNAL', 'unknown']);
    expect(net.bugs.map(String)).to.deep.equal(['TypeError: oops']);
  });

  it('report a reply that is none', async () => {
    await serve(COMMANDS, put(async () => ({ version: 1, header: 'no header' })));
    const error = await failureOf(rpc.unary(COMMANDS, 'Put', { key: Buffer.from('k') }));
    expect(error.code).to.equal('INTERNAL');
    expect(net.bugs).to.have.lengthOf(1);
  });

  it('tell handlers the deadline on the monotonic clock, and when the caller left', async () => {
    let context: RpcContext | undefined;
    const started = performance.now();
    let aborted: () => void = () => undefined;
    const gone = new Promise<void>((resolve) => {
      aborted = resolve;
    });
    await serve(COMMANDS, put((_request, given) => {
      context = given;
      given.signal.addEventListener('abort', aborted);
      return new Promise(() => undefined);
    }));
    const error = await failureOf(rpc.unary(COMMANDS, 'Put', { key: Buffer.from('k') }, 300));
    expect([error.code, error.outcome]).to.deep.equal(['DEADLINE_EXCEEDED', 'unknown']);
    await gone;
    expect(context?.deadlineMs).to.be.within(started + 200, started + 1500);
  });

  it('refuse messages over the limit in both directions, and go on', async () => {
    await serve(
      COMMANDS,
      put(async ({ value }: { value: Buffer }) => {
        if (value.length === 0) throw new TidemarkError('ABORTED', 'TOO_LONG', 'x'.repeat(100_000));
        return { version: 1, header };
      }),
      { messageBytesMax: 10_000 },
    );
    const big = new TestNetwork();
    const client = big.network.rpcClient(server.address);
    const error = await failureOf(client.unary(COMMANDS, 'Put', { key: Buffer.from('k'), value: Buffer.alloc(20_000) }));
    expect(error.code).to.equal('RESOURCE_EXHAUSTED');
    expect(error.message).to.include('10000');
    const long = await failureOf(client.unary(COMMANDS, 'Put', { key: Buffer.from('k') }));
    expect(long.reason).to.equal('TOO_LONG');
    await client.unary(COMMANDS, 'Put', { key: Buffer.from('k'), value: Buffer.alloc(9000) });
    client.close();
    expect(net.bugs).to.deep.equal([]);
  });

  it('stream replies no faster than they are read, and stop when the reader leaves', async () => {
    let made = 0;
    let stopped: () => void = () => undefined;
    const end = new Promise<void>((resolve) => {
      stopped = resolve;
    });
    async function* endless(): AsyncGenerator<unknown> {
      try {
        for (;;) {
          made += 1;
          yield { records: [{ key: Buffer.from('k'), value: Buffer.alloc(500_000), version: made }], header };
        }
      } finally {
        stopped();
      }
    }
    await serve(QUERIES, { Scan: { kind: 'stream', handle: endless } });
    let read = 0;
    for await (const reply of rpc.stream<{ records: { version: number }[] }>(QUERIES, 'Scan', {})) {
      read += 1;
      expect(reply.records[0]?.version).to.equal(read);
      if (read === 5) break;
    }
    await end;
    expect(made).to.be.lessThan(100);
  });

  it('end a stream with the error of its handler, after what came before', async () => {
    async function* failing(): AsyncGenerator<unknown> {
      yield { records: [], header };
      await Promise.resolve();
      throw new TidemarkError('UNAVAILABLE', 'NO_QUORUM', 'nobody there', { retriable: true });
    }
    await serve(QUERIES, { Scan: { kind: 'stream', handle: failing } });
    const replies: unknown[] = [];
    const error = await failureOf(
      (async () => {
        for await (const reply of rpc.stream(QUERIES, 'Scan', {})) replies.push(reply);
      })(),
    );
    expect([error.code, error.reason, error.retriable]).to.deep.equal(['UNAVAILABLE', 'NO_QUORUM', true]);
    const refused = await failureOf(rpc.unary(QUERIES, 'Get', { key: Buffer.from('k') }));
    expect(refused.code).to.equal('UNIMPLEMENTED');
  });

  it('let running calls end while the server closes, and take no new ones', async () => {
    let finish: () => void = () => undefined;
    let begun: () => void = () => undefined;
    const running = new Promise<void>((resolve) => {
      begun = resolve;
    });
    await serve(COMMANDS, put(() => {
      begun();
      return new Promise((resolve) => {
        finish = () => resolve({ version: 7, header });
      });
    }));
    const call = rpc.unary<{ version: number }>(COMMANDS, 'Put', { key: Buffer.from('k') });
    await running;
    const closing = server.close(5000);
    const late = await failureOf(net.network.rpcClient(server.address).unary(COMMANDS, 'Put', { key: Buffer.from('k') }));
    expect(late.code).to.equal('UNAVAILABLE');
    finish();
    expect((await call).version).to.equal(7);
    await closing;
  });

  it('have health, each and the process, which follows what the process says', async () => {
    await serve(COMMANDS, put(async () => ({ version: 1, header })));
    const health = loadSync(healthProto, { enums: String, defaults: true })['grpc.health.v1.Health'] as ServiceDefinition;
    const client = new Client(server.address, credentials.createInsecure());
    const check = (service: string) => call(client, health.Check, { service }) as Promise<{ status: string }>;
    expect((await check('')).status).to.equal('SERVING');
    expect((await check(COMMANDS)).status).to.equal('SERVING');
    server.setServing?.(false);
    expect((await check(COMMANDS)).status).to.equal('NOT_SERVING');
    expect((await check('')).status).to.equal('NOT_SERVING');
    server.setServing?.(true);
    expect((await check(COMMANDS)).status).to.equal('SERVING');
    expect((await check('')).status).to.equal('SERVING');
    const error = await check('tidemark.v1.Nothing').catch((e: ServiceError) => e);
    expect((error as ServiceError).code).to.equal(5);
    client.close();
  });

  for (const version of ['v1', 'v1alpha']) {
    it(`describe themselves by reflection ${version}, enough for a client that has no proto files`, async () => {
      await serve(COMMANDS, put(async ({ key }: { key: Buffer }) => ({ version: key.length, header })));
      const list = await reflect(server.address, version, { listServices: '' });
      const names = (list.listServicesResponse as { service: { name: string }[] }).service.map(({ name }) => name);
      expect(names.sort()).to.deep.equal(['grpc.health.v1.Health', COMMANDS]);
      const files = await reflect(server.address, version, { fileContainingSymbol: COMMANDS });
      const { fileDescriptorProto } = files.fileDescriptorResponse as { fileDescriptorProto: Buffer[] };
      expectRulesOfProtobuf(fileDescriptorProto);
      // A FileDescriptorSet is field 1, repeated.
      const set = Buffer.concat(fileDescriptorProto.flatMap((file) => [Buffer.from([0x0a, ...varint(file.length)]), file]));
      const definition = loadFileDescriptorSetFromBuffer(set, { longs: Number, enums: String, defaults: true, oneofs: true });
      const service = definition[COMMANDS] as ServiceDefinition;
      expect(Object.keys(service)).to.deep.equal(Object.keys(packageDefinition[COMMANDS] ?? {}));
      const client = new Client(server.address, credentials.createInsecure());
      const reply = (await call(client, service.Put, { key: Buffer.from('abc'), id: { session: 1 } })) as { version: number };
      expect(reply.version).to.equal(3);
      const write = service.Write?.requestDeserialize(
        service.Write.requestSerialize({ conditions: [{ key: Buffer.from('k'), exists: false }] }),
      );
      expect(write).to.deep.include({ conditions: [{ key: Buffer.from('k'), test: 'exists', exists: false }] });
      client.close();
    });
  }
});

interface Described {
  readonly name: string;
  readonly field: readonly { readonly name: string; readonly typeName?: string }[];
  readonly nestedType: readonly Described[];
  readonly options?: { readonly mapEntry?: boolean };
}

/** What the runtimes of other languages insist on, and that of JavaScript does not. */
function expectRulesOfProtobuf(files: readonly Buffer[]): void {
  const descriptors = loadSync('google/protobuf/descriptor.proto', { arrays: true });
  const { deserialize } = descriptors['google.protobuf.FileDescriptorProto'] as MessageTypeDefinition<object, { messageType: Described[] }>;
  const messages = files.flatMap((data) => deserialize(data).messageType);
  const messageNamed = (name: string): Described | undefined => messages.find((each) => each.name === name);
  expect(messageNamed('ReadOptions')?.field.map(({ name }) => name)).to.deep.equal(['consistency', 'max_staleness_ms', 'as_of', 'at_least']);
  const entries = messages.flatMap(({ name, field, nestedType }) =>
    nestedType
      .filter(({ options }) => options?.mapEntry === true)
      .map((entry) => [name, field.find(({ typeName }) => typeName === entry.name)?.name, entry.name]));
  expect(entries).to.deep.equal([['ErrorDetail', 'details', 'DetailsEntry']]);
}

describe('plain HTTP', () => {
  it('serves GET and HEAD, and says what else is wrong', async () => {
    const net = new TestNetwork();
    const http = await net.network.serveHttp('127.0.0.1:0', async (path) => {
      if (path === '/bug') throw new Error('oops');
      if (path === '/cut') throw new TidemarkError('UNAVAILABLE', 'NO_QUORUM', 'no quorum');
      return { status: path === '/metrics' ? 200 : 404, contentType: 'text/plain', body: `${path}\n` };
    });
    const url = `http://${http.address}`;
    const ask = async (path: string, method = 'GET'): Promise<[number, string]> => {
      const response = await fetch(url + path, { method });
      return [response.status, await response.text()];
    };
    expect(await ask('/metrics?x=1')).to.deep.equal([200, '/metrics\n']);
    expect(await ask('/metrics', 'HEAD')).to.deep.equal([200, '']);
    expect(await ask('/nothing')).to.deep.equal([404, '/nothing\n']);
    expect((await ask('/metrics', 'POST'))[0]).to.equal(405);
    expect(await ask('/cut')).to.deep.equal([503, 'no quorum\n']);
    expect((await ask('/bug'))[0]).to.equal(500);
    expect(net.bugs.map(String)).to.deep.equal(['Error: oops']);
    await http.close(1000);
  });
});

/** A Put whose request is these bytes. */
async function raw(address: string, bytes: Buffer): Promise<void> {
  const client = new Client(address, credentials.createInsecure());
  try {
    await new Promise<void>((resolve, reject) => {
      const same = (data: Buffer): Buffer => data;
      client.makeUnaryRequest(`/${COMMANDS}/Put`, same, same, bytes, (error) => {
        if (error === null) resolve();
        else reject(errorOfStatus(error, address));
      });
    });
  } finally {
    client.close();
  }
}

function call(client: Client, method: MethodDefinition<object, object> | undefined, request: object): Promise<object> {
  if (method === undefined) throw new Error('no such method');
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(method.path, method.requestSerialize, method.responseDeserialize, request, (error, reply) => {
      if (error === null && reply !== undefined) resolve(reply);
      else reject(error ?? new Error('no reply'));
    });
  });
}

/** Asks the reflection service one question, with its own proto file. */
function reflect(address: string, version: string, question: object): Promise<Record<string, unknown>> {
  const home = dirname(createRequire(import.meta.url).resolve('@grpc/reflection/package.json'));
  const file = join(home, 'build/proto/grpc/reflection', version, 'reflection.proto');
  const { ServerReflectionInfo } = loadSync(file, { defaults: true, oneofs: true })[
    `grpc.reflection.${version}.ServerReflection`
  ] as ServiceDefinition;
  if (ServerReflectionInfo === undefined) throw new Error('no reflection');
  const { path, requestSerialize, responseDeserialize } = ServerReflectionInfo;
  const client = new Client(address, credentials.createInsecure());
  return new Promise((resolve, reject) => {
    const stream = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    stream.on('data', (answer: Record<string, unknown>) => {
      resolve(answer);
      stream.end();
    });
    stream.on('error', reject);
    stream.on('status', () => client.close());
    stream.write(question);
  });
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}

function hexLength(bytes: number): string {
  return bytes.toString(16).padStart(2, '0');
}
