import { TidemarkError } from '../../src/lib/errors.js';
import type { Bytes } from '../../src/lib/bytes.js';
import { DEFAULT_LIMITS, type Limits } from '../../src/env/limits.js';
import type { FrameStream, ServeOptions, Server, StreamHandlers } from '../../src/env/network.js';
import type { Clock } from '../../src/env/time.js';
import { createNetwork, type NetworkOptions, type RealNetwork } from '../../src/env/real/network.js';

export const clock: Clock = { wallMs: () => Date.now(), monotonicMs: () => performance.now() };

/** A network that collects the bugs it is told of, and what must be closed after a test. */
export class TestNetwork {
  readonly bugs: unknown[] = [];
  readonly network: RealNetwork;
  readonly #servers: Server[] = [];

  constructor(limits: Partial<Limits> = {}, options: Partial<NetworkOptions> = {}) {
    const onBug = (error: unknown): void => void this.bugs.push(error);
    this.network = createNetwork({ clock, onBug, limits: { ...DEFAULT_LIMITS, ...limits }, ...options });
  }

  async serve(options: Partial<ServeOptions>): Promise<Server> {
    const refuse = (): StreamHandlers => {
      throw new TidemarkError('UNIMPLEMENTED', 'NO_STREAMS', 'this server takes no streams');
    };
    const server = await this.network.serve({ address: '127.0.0.1:0', accept: refuse, services: {}, ...options });
    this.#servers.push(server);
    return server;
  }

  async close(): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.close(0)));
  }
}

/** Handlers that keep what they are told, and promises for it. */
export class Recorder implements StreamHandlers {
  readonly frames: Bytes[] = [];
  closings = 0;
  drains = 0;
  readonly end: Promise<TidemarkError | undefined>;
  #ended: (error: TidemarkError | undefined) => void = () => undefined;
  #waiting: { test: () => boolean; done: () => void }[] = [];

  constructor() {
    this.end = new Promise((resolve) => {
      this.#ended = resolve;
    });
  }

  frame(frame: Bytes): void {
    this.frames.push(frame);
    this.#look();
  }

  drained(): void {
    this.drains += 1;
    this.#look();
  }

  closed(error: TidemarkError | undefined): void {
    this.closings += 1;
    this.#ended(error);
  }

  until(test: () => boolean): Promise<void> {
    if (test()) return Promise.resolve();
    return new Promise((done) => this.#waiting.push({ test, done }));
  }

  #look(): void {
    for (const one of this.#waiting.filter(({ test }) => test())) one.done();
    this.#waiting = this.#waiting.filter(({ test }) => !test());
  }
}

/** Echoes every frame. */
export function echo(stream: FrameStream): StreamHandlers {
  return { frame: (frame) => void stream.send(frame), closed: () => undefined };
}

export async function failureOf(promise: Promise<unknown>): Promise<TidemarkError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof TidemarkError) return error;
    throw error;
  }
  throw new Error('expected a TidemarkError');
}
