import { Option, type Command } from 'commander';
import { TidemarkError } from '../../lib/errors.js';
import { UsageError } from '../exit.js';
import {
  duration,
  durationOrNone,
  integer,
  integers,
  share,
  withConnection,
  words,
  type ConnectionArguments,
} from '../arguments.js';
import { beginLifetime } from '../lifetime.js';
import { forEachInFlight } from '../in-flight.js';
import { showProgress } from '../progress.js';
import { jsonLine, table, write, type Terminal } from '../terminal.js';
import { clientDriver } from './client-driver.js';
import { benchKey, BENCH_PREFIX, benchValue, HOT_KEYS, hotKey, seededRandom, type Distribution } from './keys.js';
import { runLoad, type Driver, type Load, type RunOptions, type RunResult } from './run.js';
import { unaryDriver } from './unary-driver.js';

/** `tidemark bench`: every combination of driver, key distribution, load and operations in flight, one after the other. */
interface BenchArguments extends ConnectionArguments {
  readonly load: Load[];
  readonly inFlight: number[];
  readonly distribution: Distribution[];
  readonly driver: DriverName[];
  readonly keys: number;
  readonly valueBytes: number;
  readonly readShare: number;
  readonly versionsBack: number[];
  readonly rate?: number;
  readonly duration: number;
  readonly warmup: number;
  readonly connections: number;
  readonly seed: number;
  readonly fill: boolean;
}

type DriverName = 'client' | 'unary';
type Aged = NonNullable<RunOptions['back']>;

const LOADS = ['put', 'get', 'mixed', 'txn', 'txn-spread', 'write', 'write-spread', 'stream', 'as-of'] as const;
/** Those that only the client library can do. */
const LIBRARY_LOADS: readonly Load[] = ['txn', 'txn-spread', 'write', 'write-spread', 'stream', 'as-of'];
const BACK = [1, 10, 100, 1000];
const LOADS_SHOWN =
  'put, get, mixed, txn (reads and writes two keys of a bucket), txn-spread (of two), write, write-spread (the same ' +
  'without reading), stream, as-of';
const USUAL_LOADS = ['put', 'get', 'mixed'] as const;
const DISTRIBUTIONS = ['uniform', 'zipf'] as const;
const DRIVERS = ['client', 'unary'] as const;
const FILL_IN_FLIGHT = 512;
const STREAM_RATE = 2000;

export function addBench(program: Command, terminal: Terminal): void {
  const option = (flags: string, text: string, parse: (text: string) => unknown, value: unknown, shown?: string): Option =>
    new Option(flags, text).argParser(parse).default(value, shown);
  withConnection(program.command('bench'))
    .description(`measure throughput and latency; writes keys that begin with ${BENCH_PREFIX}`)
    .addOption(option('--load <list>', LOADS_SHOWN, words(LOADS), USUAL_LOADS, 'put,get,mixed'))
    .addOption(option('--in-flight <list>', 'operations at a time', integers(1, 100_000), [1, 64, 512], '1,64,512'))
    .addOption(option('--distribution <list>', 'of keys: uniform, zipf', words(DISTRIBUTIONS), DISTRIBUTIONS, 'uniform,zipf'))
    .addOption(option('--driver <list>', 'client library, unary gRPC', words(DRIVERS), DRIVERS, 'client,unary'))
    .addOption(option('--versions-back <list>', 'how old as-of reads are', integers(1, 1_000_000), BACK, BACK.join()))
    .addOption(option('--keys <n>', 'how many keys', integer(1, 100_000_000), 100_000))
    .addOption(option('--value-bytes <n>', 'size of each value', integer(0, 1 << 20), 256))
    .addOption(option('--read-share <share>', 'gets among the mixed load', share, 0.5))
    .addOption(new Option('--rate <n>', 'operations per second at most; 2000 for stream').argParser(integer(1, 1_000_000)))
    .addOption(option('--duration <duration>', 'measure each combination for', duration, 5000, '5s'))
    .addOption(option('--warmup <duration>', 'run each combination unmeasured for', durationOrNone, 1000, '1s'))
    .addOption(option('--connections <n>', 'connections to each endpoint (unary driver)', integer(1, 1000), 1))
    .addOption(option('--seed <n>', 'of the choice of keys', integer(0, 0xffff_ffff), 1))
    .option('--no-fill', 'do not write all keys before gets; misses are then measured too')
    .action((options: BenchArguments) => bench(options, terminal));
}

async function bench(options: BenchArguments, terminal: Terminal): Promise<void> {
  if (options.driver.includes('unary') && options.load.some((load) => LIBRARY_LOADS.includes(load))) {
    throw new UsageError(`--load ${LIBRARY_LOADS.join(', ')} need --driver client: they use the client library`);
  }
  const lifetime = beginLifetime();
  const drivers: Driver[] = [];
  try {
    for (const name of options.driver) drivers.push(await openDriver(name, options));
    const first = drivers[0];
    if (first !== undefined && options.fill && options.load.some((load) => load === 'get' || load === 'mixed')) {
      await fill(first, options, terminal, lifetime.signal);
    }
    const results = await runAll(drivers, options, terminal, lifetime.signal);
    if (!options.json && results.length > 0) await write(terminal.stdout, report(results));
    if (lifetime.signal.aborted) throw interrupted(results.filter(({ cutShort }) => cutShort !== true).length);
  } finally {
    for (const driver of drivers) await driver.close();
    lifetime.end();
  }
}

function interrupted(whole: number): TidemarkError {
  return new TidemarkError('CANCELLED', 'INTERRUPTED', `interrupted; ${whole} measurements are whole`);
}

