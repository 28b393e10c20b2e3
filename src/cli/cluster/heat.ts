import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { integer, withConnection, type ConnectionArguments } from '../arguments.js';
import { beginLifetime } from '../lifetime.js';
import { jsonLine, table, write, type Terminal } from '../terminal.js';
import { encode, jsonFields } from '../values.js';
import { ask } from './ask.js';

/** `tidemark cluster heat`: what is asked of buckets and keys now, and who serves it. */
export interface HeatReply {
  readonly epoch: number;
  readonly node: number;
  readonly hotReadsPerSecond: number;
  readonly nodes: readonly (Rates & { readonly id: number; readonly readReplicas: number })[];
  readonly buckets: readonly BucketHeat[];
  readonly keys: readonly { readonly key: Buffer; readonly bucket: number; readonly reads: number; readonly share: number }[];
}

interface Rates {
  readonly reads: number;
  readonly writes: number;
  readonly bytes: number;
}

interface BucketHeat extends Rates {
  readonly id: number;
  readonly leader: number;
  readonly voters: readonly number[];
  readonly readReplicas: readonly number[];
}

interface HeatArguments extends ConnectionArguments {
  readonly watch: boolean;
  readonly buckets: number;
  readonly keys: number;
}

const HELP = `
Nodes report once a second what they serve. Rates are per second, and what was 5 s ago counts half as much as what is now.

  tidemark cluster heat                      the hottest buckets and keys, once
  tidemark cluster heat --watch              again every second; Ctrl-C ends it
  tidemark cluster heat --buckets 3 --json   for programs: {epoch, nodes, buckets, keys}; with --watch one line a second

A bar shows the reads of a bucket for each replica that serves it; | marks where the bucket is hot and gets another read
replica (limits.hotReadsPerSecond). Whatever is at the endpoint, a node that hosts the system bucket is asked: these are told.`;

const WATCH_MS = 1000;
const BAR_CELLS = 30;
const CLEAR = '\u001b[H\u001b[2J';

export function addHeat(cluster: Command, terminal: Terminal): void {
  withConnection(cluster.command('heat'))
    .description('which buckets and keys are hot, and who serves them')
    .option('-w, --watch', 'show it again every second', false)
    .addOption(new Option('--buckets <n>', 'at most so many buckets').default(10).argParser(integer(1, 1000)))
    .addOption(new Option('--keys <n>', 'at most so many keys').default(5).argParser(integer(1, 1000)))
    .addHelpText('after', HELP)
    .action((options: HeatArguments) => heat(options, terminal));
}

async function heat(options: HeatArguments, terminal: Terminal): Promise<void> {
  const { buckets, keys, json, watch } = options;
  const lifetime = watch ? beginLifetime() : undefined;
  const isLive = watch && terminal.stdout.isTTY === true && !json;
  try {
    for (;;) {
      const reply = await ask<HeatReply>(options, 'Heat', { buckets, keys });
      const text = json ? jsonLine(jsonOf(reply)) : describeHeat(reply);
      await write(terminal.stdout, isLive ? `${CLEAR}${text}` : text);
      if (lifetime === undefined) return;
      await sleep(WATCH_MS, undefined, { signal: lifetime.signal }).catch(() => undefined);
      if (lifetime.signal.aborted) return;
    }
  } finally {
    lifetime?.end();
  }
}

function jsonOf({ keys, ...rest }: HeatReply): object {
  return { ...rest, keys: keys.map(({ key, ...of }) => ({ ...jsonFields('key', key), ...of })) };
}

export function describeHeat(reply: HeatReply): string {
  const { nodes, buckets, keys, hotReadsPerSecond } = reply;
  const all = (['reads', 'writes', 'bytes'] as const).map((what) => {
    return `${count(nodes.reduce((sum, rates) => sum + rates[what], 0))} ${what}/s`;
  });
  const parts = [`${all.join(', ')}; placement epoch ${reply.epoch}, as node ${reply.node} was told\n`, describeNodes(reply)];
  if (buckets.length > 0) parts.push(describeBuckets(buckets, hotReadsPerSecond));
  if (keys.length > 0) parts.push(describeKeys(reply));
  return parts.join('\n');
}

function describeNodes({ nodes }: HeatReply): string {
  const rows = nodes.map(({ id, reads, writes, bytes, readReplicas }) => {
    return [String(id), count(reads), count(writes), count(bytes), String(readReplicas)];
  });
  return table(['node', 'reads/s', 'writes/s', 'bytes/s', 'read replicas'], rows);
}

function describeBuckets(buckets: readonly BucketHeat[], hot: number): string {
  const most = Math.max(hot, ...buckets.map(readsOfEach));
  const rows = buckets.map((bucket) => {
    const { id, reads, writes, bytes, leader, voters, readReplicas } = bucket;
    const readers = readReplicas.length === 0 ? '-' : readReplicas.join(' ');
    const nodes = [leader === 0 ? '-' : String(leader), voters.join(' '), readers];
    return [String(id), count(reads), count(writes), count(bytes), ...nodes, bar(readsOfEach(bucket), hot, most)];
  });
  const titles = ['bucket', 'reads/s', 'writes/s', 'bytes/s', 'leader', 'on nodes', 'read replicas', 'reads/s for each replica'];
  return table(titles, rows);
}

/** Of each replica that serves it, if they serve alike. */
function readsOfEach({ reads, voters, readReplicas }: BucketHeat): number {
  return reads / Math.max(1, voters.length + readReplicas.length);
}

function describeKeys({ keys }: HeatReply): string {
  const rows = keys.map(({ key, bucket, reads, share }) => {
    return [encode(key, 'text'), String(bucket), count(reads), `${Math.round(100 * share)} %`];
  });
  return table(['key', 'bucket', 'reads/s', 'of its bucket'], rows);
}

function bar(value: number, mark: number, most: number): string {
  const at = (of: number): number => Math.round((of / most) * BAR_CELLS);
  const cells = Array.from({ length: Math.max(at(value), at(mark)) + 1 }, (_, cell) => {
    if (cell === at(mark)) return '|';
    return cell < at(value) ? '█' : ' ';
  });
  return `${cells.join('')} ${count(value)}`;
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}
