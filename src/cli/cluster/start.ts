import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Option, type Command } from 'commander';
import { openDisk } from '../../env/real/disk.js';
import { DEFAULT_ENDPOINT, integer } from '../arguments.js';
import { withDatabase } from '../database.js';
import { EXIT, Exit } from '../exit.js';
import { aborted, beginLifetime, type Lifetime } from '../lifetime.js';
import { showProgress } from '../progress.js';
import { write, type Terminal } from '../terminal.js';
import { VERSION } from '../version.js';
import { Child, startAll } from './child.js';
import { LICENCE, loadCities, loadState, readCities, type CityStore } from './cities.js';
import { localCluster, type LocalCluster, type Member } from './local.js';
import { tour } from './tour.js';

/**
 * `tidemark cluster start`: a whole cluster on this machine, each node and the sidecar a process of its own, with sample data.
 * It lives until Ctrl-C. Its data outlives it: the next start finds it.
 *
 * A process that dies (try `kill -9` on a node) is started again; the others serve on meanwhile.
 */
interface StartArguments {
  readonly basePort: number;
  readonly data: string;
  readonly nodes: number;
  readonly sample: boolean;
}

const GRACE_MS = 10_000;
/** A new cluster elects its leaders, an old one reads its logs; both are quick, a disk or a busy machine may not be. */
const READY_MS = 120_000;

export function addClusterStart(cluster: Command, terminal: Terminal): void {
  cluster
    .command('start')
    .description('run nodes and a sidecar on this machine until Ctrl-C, with sample data')
    .addOption(
      new Option('--base-port <port>', 'sidecar here, nodes on the ports behind it, HTTP 100 above')
        .default(7100)
        .argParser(integer(1, 65_000)),
    )
    .option('--data <directory>', 'where the data is kept', './data')
    .addOption(new Option('--nodes <n>', 'how many nodes a new cluster gets').default(3).argParser(integer(1, 99)))
    .option('--no-sample', 'load no sample data and run no queries')
    .action((options: StartArguments, command: Command) => {
      const given = command.getOptionValueSource('nodes') === 'cli' ? options.nodes : undefined;
      return start(options, given, terminal);
    });
}

async function start(options: StartArguments, nodesGiven: number | undefined, terminal: Terminal): Promise<void> {
  // Locked while this command runs: two of them in one directory would write each other's configuration.
  const disk = await openDisk(options.data);
  const lifetime = beginLifetime();
  try {
    const { basePort, nodes } = options;
    const cluster = await localCluster({ disk, basePort, nodes, nodesGiven });
    await runCluster(cluster, options.sample, lifetime, terminal);
  } finally {
    lifetime.end();
    await disk.close();
  }
}

async function runCluster(cluster: LocalCluster, sample: boolean, lifetime: Lifetime, terminal: Terminal): Promise<void> {
  const say = (text: string): Promise<void> => write(terminal.stdout, `${text}\n`);
  const children = new Map(cluster.members.map((member) => [member, childOf(member, cluster, terminal)]));
  const { signal } = lifetime;
  try {
    const found = cluster.existed ? 'the data is there' : 'a new cluster';
    await say(`Tidemark ${VERSION}: ${cluster.nodes} nodes and a sidecar, data in ${cluster.data} (${found}). Starting ...`);
    await unlessInterrupted(signal, startAll([...children.values()], READY_MS));
    await unlessInterrupted(signal, served(cluster));
    await say(describe(children));
    if (sample) await useSample(cluster, terminal, signal);
    if (!signal.aborted) await say(whatNext(cluster));
    lifetime.ready();
    await aborted(signal);
  } catch (error) {
    // Whatever was under way when it was told to stop may fail; that is no error.
    if (!signal.aborted) throw error;
  } finally {
    await say('\nStopping ...');
    await stopAll(children);
  }
  await say('Stopped. The data stays.');
}

