import type { Clock, Env, Fields, Timers } from '../../env/env.js';
import { Database, type DatabaseOptions } from '../../client/database.js';
import { isTidemarkError, messageOf } from '../../lib/errors.js';
import type { SimCluster } from '../cluster.js';
import type { SimClock } from '../clock.js';
import type { SimProcess } from '../process.js';
import type { SimRandom } from '../random.js';
import type { Strays } from './strays.js';
import type { Tape } from './tape.js';
import { Watch } from './watch.js';

export interface MachineOptions {
  /** How far its wall clock is ahead of true time; negative: behind. */
  readonly skewMs?: number;
  /** Milliseconds that its clocks advance in a true one; default 1. */
  readonly rate?: number;
}

export type ConnectOptions = Omit<DatabaseOptions, 'endpoints'>;

/** What machines need of their world. */
export interface MachineHost {
  readonly cluster: SimCluster;
  readonly strays: Strays;
  readonly tape: Tape;
}

/**
 * A machine beside the cluster with one process on it, in which a part of the user's program runs: as much of it as waits for
 * nothing but this machine. A crash ends it between any two steps that await, and nothing of it goes on.
 */
export class Machine {
  readonly name: string;
  /** May be skewed, as clocks are. */
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: SimRandom;
  /** @internal */
  readonly watch: Watch;
  readonly #host: MachineHost;
  readonly #process: SimProcess;
  readonly #env: Env;

  /** @internal */
  constructor(host: MachineHost, name: string, { skewMs = 0, rate = 1 }: MachineOptions) {
    const { cluster, strays, tape } = host;
    const clock = cluster.loop.clock({ rate });
    clock.jumpWall(skewMs);
    const { process, env } = cluster.machine(name, clock);
    this.name = name;
    this.watch = new Watch(
      (what) => strays.insist(what),
      (what, error) => env.log.info(`${what} failed`, factsOf(error)),
    );
    this.clock = insistentClock(clock, strays);
    this.timers = watchedTimers(env.timers, this.watch, strays);
    this.random = insistentRandom(cluster.loop.random.fork(`${name}/program`), strays);
    this.#host = host;
    this.#process = process;
    this.#env = { ...env, network: tape.over(env.network, name) };
  }

  get alive(): boolean {
    return this.#process.alive;
  }

  /** A client of the cluster in this process, once a node has answered. To be shared, as in a real process. */
  async connect(options: ConnectOptions = {}): Promise<Database> {
    this.#host.strays.insist(`connect() on ${this.name}`);
    const { cluster } = this.#host;
    const limits = { ...cluster.limits, ...options.limits };
    const database = new Database(this.#env, { ...options, limits, endpoints: cluster.endpoints });
    try {
      await this.watch.promise(database.ready({ timeoutMs: options.timeoutMs }));
    } catch (error) {
      await database.close();
      throw error;
    }
    return this.watch.over(database, 'db');
  }

  /** By the monotonic clock of this machine. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.timers.after(ms, resolve);
    });
  }

  /** Its process ends without a word, and with it all that waits for it. */
  crash(): void {
    this.#host.strays.insist(`crash() of ${this.name}`);
    this.end();
    this.#host.cluster.log.logger({ process: this.name }).info('crashed');
  }

  /** @internal */
  end(): void {
    this.#process.kill();
    this.#host.cluster.network.kill(this.name);
    this.watch.forget();
  }

  /** As by SIGSTOP: nothing happens in it until `resume`; its clocks go on. */
  pause(): void {
    this.#host.strays.insist(`pause() of ${this.name}`);
    this.#process.pause();
  }

  resume(): void {
    this.#host.strays.insist(`resume() of ${this.name}`);
    this.#process.resume();
  }
}

function factsOf(error: unknown): Fields {
  if (!isTidemarkError(error)) return { error: messageOf(error) };
  const { code, reason, outcome, message } = error;
  return { code, reason, outcome, error: message };
}

function insistentClock(clock: SimClock, strays: Strays): Clock {
  return {
    wallMs: () => {
      strays.insist('clock.wallMs()');
      return clock.wallMs();
    },
    monotonicMs: () => {
      strays.insist('clock.monotonicMs()');
      return clock.monotonicMs();
    },
  };
}

export function watchedTimers(timers: Timers, watch: Watch, strays: Pick<Strays, 'insist'>): Timers {
  return {
    after: (delayMs, callback) => {
      strays.insist('timers.after()');
      const end = watch.begin();
      const timer = timers.after(delayMs, () => {
        end();
        callback();
      });
      return {
        cancel: () => {
          end();
          timer.cancel();
        },
      };
    },
    turnEnd: (callback) => {
      strays.insist('timers.turnEnd()');
      timers.turnEnd(callback);
    },
  };
}

/** Drawn from by code that no seed determines, it would shift the luck of all that comes later. */
export function insistentRandom(random: SimRandom, strays: Pick<Strays, 'insist'>): SimRandom {
  const draw = random.uint32.bind(random);
  random.uint32 = () => {
    strays.insist('random');
    return draw();
  };
  return random;
}

/** For error messages: how a machine or node is called on the network. */
export function networkName(who: number | string | Machine, cluster: SimCluster): string {
  if (typeof who === 'string') return who;
  if (typeof who !== 'number') return who.name;
  if (!cluster.ids.includes(who)) throw new RangeError(`there is no node ${who}; the nodes are ${cluster.ids.join(', ')}`);
  return `n${who}`;
}
