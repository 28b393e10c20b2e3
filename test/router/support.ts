import { endOf } from '../../src/changes/change.js';
import type { Counter, Gauge, Histogram, Logger, Metrics, Network, Random, Server, Timer, Timers } from '../../src/env/env.js';
import { DEFAULT_LIMITS, type Limits } from '../../src/env/limits.js';
import type { Clock } from '../../src/env/time.js';
import { TidemarkError, isTidemarkError } from '../../src/lib/errors.js';
import { later } from '../../src/mvcc/timestamp.js';
import type { NodeInfo, Placement } from '../../src/placement/map.js';
import type { Answer, LeaderHint, NodeHandle, Operation, OperationContext } from '../../src/router/operations.js';
import { PipelineServer } from '../../src/router/pipeline-server.js';
import type { RouterOptions } from '../../src/router/options.js';
import { Router } from '../../src/router/router.js';
import { SimWorldNetwork } from '../../src/sim/network.js';

/** Time that passes only while `run` waits, from one timer to the next. */
export class FakeTime implements Clock, Timers {
  nowMs = 1000;
  #timers: { atMs: number; callback: () => void }[] = [];
  #turn: (() => void)[] = [];

  wallMs(): number {
    return 1_700_000_000_000 + this.nowMs;
  }

  monotonicMs(): number {
    return this.nowMs;
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer = { atMs: this.nowMs + delayMs, callback };
    this.#timers.push(timer);
    return { cancel: () => void (this.#timers = this.#timers.filter((each) => each !== timer)) };
  }

  turnEnd(callback: () => void): void {
    this.#turn.push(callback);
  }

  /** Lets time pass until the promise settles. */
  async run<T>(promise: Promise<T>, maxMs = 600_000): Promise<T> {
    let settled = false;
    const untilMs = this.nowMs + maxMs;
    promise.then(
      () => (settled = true),
      () => (settled = true),
    );
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (settled) return promise;
      if (!this.#step(untilMs)) throw new Error('time passed, and nothing settled the promise');
    }
  }

  /** Lets this much time pass. */
  async pass(ms: number): Promise<void> {
    const untilMs = this.nowMs + ms;
    do await new Promise((resolve) => setImmediate(resolve));
    while (this.#step(untilMs));
    this.nowMs = untilMs;
  }

  #step(untilMs: number): boolean {
    if (this.#turn.length > 0) {
      const turn = this.#turn;
      this.#turn = [];
      for (const callback of turn) callback();
      return true;
    }
    const next = this.#timers.reduce<{ atMs: number; callback: () => void } | undefined>(
      (first, timer) => (first === undefined || timer.atMs < first.atMs ? timer : first),
      undefined,
    );
    if (next === undefined || next.atMs > untilMs) return false;
    this.#timers = this.#timers.filter((each) => each !== next);
    this.nowMs = Math.max(this.nowMs, next.atMs);
    next.callback();
    return true;
  }
}

/** A small repeatable generator (mulberry32). */
export function randomOf(seed: number): Random {
  let state = seed;
  const uint32 = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return { uint32, float: () => uint32() / 2 ** 32 };
}

export const silentLog: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => silentLog,
};

export class FakeMetrics implements Metrics {
  readonly counts = new Map<string, number>();

  counter(name: string): Counter {
    return { add: (value = 1) => void this.counts.set(name, (this.counts.get(name) ?? 0) + value) };
  }

  gauge(): Gauge {
    return { set: () => {} };
  }

  histogram(): Histogram {
    return { observe: () => {} };
  }
}

export const CLUSTER = 'c0ffee';
export const BUCKETS = 8;

export function placementOf(nodes: readonly NodeInfo[], options: Partial<Placement> & { leader?: number } = {}): Placement {
  const { leader = 0, ...rest } = options;
  const map = Array.from({ length: BUCKETS }, (_, id) => ({
    id,
    replicas: nodes.map(({ id: node }) => ({ id: node, node, learner: false })),
    leader,
  }));
  return { clusterId: CLUSTER, epoch: 1, buckets: BUCKETS, nodes, map, ...rest };
}

type Behaviour = (operation: Operation, context: OperationContext) => Answer | Promise<Answer>;

/** A node whose answers a test decides, behind a real PipelineServer. */
export class FakeNode implements NodeHandle {
  readonly id: number;
  readonly name: string;
  readonly address: string;
  readonly asked: { readonly operation: Operation; readonly context: OperationContext }[] = [];
  placement: Placement | undefined;
  behave: Behaviour = () => {
    throw refuse('NOT_LEADER');
  };
  /** Its wall clock less the cluster's time. */
  wallAhead = 1000;
  pipelines: PipelineServer | undefined;
  server: Server | undefined;

  constructor(id: number) {
    this.id = id;
    this.name = `n${id}`;
    this.address = `10.0.0.${id}:7100`;
  }

  get info(): NodeInfo {
    return { id: this.id, address: this.address, zone: `z${this.id}`, host: '' };
  }

