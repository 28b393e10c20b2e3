import type { Env } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { systemClock } from '../env/real/clock.js';
import { createLogger, type LogLevel } from '../env/real/log.js';
import { createMetrics, type PromMetrics } from '../env/real/metrics.js';
import { createNetwork, type TlsFiles } from '../env/real/network.js';
import { systemRandom } from '../env/real/random.js';
import { systemTimers } from '../env/real/timers.js';
import type { Fields } from '../env/telemetry.js';

/** The real world for one process, put together here and nowhere else (but for the client library's `connect`). */
export interface WorldOptions {
  readonly limits: Limits;
  readonly tls: TlsFiles | undefined;
  readonly logLevel: LogLevel;
  /** On every line of the log. */
  readonly fields: Fields;
  readonly onBug: (error: unknown) => void;
}

/** Everything but a disk. */
export interface World {
  readonly env: Omit<Env, 'disk' | 'metrics'> & { readonly metrics: PromMetrics };
  close(): void;
}

export function buildWorld({ limits, tls, logLevel, fields, onBug }: WorldOptions): World {
  const clock = systemClock();
  const metrics = createMetrics();
  const env = {
    clock,
    timers: systemTimers(),
    random: systemRandom(),
    network: createNetwork({ clock, limits, tls, onBug }),
    log: createLogger({ level: logLevel, fields }),
    metrics,
  };
  return { env, close: () => metrics.close() };
}

