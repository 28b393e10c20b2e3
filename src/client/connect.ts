import type { Counter, Gauge, Histogram, Logger, Metrics } from '../env/env.js';
import { systemClock } from '../env/real/clock.js';
import { createNetwork, type TlsFiles } from '../env/real/network.js';
import { systemRandom } from '../env/real/random.js';
import { systemTimers } from '../env/real/timers.js';
import { DEFAULT_LIMITS } from '../env/limits.js';
import { Database, type DatabaseOptions } from './database.js';

/**
 * Where a program of somebody else enters, and therefore the one place outside cli and sim that builds a world: the real one,
 * without a disk, silent unless a logger is handed in.
 */
export interface ConnectOptions extends DatabaseOptions {
  /** PEM contents for clusters with mutual TLS. */
  readonly tls?: TlsFiles | undefined;
  readonly log?: Logger | undefined;
  readonly metrics?: Metrics | undefined;
}

/** Resolves when one of the endpoints has answered; rejects with UNAVAILABLE, saying why, if none does in time. */
export async function connect(options: ConnectOptions): Promise<Database> {
  const { tls, log = SILENT, metrics = UNMEASURED, limits, timeoutMs } = options;
  const clock = systemClock();
  const network = createNetwork({ clock, tls, limits: { ...DEFAULT_LIMITS, ...limits }, onBug: crash });
  const env = { clock, timers: systemTimers(), random: systemRandom(), network, log, metrics };
  const database = new Database(env, options);
  try {
    await database.ready({ timeoutMs });
  } catch (error) {
    await database.close();
    throw error;
  }
  return database;
}

/** An error that is no TidemarkError is a bug: nothing here may swallow it. */
function crash(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

const SILENT: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => SILENT,
};

const UNMEASURED: Metrics = {
  counter: (): Counter => ({ add: () => {} }),
  gauge: (): Gauge => ({ set: () => {} }),
  histogram: (): Histogram => ({ observe: () => {} }),
};
