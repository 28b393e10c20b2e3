import { constants, type ServerHttp2Stream } from 'node:http2';
import { Metadata, status as Status, type ClientDuplexStream, type ServerDuplexStream, type StatusObject } from '@grpc/grpc-js';
import { assert } from '../../../lib/assert.js';
import type { Bytes } from '../../../lib/bytes.js';
import { messageOf, TidemarkError } from '../../../lib/errors.js';
import type { FrameStream, StreamHandlers } from '../../network.js';
import { causeOf, errorOfStatus, statusOf } from './errors.js';
import { FRAME_OVERHEAD, type Frame } from './frames.js';

/**
 * A `FrameStream` over one bidirectional gRPC call, for both of its ends.
 *
 * grpc-js counts queued messages; memory is a matter of bytes, so this counts bytes. Beyond `bufferBytesMax` the sender is told
 * to wait; one that does not wait is cut off at `overflowBytesMax`, since a stream that nobody reads must not fill the memory.
 *
 * Invariants: `closed` is called once and last, never from within a call of the stream's user; no frame is sent or handed up
 * after the stream was closed from either side.
 */
export interface StreamLimits {
  readonly bufferBytesMax: number;
  readonly overflowBytesMax: number;
  readonly messageBytesMax: number;
}

type Call = ClientDuplexStream<Frame, Frame> | ServerDuplexStream<Frame, Frame>;

/** What a queued frame costs beside its bytes. */
const FRAME_COST = 64;

export abstract class GrpcFrameStream implements FrameStream {
  readonly remote: string;
  readonly #call: Call;
  readonly #limits: StreamLimits;
  readonly #onBug: (error: unknown) => void;
  #handlers: StreamHandlers | undefined;
  #queuedBytes = 0;
  #heldBack = false;
  /** Set once either side has closed; what `closed` is, or will be, called with. */
  #end: { readonly error: TidemarkError | undefined } | undefined;

  constructor(call: Call, remote: string, limits: StreamLimits, onBug: (error: unknown) => void) {
    this.#call = call;
    this.remote = remote;
    this.#limits = limits;
    this.#onBug = onBug;
  }

  /** Closes the underlying call after this side has closed the stream. */
  protected abstract shut(error: TidemarkError | undefined): void;

  get isClosed(): boolean {
    return this.#end !== undefined;
  }

