import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import type { z } from 'zod';
import type { Limits } from '../env/limits.js';
import type { LogLevel } from '../env/real/log.js';
import type { TlsFiles } from '../env/real/network.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { Timing } from '../bucket/replica.js';
import type { NodeId, NodeInfo } from '../placement/map.js';
import type { HedgingOptions } from '../router/hedging.js';
import type { NearCacheOptions } from '../router/near-cache.js';
import { contradictions, limitsOf, schema, type ConfigFile } from './config-schema.js';
import type { TlsArguments } from './tls.js';

/**
 * The configuration of nodes and sidecars: one YAML file for a whole cluster, read and checked as a whole before anything is
 * opened. A wrong file is INVALID_ARGUMENT / CONFIG_INVALID, and the message has one line for each mistake, which names the
 * file, the field and what was expected:
 *
 *     cluster.yaml: cluster.nodes[1].address: expected host:port or [ipv6]:port with a port from 1 to 65535, got 'host-2'
 *
 * Relative paths in a file are relative to the file. `{id}` in a path stands for the id of the node, so that all nodes can share
 * one file.
 */
export interface Config {
  /** The file, for messages. */
  readonly file: string;
  readonly clusterId: string;
  readonly buckets: number;
  readonly replicas: number;
  readonly nodes: readonly NodeInfo[];
  readonly limits: Limits;
  readonly timing: Timing;
  readonly logLevel: LogLevel;
  readonly raw: ConfigFile;
}

/** One node's share of it. */
export interface NodeSettings {
  readonly id: NodeId;
  readonly dataDir: string;
  readonly listen: string;
  readonly http: string | undefined;
}

export interface SidecarSettings {
  readonly listen: string;
  readonly http: string | undefined;
  readonly zone: string | undefined;
  /** Nodes to ask first. */
  readonly endpoints: readonly string[];
  readonly nearCache: NearCacheOptions | undefined;
  readonly hedging: HedgingOptions | undefined;
}

/** An election begins within 1 to 4/3 election timeouts of silence; clocks drift by less than a tenth of each other. */
const ELECTION_JITTER = 1 / 3;
const DRIFT_BOUND = 0.1;

export function loadConfig(file: string): Config {
  return parseConfig(readText(file), file);
}

export function parseConfig(text: string, file: string): Config {
  const raw = check(parseYaml(text, file), file);
  const { cluster, raft, log } = raw;
  const nodes = cluster.nodes.map(({ id, address, zone = '', host = '' }) => ({ id, address, zone, host }));
  const timing = {
    heartbeatMs: raft.heartbeatMs,
    electionTimeoutMs: raft.electionTimeoutMs,
    electionJitterMs: Math.round(raft.electionTimeoutMs * ELECTION_JITTER),
    driftBound: DRIFT_BOUND,
    leaseReads: raft.readMode === 'lease',
  };
  const { id: clusterId, buckets, replicas } = cluster;
  return { file, clusterId, buckets, replicas, nodes, limits: limitsOf(raw), timing, logLevel: log.level, raw };
}

/** Of a node that joins a running cluster without a file of its own. */
const NOBODY = 'cluster: { id: joining, replicas: 1, nodes: [{ id: 1, address: localhost:1 }] }';
export const DEFAULTS = parseConfig(NOBODY, 'the defaults');

/** `id` (from the command line) goes before `node.id`; one of them is needed, unless there is only one node. */
export function nodeSettings(config: Config, id?: NodeId): NodeSettings {
  const { file, raw } = config;
  const { node, cluster } = raw;
  if (node === undefined) throw invalid(file, ['node: is missing; a node needs at least node.dataDir']);
  const only = cluster.nodes.length === 1 ? cluster.nodes[0]?.id : undefined;
  const own = id ?? node.id ?? only;
  const ids = cluster.nodes.map((each) => each.id).join(', ');
  if (own === undefined) throw invalid(file, [`node.id: is missing; give --id or node.id, one of ${ids}`]);
  const info = cluster.nodes.find((each) => each.id === own);
  if (info === undefined) throw invalid(file, [`node id ${own} is none of cluster.nodes: expected one of ${ids}`]);
  return {
    id: own,
    dataDir: pathOf(config, node.dataDir, own),
    listen: node.listen ?? info.address,
    http: node.http ?? info.http,
  };
}