function childOf(member: Member, cluster: LocalCluster, terminal: Terminal): Child {
  const main = fileURLToPath(new URL(`../main${extname(import.meta.url)}`, import.meta.url));
  return new Child({
    name: member.name,
    args: [...process.execArgv, main, ...member.args],
    logPath: join(cluster.data, 'logs', `${member.name.replace(' ', '-')}.log`),
    died: (child, how, delayMs) => {
      const again = `starting it again in ${Math.round(delayMs / 1000)} s`;
      terminal.stderr.write(`${child.name} ${how}; ${again}. Its log: ${child.logPath}\n`);
    },
    finalCode: EXIT.REMOVED,
    left: (child) => terminal.stderr.write(`${child.name} was removed from the cluster and has stopped\n`),
    revived: (child) => terminal.stderr.write(`${child.name} is back, pid ${child.pid}\n`),
  });
}

function unlessInterrupted(signal: AbortSignal, work: Promise<void>): Promise<void> {
  return Promise.race([work, aborted(signal).then(() => Promise.reject(new Exit(EXIT.INTERRUPTED)))]);
}

/** Resolves when the sidecar reaches a leader of every bucket: processes that are up have yet to meet and to elect. */
function served({ sidecar }: LocalCluster): Promise<void> {
  return withDatabase({ endpoint: [sidecar.grpc], timeout: READY_MS }, async (db) => {
    for await (const entry of db.scan({ limit: 1 })) void entry;
  });
}

/** The sidecar first, so that no request runs into nodes that are going. */
async function stopAll(children: ReadonlyMap<Member, Child>): Promise<void> {
  const stop = (kind: Member['kind']): Promise<unknown> =>
    Promise.all([...children].filter(([member]) => member.kind === kind).map(([, child]) => child.stop(GRACE_MS)));
  await stop('sidecar');
  await stop('node');
}

function describe(children: ReadonlyMap<Member, Child>): string {
  const lines = [...children].map(([{ name, grpc, http }, { pid }]) => {
    return `  ${name.padEnd(8)}  gRPC ${grpc}  health and metrics http://${http}  pid ${pid}`;
  });
  return `\n${lines.join('\n')}\n`;
}

async function useSample(cluster: LocalCluster, terminal: Terminal, signal: AbortSignal): Promise<void> {
  await withDatabase({ endpoint: [cluster.sidecar.grpc], timeout: READY_MS }, async (db) => {
    const store: CityStore = {
      get: async (key) => (await db.get(key)).value,
      put: (key, value) => db.put(key, value),
    };
    const before = await loadState(store);
    if (before !== undefined && before.written === before.total) {
      await write(terminal.stdout, `Sample data: ${before.written} cities are there.\n`);
    } else {
      const cities = await readCities();
      const from = before?.written ?? 0;
      const title = 'Loading cities';
      const progress = showProgress(terminal, { title, total: cities.length, unit: 'records', done: from });
      await loadCities(store, cities, from, (written) => progress.update(written), signal);
      progress.end();
    }
    await write(terminal.stdout, `${LICENCE}\n`);
    if (signal.aborted) return;
    await write(terminal.stdout, '\nSome queries, through the sidecar:\n\n');
    await tour(db, terminal);
  });
}

function whatNext({ sidecar, members }: LocalCluster): string {
  const node = members.find(({ kind }) => kind === 'node');
  const line = (command: string, why: string): string => `  ${command.padEnd(46)} ${why}`;
  const elsewhere = line(`export TIDEMARK_ENDPOINT=${sidecar.grpc}`, 'not the default port');
  const moved = sidecar.grpc === DEFAULT_ENDPOINT ? [] : [elsewhere];
  return [
    '\nTry, in another terminal:\n',
    ...moved,
    line('npx tidemark cluster status', 'who leads, who is reachable'),
    line("npx tidemark get 'city/FR/11/Paris/0'", 'a value'),
    line("npx tidemark put greeting 'hello'", 'a write, on the disks of a majority'),
    line('npx tidemark history greeting', 'all its versions'),
    line('npx tidemark scan city/IS/ --as-of -10s', 'a country, ten seconds ago'),
    line('npx tidemark bench --in-flight 64', 'how fast it is'),
    line(`curl http://${node?.http ?? ''}/metrics`, 'what a node measures'),
    line('kill -9 <pid of a node>', 'nothing acknowledged is lost; it starts again'),
    '\nCtrl-C stops everything; the data stays.',
  ].join('\n');
}
