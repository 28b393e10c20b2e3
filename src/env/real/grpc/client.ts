import {
  Client,
  Metadata,
  type CallOptions,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientReadableStream,
  type ServiceError,
} from '@grpc/grpc-js';
import type { Bytes } from '../../../lib/bytes.js';
import type { ChannelName, FrameStream, StreamHandlers } from '../../network.js';
import { errorOfStatus } from './errors.js';
import { ClientFrameStream, type StreamLimits } from './frame-stream.js';
import { decodeFrame, encodeFrame, type Frame } from './frames.js';
import { methodNamed } from './protos.js';
import { HELLO, STREAM_SERVICE } from './server.js';

export interface DialOptions {
  readonly channelOptions: ChannelOptions;
  readonly credentials: ChannelCredentials;
  readonly streamLimits: StreamLimits;
  readonly connectTimeoutMs: number;
  readonly onBug: (error: unknown) => void;
}

/**
 * Every stream has a connection of its own: no other stream can hold it up, a lost connection is a lost stream, and a new
 * stream tries at once, without the back-off of an earlier one (to wait between attempts is the caller's business).
 */
export function dial(
  address: string,
  channel: ChannelName,
  hello: Bytes,
  handlers: StreamHandlers,
  options: DialOptions,
): FrameStream {
  const client = new Client(address, options.credentials, options.channelOptions);
  const metadata = new Metadata();
  metadata.set(HELLO, hello);
  const path = `/${STREAM_SERVICE[channel]}/Exchange`;
  const call = client.makeBidiStreamRequest<Frame, Frame>(path, encodeFrame, decodeFrame, metadata);
  const wire = { call, release: () => client.close(), patienceMs: options.connectTimeoutMs };
  return new ClientFrameStream(wire, address, options.streamLimits, options.onBug, handlers);
}

/** Plain calls of the public services, as any gRPC client makes them; errors are TidemarkErrors. */
export interface RpcClient {
  unary<Reply = unknown>(service: string, method: string, request: object, timeoutMs?: number): Promise<Reply>;
  /** Ends when the server does; leaving the loop cancels the call. */
  stream<Reply = unknown>(service: string, method: string, request: object, timeoutMs?: number): AsyncIterable<Reply>;
  close(): void;
}

export function rpcClient(address: string, options: Pick<DialOptions, 'channelOptions' | 'credentials'>): RpcClient {
  const client = new Client(address, options.credentials, options.channelOptions);
  return {
    unary: <Reply>(service: string, name: string, request: object, timeoutMs?: number) =>
      new Promise<Reply>((resolve, reject) => {
        const { path, requestSerialize, responseDeserialize } = methodNamed(service, name);
        const done = (error: ServiceError | null, reply?: object): void => {
          if (error === null) resolve(reply as Reply);
          else reject(errorOfStatus(error, address));
        };
        client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, callOptions(timeoutMs), done);
      }),
    stream: <Reply>(service: string, name: string, request: object, timeoutMs?: number) => {
      const { path, requestSerialize, responseDeserialize } = methodNamed(service, name);
      const open = (): ClientReadableStream<object> =>
        client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, callOptions(timeoutMs));
      return replies<Reply>(open, address);
    },
    close: () => client.close(),
  };
}

function callOptions(timeoutMs: number | undefined): CallOptions {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

async function* replies<Reply>(open: () => ClientReadableStream<object>, address: string): AsyncGenerator<Reply> {
  const call = open();
  try {
    for await (const reply of call) yield reply as Reply;
  } catch (error) {
    throw errorOfStatus(error as ServiceError, address);
  } finally {
    call.cancel();
  }
}
