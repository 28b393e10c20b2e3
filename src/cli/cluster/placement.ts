import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { TidemarkError } from '../../lib/errors.js';
import { NODE_ID_MAX, nodesNamed, REPLICAS_MAX } from '../../placement/map.js';
import { votersOf } from '../../placement/replicas.js';
import { endpoints, integer, integers, withConnection, type ConnectionArguments } from '../arguments.js';
import { UsageError } from '../exit.js';
import { runJoining, type Joined, type JoinArguments } from '../serve.js';
import { jsonLine, table, write, type Terminal } from '../terminal.js';
import { ask, askFirst } from './ask.js';
import type { BucketsReply } from './inspect.js';
import { showShare } from './share.js';
import { isInPlace, notInPlace, settled, stateOf, WAIT_HELP, type ProgressReply, type Waiting } from './settling.js';

/** Commands that change where replicas are. The cluster does the work; they ask for it, and wait with a progress bar. */
type PlacementArguments = ConnectionArguments & { readonly wait: boolean };

const BUCKET_MAX = 65_535;
const LOOK_MS = 100;
/** Instead of a number: that of the cluster. */
const DEFAULT = 'default';
const nodeId = integer(1, NODE_ID_MAX);
const bucket = integer(0, BUCKET_MAX);

type ReplicaCount = number | typeof DEFAULT;

export function addPlacement(cluster: Command, terminal: Terminal): void {
  const waiting = (command: Command): Command =>
    withConnection(command)
      .option('--no-wait', 'return when the cluster has taken note of it')
      .addHelpText('after', WAIT_HELP);
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
    .option('--zone <name>', 'what fails with others: replicas of a bucket are put in different zones', '')
    .option('--host <name>', 'the machine, if it runs several nodes: replicas of a bucket are put on different ones', '')
    .option('-c, --config <file>', 'the configuration of the cluster, if it has limits or timing of its own, or TLS')
    .option('--json', 'print JSON', false)
    .addHelpText('after', ADD_HELP)
    .action((options: JoinArguments & { json: boolean }) => {
      return runJoining(options, (joined, signal) => void shareShown(joined, signal, options.json, terminal));
    });
  waiting(cluster.command('move'))
    .argument('<bucket>', 'its number', bucket)
    .description('give the replica of a bucket that is on one node to another')
    .addOption(new Option('--from <node>', 'the node that has it').argParser(nodeId).makeOptionMandatory())
    .addOption(new Option('--to <node>', 'the node that should have it').argParser(nodeId).makeOptionMandatory())
    .action((moved: number, options: PlacementArguments & { from: number; to: number }) => {
      const { from, to } = options;
      const check = (progress: ProgressReply): Promise<void> => mustHave(to, moved, progress, options);
      return change({ move: { bucket: moved, from, to } }, options, terminal, { check });
    });
  waiting(cluster.command('drain'))
    .argument('<node>', 'its id', nodeId)
    .description('move everything away from a node, which stays a member')
    .action((node: number, options: PlacementArguments) => change({ drain: node }, options, terminal, { emptied: node }));
  waiting(cluster.command('undrain'))
    .argument('<node>', 'its id', nodeId)
    .description('let a node that was drained take its share again')
    .action((node: number, options: PlacementArguments) => change({ undrain: node }, options, terminal));
  withConnection(cluster.command('remove'))
    .argument('<node>', 'its id', nodeId)
    .description('move everything away from a node, then end its membership: it stops, and may be switched off')
    .addHelpText('after', WAIT_HELP)
    .action((node: number, options: ConnectionArguments) => remove(node, options, terminal));
  waiting(cluster.command('replicas'))
    .argument('<count>', `how many, or with --bucket "${DEFAULT}": as many as the others again`, replicaCount)
    .description('give every bucket so many voting replicas, or some buckets a number of their own')
    .addOption(new Option('--bucket <list>', 'only these, whatever the others have').argParser(integers(0, BUCKET_MAX)))
    .action((count: ReplicaCount, options: PlacementArguments & { bucket?: number[] }) => {
      return change(replicasFor(count, options.bucket), options, terminal);
    });
  waiting(cluster.command('rebalance'))
    .description('spread replicas and leaders evenly over the nodes')
    .action((options: PlacementArguments) => change({ rebalance: true }, options, terminal));
  withConnection(cluster.command('transfer'))
    .argument('<bucket>', 'its number', bucket)
    .argument('<node>', 'the id of the node', nodeId)
    .description('let another of its nodes lead a bucket, from now on; it may get one of that node in return')
    .action((led: number, node: number, options: ConnectionArguments) => transfer(led, node, options, terminal));
}

const ADD_HELP = `
It runs until Ctrl-C or SIGTERM. When it serves it tells its number, then how many replicas of its share it has, and at last
that it has all; what it logs goes to standard error as well. Stopped before that it stays a member, and goes on when the same
command starts it again. With --json there is one line when it serves, {node, clusterId, listens}, and one for each change,
{node, replicas, share, moving, complete}, the last of them with complete: true.`;
/** For each question of a node that shows how it gets its share. */
const SHARE_ASK_MS = 2000;

