import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { connect, type ConnectOptions, type Database } from '../../src/client/index.js';
import type { Limits } from '../../src/env/limits.js';
import { systemClock } from '../../src/env/real/clock.js';
import type { RpcClient } from '../../src/env/real/grpc/client.js';
import { createNetwork, type RealNetwork } from '../../src/env/real/network.js';
import { TestProcess, tidemark, type Ended } from './process.js';

/**
 * A cluster of real processes on loopback, with its data in a directory of its own: the world of the tests under fire.
 *
 *     await using cluster = await TestCluster.start({ nodes: 3 });
 *     await cluster.kill(2);
 *     await cluster.startNode(2);
 *     await cluster.settled();          // every node knows a leader of every bucket
 */
export interface ClusterOptions {
  readonly nodes?: number;
  readonly buckets?: number;
  readonly sidecar?: boolean;
  readonly limits?: Partial<Limits>;
  /** Places behind those of the first nodes at which further ones may join. */
  readonly spares?: number;
  /** Copies of every bucket; by default three, or as many as there are nodes. */
  readonly replicas?: number;
  /** The address at which a node listens, if that is not loopback. */
  readonly hostOf?: (id: number) => string;
}

/** Puts a command before the one that runs a node; it must become that (`exec`). */
export type Wrap = (args: readonly string[]) => { command: string; args: string[] };

export interface BucketStatus {
  readonly bucket: { readonly id: number; readonly leader: number };
  readonly local: { readonly role: string; readonly appliedIndex: number; readonly digest: number } | null;
}

const HOST = '127.0.0.1';
/** Below the ports that systems hand out by themselves: else a connection of somebody might sit on the port of a dead node. */
const PORT_MIN = 12_000;
const PORT_MAX = 30_000;
const POLL_MS = 20;
const SETTLE_MS = 20_000;

const folders = new Set<string>();

