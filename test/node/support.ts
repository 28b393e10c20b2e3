import { crc32 } from 'node:zlib';
import { DEFAULT_LIMITS, type Limits } from '../../src/env/limits.js';
import type { Clock, Fields, Logger, Metrics, Network, Random, Server, Timers } from '../../src/env/env.js';
import { createNetwork } from '../../src/env/real/network.js';
import { systemRandom } from '../../src/env/real/random.js';
import { systemTimers } from '../../src/env/real/timers.js';
import type { Bytes } from '../../src/lib/bytes.js';
import type { Founding } from '../../src/placement/founding.js';
import { encodeHello } from '../../src/node/peer-hello.js';
import { Peers, type PeerItem, type PeersOptions } from '../../src/node/peers.js';
import { SimLoop } from '../../src/sim/loop.js';
import { SimWorldNetwork, type SimNetworkOptions } from '../../src/sim/network.js';

/** Where test nodes live: simulated or real. */
export interface World {
  readonly timers: Timers;
  readonly clock: Clock;
  readonly random: Random;
  network(name: string, limits: Limits): Network;
  /** Resolves when it holds. Conditions may only depend on what `changed` is called for. */
  until(condition: () => boolean): Promise<void>;
  changed(): void;
}

/** Virtual time; nothing of the real world. */
export class SimulatedWorld implements World {
  readonly loop: SimLoop;
  readonly timers: Timers;
  readonly clock: Clock;
  readonly random: Random;
  readonly net: SimWorldNetwork;

  constructor(seed: number, options: Partial<SimNetworkOptions> = {}) {
    this.loop = new SimLoop(seed);
    this.timers = this.loop.timers;
    this.clock = this.loop.clock();
    this.random = this.loop.random;
    this.net = new SimWorldNetwork({ timers: this.timers, random: this.random, ...options });
  }

  get now(): number {
    return this.loop.nowMs;
  }

  network(name: string): Network {
    return this.net.networkFor(name);
  }

  changed(): void {}

  async until(condition: () => boolean): Promise<void> {
    const held = await this.loop.runUntil(condition, 600_000);
    if (!held) throw new Error(`never became true: ${condition.toString()}`);
  }

  run(durationMs: number): Promise<void> {
    return this.loop.runFor(durationMs);
  }
}

export class RealWorld implements World {
  readonly timers = systemTimers();
  readonly clock: Clock = { wallMs: () => Date.now(), monotonicMs: () => performance.now() };
  readonly random = systemRandom();
  readonly bugs: unknown[] = [];
  #waiting: { condition: () => boolean; resolve: () => void }[] = [];

  network(_name: string, limits: Limits): Network {
    return createNetwork({ clock: this.clock, limits, onBug: (error) => this.bugs.push(error) });
  }

  until(condition: () => boolean): Promise<void> {
    if (condition()) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ condition, resolve }));
  }

  changed(): void {
    // What follows in the same turn, such as the end of a promise, belongs to the change.
    setImmediate(() => {
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const one of waiting) {
        if (one.condition()) one.resolve();
        else this.#waiting.push(one);
      }
    });
  }
}

export class CountingMetrics implements Metrics {
  readonly values = new Map<string, number>();

  counter(name: string): { add(value?: number): void } {
    return { add: (value = 1) => void this.values.set(name, (this.values.get(name) ?? 0) + value) };
  }

  gauge(name: string): { set(value: number): void } {
    return { set: (value) => void this.values.set(name, value) };
  }

  histogram(): { observe(): void } {
    return { observe() {} };
  }
}

export interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: Fields;
}

export class ListLogger implements Logger {
  readonly lines: Line[] = [];
  readonly #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  #add(level: string, message: string, fields: Fields = {}): void {
    this.lines.push({ level, message, fields });
    this.#changed();
  }

  debug(message: string, fields?: Fields): void {
    this.#add('debug', message, fields);
  }

  info(message: string, fields?: Fields): void {
    this.#add('info', message, fields);
  }

  warn(message: string, fields?: Fields): void {
    this.#add('warn', message, fields);
  }

  error(message: string, fields?: Fields): void {
    this.#add('error', message, fields);
  }

  child(): Logger {
    return this;
  }
}

export const FOUNDING: Founding = { members: [1, 2, 3], buckets: 16, replicas: 3 };

export interface TestNodeOptions {
  readonly clusterId?: string;
  readonly founding?: Founding;
  readonly epoch?: number;
  readonly isNew?: boolean;
  readonly uuid?: string;
  readonly pins?: Map<number, string>;
  readonly limits?: Partial<Limits>;
  readonly address?: string;
  readonly pin?: PeersOptions['pins']['pin'];
  /** Nodes that were removed. */
  readonly removed?: readonly number[];
}

