import cryptoModule from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import timersModule from 'node:timers';
import promisesModule from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Surroundings } from '../loop.js';
import type { SimRandom } from '../random.js';
import type { Timer } from '../../env/env.js';

/**
 * Code under test asks Node for the time, for timers and for random numbers, as code does. While a simulated world runs its
 * code it gets those of the world; everything else in the process goes on with the real ones.
 *
 * Which code that is needs no bookkeeping: a world runs its code between `enter` and `leave` of its loop, and nothing else of
 * the process runs in between. What runs outside has come back from the real world, such as a socket or a file, at a moment
 * that no seed determines: `insist` refuses it.
 *
 * Not replaced: files, sockets, processes, workers, and whatever takes time or randomness from them.
 */
export interface Ambient {
  /** Since 1970. */
  wallMs(): number;
  nowMs(): number;
  after(delayMs: number, callback: () => void): Timer;
  readonly random: SimRandom;
}

/** The world whose code runs at this moment. */
let inside: Ambient | undefined;
/** How many worlds there are. */
let worlds = 0;
let restore: (() => void) | undefined;

export class Strays implements Surroundings {
  readonly #ambient: Ambient;
  #ended = false;

  constructor(ambient: Ambient) {
    this.#ambient = ambient;
    worlds += 1;
    if (worlds === 1) restore = replaceGlobals();
  }

