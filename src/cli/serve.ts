import { resolve } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import type { Command } from 'commander';
import { parseAddress } from '../env/real/addresses.js';
import { openDisk } from '../env/real/disk.js';
import type { PromMetrics } from '../env/real/metrics.js';
import type { TlsFiles } from '../env/real/network.js';
import type { Limits } from '../env/limits.js';
import type { HttpResponse } from '../env/network.js';
import { joinCluster, type Admission, type JoinOptions } from '../node/join.js';
import { startNode, type Node, type NodeConfig } from '../node/node.js';
import { NODE_ID_MAX, type NodeId } from '../placement/map.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { Sidecar } from '../sidecar/sidecar.js';
import { integer } from './arguments.js';
import { DEFAULTS, loadConfig, nodeSettings, readTls, sidecarSettings, tlsPathsOf, type Config } from './config.js';
import { describeError, EXIT, exitCodeOf, UsageError } from './exit.js';
import { aborted, beginLifetime } from './lifetime.js';
import type { TlsArguments } from './tls.js';
import { VERSION } from './version.js';
import { buildWorld } from './world.js';

/**
 * `tidemark node` and `tidemark sidecar`: one server process each. It lives until SIGINT or SIGTERM, or until it cannot go on
 * (a failed disk, a broken invariant), and then ends at once with exit code 1: what is on disk is the truth.
 */
interface ServerArguments {
  readonly config: string;
  readonly id?: number;
}

export interface JoinArguments {
  readonly config?: string;
  readonly join: readonly string[];
  readonly listen: string;
  readonly address?: string;
  readonly http?: string;
  readonly data: string;
  readonly zone: string;
  readonly host: string;
}

const HTTP_GRACE_MS = 500;
const JOIN_MS_MAX = 60_000;
const ANYWHERE = new Set(['0.0.0.0', '::', '[::]', '']);

export function addServers(program: Command): void {
  program
    .command('node')
    .description('run one node of a cluster')
    .requiredOption('-c, --config <file>', 'the configuration of the cluster (see cluster-configs/)')
    .option('--id <n>', 'which of its nodes this is', integer(1, NODE_ID_MAX))
    .action((options: ServerArguments) => runNode(options));
  program
    .command('sidecar')
    .description('run a router on this machine for the services beside it')
    .requiredOption('-c, --config <file>', 'the configuration of the cluster')
    .action((options: ServerArguments) => runSidecar(options));
}

/**
 * How much the old heap may grow between two collections. A node keeps little on the heap and makes much garbage; by its
 * own rules V8 lets that pile up to a multiple of what is alive, and an idle process keeps it.
 */
const HEAP_GROWING_PERCENT = 70;

async function runNode({ config: file, id }: ServerArguments): Promise<void> {
  const config = loadConfig(file);
  const settings = nodeSettings(config, id);
  const { clusterId, nodes, buckets, replicas, timing, limits } = config;
  const { id: nodeId, listen, http, dataDir } = settings;
  const nodeConfig = { clusterId, nodeId, nodes, buckets, replicas, listen, timing, limits };
  const { logLevel } = config;
  await serveNode({ dataDir, http, tls: readTls(config, nodeId), logLevel }, async () => nodeConfig);
}

/** A node that has joined and serves now. */
export interface Joined {
  readonly clusterId: string;
  readonly node: NodeId;
  readonly listens: string;
  /** Where the others find it, and the members that it was told of. */
  readonly endpoints: readonly string[];
  readonly tls: TlsArguments;
}

/**
 * A node that becomes a member of a running cluster, and is one from then on whenever it is started again. `up` is called when it
 * serves, with a signal that is aborted when it is told to stop.
 */
export async function runJoining(options: JoinArguments, up: (joined: Joined, signal: AbortSignal) => void): Promise<void> {
  const { listen, address = listen, zone, host, join: seeds } = options;
  const file = options.config === undefined ? undefined : loadConfig(options.config);
  const { logLevel } = file ?? DEFAULTS;
  const advertised = parseAddress(address);
  if (advertised === undefined || advertised.port === 0 || ANYWHERE.has(advertised.host)) {
    throw new UsageError(`'${address}' is no address at which the others can find this node; give --address <host:port>`);
  }
  const tls = file === undefined ? undefined : readTls(file);
  const place = { dataDir: resolve(options.data), http: options.http, tls, logLevel };
  const asked = { seeds, clusterId: file?.clusterId ?? '', address, zone, host };
  const configOf = async (onFatal: OnFatal): Promise<NodeConfig> => {
    const admission = await admitted(place, file?.limits ?? DEFAULTS.limits, { ...asked, listen }, onFatal);
    const { clusterId, nodeId, founding, settings, record } = admission;
    const { members, buckets, replicas } = founding;
    const { timing } = file ?? settings ?? DEFAULTS;
    // Of a release with fewer limits than this one.
    const limits = file?.limits ?? { ...DEFAULTS.limits, ...settings?.limits };
    return { clusterId, nodeId, nodes: [], buckets, replicas, listen, timing, limits, joined: { members, record } };
  };
  await serveNode(place, configOf, ({ address: listens, config: { nodeId: node, clusterId } }, signal) => {
    const paths = file === undefined ? {} : tlsPathsOf(file);
    up({ clusterId, node, listens, endpoints: [address, ...seeds], tls: paths }, signal);
  });
}

