import { createHash } from 'node:crypto';
import type { Bytes } from '../../lib/bytes.js';
import type { FrameStream, Network, StreamHandlers } from '../../env/env.js';

/** A running hash of all that is logged in a world and of every byte between the program and the cluster, with its time. */
export class Tape {
  readonly #hash = createHash('sha256');
  readonly #nowMs: () => number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  note(text: string): void {
    this.#hash.update(text);
    this.#hash.update('\n');
  }

  /** What it is so far. */
  digest(): string {
    return this.#hash.copy().digest('hex');
  }

  /** The network of one machine, with every frame noted. */
  over(network: Network, name: string): Network {
    const frame = (direction: string, data: Bytes): void => {
      this.note(`${this.#nowMs()} ${name} ${direction} ${data.length}`);
      this.#hash.update(data);
    };
    return {
      serve: (options) => network.serve(options),
      serveHttp: (address, get) => network.serveHttp(address, get),
      connect: (address, channel, hello, handlers): FrameStream => {
        const heard: StreamHandlers = {
          frame: (data) => {
            frame('<', data);
            handlers.frame(data);
          },
          drained: () => handlers.drained?.(),
          closed: (error) => {
            this.note(`${this.#nowMs()} ${name} lost ${address} ${error?.message ?? ''}`);
            handlers.closed(error);
          },
        };
        const stream = network.connect(address, channel, hello, heard);
        return {
          remote: stream.remote,
          send: (data) => {
            frame('>', data);
            return stream.send(data);
          },
          close: (error) => stream.close(error),
        };
      },
    };
  }
}