  enter(): void {
    if (!this.#ended) inside = this.#ambient;
  }

  leave(): void {
    if (inside === this.#ambient) inside = undefined;
  }

  /** The world is over; whoever still asks gets the real one. */
  end(): void {
    this.#ended = true;
    this.leave();
    worlds -= 1;
    if (worlds > 0) return;
    restore?.();
    restore = undefined;
  }

  /** Throws unless this world runs. */
  insist(what: string): void {
    if (inside === this.#ambient) return;
    if (this.#ended) throw new StrayError(`${what}: this simulated world has ended`);
    throw new StrayError(
      `${what} was called from outside of the simulated world: before it the code waited for something real (a file, a socket, ` +
        'another process, an import()), which no seed can repeat. Do that before the simulation, or hand in what answers at once',
    );
  }
}

export class StrayError extends Error {
  override readonly name = 'StrayError';
}

/** What a simulated setTimeout gives. */
class Handle implements Disposable {
  readonly #ambient: Ambient;
  readonly #delayMs: number;
  readonly #callback: () => void;
  readonly #repeat: boolean;
  #timer: Timer | undefined;

  constructor(ambient: Ambient, delayMs: number, callback: () => void, repeat: boolean) {
    this.#ambient = ambient;
    // As Node has it: at least a millisecond, and what cannot be counted is one.
    this.#delayMs = delayMs >= 1 && delayMs < 2 ** 31 ? delayMs : 1;
    this.#callback = callback;
    this.#repeat = repeat;
    this.refresh();
  }

  refresh(): this {
    this.close();
    this.#timer = this.#ambient.after(this.#delayMs, () => {
      if (this.#repeat) this.refresh();
      else this.#timer = undefined;
      this.#callback();
    });
    return this;
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  hasRef(): boolean {
    return true;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

type Callback = (...args: unknown[]) => void;

/** Puts doors between the two worlds where code looks for time and chance. Answers with how to take them away. */
function replaceGlobals(): () => void {
  const undo: (() => void)[] = [];
  const replace = (owner: object, name: string, value: unknown): void => {
    const before = Object.getOwnPropertyDescriptor(owner, name);
    Object.defineProperty(owner, name, { value, configurable: true, writable: true, enumerable: before?.enumerable ?? true });
    undo.push(() => {
      if (before === undefined) Reflect.deleteProperty(owner, name);
      else Object.defineProperty(owner, name, before);
    });
  };
  const { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate, Date: RealDate } = globalThis;

  const starter = (real: (...args: never[]) => unknown, repeat: boolean) => {
    return (callback: Callback, delayMs = 1, ...args: unknown[]): unknown => {
      if (inside === undefined) return (real as Callback)(callback, delayMs, ...args);
      return new Handle(inside, Number(delayMs), () => callback(...args), repeat);
    };
  };
  const stopper = (real: (handle: never) => void) => {
    return (handle: unknown): void => {
      if (handle instanceof Handle) handle.close();
      else (real as (handle: unknown) => void)(handle);
    };
  };
  const { setTimeout: laterReally } = promisesModule;
  const timeoutOf = (delayMs = 1, value?: unknown, options?: { readonly signal?: AbortSignal }): Promise<unknown> =>
    inside === undefined ? laterReally(delayMs, value, options) : timeoutIn(inside, delayMs, value, options?.signal);
  const timeout = Object.assign(starter(setTimeout, false), { [promisify.custom]: timeoutOf });
  const interval = starter(setInterval, true);
  const immediate = (callback: Callback, ...args: unknown[]): unknown =>
    inside === undefined ? setImmediate(callback, ...args) : inside.after(0, () => callback(...args));
  const notImmediate = (handle: unknown): void => {
    if (typeof handle === 'object' && handle !== null && 'cancel' in handle) (handle as Timer).cancel();
    else clearImmediate(handle as NodeJS.Immediate);
  };
  for (const owner of [globalThis, timersModule]) {
    replace(owner, 'setTimeout', timeout);
    replace(owner, 'setInterval', interval);
    replace(owner, 'setImmediate', immediate);
    replace(owner, 'clearTimeout', stopper(clearTimeout));
    replace(owner, 'clearInterval', stopper(clearInterval));
    replace(owner, 'clearImmediate', notImmediate);
  }
  replace(promisesModule, 'setTimeout', timeoutOf);

  const abortLater = AbortSignal.timeout.bind(AbortSignal);
  replace(AbortSignal, 'timeout', (delayMs: number) => {
    if (inside === undefined) return abortLater(delayMs);
    const controller = new AbortController();
    const reason = new DOMException('The operation was aborted due to timeout', 'TimeoutError');
    new Handle(inside, delayMs, () => controller.abort(reason), false);
    return controller.signal;
  });

  const dateNow = (): number => (inside === undefined ? RealDate.now() : Math.floor(inside.wallMs()));
  const date = new Proxy(RealDate, {
    get: (target, name, receiver) => (name === 'now' ? dateNow : (Reflect.get(target, name, receiver) as unknown)),
    apply: () => new RealDate(dateNow()).toString(),
    construct: (target, args, self) => Reflect.construct(target, args.length === 0 ? [dateNow()] : args, self) as object,
  });
  replace(globalThis, 'Date', date);
  const performanceNow = performance.now.bind(performance);
  replace(performance, 'now', () => inside?.nowMs() ?? performanceNow());
  const random = Math.random;
  replace(Math, 'random', () => inside?.random.float() ?? random());
  const randomUuid = cryptoModule.randomUUID;
  const uuid = (options?: cryptoModule.RandomUUIDOptions): string =>
    inside === undefined ? randomUuid(options) : uuidOf(inside.random);
  replace(cryptoModule, 'randomUUID', uuid);
  replace(globalThis.crypto, 'randomUUID', uuid);
  // Named imports of these modules follow.
  syncBuiltinESMExports();
  return () => {
    for (const step of undo.reverse()) step();
    syncBuiltinESMExports();
  };
}

function timeoutIn(ambient: Ambient, delayMs: number, value: unknown, signal: AbortSignal | undefined): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const aborted = (): void => {
      handle.close();
      reject(new DOMException('The operation was aborted', 'AbortError'));
    };
    const handle = new Handle(ambient, delayMs, () => {
      signal?.removeEventListener('abort', aborted);
      resolve(value);
    }, false);
    if (signal?.aborted === true) aborted();
    else signal?.addEventListener('abort', aborted, { once: true });
  });
}

function uuidOf(random: SimRandom): string {
  const bytes = Buffer.alloc(16);
  for (let at = 0; at < 16; at += 4) bytes.writeUInt32BE(random.uint32(), at);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