  /** Begins to hand up frames. A stream that was closed before then only reports that. */
  protected start(handlers: StreamHandlers): void {
    assert(this.#handlers === undefined, 'a stream is started once');
    this.#handlers = handlers;
    if (this.#end !== undefined) this.#report();
    this.#call.on('data', (frame: Frame) => this.#receive(frame));
  }

  send(frame: Bytes): boolean {
    if (this.#end !== undefined) return false;
    const { bufferBytesMax, overflowBytesMax, messageBytesMax } = this.#limits;
    if (frame.length + FRAME_OVERHEAD > messageBytesMax) {
      this.close(tooLarge(frame.length, messageBytesMax));
      return false;
    }
    const cost = frame.length + FRAME_COST;
    this.#queuedBytes += cost;
    if (this.#queuedBytes > overflowBytesMax) {
      this.close(overflow(this.remote, overflowBytesMax));
      return false;
    }
    this.#call.write(frame, () => this.#written(cost));
    if (this.#queuedBytes <= bufferBytesMax) return !this.#heldBack;
    this.#heldBack = true;
    return false;
  }

  close(error?: TidemarkError): void {
    if (this.#end !== undefined) return;
    this.finish(error);
    this.shut(error);
  }

  /** The stream is over, for whatever reason. */
  protected finish(error: TidemarkError | undefined): void {
    if (this.#end !== undefined) return;
    this.#end = { error };
    this.#call.resume();
    if (this.#handlers !== undefined) this.#report();
  }

  #report(): void {
    setImmediate(() => this.#guard(() => this.#handlers?.closed(this.#end?.error)));
  }

  #receive(frame: Frame): void {
    if (this.#end !== undefined) return;
    if (Buffer.isBuffer(frame)) this.#guard(() => this.#handlers?.frame(frame));
    else this.close(frame.error);
  }

  #written(cost: number): void {
    this.#queuedBytes -= cost;
    if (!this.#heldBack || this.#queuedBytes > this.#limits.bufferBytesMax / 2) return;
    this.#heldBack = false;
    if (this.#end === undefined) this.#guard(() => this.#handlers?.drained?.());
  }

  /** A handler may end the stream by throwing a TidemarkError; anything else that it throws is a bug. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.close(asTidemarkError(error, this.#onBug));
    }
  }
}

/** Errors pass; a bug is reported and becomes INTERNAL. */
export function asTidemarkError(error: unknown, onBug: (error: unknown) => void): TidemarkError {
  if (error instanceof TidemarkError) return error;
  onBug(error);
  return new TidemarkError('INTERNAL', 'BUG', `internal error: ${messageOf(error)}`, { outcome: 'unknown', cause: error });
}

export class ServerFrameStream extends GrpcFrameStream {
  readonly #call: ServerDuplexStream<Frame, Frame>;
  readonly #patienceMs: number;

  /** `patienceMs`: how long the client may take to read what it was sent, once this side has closed the stream. */
  constructor(
    call: ServerDuplexStream<Frame, Frame>,
    limits: StreamLimits,
    patienceMs: number,
    onBug: (error: unknown) => void,
  ) {
    super(call, call.getPeer(), limits, onBug);
    this.#call = call;
    this.#patienceMs = patienceMs;
    // An orderly end has a frame that says so; without it the data may have ended because the connection did.
    call.on('end', () => this.close(lost(this.remote, 'the connection ended')));
    call.on('cancelled', () => this.finish(lost(this.remote, 'the connection was lost or the call cancelled')));
  }

  /** Tells the client that the stream stands. */
  accept(handlers: StreamHandlers): void {
    if (!this.isClosed) this.#call.sendMetadata(new Metadata());
    this.start(handlers);
  }

  protected override shut(error: TidemarkError | undefined): void {
    if (error === undefined) this.#call.end();
    else this.#call.emit('error', statusOf(error));
    // The end waits behind what was sent. A client that does not read would keep all of that here, counted by nobody.
    const timer = setTimeout(() => reset(this.#call), this.#patienceMs);
    if (this.#call.cancelled) clearTimeout(timer);
    else this.#call.once('cancelled', () => clearTimeout(timer));
  }
}

/**
 * Ends a call at once, and drops what its client has not read; the client gets RESOURCE_EXHAUSTED. A status would wait behind
 * that data; grpc-js offers no other end than through its stream.
 */
export function reset(serverCall: object): void {
  const { call } = serverCall as { readonly call?: { readonly stream?: ServerHttp2Stream } };
  call?.stream?.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
}

export interface ClientCall {
  readonly call: ClientDuplexStream<Frame, Frame>;
  /** Lets go of the connection. */
  readonly release: () => void;
  /** How long the server may take to accept, and to end the call once this side has closed the stream. */
  readonly patienceMs: number;
}

export class ClientFrameStream extends GrpcFrameStream {
  readonly #call: ClientDuplexStream<Frame, Frame>;
  readonly #patienceMs: number;
  #timer: NodeJS.Timeout;
  #status: StatusObject | undefined;
  #drained = false;

  constructor(
    { call, release, patienceMs }: ClientCall,
    remote: string,
    limits: StreamLimits,
    onBug: (error: unknown) => void,
    handlers: StreamHandlers,
  ) {
    super(call, remote, limits, onBug);
    this.#call = call;
    this.#patienceMs = patienceMs;
    this.#timer = setTimeout(() => this.#giveUp(`no answer within ${patienceMs} ms`), patienceMs);
    call.on('metadata', () => {
      if (!this.isClosed) clearTimeout(this.#timer);
    });
    // An error is reported as a status too. The end of the data and the status may come in either order.
    call.on('error', () => undefined);
    call.on('end', () => {
      this.#drained = true;
      this.#maybeEnd();
    });
    call.on('status', (status) => {
      clearTimeout(this.#timer);
      this.#status = status;
      release();
      this.#maybeEnd();
    });
    this.start(handlers);
  }

  #maybeEnd(): void {
    if (this.#status === undefined || !this.#drained) return;
    this.finish(this.#status.code === Status.OK ? undefined : streamError(this.#status, this.remote));
  }

  #giveUp(why: string): void {
    this.finish(lost(this.remote, why));
    this.#call.cancel();
  }

  protected override shut(error: TidemarkError | undefined): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#call.cancel(), this.#patienceMs);
    this.#call.end({ error });
  }
}

/** What breaks a stream is UNAVAILABLE, unless the server said otherwise. */
function streamError(status: StatusObject, remote: string): TidemarkError {
  const error = errorOfStatus(status, remote);
  if (error.reason !== 'RPC_FAILED' || error.code === 'RESOURCE_EXHAUSTED' || error.code === 'UNIMPLEMENTED') return error;
  return lost(remote, status.details);
}

function lost(remote: string, why: string): TidemarkError {
  const options = { outcome: 'unknown', retriable: true } as const;
  return new TidemarkError('UNAVAILABLE', 'STREAM_LOST', `the stream with ${remote} is lost: ${causeOf(why)}`, options);
}

function tooLarge(bytes: number, limit: number): TidemarkError {
  const message = `a frame of ${bytes} bytes is over the message limit of ${limit} bytes`;
  const details = { limit: String(limit) };
  return new TidemarkError('RESOURCE_EXHAUSTED', 'MESSAGE_TOO_LARGE', message, { outcome: 'unknown', details });
}

function overflow(remote: string, limit: number): TidemarkError {
  const message = `the stream with ${remote} was cut off: more than ${limit} bytes wait for a reader that is too slow`;
  const details = { limit: String(limit) };
  return new TidemarkError('RESOURCE_EXHAUSTED', 'STREAM_OVERFLOW', message, { outcome: 'unknown', retriable: true, details });
}
