import { setTimeout as sleep } from 'node:timers/promises';
import { build, type Histogram } from 'hdr-histogram-js';
import { isTidemarkError, messageOf } from '../../lib/errors.js';
import type { Bytes } from '../../lib/bytes.js';
import { LagMeter, type Following } from './lag.js';
import type { Timestamp } from '../../mvcc/timestamp.js';
import { benchKey, benchValue, HOT_KEYS, hotKey, keyPicker, seededRandom, txnKeys, type Distribution } from './keys.js';

/** One way to reach the cluster. Rejects when an operation fails. */
export interface Driver {
  readonly name: string;
  get(key: Bytes): Promise<unknown>;
  put(key: Bytes, value: Bytes): Promise<unknown>;
  /** Versions of a key, and what it held at a moment. Not every driver can. */
  readonly past?: {
    put(key: Bytes, value: Bytes): Promise<Timestamp>;
    get(key: Bytes, timestamp: Timestamp): Promise<unknown>;
  };
  /** Reads and writes all these keys in one transaction; answers how many attempts it took. Not every driver can. */
  transact?(keys: readonly Bytes[], value: Bytes): Promise<number>;
  /** Puts all these keys in one Write, without reading anything. Not every driver can. */
  write?(keys: readonly Bytes[], value: Bytes): Promise<unknown>;
  /** Hands over the values of all puts from now on, as a change stream tells them. Not every driver can. */
  follow?(told: (value: Bytes) => void): Promise<Following>;
  close(): Promise<void>;
}

/**
 * `txn`: transactions that read and write two keys of one bucket each; the fewer keys, the more contention. `txn-spread`: of two.
 * `write`, `write-spread`: the same two keys in one Write that reads nothing.
 * `stream`: puts, whose changes are followed. `as-of`: gets of a few keys as they were so many versions ago.
 */
export type Load = 'put' | 'get' | 'mixed' | 'txn' | 'txn-spread' | 'write' | 'write-spread' | 'stream' | 'as-of';

export interface RunOptions {
  readonly load: Load;
  /** Operations under way at any time: so many workers, each of which waits for its answer before it asks again. */
  readonly inFlight: number;
  readonly distribution: Distribution;
  /** Of `as-of`: how many versions ago, and of each hot key the moment then. */
  readonly back?: { readonly versions: number; readonly moments: readonly Timestamp[] } | undefined;
  readonly keys: number;
  readonly valueBytes: number;
  /** Share of gets in a mixed load, 0 to 1. */
  readonly readShare: number;
  /** Operations per second at most, as evenly as they can be; left out: as many as there are. */
  readonly rate?: number | undefined;
  readonly warmupMs: number;
  readonly durationMs: number;
  /** How long the changes of the last puts are waited for. */
  readonly lagPatienceMs?: number;
  readonly seed: number;
  /** Stops early. */
  readonly signal: AbortSignal;
  /** Called about ten times a second with the milliseconds that have passed, warm-up included. */
  readonly passed?: (ms: number) => void;
}

