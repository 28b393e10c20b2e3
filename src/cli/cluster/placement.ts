import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { NODE_ID_MAX, REPLICAS_MAX } from '../../placement/map.js';
import { endpoints, integer, withConnection, type ConnectionArguments } from '../arguments.js';
import { showProgress } from '../progress.js';
import { runJoining, type JoinArguments } from '../serve.js';
import { jsonLine, table, write, type Terminal } from '../terminal.js';
import { ask, askFirst } from './ask.js';
import type { BucketsReply } from './inspect.js';

/** Commands that change where replicas are. The cluster does the work; they ask for it, and wait with a progress bar. */
interface ProgressReply {
  readonly epoch: number;
  readonly replicas: number;
  readonly nodes: readonly { readonly id: number; readonly replicas: number; readonly draining: boolean }[];
  readonly moving: readonly number[];
}

type PlacementArguments = ConnectionArguments & { readonly wait: boolean };

const BUCKET_MAX = 65_535;
const LOOK_MS = 500;
/** The planner looks once a second: when nothing has moved for this long it is content. */
const CONTENT_MS = 3000;
const nodeId = integer(1, NODE_ID_MAX);

export function addPlacement(cluster: Command, terminal: Terminal): void {
  const waiting = (command: Command): Command =>
    withConnection(command).option('--no-wait', 'return when the cluster has taken it over');
  cluster
    .command('add')
    .description('run a node that joins a running cluster, and gets its share of the buckets; run again, it goes on')
    .addOption(
      new Option('--join <host:port>', 'a node of the cluster; several with commas between')
        .argParser(endpoints)
        .makeOptionMandatory(),
    )
    .requiredOption('--listen <host:port>', 'where it listens')
    .option('--address <host:port>', 'where the others find it, if that is not where it listens')
    .option('--http <host:port>', 'metrics and health')
    .requiredOption('--data <directory>', 'its data directory')
    .option('--zone <name>', 'replicas of a bucket are put in different zones', '')
    .option('-c, --config <file>', 'the configuration of the cluster, if it has limits or timing of its own, or TLS')
    .action((options: JoinArguments) => runJoining(options));
  waiting(cluster.command('move <bucket>'))
    .description('give the replica of a bucket that is on one node to another')
    .addOption(new Option('--from <node>', 'the node that has it').argParser(nodeId).makeOptionMandatory())
    .addOption(new Option('--to <node>', 'the node that should have it').argParser(nodeId).makeOptionMandatory())
    .action((bucket: string, options: PlacementArguments & { from: number; to: number }) => {
      const { from, to } = options;
      return change({ move: { bucket: integer(0, BUCKET_MAX)(bucket), from, to } }, options, terminal);
    });
  waiting(cluster.command('drain <node>'))
    .description('move everything away from a node, which stays a member')
    .action((node: string, options: PlacementArguments) => change({ drain: nodeId(node) }, options, terminal, nodeId(node)));
  waiting(cluster.command('undrain <node>'))
    .description('let a node that was drained take its share again')
    .action((node: string, options: PlacementArguments) => change({ undrain: nodeId(node) }, options, terminal));
  withConnection(cluster.command('remove <node>'))
    .description('move everything away from a node, then end its membership: it stops, and may be switched off')
    .action((node: string, options: ConnectionArguments) => remove(nodeId(node), options, terminal));
  waiting(cluster.command('replicas <count>'))
    .description('give every bucket so many voting replicas')
    .action((count: string, options: PlacementArguments) => {
      return change({ replicas: integer(1, REPLICAS_MAX)(count) }, options, terminal);
    });
  waiting(cluster.command('rebalance'))
    .description('spread replicas and leaders evenly over the nodes')
    .action((options: PlacementArguments) => change({ rebalance: true }, options, terminal));
  withConnection(cluster.command('transfer <bucket> <node>'))
    .description('let another node lead a bucket')
    .action((bucket: string, node: string, options: ConnectionArguments) => {
      return transfer(integer(0, BUCKET_MAX)(bucket), nodeId(node), options, terminal);
    });
}

async function change(what: object, options: PlacementArguments, terminal: Terminal, emptied?: number): Promise<void> {
  let progress = await ask<ProgressReply>(options, 'ChangePlacement', what);
  if (options.wait) progress = await settled(progress, options, terminal, emptied);
  await show(progress, options, terminal);
}

async function remove(node: number, options: ConnectionArguments, terminal: Terminal): Promise<void> {
  const drained = await ask<ProgressReply>(options, 'ChangePlacement', { drain: node });
  await settled(drained, options, terminal, node);
  await show(await ask<ProgressReply>(options, 'ChangePlacement', { remove: node }), options, terminal);
}

/** Waits until everything is where it should be, and the planner wants nothing more. */
async function settled(
  start: ProgressReply,
  options: ConnectionArguments,
  terminal: Terminal,
  emptied: number | undefined,
): Promise<ProgressReply> {
  const left = ({ nodes, moving }: ProgressReply): number => {
    return moving.length + (nodes.find(({ id }) => id === emptied)?.replicas ?? 0);
  };
  const total = emptied === undefined ? undefined : Math.max(1, left(start));
  const title = emptied === undefined ? 'moving replicas' : `emptying node ${emptied}`;
  const bar = showProgress(terminal, { title, total, unit: total === undefined ? 'steps' : 'replicas' });
  let progress = start;
  let quietSinceMs = performance.now();
  try {
    while (left(progress) > 0 || performance.now() - quietSinceMs < CONTENT_MS) {
      await sleep(LOOK_MS);
      const next = await ask<ProgressReply>(options, 'PlacementProgress', {});
      if (next.epoch !== progress.epoch || left(next) > 0) quietSinceMs = performance.now();
      progress = next;
      bar.update(total === undefined ? progress.epoch - start.epoch : total - left(progress));
    }
  } finally {
    bar.end();
  }
  return progress;
}

async function show(progress: ProgressReply, { json }: ConnectionArguments, terminal: Terminal): Promise<void> {
  await write(terminal.stdout, json ? jsonLine(progress) : describeProgress(progress));
}

function describeProgress({ epoch, replicas, nodes, moving }: ProgressReply): string {
  const rows = nodes.map(({ id, replicas: count, draining }) => [String(id), String(count), draining ? 'draining' : '']);
  const under = moving.length === 0 ? 'everything is in its place' : `${moving.length} buckets are on their way`;
  const head = `placement epoch ${epoch}, ${replicas} replicas of each bucket: ${under}`;
  return [head, '', table(['node', 'replicas', ''], rows)].join('\n');
}

async function transfer(bucket: number, node: number, options: ConnectionArguments, terminal: Terminal): Promise<void> {
  const { buckets } = await askFirst<BucketsReply>(options, 'Buckets', { ids: [bucket] });
  const first = buckets[0]?.bucket.leader ?? 0;
  const { leader } = await ask<{ leader: number }>(options, 'TransferLeader', { bucket, node }, first);
  await write(terminal.stdout, options.json ? jsonLine({ bucket, leader }) : `node ${leader} leads bucket ${bucket}\n`);
}
