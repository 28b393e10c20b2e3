import { Client, credentials, type CallOptions, type ServiceError, type StatusObject } from '@grpc/grpc-js';
import { STATUS } from '../../src/client/index.js';
import { errorOfStatus } from '../../src/env/real/grpc/errors.js';
import { methodNamed } from '../../src/env/real/grpc/protos.js';

/** Calls of a client that checks nothing: any bytes as a request, of any length. */
export class BareClient {
  readonly #client: Client;
  readonly #address: string;

  constructor(address: string) {
    this.#address = address;
    this.#client = new Client(address, credentials.createInsecure(), { 'grpc.max_send_message_length': -1 });
  }

  /** The status that the bytes get; rejects if they are served. */
  refusal(service: string, method: string, bytes: Buffer): Promise<Refusal> {
    const { path, responseStream } = methodNamed(service, method);
    return responseStream ? this.stream(path, bytes) : this.unary(path, bytes);
  }

  unary(path: string, bytes: Buffer): Promise<Refusal> {
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(path, same, same, bytes, deadline(), (error) => {
        if (error === null) reject(new Error(`${path} was served`));
        else resolve(this.#refusalOf(error));
      });
    });
  }

  stream(path: string, bytes: Buffer): Promise<Refusal> {
    return new Promise((resolve, reject) => {
      const call = this.#client.makeServerStreamRequest(path, same, same, bytes, deadline());
      call.on('error', (error) => resolve(this.#refusalOf(error as ServiceError)));
      call.on('data', () => undefined);
      call.on('end', () => reject(new Error(`${path} was served`)));
    });
  }

  #refusalOf(status: StatusObject): Refusal {
    const { reason, message } = errorOfStatus(status, this.#address);
    const code = Object.entries(STATUS).find(([, number]) => number === Number(status.code))?.[0] ?? 'none';
    return { code, reason, message };
  }

  /** The same, for a request that can be written as one. */
  refusalOf(service: string, method: string, request: object): Promise<Refusal> {
    return this.refusal(service, method, methodNamed(service, method).requestSerialize(request));
  }

  close(): void {
    this.#client.close();
  }
}

export interface Refusal {
  readonly code: string;
  readonly reason: string;
  readonly message: string;
}

function same(bytes: Buffer): Buffer {
  return bytes;
}

const DEADLINE_MS = 10_000;

function deadline(): CallOptions {
  return { deadline: Date.now() + DEADLINE_MS };
}
