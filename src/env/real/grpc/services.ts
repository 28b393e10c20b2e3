import type { sendUnaryData, ServerUnaryCall, ServerWritableStream, UntypedServiceImplementation } from '@grpc/grpc-js';
import type { MethodDefinition, ServiceDefinition } from '@grpc/proto-loader';
import { assert } from '../../../lib/assert.js';
import { Cancellation, type CancelSignal } from '../../../lib/cancel.js';
import { TidemarkError } from '../../../lib/errors.js';
import type { RpcContext, RpcMethod, RpcService } from '../../network.js';
import type { Clock } from '../../time.js';
import { statusOf } from './errors.js';
import { asTidemarkError, reset } from './frame-stream.js';
import { serviceNamed, strictDecoder } from './protos.js';

/**
 * Public services: handlers of plain requests behind grpc-js calls. Requests are decoded strictly; whatever a handler throws
 * becomes a status with its detail, and what is no TidemarkError is a bug, which is reported and answered with INTERNAL.
 */
export interface BoundService {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}

export interface ServicePorts {
  readonly clock: Clock;
  readonly onBug: (error: unknown) => void;
}

export function bindService(name: string, service: RpcService, ports: ServicePorts): BoundService {
  const declared = serviceNamed(name);
  const definition: Record<string, MethodDefinition<object, object>> = {};
  const implementation: UntypedServiceImplementation = {};
  for (const [methodName, method] of Object.entries(service)) {
    const wire = declared[methodName];
    assert(wire !== undefined, `${name} has no method ${methodName}`);
    const fits = !wire.requestStream && wire.responseStream === (method.kind === 'stream');
    assert(fits, `${name}.${methodName} is no ${method.kind}`);
    definition[methodName] = {
      ...wire,
      requestDeserialize: strictDecoder(wire),
      responseSerialize: reporting(wire.responseSerialize, ports.onBug),
    };
    implementation[methodName] = method.kind === 'unary' ? unary(method, ports) : streaming(method, ports);
  }
  return { definition, implementation };
}

/** grpc-js answers INTERNAL when a reply cannot be encoded, but tells nobody. */
function reporting(serialize: (reply: object) => Buffer, onBug: (error: unknown) => void): (reply: object) => Buffer {
  return (reply) => {
    try {
      return serialize(reply);
    } catch (error) {
      onBug(error);
      throw error;
    }
  };
}

type UnaryCall = ServerUnaryCall<object, unknown>;
type StreamCall = ServerWritableStream<object, unknown>;
type Handler<K extends RpcMethod['kind']> = Extract<RpcMethod, { kind: K }>;

function unary(method: Handler<'unary'>, ports: ServicePorts) {
  return (call: UnaryCall, callback: sendUnaryData<unknown>): void => {
    const run = async (): Promise<unknown> => {
      if (call.request instanceof TidemarkError) throw call.request;
      return method.handle(call.request as never, new CallContext(call, ports));
    };
    run().then(
      (reply) => callback(null, reply),
      (error: unknown) => callback(statusOf(asTidemarkError(error, ports.onBug))),
    );
  };
}

function streaming(method: Handler<'stream'>, ports: ServicePorts) {
  return (call: StreamCall): void => {
    const context = new CallContext(call, ports);
    const run = async (): Promise<void> => {
      if (call.request instanceof TidemarkError) throw call.request;
      for await (const reply of method.handle(call.request as never, context)) {
        if (!(await write(call, reply, context.signal)) || context.failed) return;
      }
    };
    run().then(
      () => {
        if (!context.failed) call.end();
      },
      (error: unknown) => {
        if (context.failed && error instanceof TidemarkError) return;
        if (!context.signal.aborted || !(error instanceof TidemarkError)) {
          call.emit('error', statusOf(asTidemarkError(error, ports.onBug)));
        }
      },
    );
  };
}

/** One reply at a time, each handed to the connection before the next is asked for. False once the caller is gone. */
function write(call: StreamCall, reply: unknown, signal: CancelSignal): Promise<boolean> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve(false);
      return;
    }
    const gone = (): void => resolve(false);
    signal.addEventListener('abort', gone);
    call.write(reply, () => {
      signal.removeEventListener('abort', gone);
      resolve(!signal.aborted);
    });
  });
}

class CallContext implements RpcContext {
  readonly #call: UnaryCall | StreamCall;
  readonly deadlineMs: number;
  readonly #onBug: (error: unknown) => void;
  #signal: Cancellation | undefined;
  #failed = false;

  constructor(call: UnaryCall | StreamCall, { clock, onBug }: ServicePorts) {
    this.#call = call;
    this.#onBug = onBug;
    const deadline = Number(call.getDeadline());
    this.deadlineMs = deadline === Infinity ? Infinity : clock.monotonicMs() + deadline - clock.wallMs();
  }

  /** Made when first asked for: most handlers never do. One query listens many times, once for each bucket that it asks. */
  get signal(): CancelSignal {
    if (this.#signal === undefined) {
      const signal = new Cancellation();
      this.#signal = signal;
      if (this.#call.cancelled) signal.abort();
      else this.#call.once('cancelled', () => signal.abort());
    }
    return this.#signal;
  }

  onClosed(done: () => void): void {
    // The name is misleading: it comes whenever the stream has closed, also in order.
    if (this.#call.cancelled) done();
    else this.#call.once('cancelled', done);
  }

  cut(): void {
    reset(this.#call);
  }

  /** The status is on its way; nothing may be written any more. */
  get failed(): boolean {
    return this.#failed;
  }

  fail(error: TidemarkError): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#call.emit('error', statusOf(asTidemarkError(error, this.#onBug)));
  }
}