async function shareShown(joined: Joined, signal: AbortSignal, json: boolean, terminal: Terminal): Promise<void> {
  const { node, clusterId, listens, endpoints: asked, tls } = joined;
  const text = `node ${node} of cluster ${clusterId} listens on ${listens}\n`;
  await write(terminal.stdout, json ? jsonLine({ node, clusterId, listens }) : text);
  const connection = { ...tls, endpoint: [...new Set(asked)], timeout: SHARE_ASK_MS, json };
  await showShare({ node, connection, terminal, signal });
}

function replicaCount(text: string): ReplicaCount {
  return text === DEFAULT ? DEFAULT : integer(1, REPLICAS_MAX)(text);
}

function replicasFor(count: ReplicaCount, buckets: readonly number[] | undefined): object {
  if (buckets !== undefined) return { bucketReplicas: count === DEFAULT ? { buckets } : { buckets, count } };
  if (count === DEFAULT) throw new UsageError(`'${DEFAULT}' is what buckets have without a number of their own: give --bucket`);
  return { replicas: count };
}

interface Expected {
  /** The node that is to be empty in the end. */
  readonly emptied?: number;
  /** Whether what was asked for is so, when everything is in its place; throws if it is not. */
  readonly check?: (progress: ProgressReply) => Promise<void>;
}

async function change(what: object, options: PlacementArguments, terminal: Terminal, expected: Expected = {}): Promise<void> {
  const { emptied, check } = expected;
  const progress = await ask<ProgressReply>(options, 'ChangePlacement', what);
  if (!options.wait) return show(progress, options, terminal, 'noted, and the cluster goes on with it');
  const goesOn = emptied === undefined ? 'the cluster goes on with it' : emptying(emptied);
  const inPlace = await untilInPlace(progress, { options, terminal, emptied, goesOn });
  await check?.(inPlace);
  await show(inPlace, options, terminal);
}

/** The planner calls a move off when the node does not come: then everything is in its place, but the replica where it was. */
async function mustHave(node: number, bucket: number, { epoch }: ProgressReply, options: ConnectionArguments): Promise<void> {
  const asked = (): Promise<BucketsReply> => askFirst(options, 'Buckets', { ids: [bucket] });
  const giveUpMs = performance.now() + options.timeout;
  let reply = await asked();
  // Who is asked may not have heard of that placement yet.
  while (reply.epoch < epoch && performance.now() < giveUpMs) {
    await sleep(LOOK_MS);
    reply = await asked();
  }
  const voters = votersOf(reply.buckets[0]?.bucket.replicas ?? []).map((voter) => voter.node);
  if (voters.includes(node)) return;
  const why = 'the cluster has placed it otherwise since, as it does when a node cannot be reached';
  const message = `node ${node} has no replica of bucket ${bucket}, ${nodesNamed(voters)} have: ${why}`;
  throw new TidemarkError('UNAVAILABLE', 'NOT_IN_PLACE', message, { retriable: true });
}

async function remove(node: number, options: ConnectionArguments, terminal: Terminal): Promise<void> {
  const drained = await ask<ProgressReply>(options, 'ChangePlacement', { drain: node });
  const goesOn = `${emptying(node)}, 'tidemark cluster remove ${node}' goes on until it is no member`;
  await untilInPlace(drained, { options, terminal, emptied: node, goesOn });
  await show(await ask<ProgressReply>(options, 'ChangePlacement', { remove: node }), options, terminal);
}

/** Shows how far it has come, and throws, if that is less than what was asked for. */
async function untilInPlace(start: ProgressReply, waiting: Waiting): Promise<ProgressReply> {
  const progress = await settled(start, waiting);
  if (isInPlace(progress, waiting.emptied)) return progress;
  await show(progress, waiting.options, waiting.terminal);
  throw notInPlace(progress, waiting);
}

async function show(progress: ProgressReply, { json }: ConnectionArguments, terminal: Terminal, state?: string): Promise<void> {
  await write(terminal.stdout, json ? jsonLine(progress) : describeProgress(progress, state));
}

export function describeProgress(progress: ProgressReply, state = stateOf(progress)): string {
  const { epoch, replicas, bucketReplicas, nodes } = progress;
  const rows = nodes.map(({ id, replicas: count, draining }) => [String(id), String(count), draining ? 'draining' : '']);
  const own = bucketReplicas.map(({ buckets: ids, count }) => `, ${count} of bucket ${ids.join(', ')}`).join('');
  const head = `placement epoch ${epoch}, ${replicas} replicas of each bucket${own}: ${state}`;
  return [head, '', table(['node', 'replicas', ''], rows)].join('\n');
}

function emptying(node: number): string {
  return `node ${node} goes on being emptied; 'tidemark cluster undrain ${node}' takes it back`;
}

async function transfer(bucket: number, node: number, options: ConnectionArguments, terminal: Terminal): Promise<void> {
  await ask<ProgressReply>(options, 'ChangePlacement', { lead: { bucket, node } });
  // Its leader will hand it over by itself, but looks first whether the other has been there for a while.
  const { buckets } = await askFirst<BucketsReply>(options, 'Buckets', { ids: [bucket] });
  const first = buckets[0]?.bucket.leader ?? 0;
  const { leader } = await ask<{ leader: number }>(options, 'TransferLeader', { bucket, node }, first);
  await write(terminal.stdout, options.json ? jsonLine({ bucket, leader }) : `node ${leader} leads bucket ${bucket}\n`);
}
