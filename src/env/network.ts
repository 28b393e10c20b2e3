import type { Bytes } from '../lib/bytes.js';
import type { CancelSignal } from '../lib/cancel.js';
import type { TidemarkError } from '../lib/errors.js';

/**
 * The network as Tidemark's inside uses it: streams of frames between processes. (The public unary gRPC services are served
 * by the same listener; they are only translations of public messages into calls of the router, see node/services.)
 *
 * A stream is ordered and without loss while it lives, and tells when it ends. What was sent and not answered when it ended
 * may or may not have arrived.
 */
export type ChannelName = 'peer' | 'pipeline';

export interface FrameStream {
  /** Where the other side is, for messages. */
  readonly remote: string;
  /**
   * Sends one frame. False means that more than the buffer limit is queued: the frame was taken, but the sender should stop
   * until `drained`. On a closed stream it does nothing and returns false.
   */
  send(frame: Bytes): boolean;
  /**
   * Ends the stream. The `closed` of both sides gets this error (its code, reason, outcome, details and message travel); on
   * this side not from within the call, but soon after it. Closing again does nothing.
   */
  close(error?: TidemarkError): void;
}

export interface StreamHandlers {
  frame(frame: Bytes): void;
  drained?(): void;
  /**
   * Called exactly once, with nothing after it, whichever side closed or whatever broke. `error` is undefined if the stream
   * was ended in order; what broke it by itself is UNAVAILABLE / STREAM_LOST.
   */
  closed(error: TidemarkError | undefined): void;
}

export interface ServeOptions {
  /** `host:port`; port 0 takes a free one. */
  readonly address: string;
  /**
   * Called for every arriving stream with its opening message. Returns the handlers, or throws a TidemarkError, which
   * refuses the stream.
   */
  accept(channel: ChannelName, hello: Bytes, stream: FrameStream): StreamHandlers;
  /** Public services by full gRPC name (`tidemark.v1.Commands`), each a map from method name to its handler. */
  readonly services: Readonly<Record<string, RpcService>>;
}

export type RpcService = Readonly<Record<string, RpcMethod>>;

export interface RpcContext {
  /** Monotonic milliseconds at which the caller stops waiting; Infinity if it set no deadline. */
  readonly deadlineMs: number;
  /** Aborted when the caller went away. */
  readonly signal: CancelSignal;
  /** Calls `done` once, when the call is over and nothing of its replies is kept here any more. */
  onClosed(done: () => void): void;
  /** Ends the call at once and drops what its caller has not read. The caller gets RESOURCE_EXHAUSTED. */
  cut(): void;
  /** Ends a stream with this error, behind what was handed over already: the caller gets it when it has read all of that. */
  fail(error: TidemarkError): void;
}

/** Requests and responses have the shapes of the generated proto types; errors are thrown as TidemarkError. */
export type RpcMethod =
  | { readonly kind: 'unary'; handle(request: never, context: RpcContext): Promise<unknown> }
  | { readonly kind: 'stream'; handle(request: never, context: RpcContext): AsyncIterable<unknown> };

export interface Server {
  /** `host:port` with the real port. */
  readonly address: string;
  /** Refuses new work, lets running calls and streams end for up to `graceMs`, then cuts them. */
  close(graceMs: number): Promise<void>;
  /**
   * What `grpc.health.v1` says, of the process and of each of its services alike. They are serving at first. A network without
   * health checks has no such method.
   */
  setServing?(serving: boolean): void;
}

export interface HttpResponse {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

export interface Network {
  /** Rejects with FAILED_PRECONDITION / ADDRESS_IN_USE if the port is taken. */
  serve(options: ServeOptions): Promise<Server>;
  /** Opens a stream. Never throws: failure to connect arrives as `closed` with UNAVAILABLE. Frames may be sent at once. */
  connect(address: string, channel: ChannelName, hello: Bytes, handlers: StreamHandlers): FrameStream;
  /** Plain HTTP GET for metrics and health. */
  serveHttp(address: string, get: (path: string) => Promise<HttpResponse>): Promise<Server>;
}
