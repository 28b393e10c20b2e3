import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { findFaketime } from '../test/faults/harness/clocks.js';
import { commitOf } from '../test/faults/harness/commit.js';
import { NEMESES } from '../test/faults/harness/nemeses.js';
import { Run, type Report } from '../test/faults/harness/run.js';
import { WORKLOADS } from '../test/faults/harness/workloads.js';

/** The program behind scripts/faults.mjs, which runs it in namespaces of its own: arguments, and what is told at the end. */
const EXIT = { VALID: 0, FAILED: 1, USAGE: 2 } as const;

const HELP = `scripts/faults: five real nodes under real faults, and every answer checked

Starts a cluster of five processes with five copies of everything, lets clients work on it through the client library, and does
one fault after the other: inflicts it, heals it after a while, waits until everybody is served again. What each client asked
and was told is written down as it happens, and at the end a checker decides whether a correct store can have answered so.

  scripts/faults --minutes 10                          a random mix of everything
  scripts/faults --minutes 2 --nemesis pause,kill      only these faults
  scripts/faults --workload register --seed 7          only these clients, another mix

  --minutes N      how long to go on with faults (default 1; fractions are fine)
  --rounds N       until each nemesis had N turns, however long that takes
  --nemesis LIST   names from below, separated by commas (default: all that are possible here)
  --workload LIST  names from below (default: all)
  --seed TEXT      decides order, victims and operations (default: by chance; printed). The machine adds its own timing, so a
                   seed repeats the plan, not the run; for that there is the simulator.
  --hold SECONDS   how long each fault lasts (default: drawn, 3 to 10)
  --out FOLDER     histories, latency.svg, table.md, report.json and the nodes' logs (default data/faults; what an
                   earlier run left there is deleted first)
  --loopback       nodes on 127.0.0.1 without namespaces: no partitions, no disk faults

Exit code 0 if every history is valid and every node did as it should; 1 if not, or if a checker could not tell; 2 for wrong
arguments.

It takes Linux with unshare, nsenter and ip (util-linux, iproute2) and root; as another user it uses a user namespace, if the
system allows that. Faults of clocks take libfaketime (Debian: libfaketime), some of disks mkfs.ext4 (e2fsprogs) and loop devices.
Nodes are called by their places: 1 to 5 are those of the first ones, which clients are told of, and at 6 and 7 others may join.

All is private to the run: when it ends, by itself, by Ctrl-C or by SIGKILL, the kernel takes everything down.

Workloads
  register     read, write, compare-and-set
  set          elements added one by one, read by a scan
  counter      increments, repeated under their request id until it is known what became of them
  append       transactions that read and append to several lists, which lie in two buckets
  bank         transfers between accounts in three buckets, and readers of all accounts at one moment
  stream       puts, deletes and transactions over four buckets, and consumers of change streams that follow them

Nemeses
${[...NEMESES.values()].map(({ name, help }) => `  ${name.padEnd(18)} ${help}`).join('\n')}
`;

class UsageError extends Error {}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean', short: 'h' },
      minutes: { type: 'string' },
      rounds: { type: 'string' },
      nemesis: { type: 'string' },
      workload: { type: 'string' },
      seed: { type: 'string' },
      hold: { type: 'string' },
      out: { type: 'string', default: 'data/faults' },
      loopback: { type: 'boolean', default: false },
    },
  });
  if (values.help === true) {
    process.stdout.write(HELP);
    return EXIT.VALID;
  }
  const say = (line: string): void => console.log(line);
  const isolated = !values.loopback;
  if (isolated && process.pid !== 1) throw new UsageError('start this with scripts/faults, which gives it namespaces of its own');
  const out = resolve(values.out);
  const seed = values.seed ?? String(Math.floor(Math.random() * 1e9));
  const commit = commitOf();
  const faketime = findFaketime();
  const rounds = values.rounds === undefined ? undefined : positive(values.rounds, '--rounds');
  const hold = values.hold === undefined ? undefined : positive(values.hold, '--hold');
  const options = {
    seed,
    commit,
    minutes: values.minutes === undefined ? (rounds === undefined ? 1 : Infinity) : positive(values.minutes, '--minutes'),
    rounds: rounds ?? Infinity,
    holdMs: hold === undefined ? undefined : hold * 1000,
    nemeses: chosen(values.nemesis, '--nemesis', NEMESES),
    workloads: [...chosen(values.workload, '--workload', new Map(Object.keys(WORKLOADS).map((name) => [name, name])))],
    out,
    isolated,
    faketime,
    signal: stopSignal(),
    say,
  };
  emptyFolder(out);
  const where = isolated ? 'in network namespaces of their own' : 'ON LOOPBACK: no partitions, no disk faults';
  say(`seed ${seed}, commit ${commit}; five nodes ${where}`);
  if (faketime === undefined) say('LIBFAKETIME IS NOT INSTALLED: no faults of clocks (Debian: apt-get install libfaketime)');
  const report = await Run.execute(options);
  return tell(report, out, say);
}

/** What a run leaves. */
const OWN = /^(parts|logs|latency\.svg|table\.md|report\.json|[a-z]+\.jsonl)$/;

/** Of a run before this one; what else somebody keeps in a folder is not to be lost by a slip of the pen, as with `--out .`. */
function emptyFolder(path: string): void {
  const other = existsSync(path) ? readdirSync(path).find((name) => !OWN.test(name)) : undefined;
  if (other !== undefined) {
    throw new UsageError(`--out ${path} holds ${other}, which is of no run of this script; choose another folder`);
  }
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path, { recursive: true });
}

/** Names, separated by commas; all if none are given. */
function chosen<T>(list: string | undefined, option: string, all: ReadonlyMap<string, T>): T[] {
  if (list === undefined) return [...all.values()];
  return list.split(',').map((name) => {
    const found = all.get(name);
    if (found === undefined) throw new UsageError(`${option}: there is no '${name}'; expected ${[...all.keys()].join(', ')}`);
    return found;
  });
}

function positive(text: string, option: string): number {
  const number = Number(text);
  if (!(number > 0)) throw new UsageError(`${option} is '${text}', expected a number above 0`);
  return number;
}

/** Aborted when whoever started this asks for it, or is gone, or by a signal. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  process.once('message', stop);
  process.once('disconnect', stop);
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  return controller.signal;
}

function tell({ verdicts, surprises, windows, seconds }: Report, out: string, say: (line: string) => void): number {
  say(`\nok / fail / unknown operations, longest unavailability in ms\n`);
  say(`${readFileSync(join(out, 'table.md'), 'utf8')}`);
  say(`${windows.length} faults in ${Math.round(seconds)} s`);
  for (const [name, { verdict, findings, unknown }] of verdicts) {
    say(`${name}: ${verdict}`);
    for (const { title, details } of findings) for (const line of [title, ...details]) say(`  ${line}`);
    for (const why of unknown) say(`  unknown: ${why}`);
  }
  for (const surprise of surprises) say(`FAILED: ${surprise}`);
  const good = surprises.length === 0 && [...verdicts.values()].every(({ verdict }) => verdict === 'valid');
  return good ? EXIT.VALID : EXIT.FAILED;
}

try {
  process.exitCode = await main();
} catch (error) {
  const isUsage = error instanceof UsageError || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS') === true;
  console.error(isUsage ? `scripts/faults: ${(error as Error).message}\nSee scripts/faults --help` : error);
  process.exitCode = isUsage ? EXIT.USAGE : EXIT.FAILED;
} finally {
  if (process.connected) process.disconnect();
}
