import type { Bytes } from '../lib/bytes.js';
import { TidemarkError, withoutStack } from '../lib/errors.js';
import type {
  ChannelName,
  FrameStream,
  HttpResponse,
  Network,
  Random,
  RpcService,
  Server,
  ServeOptions,
  StreamHandlers,
  Timer,
  Timers,
} from '../env/env.js';
import { SimStream, type Carrier } from './stream.js';

/**
 * The network between the processes of one simulated world. Every delay and every choice comes from the given timers and
 * random numbers, so a world with the same seed sees the same network.
 *
 * Processes are known by name and listen at addresses. Paths are directed: `cut('a', 'b')` lets nothing from a reach b while
 * b still reaches a. A stream over a cut path is silent; whoever hears nothing for `keepaliveMs` sees it close, as with the
 * keepalive of a real connection. Healed before that, it goes on where it stood.
 *
 * Example: `const world = new SimWorldNetwork({ timers, random })`; processes use `world.networkFor('n1')` as their port;
 * `world.partition('n1', ['n2', 'n3'])` leaves n1 alone; `world.kill('n2')` ends it without a word.
 *
 * Not here: packets. Loss, duplication and reordering below a stream show above it as delay, as breaks, and as streams that
 * break for one end first (`breakHalfStreams`).
 */
export interface Latency {
  readonly minMs: number;
  readonly maxMs: number;
  /** How often a frame takes `spikeMs` longer, in [0, 1]. */
  readonly spikeChance?: number;
  readonly spikeMs?: number;
}

export interface SimNetworkOptions {
  readonly timers: Timers;
  readonly random: Random;
  readonly latency?: Latency;
  /** Silence after which an end takes its connection for lost. */
  readonly keepaliveMs?: number;
  readonly bufferBytesMax?: number;
  readonly messageBytesMax?: number;
}

type Names = string | readonly string[];

interface Listener {
  readonly process: SimProcess;
  readonly options: ServeOptions;
  readonly streams: Set<SimStream>;
}

interface HttpListener {
  readonly process: SimProcess;
  readonly get: (path: string) => Promise<HttpResponse>;
}

const FIRST_FREE_PORT = 20_000;

export class SimWorldNetwork {
  readonly #timers: Timers;
  readonly #random: Random;
  #latency: Latency;
  readonly #latencies = new Map<string, Latency>();
  #breakChance = 0;
  readonly #cuts = new Set<string>();
  readonly #isolated = new Set<string>();
  readonly #paused = new Set<string>();
  readonly #stalls = new Map<string, number>();
  readonly #refusing = new Set<string>();
  readonly #processes = new Map<string, SimProcess>();
  readonly #listeners = new Map<string, Listener>();
  readonly #http = new Map<string, HttpListener>();
  /** Who listened last at an address: where a connect to it goes while nobody listens. */
  readonly #owners = new Map<string, string>();
  readonly #streams = new Set<SimStream>();
  readonly #carrier: Carrier;
  #nextPort = FIRST_FREE_PORT;
  /** Told of every frame that leaves; what it gives is called when somebody gets that. */
  onSend: ((from: string, to: string, bytes: number) => () => void) | undefined;