  async execute<O extends Operation>(operation: O, context: OperationContext): Promise<Answer<O['kind']>> {
    this.asked.push({ operation, context });
    return (this.behave(operation, context));
  }

  /** Answers everything, at this timestamp. */
  lead(timestamp = 100): void {
    this.behave = (operation, { hops }) => this.answer(operation, hops, timestamp);
  }

  answer(operation: Operation, hops: number, timestamp = 100): Answer {
    const served = { node: this.id, timestamp, consistency: consistencyOf(operation), hops: hops + 1 };
    switch (operation.kind) {
      case 'write':
        return { result: { applied: true, timestamp, failedCondition: -1, failedVersion: 0 }, served };
      case 'get':
        return { result: { record: { key: operation.key, value: Buffer.from(this.name), version: 7 } }, served };
      case 'history':
        return { result: { versions: [], more: false }, served };
      case 'scan':
        return { result: { records: [], more: false }, served };
      case 'readTimestamp':
        return { result: { timestamp }, served };
      case 'prepare':
        return { result: { kind: 'prepared', timestamp }, served };
      case 'resolve':
      case 'reserve':
        return { result: {}, served };
      case 'outcomes':
        return { result: { outcomes: operation.ids.map(() => ({ kind: 'pending' })) }, served };
      case 'diff':
        return { result: { changes: [], resume: undefined }, served };
      case 'pins':
        return { result: { pins: [], horizon: 0 }, served };
      case 'changes':
        return { result: { changes: [], upTo: endOf(timestamp), mark: timestamp }, served };
      case 'awaitMark':
        return { result: { mark: timestamp, behind: [] }, served };
    }
  }

  hints(leader: number, term: number): LeaderHint[] {
    return Array.from({ length: BUCKETS }, (_, bucket) => ({ bucket, leader, term }));
  }
}

function consistencyOf(operation: Operation): 'linearizable' | 'bounded' | 'local' | 'asOf' {
  return operation.kind === 'get' || operation.kind === 'scan' ? operation.consistency.kind : 'linearizable';
}

export function refuse(reason: 'NOT_LEADER' | 'NOT_HOSTED' | 'STALE', details: Record<string, string> = {}): TidemarkError {
  return new TidemarkError('UNAVAILABLE', reason, 'ask elsewhere', { retriable: true, details });
}

/** The different request ids under which commands were asked for, in order. */
export function idsOf(asked: readonly { readonly operation: Operation }[]): string[] {
  return [...new Set(asked.map(({ operation }) => (operation.kind === 'write' ? JSON.stringify(operation.request.id) : '')))];
}

export class FakeCluster {
  readonly time = new FakeTime();
  readonly network: SimWorldNetwork;
  readonly nodes: readonly FakeNode[];
  readonly metrics = new FakeMetrics();
  readonly limits: Limits;
  readonly bugs: unknown[] = [];

  constructor(count = 3, limits: Partial<Limits> = {}) {
    this.network = new SimWorldNetwork({
      timers: this.time,
      random: randomOf(1),
      latency: { minMs: 0.5, maxMs: 1 },
    });
    this.limits = { ...DEFAULT_LIMITS, ...limits };
    this.nodes = Array.from({ length: count }, (_, index) => new FakeNode(index + 1));
  }

  node(id: number): FakeNode {
    const node = this.nodes[id - 1];
    if (node === undefined) throw new Error(`no node ${id}`);
    return node;
  }

  async start(node: FakeNode, placement: Placement): Promise<void> {
    node.placement = placement;
    node.pipelines = new PipelineServer({
      env: { clock: this.time, timers: this.time, log: silentLog },
      limits: this.limits,
      node: node.id,
      handle: node,
      placement: () => node.placement,
      wallNow: () => later(node.wallAhead, this.time.nowMs),
      fatal: (error) => void this.bugs.push(error),
    });
    const { pipelines } = node;
    node.server = await this.networkOf(node.name).serve({
      address: node.address,
      accept: (_channel, hello, stream) => pipelines.accept(hello, stream),
      services: {},
    });
  }

  async startAll(leader = 0): Promise<void> {
    const placement = placementOf(
      this.nodes.map((node) => node.info),
      { leader },
    );
    for (const node of this.nodes) await this.start(node, placement);
  }

  networkOf(name: string): Network {
    return this.network.networkFor(name);
  }

  router(options: Partial<RouterOptions> = {}): Router {
    const env = {
      clock: this.time,
      timers: this.time,
      random: randomOf(2),
      network: this.networkOf('client'),
      log: silentLog,
      metrics: this.metrics,
    };
    const seeds = this.nodes.map((node) => node.address);
    return new Router({ env, limits: this.limits, role: 'client', seeds, ...options });
  }
}

/** The TidemarkError with which a promise rejects. */
export async function failureOf(promise: Promise<unknown>): Promise<TidemarkError> {
  try {
    await promise;
  } catch (error) {
    if (isTidemarkError(error)) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

export async function collect<T>(pages: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const page of pages) all.push(page);
  return all;
}

export const bytes = (text: string): Buffer => Buffer.from(text);