export function sidecarSettings({ file, raw }: Config): SidecarSettings {
  if (raw.sidecar === undefined) throw invalid(file, ['sidecar: is missing; a sidecar needs at least sidecar.listen']);
  const { listen, http, zone, endpoints = raw.cluster.nodes.map((each) => each.address), nearCache, hedging } = raw.sidecar;
  return { listen, http, zone, endpoints, nearCache, hedging };
}

/** The certificates, if the file names some. */
export function readTls(config: Config, id?: NodeId): TlsFiles | undefined {
  const { tls } = config.raw;
  if (tls === undefined) return undefined;
  const read = (field: keyof typeof tls): Buffer => {
    const path = pathOf(config, tls[field], id);
    try {
      return readFileSync(path);
    } catch (error) {
      throw invalid(config.file, [`tls.${field}: cannot be read: ${messageOf(error)}`]);
    }
  };
  return { ca: read('ca'), cert: read('cert'), key: read('key') };
}

/** Where they are, for who asks other members. */
export function tlsPathsOf(config: Config, id?: NodeId): TlsArguments {
  const { tls } = config.raw;
  if (tls === undefined) return {};
  return { tlsCa: pathOf(config, tls.ca, id), tlsCert: pathOf(config, tls.cert, id), tlsKey: pathOf(config, tls.key, id) };
}

function pathOf({ file }: Config, path: string, id: NodeId | undefined): string {
  return resolve(dirname(file), path.replaceAll('{id}', String(id ?? '')));
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const message = `${file}: the configuration cannot be read: ${messageOf(error)}`;
    throw new TidemarkError('NOT_FOUND', 'CONFIG_NOT_FOUND', message, { cause: error });
  }
}

function parseYaml(text: string, file: string): unknown {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, stringKeys: true });
  // A warning tells of something that was read as if it were not there, such as an unknown tag.
  const wrong = [...document.errors, ...document.warnings];
  if (wrong.length > 0) {
    throw invalid(
      file,
      wrong.map(({ code, message, pos }) => {
        const { line, col } = lines.linePos(pos[0]);
        const what = code === 'MULTIPLE_DOCS' ? 'a second document begins here; expected one' : message;
        return `line ${line}, column ${col}: not valid YAML: ${what}`;
      }),
    );
  }
  try {
    return document.toJS();
  } catch (error) {
    // Only now it follows the aliases.
    throw invalid(file, [`not valid YAML: ${messageOf(error)}`]);
  }
}

function check(data: unknown, file: string): ConfigFile {
  const result = schema.safeParse(data, { reportInput: true });
  // A number may be wrong in two ways, for which the same is said.
  if (!result.success) throw invalid(file, [...new Set(result.error.issues.flatMap(describe))]);
  const wrong = contradictions(result.data);
  if (wrong.length === 0) return result.data;
  throw invalid(
    file,
    wrong.map(({ path, expected, got }) => `${pathText(path)}: expected ${expected}, got ${show(got)}`),
  );
}

function describe(issue: z.core.$ZodIssue): string[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => `${pathText([...issue.path, key])}: unknown field; expected ${issue.message}`);
  }
  const where = pathText(issue.path);
  if (issue.input === undefined) return [`${where}: is missing; expected ${issue.message}`];
  return [`${where}: expected ${issue.message}, got ${show(issue.input)}`];
}

function pathText(path: readonly PropertyKey[]): string {
  if (path.length === 0) return 'the file';
  return path.map((part, index) => (typeof part === 'number' ? `[${part}]` : `${index > 0 ? '.' : ''}${String(part)}`)).join('');
}

const SHOWN_MAX = 60;

function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.slice(0, SHOWN_MAX)}'`;
  if (typeof value === 'number') return String(value); // JSON has no infinity
  return (JSON.stringify(value) ?? String(value)).slice(0, SHOWN_MAX);
}

function invalid(file: string, lines: readonly string[]): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'CONFIG_INVALID', lines.map((line) => `${file}: ${line}`).join('\n'));
}