/** A node that is nothing but its Peers. `book` is the cluster's address book. */
export class TestNode {
  readonly id: number;
  readonly items: { readonly from: number; readonly item: PeerItem }[] = [];
  /** The number of items that each frame held. */
  readonly frames: number[] = [];
  readonly fatals: unknown[] = [];
  readonly agreed = new Set<number>();
  readonly pins: Map<number, string>;
  readonly metrics = new CountingMetrics();
  readonly log: ListLogger;
  readonly limits: Limits;
  readonly peers: Peers;
  readonly env: PeersOptions['env'];
  onItem: (from: number, item: PeerItem) => void = () => undefined;
  server: Server | undefined;
  readonly #book: Map<number, string>;
  readonly #address: string;

  constructor(world: World, book: Map<number, string>, id: number, options: TestNodeOptions = {}) {
    this.#book = book;
    this.id = id;
    this.pins = options.pins ?? new Map<number, string>();
    this.log = new ListLogger(() => world.changed());
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#address = options.address ?? '127.0.0.1:0';
    const { timers, clock, random } = world;
    this.env = {
      timers,
      clock,
      random,
      log: this.log,
      metrics: this.metrics,
      network: world.network(`n${id}`, this.limits),
    };
    const pin = async (nodeId: number, uuid: string): Promise<void> => {
      await new Promise<void>((resolve) => timers.after(1, resolve));
      this.pins.set(nodeId, uuid);
      world.changed();
    };
    this.peers = new Peers({
      env: this.env,
      limits: this.limits,
      clusterId: options.clusterId ?? 'c1',
      founding: options.founding ?? FOUNDING,
      epoch: () => options.epoch ?? 1,
      isNew: () => options.isNew ?? false,
      onAgreed: (nodeId) => this.agreed.add(nodeId),
      self: { nodeId: id, uuid: options.uuid ?? `uuid-${id}` },
      pins: { get: (nodeId) => this.pins.get(nodeId), pin: options.pin ?? pin },
      addressOf: (nodeId) => book.get(nodeId),
      wasRemoved: (nodeId) => options.removed?.includes(nodeId) === true,
      onMessages: (from, items) => {
        this.frames.push(items.length);
        for (const item of items) {
          this.items.push({ from, item });
          this.onItem(from, item);
        }
        world.changed();
      },
      onFatal: (error) => {
        this.fatals.push(error);
        world.changed();
      },
    });
  }

  async start(): Promise<this> {
    this.server = await this.env.network.serve({
      address: this.#address,
      accept: (_channel, hello, stream) => this.peers.accept(hello, stream),
      services: {},
    });
    this.#book.set(this.id, this.server.address);
    return this;
  }

  /** The opening message of a node of the same cluster. */
  static hello(from: number, uuid: string, to: number): Bytes {
    return encodeHello({ clusterId: 'c1', from, uuid, to, founding: FOUNDING, epoch: 1 });
  }

  send(to: number, ...items: PeerItem[]): void {
    for (const item of items) this.peers.send(to, item);
    this.peers.flush();
  }

  logged(message: string): Line | undefined {
    return this.log.lines.find((line) => line.message === message);
  }

  async close(): Promise<void> {
    this.peers.close();
    await this.server?.close(0);
  }
}

/** -1 for an item of no bucket. */
export function bucketOf(item: PeerItem): number {
  return 'bucket' in item ? item.bucket : -1;
}

export function heartbeat(bucket: number, round = 1): PeerItem {
  const message = {
    type: 'heartbeat',
    from: 65_537,
    to: 65_538,
    term: 7,
    commit: 1000,
    round,
    floor: 700_000_000_000_000,
    closed: 700_000_000_000_000,
    closedIndex: 1001,
  } as const;
  return { kind: 'raft', bucket, message };
}

export function append(bucket: number, ...data: Bytes[]): PeerItem {
  const message = {
    type: 'append',
    from: 65_537,
    to: 65_538,
    term: 7,
    prevIndex: 1000,
    prevTerm: 7,
    entries: data.map((bytes, i) => ({ index: 1001 + i, term: 7, kind: 'data', data: bytes }) as const),
    commit: 1000,
    round: 3,
    floor: 700_000_000_000_000,
    closed: 0,
    closedIndex: 0,
  } as const;
  return { kind: 'raft', bucket, message };
}

/** A frame with this body and the right checksum. */
export function checksummed(body: Buffer): Buffer {
  const frame = Buffer.alloc(4 + body.length);
  frame.writeUInt32BE(crc32(body), 0);
  body.copy(frame, 4);
  return frame;
}