async function openDriver(name: DriverName, options: BenchArguments): Promise<Driver> {
  return name === 'client' ? clientDriver(options) : unaryDriver(options, options.connections);
}

/** Writes every key once, so that gets find something. */
async function fill(driver: Driver, options: BenchArguments, terminal: Terminal, signal: AbortSignal): Promise<void> {
  const value = benchValue(options.valueBytes, seededRandom(options.seed));
  const progress = showProgress(terminal, { title: 'Filling', total: options.keys, unit: 'keys' });
  let done = 0;
  const numbers = Array.from({ length: options.keys }, (_, number) => number);
  await forEachInFlight(numbers, FILL_IN_FLIGHT, signal, async (number) => {
    await driver.put(benchKey(number), value);
    done += 1;
    progress.update(done);
  });
  progress.end();
}

/** Gives the hot keys as many versions as are asked for; answers, for each number of versions back, the moment of each key. */
async function age(driver: Driver, options: BenchArguments, terminal: Terminal, signal: AbortSignal): Promise<Aged[]> {
  const depth = Math.max(...options.versionsBack) + 1;
  const value = benchValue(options.valueBytes, seededRandom(options.seed));
  const progress = showProgress(terminal, { title: 'Writing versions', total: depth * HOT_KEYS, unit: 'puts' });
  const keys = Array.from({ length: HOT_KEYS }, (_, number) => number);
  let done = 0;
  const written = await Promise.all(
    keys.map(async (number) => {
      const versions: number[] = [];
      while (versions.length < depth && !signal.aborted) {
        versions.push((await driver.past?.put(hotKey(number), value)) ?? 0);
        progress.update((done += 1));
      }
      return versions;
    }),
  );
  progress.end();
  return options.versionsBack.map((versions) => ({ versions, moments: written.map((all) => all.at(-1 - versions) ?? 0) }));
}

async function runAll(
  drivers: readonly Driver[],
  options: BenchArguments,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<RunResult[]> {
  const [first] = drivers;
  const aged = first !== undefined && options.load.includes('as-of') ? await age(first, options, terminal, signal) : [];
  const runs = drivers.flatMap((driver) =>
    options.distribution.flatMap((distribution) =>
      options.load.flatMap((load) => {
        const backs = load === 'as-of' ? aged : [undefined];
        return options.inFlight.flatMap((inFlight) => backs.map((back) => ({ driver, distribution, load, inFlight, back })));
      }),
    ),
  );
  const eachMs = options.warmup + options.duration;
  const progress = showProgress(terminal, { title: 'Measuring', total: Math.ceil((runs.length * eachMs) / 1000), unit: 's' });
  const results: RunResult[] = [];
  for (const [at, { driver, ...run }] of runs.entries()) {
    if (signal.aborted) break;
    const result = await runLoad(driver, {
      ...run,
      keys: options.keys,
      valueBytes: options.valueBytes,
      readShare: options.readShare,
      rate: options.rate ?? (run.load === 'stream' ? STREAM_RATE : undefined),
      warmupMs: options.warmup,
      durationMs: options.duration,
      seed: options.seed + at,
      signal,
      passed: (ms) => progress.update(Math.floor((at * eachMs + Math.min(ms, eachMs)) / 1000)),
    } satisfies RunOptions);
    results.push(result);
    if (options.json) await write(terminal.stdout, jsonLine(result));
  }
  progress.end();
  return results;
}

const HEAD = ['driver', 'keys', 'load', 'in flight', 'ops/s', 'p50 ms', 'p99 ms', 'p999 ms', 'max ms', 'errors'];

export function report(results: readonly RunResult[]): string {
  const ms = (value: number): string => value.toFixed(2);
  const rows = results.map((result) => [
    result.driver,
    result.distribution,
    result.versionsBack === undefined ? result.load : `${result.load} ${result.versionsBack}`,
    String(result.inFlight),
    String(Math.round(result.throughput)),
    ms(result.all.p50Ms),
    ms(result.all.p99Ms),
    ms(result.all.p999Ms),
    ms(result.all.maxMs),
    String(result.errors),
  ]);
  const aborts = results.flatMap(({ driver, distribution, load, inFlight, abortRate }) =>
    abortRate === undefined
      ? []
      : [`${driver} ${load} at ${inFlight}, ${distribution}: ${(abortRate * 100).toFixed(1)} % of the attempts met a conflict\n`],
  );
  const lags = results.flatMap(({ driver, distribution, inFlight, lag }) =>
    lag === undefined
      ? []
      : [
          `${driver} stream at ${inFlight}, ${distribution}: changes ${ms(lag.p50Ms)} ms behind their acknowledgements at p50, ` +
            `${ms(lag.p99Ms)} ms at p99, ${ms(lag.maxMs)} ms at most\n`,
        ],
  );
  const cut = results.flatMap(({ driver, load, inFlight, distribution, seconds, cutShort }) =>
    cutShort === true ? [`${driver} ${load} at ${inFlight}, ${distribution}: cut short after ${seconds.toFixed(1)} s\n`] : [],
  );
  const failed = results.filter(({ errors }) => errors > 0);
  const lines = failed.map(
    ({ driver, load, inFlight, errorCodes, firstError }) =>
      `${driver} ${load} at ${inFlight}: ${JSON.stringify(errorCodes)}, the first: ${firstError ?? ''}\n`,
  );
  return [table(HEAD, rows), ...aborts, ...lags, ...cut, ...lines].join('');
}
