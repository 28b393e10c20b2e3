import type { Env, HttpResponse, Server } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { assert } from '../lib/assert.js';
import { TidemarkError } from '../lib/errors.js';
import { publicServices } from '../node/services/services.js';
import { SIDECAR_NODE, type Placement } from '../placement/map.js';
import type { HedgingOptions } from '../router/hedging.js';
import type { NearCacheOptions } from '../router/near-cache.js';
import { PipelineServer } from '../router/pipeline-server.js';
import { Router } from '../router/router.js';
import { SidecarView } from './view.js';

/**
 * The sidecar: the router as a process of its own, next to the services of one machine. It speaks the same gRPC API as a node,
 * on localhost, and the pipeline protocol for the client library.
 *
 * To the client library it claims to be the only node of a cluster, leading every bucket: so the library works against it as
 * against a node, and each operation passes two processes, this one and the node that serves. Request ids pass through
 * untouched: a client may repeat through the sidecar what it first tried elsewhere.
 *
 * It starts whether the cluster can be reached or not. Until it has been, `/health` and `grpc.health.v1` say so, streams of
 * the pipeline are refused, and plain requests wait until shortly before their deadline.
 *
 * Example: a stock gRPC client -> Commands.Put on 127.0.0.1:7100 -> router -> pipeline to node 2 -> reply with `hops: 2`.
 *
 * What it is not: it holds no truth, and caches no data unless it is told to (near-cache.ts); it may be killed and started at any
 * time.
 */
export interface SidecarConfig {
  /** `host:port` for gRPC. */
  readonly listen: string;
  /** `host:port` for metrics and health; without it there are none. */
  readonly http?: string | undefined;
  /** Nodes to ask first. */
  readonly endpoints: readonly string[];
  readonly clusterId?: string | undefined;
  readonly zone?: string | undefined;
  readonly limits: Limits;
  /** Hot keys that are kept here for bounded reads; none if it is left out. */
  readonly nearCache?: NearCacheOptions | undefined;
  /** When a second replica is asked for a read. */
  readonly hedging?: HedgingOptions | undefined;
  /** For requests that set no deadline; default 10 s. */
  readonly timeoutMs?: number | undefined;
}

export interface SidecarOptions {
  readonly env: Pick<Env, 'clock' | 'timers' | 'random' | 'network' | 'log' | 'metrics'>;
  readonly config: SidecarConfig;
  /** The text of `env.metrics`, for scraping. */
  readonly exposition?: { readonly contentType: string; text(): Promise<string> } | undefined;
  /** A bug: the process should not go on. */
  readonly onFatal: (error: unknown) => void;
}

const CLOSE_GRACE_MS = 2000;

export class Sidecar {
  readonly router: Router;
  readonly #options: SidecarOptions;
  readonly #pipelines: PipelineServer;
  readonly #view: SidecarView;
  #server: Server | undefined;
  #http: Server | undefined;
  #virtual: Placement | undefined;

  constructor(options: SidecarOptions) {
    const { env, config, onFatal } = options;
    const { limits, endpoints, clusterId, zone, timeoutMs, nearCache, hedging } = config;
    const from = { seeds: endpoints, clusterId, zone };
    this.#options = options;
    this.router = new Router({ env, limits, role: 'sidecar', ...from, timeoutMs, nearCache, hedging });
    this.#view = new SidecarView(this.router, env.clock);
    this.#pipelines = new PipelineServer({
      env,
      limits,
      node: SIDECAR_NODE,
      handle: this.router,
      placement: () => this.#virtual,
      wallNow: () => this.router.wallNow(),
      fatal: onFatal,
    });
    this.router.watch(() => this.#adopt());
  }

  /** Where it listens for gRPC, with the real port once it is open. */
  get address(): string {
    return this.#server?.address ?? this.#options.config.listen;
  }

  get httpAddress(): string | undefined {
    return this.#http?.address ?? this.#options.config.http;
  }

  async open(): Promise<void> {
    const { env, config } = this.#options;
    const { router } = this;
    assert(this.#server === undefined, 'a sidecar is opened once');
    this.#server = await env.network.serve({
      address: config.listen,
      accept: (channel, hello, stream) => {
        if (channel !== 'pipeline') throw new TidemarkError('UNIMPLEMENTED', 'NOT_A_NODE', 'a sidecar is no peer of nodes');
        return this.#pipelines.accept(hello, stream);
      },
      services: publicServices({ router, cluster: this.#view, pageBytesMax: config.limits.pageBytesMax }),
    });
    this.#server.setServing?.(router.placement !== undefined);
    if (config.http !== undefined) {
      this.#http = await env.network.serveHttp(config.http, (path) => this.#get(path));
    }
    this.#adopt();
    env.log.info('sidecar is up', { address: this.address, http: this.httpAddress });
  }

  /** Lets running requests end for a moment, then closes everything. */
  async close(): Promise<void> {
    await this.#server?.close(CLOSE_GRACE_MS);
    await this.#http?.close(0);
    this.#pipelines.close();
    await this.router.close();
  }

  /** Tells callers of a new placement, in which this process is the one node. */
  #adopt(): void {
    const { placement } = this.router;
    if (placement === undefined || this.#server === undefined) return;
    const known = this.#virtual;
    this.#virtual = virtualPlacement(placement);
    if (known === undefined) {
      this.#server.setServing?.(true);
      this.#options.env.log.info('sidecar has found the cluster', { cluster: placement.clusterId, epoch: placement.epoch });
    } else if (known.epoch !== placement.epoch) {
      this.#pipelines.pushPlacement();
    }
  }

  async #get(path: string): Promise<HttpResponse> {
    const { exposition } = this.#options;
    const { placement } = this.router;
    if (path === '/metrics' && exposition !== undefined) {
      return { status: 200, contentType: exposition.contentType, body: await exposition.text() };
    }
    if (path === '/health') {
      const connected = placement?.nodes.filter(({ id }) => this.router.isConnected(id)).length ?? 0;
      const status = connected > 0 ? 'serving' : 'not serving: no node of the cluster can be reached';
      const body = { status, cluster: placement?.clusterId ?? '', nodes: placement?.nodes.length ?? 0, connected };
      return { status: connected > 0 ? 200 : 503, contentType: 'application/json', body: `${JSON.stringify(body)}\n` };
    }
    return { status: 404, contentType: 'text/plain', body: 'there are /metrics and /health here\n' };
  }
}

/** All buckets of the cluster on one node, which leads them and is reached by the address that was used to ask it. */
export function virtualPlacement({ clusterId, epoch, buckets }: Placement): Placement {
  const replicas = [{ id: 1, node: SIDECAR_NODE, learner: false }];
  const map = Array.from({ length: buckets }, (_, id) => ({ id, replicas, leader: SIDECAR_NODE }));
  return { clusterId, epoch, buckets, nodes: [{ id: SIDECAR_NODE, address: '', zone: '', host: '' }], map };
}