/** Asks in a world of its own: that of the node is made with the settings of its cluster. */
async function admitted(
  { dataDir, tls, logLevel }: NodePlace,
  limits: Limits,
  { listen, ...asked }: Omit<JoinOptions, 'deadlineMs'> & { readonly listen: string },
  onFatal: OnFatal,
): Promise<Admission> {
  const world = buildWorld({ limits, tls, logLevel, fields: { joining: asked.address }, onBug: onFatal });
  const disk = await openDisk(dataDir);
  try {
    // Others count on a member: who cannot listen there had better not become one.
    const probe = await world.env.network.serveHttp(listen, () => Promise.reject(new Error('nothing is served here yet')));
    await probe.close(0);
    return await joinCluster({ ...world.env, disk }, { ...asked, deadlineMs: world.env.clock.monotonicMs() + JOIN_MS_MAX });
  } finally {
    await disk.close();
    world.close();
  }
}

type OnFatal = (error: unknown) => void;

interface NodePlace {
  readonly dataDir: string;
  readonly http: string | undefined;
  readonly tls: TlsFiles | undefined;
  readonly logLevel: Config['logLevel'];
}

/** Runs a node until it is told to stop. `configOf` may ask others first; `up` is called when it serves. */
async function serveNode(
  { dataDir, http: httpAddress, tls, logLevel }: NodePlace,
  configOf: (onFatal: OnFatal) => Promise<NodeConfig>,
  up: (node: Node, signal: AbortSignal) => void = () => undefined,
): Promise<void> {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
  await serve(async (onFatal, signal) => {
    const config = await configOf(onFatal);
    const world = buildWorld({ limits: config.limits, tls, logLevel, fields: { node: config.nodeId }, onBug: onFatal });
    const disk = await openDisk(dataDir);
    const node = await startNode({ ...world.env, disk }, config, { onFatal });
    const get = (path: string): Promise<HttpResponse> => nodePage(path, node, world.env.metrics);
    const http = httpAddress === undefined ? undefined : await world.env.network.serveHttp(httpAddress, get);
    up(node, signal);
    return async () => {
      await http?.close(HTTP_GRACE_MS);
      await node.close();
      await disk.close();
      world.close();
    };
  });
}

async function nodePage(path: string, node: Node, metrics: PromMetrics): Promise<HttpResponse> {
  if (path === '/metrics') return { status: 200, contentType: metrics.contentType, body: await metrics.text() };
  if (path !== '/health') return { status: 404, contentType: 'text/plain', body: 'there are /metrics and /health here\n' };
  const { clusterId, nodeId } = node.config;
  const body = { status: 'serving', cluster: clusterId, node: nodeId, address: node.address, version: VERSION };
  return { status: 200, contentType: 'application/json', body: `${JSON.stringify(body)}\n` };
}

async function runSidecar({ config: file }: ServerArguments): Promise<void> {
  const config = loadConfig(file);
  const settings = sidecarSettings(config);
  await serve(async (onFatal) => {
    const { limits, logLevel, clusterId } = config;
    const fields = { process: 'sidecar' };
    const world = buildWorld({ limits, tls: readTls(config), logLevel, fields, onBug: onFatal });
    const { env } = world;
    const sidecar = new Sidecar({
      env,
      config: { ...settings, clusterId, limits },
      exposition: env.metrics,
      onFatal,
    });
    await sidecar.open();
    return async () => {
      await sidecar.close();
      world.close();
    };
  });
}

/**
 * Opens a server, waits until it is told to stop, closes it. Told so while it opens, which takes as long as others need to let it
 * in, it ends at once: what is on disk stands that.
 */
async function serve(open: (onFatal: OnFatal, signal: AbortSignal) => Promise<() => Promise<void>>): Promise<void> {
  const lifetime = beginLifetime();
  const told = aborted(lifetime.signal);
  const close = await Promise.race([open(die, lifetime.signal).catch(die), told]);
  if (typeof close === 'string') process.exit(close === 'SIGTERM' ? EXIT.OK : EXIT.INTERRUPTED);
  lifetime.ready();
  await told;
  await close();
  lifetime.end();
}

/** At once, whatever is open: nothing that runs may go on to act on what has failed. */
function die(error: unknown): never {
  // Whether a write took effect is told to those who sent it; here it would be about no write in particular.
  const told = isTidemarkError(error) ? new TidemarkError(error.code, error.reason, error.message) : error;
  process.stderr.write(`${describeError(told, false)}\n`);
  const code = exitCodeOf(told);
  process.exit(code === EXIT.USAGE || code === EXIT.REMOVED ? code : EXIT.ERROR);
}
