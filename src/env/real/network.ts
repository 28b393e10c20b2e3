import { isIP } from 'node:net';
import { checkServerIdentity, type PeerCertificate } from 'node:tls';
import { ChannelCredentials, logVerbosity, ServerCredentials, setLogVerbosity, type ChannelOptions } from '@grpc/grpc-js';
import { messageOf, TidemarkError } from '../../lib/errors.js';
import { DEFAULT_LIMITS, type Limits } from '../limits.js';
import type { Network } from '../network.js';
import type { Clock } from '../time.js';
import { parseAddress } from './addresses.js';
import { dial, rpcClient, type DialOptions, type RpcClient } from './grpc/client.js';
import { listen } from './grpc/server.js';
import { listenHttp } from './http.js';

/**
 * The network of a real machine: gRPC over HTTP/2, with mutual TLS if certificates are given.
 *
 * A stream of frames is one bidirectional call of `Peer.Exchange` or `Pipeline.Exchange` on a connection of its own. It begins
 * with a hello in the metadata and is accepted by the server's initial metadata, or refused by a status. Frames flow both ways
 * with back-pressure in bytes. A side that falls silent (a dead process, a cut cable, a stopped machine) is found by pings:
 * within `keepaliveTimeMs + keepaliveTimeoutMs`, the stream ends with UNAVAILABLE.
 *
 * Example: `connect('10.0.0.2:7101', 'peer', hello, { frame, closed })` returns at once; `send` may be called right away; if
 * nobody listens there, `closed` gets UNAVAILABLE / STREAM_LOST a moment later.
 *
 * This is not a retry layer: nothing is sent twice, and nothing reconnects by itself.
 */
export interface NetworkOptions {
  readonly clock: Clock;
  /** Told of every error that is no TidemarkError: the program's own fault. */
  readonly onBug: (error: unknown) => void;
  readonly tls?: TlsFiles | undefined;
  readonly limits?: Limits;
  readonly keepaliveTimeMs?: number;
  readonly keepaliveTimeoutMs?: number;
  readonly connectTimeoutMs?: number;
}

/** PEM contents. Both sides of every connection must show a certificate that this authority signed. */
export interface TlsFiles {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

export interface RealNetwork extends Network {
  /** Plain calls of public services, for tools. */
  rpcClient(address: string): RpcClient;
}

const MIB = 1024 * 1024;

export function createNetwork(options: NetworkOptions): RealNetwork {
  const { clock, onBug, tls, limits = DEFAULT_LIMITS } = options;
  const { keepaliveTimeMs = 1000, keepaliveTimeoutMs = 2000, connectTimeoutMs = 3000 } = options;
  setLogVerbosity(logVerbosity.NONE);
  const streamLimits = {
    bufferBytesMax: limits.streamBufferBytesMax,
    overflowBytesMax: Math.max(limits.peerQueueBytesMax, 2 * limits.messageBytesMax),
    messageBytesMax: limits.messageBytesMax,
  };
  const common: ChannelOptions = {
    'grpc.max_send_message_length': limits.messageBytesMax,
    'grpc.max_receive_message_length': limits.messageBytesMax,
    'grpc.keepalive_time_ms': keepaliveTimeMs,
    'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    'grpc.enable_channelz': 0,
  };
  const clientOptions: ChannelOptions = {
    ...common,
    'grpc.enable_retries': 0,
    'grpc.enable_http_proxy': 0,
    'grpc.service_config_disable_resolution': 1,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 1000,
    'grpc-node.flow_control_window': MIB,
  };
  const serverOptions: ChannelOptions = {
    ...common,
    'grpc.max_concurrent_streams': limits.commandsInFlightMax + limits.queriesInFlightMax,
    'grpc-node.max_session_memory': Math.ceil((16 * limits.messageBytesMax) / MIB),
  };
  const securityOf = clientSecurity(tls);
  const toward = (address: string): DialOptions => {
    const { credentials, channelOptions } = securityOf(address);
    return { credentials, channelOptions: { ...clientOptions, ...channelOptions }, streamLimits, connectTimeoutMs, onBug };
  };
  const credentials = serverCredentials(tls);
  const server = { channelOptions: serverOptions, credentials, streamLimits, patienceMs: connectTimeoutMs, clock, onBug };
  return {
    serve: (serveOptions) => listen(serveOptions, server),
    connect: (address, channel, hello, handlers) => dial(address, channel, hello, handlers, toward(address)),
    serveHttp: (address, get) => listenHttp(address, get, onBug),
    rpcClient: (address) => rpcClient(address, toward(address)),
  };
}

function serverCredentials(tls: TlsFiles | undefined): ServerCredentials {
  if (tls === undefined) return ServerCredentials.createInsecure();
  return usable(() => ServerCredentials.createSsl(tls.ca, [{ cert_chain: tls.cert, private_key: tls.key }], true));
}

interface Security {
  readonly credentials: ChannelCredentials;
  readonly channelOptions: ChannelOptions;
}

/** Sent as the server's name where it is known by an IP address only: TLS allows no address there (RFC 6066, section 3). */
const NO_NAME = 'address.invalid';

/**
 * The server must show a certificate for the very host that was dialed: its name, or its IP address, for which grpc-js needs
 * credentials that know the address.
 */
function clientSecurity(tls: TlsFiles | undefined): (address: string) => Security {
  if (tls === undefined) {
    const plain = { credentials: ChannelCredentials.createInsecure(), channelOptions: {} };
    return () => plain;
  }
  const named = { credentials: usable(() => ChannelCredentials.createSsl(tls.ca, tls.key, tls.cert)), channelOptions: {} };
  const byIp = new Map<string, Security>();
  return (address) => {
    const host = parseAddress(address)?.host ?? '';
    if (isIP(host) === 0) return named;
    const known = byIp.get(host);
    if (known !== undefined) return known;
    const verify = (_name: string, certificate: PeerCertificate): Error | undefined => checkServerIdentity(host, certificate);
    const options = { checkServerIdentity: verify };
    const credentials = ChannelCredentials.createSsl(tls.ca, tls.key, tls.cert, options);
    const made = { credentials, channelOptions: { 'grpc.ssl_target_name_override': NO_NAME } };
    byIp.set(host, made);
    return made;
  };
}

function usable<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    const message = `the TLS certificates cannot be used: ${messageOf(error)}`;
    throw new TidemarkError('INVALID_ARGUMENT', 'TLS_FILES_UNUSABLE', message, { cause: error });
  }
}
