import { setFlagsFromString } from 'node:v8';
import type { Command } from 'commander';
import { openDisk } from '../env/real/disk.js';
import type { PromMetrics } from '../env/real/metrics.js';
import type { HttpResponse } from '../env/network.js';
import { startNode, type Node } from '../node/node.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { Sidecar } from '../sidecar/sidecar.js';
import { integer } from './arguments.js';
import { loadConfig, nodeSettings, readTls, sidecarSettings } from './config.js';
import { describeError, EXIT, exitCodeOf } from './exit.js';
import { aborted, beginLifetime } from './lifetime.js';
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

const NODE_ID_MAX = 65_535;
const HTTP_GRACE_MS = 500;

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
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
  const config = loadConfig(file);
  const settings = nodeSettings(config, id);
  await serve(async (onFatal) => {
    const { limits, logLevel } = config;
    const tls = readTls(config, settings.id);
    const world = buildWorld({ limits, tls, logLevel, fields: { node: settings.id }, onBug: onFatal });
    const disk = await openDisk(settings.dataDir);
    const { clusterId, nodes, buckets, replicas, timing } = config;
    const { listen } = settings;
    const nodeConfig = { clusterId, nodeId: settings.id, nodes, buckets, replicas, listen, timing, limits };
    const node = await startNode({ ...world.env, disk }, nodeConfig, { onFatal });
    const get = (path: string): Promise<HttpResponse> => nodePage(path, node, world.env.metrics);
    const http = settings.http === undefined ? undefined : await world.env.network.serveHttp(settings.http, get);
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
    const endpoints = config.nodes.map(({ address }) => address);
    const sidecar = new Sidecar({
      env,
      config: { ...settings, endpoints, clusterId, limits },
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

/** Opens a server, waits until it is told to stop, closes it. */
async function serve(open: (onFatal: (error: unknown) => void) => Promise<() => Promise<void>>): Promise<void> {
  const lifetime = beginLifetime();
  const close = await open(die).catch(die);
  lifetime.ready();
  await aborted(lifetime.signal);
  await close();
  lifetime.end();
}

/** At once, whatever is open: nothing that runs may go on to act on what has failed. */
function die(error: unknown): never {
  // Whether a write took effect is told to those who sent it; here it would be about no write in particular.
  const told = isTidemarkError(error) ? new TidemarkError(error.code, error.reason, error.message) : error;
  process.stderr.write(`${describeError(told, false)}\n`);
  process.exit(exitCodeOf(told) === EXIT.USAGE ? EXIT.USAGE : EXIT.ERROR);
}
