import { Server as GrpcServer, type ChannelOptions, type ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import type { Bytes } from '../../../lib/bytes.js';
import { messageOf, TidemarkError } from '../../../lib/errors.js';
import type { ChannelName, ServeOptions, Server } from '../../network.js';
import { formatAddress, listenError, resolveListener } from '../addresses.js';
import { asTidemarkError, ServerFrameStream, type StreamLimits } from './frame-stream.js';
import { decodeFrame, encodeFrame, type Frame } from './frames.js';
import { methodNamed } from './protos.js';
import { addReflection } from './reflection.js';
import { bindService, type ServicePorts } from './services.js';

/** One gRPC listener: frame streams, public services, health and reflection. */
export interface ListenerOptions extends ServicePorts {
  readonly channelOptions: ChannelOptions;
  readonly credentials: ServerCredentials;
  readonly streamLimits: StreamLimits;
  /** How long a client may take to read the rest of a stream that was closed. */
  readonly patienceMs: number;
}

export const HELLO = 'tidemark-hello-bin';
export const STREAM_SERVICE: Readonly<Record<ChannelName, string>> = {
  peer: 'tidemark.v1.Peer',
  pipeline: 'tidemark.v1.Pipeline',
};

type Streams = Set<ServerFrameStream>;

export async function listen(options: ServeOptions, listener: ListenerOptions): Promise<Server> {
  const grpcServer = new GrpcServer(listener.channelOptions);
  const streams: Streams = new Set();
  for (const channel of Object.keys(STREAM_SERVICE) as ChannelName[]) {
    const exchange = { ...methodNamed(STREAM_SERVICE[channel], 'Exchange'), ...FRAME_CODEC };
    const handle = (call: ServerDuplexStream<Frame, Frame>): void => welcome(call, channel, options, listener, streams);
    grpcServer.addService({ Exchange: exchange }, { Exchange: handle });
  }
  for (const [name, service] of Object.entries(options.services)) {
    const { definition, implementation } = bindService(name, service, listener);
    grpcServer.addService(definition, implementation);
  }
  const names = Object.keys(options.services);
  const health = new HealthImplementation();
  const setServing = (serving: boolean): void => {
    // The name '' is that of the process.
    for (const name of ['', ...names]) health.setStatus(name, serving ? 'SERVING' : 'NOT_SERVING');
  };
  setServing(true);
  health.addToServer(grpcServer);
  addReflection(grpcServer, names);
  const address = await bind(grpcServer, options.address, listener.credentials);
  return {
    address,
    setServing,
    close: async (graceMs) => {
      setServing(false);
      await shutDown(grpcServer, streams, address, graceMs);
    },
  };
}

const FRAME_CODEC = {
  requestSerialize: encodeFrame,
  responseSerialize: encodeFrame,
  requestDeserialize: decodeFrame,
  responseDeserialize: decodeFrame,
};

function welcome(
  call: ServerDuplexStream<Frame, Frame>,
  channel: ChannelName,
  options: ServeOptions,
  { streamLimits, patienceMs, onBug }: ListenerOptions,
  streams: Streams,
): void {
  const stream = new ServerFrameStream(call, streamLimits, patienceMs, onBug);
  try {
    const handlers = options.accept(channel, helloOf(call), stream);
    streams.add(stream);
    stream.accept({
      frame: (frame) => handlers.frame(frame),
      drained: () => handlers.drained?.(),
      closed: (error) => {
        streams.delete(stream);
        handlers.closed(error);
      },
    });
  } catch (error) {
    stream.close(asTidemarkError(error, onBug));
  }
}

function helloOf(call: ServerDuplexStream<Frame, Frame>): Bytes {
  const [hello] = call.metadata.get(HELLO);
  if (Buffer.isBuffer(hello)) return hello;
  const message = `the stream began without the metadata ${HELLO}`;
  throw new TidemarkError('INVALID_ARGUMENT', 'HELLO_MISSING', message);
}

/** Listens on every address that the name stands for, or on none. */
async function bind(server: GrpcServer, address: string, credentials: ServerCredentials): Promise<string> {
  const found = await resolveListener(address);
  let port = found[0]?.port ?? 0;
  let bound = 0;
  for (const { host } of found) {
    try {
      port = await bindOne(server, formatAddress({ host, port }), credentials);
      bound += 1;
    } catch (error) {
      // A machine may have a name for an address family that it does not speak.
      const skipped = found.length > 1 && /EADDRNOTAVAIL|EAFNOSUPPORT/.test(messageOf(error));
      if (skipped && (bound > 0 || host !== found.at(-1)?.host)) continue;
      server.forceShutdown();
      throw listenError(address, error);
    }
  }
  return `${address.slice(0, address.lastIndexOf(':'))}:${port}`;
}

function bindOne(server: GrpcServer, address: string, credentials: ServerCredentials): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, port) => {
      if (error === null) resolve(port);
      else reject(error);
    });
  });
}

async function shutDown(server: GrpcServer, streams: Streams, address: string, graceMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const quiet = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, graceMs);
  });
  await Promise.race([quiet, late]);
  clearTimeout(timer);
  const message = `${address} is shutting down`;
  const reason = new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', message, { outcome: 'unknown', retriable: true });
  for (const stream of streams) stream.close(reason);
  // The statuses just written leave in this turn of the loop, before the connections are cut.
  await new Promise((resolve) => setImmediate(resolve));
  server.forceShutdown();
}
