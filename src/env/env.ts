import type { Clock, Random, Timers } from './time.js';
import type { Disk } from './disk.js';
import type { Logger, Metrics } from './telemetry.js';
import type { Network } from './network.js';

/**
 * Everything that a process of Tidemark may ask of the world. All time, randomness, disk and network come through here, so
 * that the same code runs on a real machine (env/real) and, replayable from a seed, in the simulator (sim).
 *
 * Nothing outside env/real and sim touches Date, performance, Math.random, setTimeout, setImmediate, fs, sockets, process
 * or console. Only cli and sim build an Env.
 */
export interface Env {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly disk: Disk;
  readonly network: Network;
  readonly log: Logger;
  readonly metrics: Metrics;
}

export type { Clock, Random, Timer, Timers } from './time.js';
export type { Batch, Disk, Page, PageOptions, Store, StoreOptions } from './disk.js';
export type { Fields, Logger, Metrics, Counter, Gauge, Histogram } from './telemetry.js';
export type * from './network.js';