export interface Latency {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

export interface RunResult {
  readonly driver: string;
  readonly load: Load;
  readonly inFlight: number;
  readonly distribution: Distribution;
  readonly versionsBack?: number;
  /** How long was measured. */
  readonly seconds: number;
  /** It was interrupted before its time was over. */
  readonly cutShort?: true;
  /** Successful operations per second. */
  readonly throughput: number;
  readonly all: Latency;
  readonly get?: Latency;
  readonly put?: Latency;
  readonly txn?: Latency;
  /** How far the change stream was behind, from the acknowledgement of each put to its change; see lag.ts. */
  readonly lag?: Latency;
  /** Of all attempts of transactions, the share that met a conflict. */
  readonly abortRate?: number;
  readonly errors: number;
  /** How often each error came, by its code. */
  readonly errorCodes: Readonly<Record<string, number>>;
  /** The message of the first error. */
  readonly firstError?: string;
}

/** Under which name it is reported. */
const SORT = {
  put: 'put',
  stream: 'put',
  write: 'put',
  'write-spread': 'put',
  get: 'get',
  'as-of': 'get',
  txn: 'txn',
  'txn-spread': 'txn',
} as const;
/** A worker whose operation failed waits so long, so that refusals at once do not become a load of their own. */
const PAUSE_AFTER_ERROR_MS = 10;
const TICK_MS = 100;
const LAG_PATIENCE_MS = 10_000;
/** Latencies are recorded in microseconds with three digits, up to ten minutes. */
const HISTOGRAM = { lowestDiscernibleValue: 1, highestTrackableValue: 600_000_000, numberOfSignificantValueDigits: 3 } as const;

/**
 * Drives one load and measures it. An operation counts if it began and ended in the measured window; those of the warm-up and
 * those still under way at the end do not. Latency is taken from the call to its answer in this process.
 */
export async function runLoad(driver: Driver, options: RunOptions): Promise<RunResult> {
  const histograms = { get: build(HISTOGRAM), put: build(HISTOGRAM), txn: build(HISTOGRAM) };
  const lag = build(HISTOGRAM);
  let attempts = 0;
  const errorCodes = new Map<string, number>();
  let firstError: string | undefined;
  const noteError = (code: string, message: string, count = 1): void => {
    errorCodes.set(code, (errorCodes.get(code) ?? 0) + count);
    firstError ??= message;
  };
  const meter = new LagMeter(lag, options.seed, (atMs) => atMs >= measureFromMs && atMs <= untilMs);
  const following = options.load === 'stream' ? await follow(driver, meter) : undefined;
  const startedMs = performance.now();
  let slots = 0;
  const measureFromMs = startedMs + options.warmupMs;
  const untilMs = measureFromMs + options.durationMs;
  let lastEndMs = measureFromMs;

  const worker = async (name: number): Promise<void> => {
    const random = seededRandom(options.seed * 7919 + name);
    const value = benchValue(options.valueBytes, random);
    for (;;) {
      if (options.rate !== undefined) await sleepUntil(startedMs + (slots++ * 1000) / options.rate, untilMs);
      const beganMs = performance.now();
      if (beganMs >= untilMs || options.signal.aborted) return;
      const kind = options.load === 'mixed' ? (random() < options.readShare ? 'get' : 'put') : options.load;
      const number = pick();
      try {
        const isTxn = kind === 'txn' || kind === 'txn-spread';
        const two = (): Bytes[] => txnKeys([number, pick()], kind.endsWith('-spread'));
        const tries = isTxn ? await transact(driver, two(), value) : 0;
        if (kind === 'write' || kind === 'write-spread') await writeTwo(driver, two(), value);
        else if (kind === 'as-of') await driver.past?.get(hotKey(number), options.back?.moments[number % HOT_KEYS] ?? 0);
        else if (kind === 'get') await driver.get(benchKey(number));
        else if (kind === 'put') await driver.put(benchKey(number), value);
        else if (kind === 'stream') await putFollowed(driver, meter, benchKey(number), value);
        const endedMs = performance.now();
        if (beganMs >= measureFromMs && endedMs <= untilMs) {
          attempts += tries;
          histograms[SORT[kind]].recordValue(Math.max(1, Math.round((endedMs - beganMs) * 1000)));
          lastEndMs = endedMs;
        }
      } catch (error) {
        if (performance.now() >= measureFromMs) {
          noteError(isTidemarkError(error) ? error.code : 'UNKNOWN', messageOf(error));
        }
        await sleep(PAUSE_AFTER_ERROR_MS);
      }
    }
  };

  const pick = keyPicker(options.distribution, options.keys, seededRandom(options.seed));
  const ticker = setInterval(() => options.passed?.(performance.now() - startedMs), TICK_MS);
  try {
    await Promise.all(Array.from({ length: options.inFlight }, (_, number) => worker(number + 1)));
  } finally {
    clearInterval(ticker);
    const untold = following === undefined ? 0 : await meter.untold(options.lagPatienceMs ?? LAG_PATIENCE_MS, options.signal);
    if (untold > 0) noteError('UNTOLD', `the change stream did not tell ${untold} puts that were acknowledged`, untold);
    await following?.stop();
  }
  const seconds = (options.signal.aborted ? lastEndMs - measureFromMs : options.durationMs) / 1000;
  const both = build(HISTOGRAM);
  both.add(histograms.get);
  both.add(histograms.put);
  both.add(histograms.txn);
  const committed = histograms.txn.totalCount;
  return {
    driver: driver.name,
    load: options.load,
    inFlight: options.inFlight,
    distribution: options.distribution,
    ...(options.back === undefined ? {} : { versionsBack: options.back.versions }),
    seconds,
    ...(options.signal.aborted ? { cutShort: true } : {}),
    throughput: seconds > 0 ? both.totalCount / seconds : 0,
    all: latencyOf(both),
    ...(histograms.get.totalCount > 0 ? { get: latencyOf(histograms.get) } : {}),
    ...(histograms.put.totalCount > 0 ? { put: latencyOf(histograms.put) } : {}),
    ...(committed > 0 ? { txn: latencyOf(histograms.txn), abortRate: 1 - committed / attempts } : {}),
    ...(following === undefined ? {} : { lag: latencyOf(lag) }),
    errors: [...errorCodes.values()].reduce((sum, count) => sum + count, 0),
    errorCodes: Object.fromEntries(errorCodes),
    ...(firstError === undefined ? {} : { firstError }),
  };
}

async function follow(driver: Driver, meter: LagMeter): Promise<Following> {
  if (driver.follow === undefined) throw new Error(`the driver ${driver.name} has no change streams`);
  return driver.follow((value) => meter.told(value));
}

async function putFollowed(driver: Driver, meter: LagMeter, key: Bytes, filling: Bytes): Promise<void> {
  const put = meter.next(filling);
  try {
    await driver.put(key, put.value);
    put.acknowledged();
  } catch (error) {
    put.failed();
    throw error;
  }
}

async function sleepUntil(dueMs: number, untilMs: number): Promise<void> {
  const waitMs = Math.min(dueMs, untilMs) - performance.now();
  if (waitMs > 0) await sleep(waitMs);
}

function transact(driver: Driver, keys: readonly Bytes[], value: Bytes): Promise<number> {
  if (driver.transact === undefined) throw new Error(`the driver ${driver.name} has no transactions`);
  return driver.transact(keys, value);
}

function writeTwo(driver: Driver, keys: readonly Bytes[], value: Bytes): Promise<unknown> {
  if (driver.write === undefined) throw new Error(`the driver ${driver.name} has no Writes of several keys`);
  return driver.write(keys, value);
}

function latencyOf(histogram: Histogram): Latency {
  const maxMs = histogram.totalCount > 0 ? histogram.maxValue / 1000 : 0;
  // A percentile is the upper edge of its bin, which may lie above the highest value in it.
  const at = (percentile: number): number => Math.min(maxMs, histogram.getValueAtPercentile(percentile) / 1000);
  return { count: histogram.totalCount, p50Ms: at(50), p99Ms: at(99), p999Ms: at(99.9), maxMs };
}
