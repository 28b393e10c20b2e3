import { Option, type Command } from 'commander';
import { isTidemarkError } from '../../lib/errors.js';
import { formatTimestamp } from '../../mvcc/timestamp.js';
import { integers, withConnection, type ConnectionArguments } from '../arguments.js';
import { jsonLine, table, write, type Terminal } from '../terminal.js';
import { ask, askFirst, type StatusReply } from './ask.js';
import { stateOf, type ProgressReply } from './settling.js';

/** `tidemark cluster status` and `tidemark cluster buckets`: the cluster as the process at the endpoint sees it. */
export interface BucketsReply {
  readonly epoch: number;
  readonly buckets: readonly BucketStatus[];
}

interface BucketStatus {
  readonly bucket: {
    readonly id: number;
    readonly leader: number;
    readonly replicas: readonly { readonly id: number; readonly node: number; readonly learner: boolean }[];
  };
  readonly local: ReplicaStatus | null;
}

interface ReplicaStatus {
  readonly replica: number;
  readonly role: string;
  readonly term: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly digest: number;
  readonly timestamp: number;
}

const BUCKET_MAX = 65_535;
const PROGRESS_MS_MAX = 1000;

export function addInspection(cluster: Command, terminal: Terminal): void {
  withConnection(cluster.command('status'))
    .description('who belongs to the cluster, who is reachable, who leads')
    .action((options: ConnectionArguments) => status(options, terminal));
  withConnection(cluster.command('buckets'))
    .description('where the buckets are and how far their replicas on the asked node have come')
    .addOption(new Option('--id <list>', 'only these').argParser(integers(0, BUCKET_MAX)))
    .action((options: ConnectionArguments & { id?: number[] }) => buckets(options, terminal));
}

async function status(options: ConnectionArguments, terminal: Terminal): Promise<void> {
  const reply = await askFirst<StatusReply>(options, 'Status', {});
  const placement = await progressOf(options);
  const text = options.json ? jsonLine({ ...reply, placement: placement ?? null }) : describeStatus(reply, placement);
  await write(terminal.stdout, text);
}

/** As the node that plans knows it. A cluster of which that one cannot be found has a status all the same. */
async function progressOf(options: ConnectionArguments): Promise<ProgressReply | undefined> {
  try {
    return await ask({ ...options, timeout: Math.min(options.timeout, PROGRESS_MS_MAX) }, 'PlacementProgress', {});
  } catch (error) {
    if (!isTidemarkError(error)) throw error;
    return undefined;
  }
}

export function describeStatus(reply: StatusReply, placement?: ProgressReply): string {
  const placed = new Map(placement?.nodes.map((node) => [node.id, node]));
  const seconds = Math.round(reply.uptimeMs / 1000);
  // A sidecar is no node.
  const who = reply.node === 0 ? 'a sidecar' : `node ${reply.node}`;
  const rows = reply.nodes.map((node) => [
    String(node.id),
    node.address,
    node.zone === '' ? '-' : node.zone,
    node.host === '' ? '-' : node.host,
    `${node.reachable ? 'reachable' : 'UNREACHABLE'}${placed.get(node.id)?.draining === true ? ', draining' : ''}`,
    String(node.replicas),
    String(placed.get(node.id)?.leads ?? node.leaders),
  ]);
  // A node knows the leaders of its own buckets only.
  const leads = placement === undefined ? `leads, as far as ${who} knows` : 'leads';
  return [
    `cluster ${reply.clusterId}: ${reply.buckets} buckets, placement epoch ${reply.epoch}`,
    `answered by ${who}, version ${reply.version}, up ${seconds} s, clock ${formatTimestamp(reply.timestamp)}`,
    ...(placement === undefined ? [] : [`placement: ${stateOf(placement)}`]),
    '',
    table(['node', 'address', 'zone', 'host', 'state', 'replicas', leads], rows),
  ].join('\n');
}

async function buckets(options: ConnectionArguments & { id?: number[] }, terminal: Terminal): Promise<void> {
  const reply = await askFirst<BucketsReply>(options, 'Buckets', { ids: options.id ?? [] });
  await write(terminal.stdout, options.json ? jsonLine(reply) : describeBuckets(reply));
}

export function describeBuckets(reply: BucketsReply): string {
  const rows = reply.buckets.map(({ bucket, local }) => [
    String(bucket.id),
    bucket.leader === 0 ? '-' : String(bucket.leader),
    bucket.replicas.map(({ node, learner }) => `${node}${learner ? ' (learner)' : ''}`).join(' '),
    local?.role ?? '-',
    local === null ? '-' : String(local.term),
    local === null ? '-' : String(local.appliedIndex),
    local === null ? '-' : local.digest.toString(16).padStart(8, '0'),
    local === null || local.timestamp === 0 ? '-' : formatTimestamp(local.timestamp),
  ]);
  return table(['bucket', 'leader', 'on nodes', 'role here', 'term', 'applied', 'digest', 'latest'], rows);
}