// For a run that ends before its tests do.
process.once('exit', () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/**
 * Nodes are called by their places, each with addresses and a data directory of its own. The first nodes are, as members, what their
 * places are; who joins later, at a spare place or one that another has left, gets a number that no member had.
 */
export class TestCluster implements AsyncDisposable {
  readonly folder: string;
  readonly file: string;
  readonly id: string;
  readonly buckets: number;
  /** Where the first nodes are: the places that clients are told of. */
  readonly founders: readonly number[];
  readonly network: RealNetwork;
  readonly #grpc: ReadonlyMap<number, string>;
  readonly #http: ReadonlyMap<number, string>;
  /** Place -> the node there, as a member. */
  readonly #members: Map<number, number>;
  /** Places whose nodes have joined: none of these is named in the file. */
  readonly #joined = new Set<number>();
  readonly #processes = new Map<number, TestProcess>();
  readonly #clients = new Map<string, RpcClient>();
  readonly #databases: Database[] = [];

  /** Process 0 is the sidecar, the others are nodes. */
  private constructor(options: Required<ClusterOptions>, ports: readonly number[]) {
    this.folder = mkdtempSync(join(tmpdir(), 'tidemark-cluster-'));
    folders.add(this.folder);
    this.file = join(this.folder, 'cluster.yaml');
    this.id = `test-${process.pid}-${ports[0] ?? 0}`;
    this.buckets = options.buckets;
    // A patient caller: its calls wait for a stopped process instead of giving the connection up.
    this.network = createNetwork({ clock: systemClock(), onBug: fail, keepaliveTimeMs: 60_000, connectTimeoutMs: 20_000 });
    const address = (index: number): string => `${options.hostOf(index >> 1)}:${ports[index] ?? 0}`;
    const places = Array.from({ length: options.nodes + options.spares }, (_, index) => index + 1);
    this.#grpc = new Map([0, ...places].map((id) => [id, address(2 * id)]));
    this.#http = new Map([0, ...places].map((id) => [id, address(2 * id + 1)]));
    this.founders = places.slice(0, options.nodes);
    this.#members = new Map(this.founders.map((id) => [id, id]));
    const nodes = this.founders.map((id) => ({ id, address: this.address(id), http: this.httpAddress(id) }));
    const config = {
      cluster: { id: this.id, buckets: options.buckets, replicas: options.replicas, nodes },
      node: { dataDir: './node-{id}' },
      sidecar: { listen: this.address(0), http: this.httpAddress(0) },
      limits: options.limits,
    };
    writeFileSync(this.file, stringify(config));
    mkdirSync(join(this.folder, 'logs'));
  }

  /** With everything written that its processes need, and none of them started. */
  static async prepare(options: ClusterOptions = {}): Promise<TestCluster> {
    const { nodes = 3, spares = 0, buckets = 32, sidecar = false, limits = {} } = options;
    const { replicas = Math.min(3, nodes), hostOf = () => HOST } = options;
    const ports = await freePorts(2 * (nodes + spares + 1));
    return new TestCluster({ nodes, spares, buckets, sidecar, limits, replicas, hostOf }, ports);
  }

  /** Resolves when every node serves and every bucket has a leader. */
  static async start(options: ClusterOptions = {}): Promise<TestCluster> {
    const cluster = await TestCluster.prepare(options);
    try {
      await Promise.all(cluster.nodeIds.map((id) => cluster.startNode(id)));
      if (options.sidecar === true) await cluster.startSidecar();
      await cluster.settled();
      return cluster;
    } catch (error) {
      await cluster.close();
      throw error;
    }
  }

  get places(): number[] {
    return [...this.#grpc.keys()].filter((id) => id > 0);
  }

  /** Places of members. */
  get nodeIds(): number[] {
    return this.places.filter((id) => this.#members.has(id));
  }

  /** What the node at a place is as a member. */
  memberAt(id: number): number {
    return this.#members.get(id) ?? missing(id);
  }

  /** Undefined if that member is none, or none any more. */
  placeOf(member: number): number | undefined {
    return [...this.#members].find(([, each]) => each === member)?.[0];
  }

  get runningIds(): number[] {
    return this.nodeIds.filter((id) => this.isRunning(id));
  }

  address(id: number): string {
    return this.#grpc.get(id) ?? missing(id);
  }

  httpAddress(id: number): string {
    return this.#http.get(id) ?? missing(id);
  }

  dataDir(id: number): string {
    return join(this.folder, `node-${id}`);
  }

  process(id: number): TestProcess {
    return this.#processes.get(id) ?? missing(id);
  }

  isRunning(id: number): boolean {
    return this.#processes.get(id)?.isRunning === true;
  }

  // --- processes

  /** Resolves when it serves, which it says itself and on its page of health. `wrap` may put a command before it. */
  async startNode(id: number, wrap?: Wrap): Promise<TestProcess> {
    return this.#launch(id, this.#joined.has(id) ? this.#joinArgs(id) : ['node', '--config', this.file, '--id', String(id)], wrap);
  }

  /**
   * A node joins at a place where no member is, whose data directory is empty, or was left by one that began to join there.
   * Resolves when it is a member and serves.
   */
  async joinNode(id: number, wrap?: Wrap): Promise<TestProcess> {
    const started = await this.#launch(id, this.#joinArgs(id), wrap);
    const health = (await (await fetch(`http://${this.httpAddress(id)}/health`)).json()) as { readonly node: number };
    this.#members.set(id, health.node);
    this.#joined.add(id);
    return started;
  }

  /** The member there has been removed. */
  vacate(id: number): void {
    this.#members.delete(id);
  }

  #joinArgs(id: number): string[] {
    const others = this.nodeIds.filter((other) => other !== id).map((other) => this.address(other));
    const own = ['--listen', this.address(id), '--http', this.httpAddress(id), '--data', this.dataDir(id)];
    return ['cluster', 'add', '--join', others.join(','), ...own];
  }

  async #launch(id: number, command: readonly string[], wrap?: Wrap): Promise<TestProcess> {
    const args = tidemark(...command);
    const wrapped = wrap?.([process.execPath, ...args]) ?? { args };
    const started = new TestProcess({ name: `node ${id}`, logPath: this.#logPath(`node-${id}`), ...wrapped });
    this.#processes.set(id, started);
    await started.ready();
    const over = started.ended.then(({ code, signal }) => {
      throw new Error(`node ${id} ended (${signal ?? code}) before its health was good\n${this.log(id)}`);
    });
    await Promise.race([this.#healthy(id), over]);
    return started;
  }

  async startSidecar(): Promise<void> {
    const args = tidemark('sidecar', '--config', this.file);
    const sidecar = new TestProcess({ name: 'sidecar', args, logPath: this.#logPath('sidecar') });
    this.#processes.set(0, sidecar);
    await sidecar.ready();
    await this.#healthy(0);
  }

  /** A sidecar is not before it has reached a node. */
  #healthy(id: number): Promise<void> {
    return this.eventually(`the health of process ${id} is good`, async () => {
      const { status } = await fetch(`http://${this.httpAddress(id)}/health`);
      return status === 200;
    });
  }

  signal(id: number, signal: NodeJS.Signals): void {
    this.process(id).signal(signal);
  }

  async kill(...ids: readonly number[]): Promise<void> {
    await Promise.all(ids.map((id) => this.process(id).kill()));
  }

  async terminate(id: number): Promise<Ended> {
    this.signal(id, 'SIGTERM');
    return this.process(id).ended;
  }

  log(id: number): string {
    return this.process(id).log();
  }

  #logPath(name: string): string {
    return join(this.folder, 'logs', `${name}.log`);
  }

  // --- what the nodes say

  /** Plain unary gRPC to one process. */
  rpc(id: number): RpcClient {
    const address = this.address(id);
    let client = this.#clients.get(address);
    if (client === undefined) {
      client = this.network.rpcClient(address);
      this.#clients.set(address, client);
    }
    return client;
  }

  async bucketsOf(id: number): Promise<readonly BucketStatus[]> {
    const service = 'tidemark.v1.Cluster';
    const reply = await this.rpc(id).unary<{ buckets: BucketStatus[] }>(service, 'Buckets', { ids: [] }, SETTLE_MS);
    return reply.buckets;
  }

  /** The page of metrics: name with labels -> value. */
  async metrics(id: number): Promise<ReadonlyMap<string, number>> {
    const text = await (await fetch(`http://${this.httpAddress(id)}/metrics`)).text();
    const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
  }

  /** Every bucket has a leader, and all running nodes that have a replica of it know the same one. */
  async settled(): Promise<void> {
    await this.eventually('every bucket has a leader that all its nodes know', async () => {
      const views = await Promise.all(this.runningIds.map((id) => this.bucketsOf(id)));
      const [first = []] = views;
      return first.every((_, index) => {
        const hosts = views.flatMap((view) => view[index] ?? []).filter(({ local }) => local !== null);
        const [one] = hosts;
        return one !== undefined && one.bucket.leader > 0 && hosts.every(({ bucket }) => bucket.leader === one.bucket.leader);
      });
    });
  }

  /** All replicas have applied the same, byte for byte. */
  async converged(): Promise<void> {
    await this.eventually('all replicas have the same digests', async () => {
      const views = await Promise.all(this.nodeIds.map((id) => this.bucketsOf(id)));
      const digests = views.map((view) => view.map(({ local }) => `${local?.appliedIndex}/${local?.digest}`).join(' '));
      return new Set(digests).size === 1;
    });
  }

  /** Asks until it is so; fails with what was waited for. */
  async eventually(what: string, holds: () => Promise<boolean>, withinMs = SETTLE_MS): Promise<void> {
    const untilMs = performance.now() + withinMs;
    for (;;) {
      const error = await holds().then((yes) => (yes ? undefined : new Error('it did not')), (reason: unknown) => reason);
      if (error === undefined) return;
      if (performance.now() > untilMs) throw new Error(`waited ${withinMs} ms, in vain: ${what}`, { cause: error });
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  // --- clients

  /** By default of the whole cluster; closed with it. */
  async connect(options: Partial<ConnectOptions> = {}): Promise<Database> {
    const endpoints = this.nodeIds.map((id) => this.address(id));
    const database = await connect({ endpoints, clusterId: this.id, ...options });
    this.#databases.push(database);
    return database;
  }

  /** Kills what runs and removes every trace. */
  async close(): Promise<void> {
    await Promise.all(this.#databases.map((database) => database.close()));
    for (const client of this.#clients.values()) client.close();
    await Promise.all([...this.#processes.values()].filter((each) => each.isRunning).map((each) => each.kill()));
    rmSync(this.folder, { recursive: true, force: true });
    folders.delete(this.folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Ports that nobody listens on at present. */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN));
    if (!ports.has(port) && (await isFree(port))) ports.add(port);
  }
  return [...ports];
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, HOST, () => server.close(() => resolve(true)));
  });
}

function missing(id: number): never {
  throw new Error(`no process ${id} in this cluster`);
}

function fail(error: unknown): never {
  throw error;
}