  constructor(options: SimNetworkOptions) {
    this.#timers = options.timers;
    this.#random = options.random;
    this.#latency = options.latency ?? { minMs: 0.1, maxMs: 1 };
    this.#carrier = {
      bufferBytesMax: options.bufferBytesMax ?? 4 * 1024 * 1024,
      messageBytesMax: options.messageBytesMax ?? 16 * 1024 * 1024,
      keepaliveMs: options.keepaliveMs ?? 3000,
      after: (delayMs, callback) => this.after(delayMs, callback),
      latencyMs: (from, to) => this.#latencyMs(from, to),
      chance: () => this.#random.float(),
      breakChance: () => this.#breakChance,
      isCut: (from, to) => this.#isCut(from, to),
      isStalled: (from, to) => this.#stalls.size > 0 && this.#stalls.has(pathOf(from, to)),
      open: (stream) => this.#open(stream),
      gone: (stream) => this.#gone(stream),
      sent: (from, to, bytes) => this.onSend?.(from, to, bytes),
    };
  }

  /** The network as one process sees it. After `kill`, asking again gives the process of that name a new life. */
  networkFor(name: string): Network {
    let process = this.#processes.get(name);
    if (process === undefined) {
      process = new SimProcess(this, name);
      this.#processes.set(name, process);
    }
    return process;
  }

  /** Ends a process: its listeners go, its streams break for the others, and none of its handlers is called again. */
  kill(name: string): void {
    const process = this.#processes.get(name);
    if (process === undefined) return;
    this.#processes.delete(name);
    this.#paused.delete(name);
    process.alive = false;
    for (const [address, listener] of this.#listeners) {
      if (listener.process === process) this.#listeners.delete(address);
    }
    for (const [address, listener] of this.#http) {
      if (listener.process === process) this.#http.delete(address);
    }
    for (const stream of [...this.#streams]) {
      if (stream.client.process === name) stream.kill('client');
      if (stream.server.process === name && stream.server.handlers !== undefined) stream.kill('server');
    }
  }

  /** Cuts both directions between any of `a` and any of `b`. */
  partition(a: Names, b: Names): void {
    for (const one of listOf(a)) {
      for (const other of listOf(b)) {
        this.#cuts.add(pathOf(one, other));
        this.#cuts.add(pathOf(other, one));
      }
    }
    this.#pathsChanged();
  }

  /** Lets nothing from `from` reach `to`. */
  cut(from: string, to: string): void {
    this.#cuts.add(pathOf(from, to));
    this.#pathsChanged();
  }

  /** Cuts a process off from all others, those to come included. */
  isolate(name: string): void {
    this.#isolated.add(name);
    this.#pathsChanged();
  }

  /** Undoes every cut, partition and isolation, or those between two processes. */
  heal(a?: string, b?: string): void {
    if (a === undefined || b === undefined) {
      this.#cuts.clear();
      this.#isolated.clear();
    } else {
      this.#cuts.delete(pathOf(a, b));
      this.#cuts.delete(pathOf(b, a));
      this.#isolated.delete(a);
      this.#isolated.delete(b);
    }
    this.#pathsChanged();
  }

  /** A process that is stopped (SIGSTOP) accepts nothing and answers nothing, keepalives included, until `resume`. */
  pause(name: string): void {
    this.#paused.add(name);
    this.#pathsChanged();
  }

  resume(name: string): void {
    this.#paused.delete(name);
    this.#pathsChanged();
  }

  /** Holds back what goes from `from` to `to` for a while; the connection does not notice. */
  stall(from: string, to: string, durationMs: number): void {
    const path = pathOf(from, to);
    this.#stalls.set(path, (this.#stalls.get(path) ?? 0) + 1);
    this.after(durationMs, () => {
      const left = (this.#stalls.get(path) ?? 0) - 1;
      if (left > 0) this.#stalls.set(path, left);
      else this.#stalls.delete(path);
      this.#pathsChanged();
    });
  }

  /** Nothing that one says reaches the other at present. */
  isCut(from: string, to: string): boolean {
    return this.#isCut(from, to);
  }

  /** Breaks the streams that are open between two processes; new ones may be opened. */
  breakStreams(a: string, b: string): void {
    for (const stream of this.#between(a, b)) stream.break();
  }

  /**
   * The streams between two processes break for one end now and for the other `lingerMs` later, which until then gets what was on
   * its way: what is said again on a new stream may come first, and come twice. What packets do to each other, seen from above.
   */
  breakHalfStreams(a: string, b: string, lingerMs: number): void {
    for (const stream of this.#between(a, b)) stream.loseHalf(this.#random.float() < 0.5 ? 'client' : 'server', lingerMs);
  }

  #between(a: string, b: string): SimStream[] {
    return [...this.#streams].filter(({ client, server }) => {
      return (client.process === a && server.process === b) || (client.process === b && server.process === a);
    });
  }

  /** How likely each frame is to break the stream that it is sent on. */
  setBreakChance(chance: number): void {
    this.#breakChance = chance;
  }

  /** While set, every connect to this process is refused, though it listens. */
  refuseConnects(name: string, refuse: boolean): void {
    if (refuse) this.#refusing.add(name);
    else this.#refusing.delete(name);
  }

  /** For all paths without a latency of their own, or for one path; undefined takes that of one path back. */
  setLatency(latency: Latency): void;
  setLatency(latency: Latency | undefined, from: string, to: string): void;
  setLatency(latency: Latency | undefined, from = '', to = ''): void {
    if (latency === undefined) this.#latencies.delete(pathOf(from, to));
    else if (from === '') this.#latency = latency;
    else this.#latencies.set(pathOf(from, to), latency);
  }

  /** A public service that is served at an address, to be called in process. */
  service(address: string, name: string): RpcService | undefined {
    return this.#listeners.get(address)?.options.services[name];
  }

  async httpGet(address: string, path: string): Promise<HttpResponse> {
    const listener = this.#http.get(address);
    if (listener === undefined) throw refused(address);
    return listener.get(path);
  }

  /** @internal */
  after(delayMs: number, callback: () => void): Timer {
    return this.#timers.after(delayMs, callback);
  }

  /** @internal */
  listen(process: SimProcess, options: ServeOptions): Server {
    const address = this.#claim(options.address);
    const listener: Listener = { process, options, streams: new Set() };
    this.#listeners.set(address, listener);
    this.#owners.set(address, process.name);
    return { address, close: (graceMs) => this.#closeListener(address, listener, graceMs) };
  }

  /** @internal */
  listenHttp(process: SimProcess, wanted: string, get: HttpListener['get']): Server {
    const address = this.#claim(wanted);
    const listener: HttpListener = { process, get };
    this.#http.set(address, listener);
    const close = async (): Promise<void> => {
      if (this.#http.get(address) === listener) this.#http.delete(address);
    };
    return { address, close };
  }

  /** @internal */
  connect(process: SimProcess, address: string, channel: ChannelName, hello: Bytes, handlers: StreamHandlers): FrameStream {
    const owner = this.#listeners.get(address)?.process.name ?? this.#owners.get(address) ?? '';
    const stream = new SimStream(this.#carrier, { from: process.name, to: owner, address, channel, hello, handlers });
    this.#streams.add(stream);
    return stream.client;
  }

  #open(stream: SimStream): void {
    const listener = this.#listeners.get(stream.address);
    if (listener === undefined || this.#refusing.has(listener.process.name)) throw refused(stream.address);
    stream.server.process = listener.process.name;
    stream.server.handlers = listener.options.accept(stream.channel, stream.hello, stream.server);
    listener.streams.add(stream);
  }

  #gone(stream: SimStream): void {
    this.#streams.delete(stream);
    this.#listeners.get(stream.address)?.streams.delete(stream);
  }

  async #closeListener(address: string, listener: Listener, graceMs: number): Promise<void> {
    if (this.#listeners.get(address) === listener) this.#listeners.delete(address);
    const open = [...listener.streams].filter((stream) => !stream.server.ended);
    if (open.length === 0) return;
    await new Promise<void>((resolve) => this.after(graceMs, resolve));
    const message = `${address} is shutting down`;
    for (const stream of open) {
      stream.server.close(new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', message, { retriable: true }));
    }
  }

  #claim(wanted: string): string {
    const [, host, port] = /^(.*):(\d+)$/.exec(wanted) ?? [];
    if (host === undefined || port === undefined) {
      const message = `cannot listen on '${wanted}': expected host:port`;
      throw new TidemarkError('INVALID_ARGUMENT', 'ADDRESS_MALFORMED', message);
    }
    if (port === '0') return `${host}:${this.#nextPort++}`;
    if (this.#listeners.has(wanted) || this.#http.has(wanted)) {
      const message = `cannot listen on ${wanted}: the port is in use by another process`;
      throw new TidemarkError('FAILED_PRECONDITION', 'ADDRESS_IN_USE', message, { details: { address: wanted } });
    }
    return wanted;
  }

  #latencyMs(from: string, to: string): number {
    const own = this.#latencies.size > 0 ? this.#latencies.get(pathOf(from, to)) : undefined;
    const { minMs, maxMs, spikeChance, spikeMs } = own ?? this.#latency;
    const delay = minMs + (maxMs - minMs) * this.#random.float();
    if (spikeChance === undefined || spikeChance === 0) return delay;
    return this.#random.float() < spikeChance ? delay + (spikeMs ?? 0) : delay;
  }

  #isCut(from: string, to: string): boolean {
    if (from === to) return false;
    if (this.#paused.has(from) || this.#paused.has(to)) return true;
    if (this.#isolated.has(from) || this.#isolated.has(to)) return true;
    return this.#cuts.size > 0 && this.#cuts.has(pathOf(from, to));
  }

  #pathsChanged(): void {
    for (const stream of [...this.#streams]) stream.pathChanged();
  }
}

/** One life of one process. Once killed, it reaches nobody and nobody reaches it. */
class SimProcess implements Network {
  readonly name: string;
  alive = true;
  readonly #world: SimWorldNetwork;

  constructor(world: SimWorldNetwork, name: string) {
    this.#world = world;
    this.name = name;
  }

  async serve(options: ServeOptions): Promise<Server> {
    if (!this.alive) return new Promise(() => {});
    return this.#world.listen(this, options);
  }

  connect(address: string, channel: ChannelName, hello: Bytes, handlers: StreamHandlers): FrameStream {
    if (!this.alive) return { remote: address, send: () => false, close() {} };
    return this.#world.connect(this, address, channel, hello, handlers);
  }

  async serveHttp(address: string, get: (path: string) => Promise<HttpResponse>): Promise<Server> {
    if (!this.alive) return new Promise(() => {});
    return this.#world.listenHttp(this, address, get);
  }
}

function pathOf(from: string, to: string): string {
  return `${from}>${to}`;
}

function listOf(names: Names): readonly string[] {
  return typeof names === 'string' ? [names] : names;
}

function refused(address: string): TidemarkError {
  const message = `${address}: the connection was refused`;
  return withoutStack(() => new TidemarkError('UNAVAILABLE', 'STREAM_LOST', message, { retriable: true }));
}
