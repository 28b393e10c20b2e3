import type { Consistency, Timestamp } from '../../bucket/requests.js';
import { EMPTY } from '../../lib/bytes.js';
import { isTidemarkError, messageOf, TidemarkError } from '../../lib/errors.js';
import { earlier } from '../../mvcc/timestamp.js';
import type { Router } from '../../router/router.js';
import type { SimLoop } from '../loop.js';
import type { SimRandom } from '../random.js';
import { answered } from './patience.js';
import { BEYOND_KEYS } from './plan.js';
import { foundOf, type Found, type Proof, type Recorder, type VersionSeen } from './record.js';

/**
 * Clients that pin moments, read as of them long after, and let them go, where history is short.
 *
 * From the answer that a moment is pinned until somebody asks to remove the pin, every read as of it finds the truth, by key, by
 * scan in pages that are taken slowly, and by history, on whichever replica; never that history is gone. What the reads find is
 * recorded for the checker like all others. And every list of pins shows it, complete and not lost.
 */
export interface PinnersOptions {
  readonly loop: SimLoop;
  readonly random: SimRandom;
  readonly count: number;
  readonly keys: readonly string[];
  readonly routers: readonly Router[];
  readonly recorder: Recorder;
  /** The routers of the nodes that run at present. */
  gateways(): readonly Router[];
  /** What clients may be told when nothing is wrong but what the faults broke. */
  readonly excuses: (error: TidemarkError) => boolean;
}

interface Held {
  readonly name: string;
  readonly timestamp: Timestamp;
  /** Somebody has asked to remove it. */
  released: boolean;
}

const WORK = ['pin', 'get', 'scan', 'history', 'list', 'unpin'] as const;
const HELD_MAX = 3;
const THINK_MS = 150;
/** Between two pages, now and then. */
const PAGE_MS = 120;
const BACK_MS = 600;
const TIMEOUT_MS = 3000;

export class Pinners {
  readonly #options: PinnersOptions;
  readonly #random: SimRandom;
  readonly #held: Held[] = [];
  readonly #running: Promise<void>[] = [];
  #names = 0;
  #reads = 0;
  #stopped = false;

  constructor(options: PinnersOptions) {
    this.#options = options;
    this.#random = options.random;
  }

  /** How many moments were pinned, and read. */
  get counts(): [what: string, count: number][] {
    return this.#options.count === 0 ? [] : [['pins', this.#names], ['pinnedReads', this.#reads]];
  }

  start(): void {
    for (let at = 0; at < this.#options.count; at += 1) this.#running.push(this.#work());
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  async #work(): Promise<void> {
    while (!this.#stopped) {
      await this.#sleep(2 * THINK_MS * this.#random.float());
      await this.#guarded(this.#held.length === 0 ? 'pin' : this.#random.pick(WORK));
    }
  }

  async #guarded(what: string): Promise<void> {
    const { recorder, excuses } = this.#options;
    try {
      await this.#do(what);
    } catch (error) {
      if (isTidemarkError(error) && (excuses(error) || (what === 'pin' && error.code === 'OUT_OF_RANGE'))) return;
      recorder.broken.push(`${what} of pins: ${messageOf(error)}`);
    }
  }

  #do(what: string): Promise<void> {
    switch (what) {
      case 'pin':
        return this.#held.length < HELD_MAX ? this.#pin() : this.#unpin();
      case 'unpin':
        return this.#unpin();
      case 'list':
        return this.#list();
      default:
        return this.#read(what);
    }
  }

  async #pin(): Promise<void> {
    this.#names += 1;
    const name = `p${this.#names}`;
    const router = this.#router();
    const timestamp = earlier(router.now(), BACK_MS * this.#random.float());
    const { pins } = await this.#answered(router.pins({ kind: 'add', name, timestamp, expires: 0 }, { timeoutMs: TIMEOUT_MS }));
    const held = { name, timestamp, released: false };
    this.#expectHeld([held], pins);
    this.#held.push(held);
  }

  async #unpin(): Promise<void> {
    const held = this.#random.pick(this.#held);
    held.released = true;
    this.#held.splice(this.#held.indexOf(held), 1);
    await this.#answered(this.#router().pins({ kind: 'remove', name: held.name }, { timeoutMs: TIMEOUT_MS }));
  }

  async #list(): Promise<void> {
    const before = [...this.#held];
    const { pins } = await this.#answered(this.#router().pins({ kind: 'list' }, { timeoutMs: TIMEOUT_MS }));
    this.#expectHeld(before, pins);
  }

  #expectHeld(
    expected: readonly Held[],
    pins: readonly { name: string; timestamp: Timestamp; lost: boolean; complete: boolean }[],
  ): void {
    for (const { name, timestamp, released } of expected) {
      const seen = pins.find((pin) => pin.name === name);
      if (released || (seen?.timestamp === timestamp && !seen.lost && seen.complete)) continue;
      this.#options.recorder.broken.push(`pin ${name} at ${timestamp} is listed as ${JSON.stringify(seen)}`);
    }
  }

  async #read(how: string): Promise<void> {
    const held = this.#random.pick(this.#held);
    const asked = { kind: 'asOf', timestamp: held.timestamp } as const;
    try {
      if (how === 'get') await this.#get(asked);
      else if (how === 'scan') await this.#scan(asked);
      else await this.#history(asked);
      this.#reads += 1;
    } catch (error) {
      if (isTidemarkError(error) && error.reason === 'BEFORE_HORIZON' && held.released) return;
      throw error;
    }
  }

  async #get(asked: Consistency): Promise<void> {
    const { recorder } = this.#options;
    const key = this.#random.pick(this.#options.keys);
    const span = recorder.begin('pinner');
    const reply = this.#router().get(Buffer.from(key), { consistency: asked, timeoutMs: TIMEOUT_MS });
    const { record, served } = await this.#answered(reply);
    recorder.end(span);
    recorder.reads.push({ ...span, kind: 'get', key, asked, found: record && foundOf(record), proof: served });
  }

  async #scan(asked: Consistency): Promise<void> {
    const { recorder } = this.#options;
    const reverse = this.#random.chance(0.3);
    const span = recorder.begin('pinner');
    const proofs: Proof[] = [];
    const found: Found[] = [];
    const range = { start: EMPTY, end: Buffer.from(BEYOND_KEYS) };
    const router = this.#router();
    for await (const { records, served } of this.#slowly(router, router.scan(range, { consistency: asked, reverse }))) {
      proofs.push(served);
      for (const record of records) found.push(foundOf(record));
    }
    recorder.end(span);
    recorder.reads.push({ ...span, kind: 'scan', start: '', end: BEYOND_KEYS, reverse, limit: 0, asked, proofs, found });
  }

  async #history(asked: Extract<Consistency, { kind: 'asOf' }>): Promise<void> {
    const { recorder } = this.#options;
    const key = this.#random.pick(this.#options.keys);
    const span = recorder.begin('pinner');
    const shown: VersionSeen[] = [];
    let proof: Proof | undefined;
    const router = this.#router();
    for await (const { versions, served } of this.#slowly(router, router.history(Buffer.from(key), { consistency: asked }))) {
      proof ??= served;
      for (const { value, ...version } of versions) shown.push({ ...version, value: value.toString() });
    }
    recorder.end(span);
    if (proof !== undefined) recorder.reads.push({ ...span, kind: 'history', key, asked, proof, versions: shown });
  }

  /** Page after page, with pauses. A node that has died meanwhile would read on, here, in its grave. */
  async *#slowly<T>(router: Router, pages: AsyncGenerator<T>): AsyncGenerator<T> {
    for (;;) {
      const page = await this.#answered(pages.next());
      if (page.done === true) return;
      yield page.value;
      if (this.#random.chance(0.3)) await this.#sleep(PAGE_MS * this.#random.float());
      if (this.#stopped || !(this.#options.routers.includes(router) || this.#options.gateways().includes(router))) {
        throw new TidemarkError('UNAVAILABLE', 'GONE', 'the node that was asked is not there any more');
      }
    }
  }

  #answered<T>(reply: Promise<T>): Promise<T> {
    return answered(this.#options.loop, TIMEOUT_MS, reply);
  }

  #router(): Router {
    const gateways = this.#random.chance(0.5) ? this.#options.gateways() : [];
    return this.#random.pick(gateways.length > 0 ? gateways : this.#options.routers);
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.loop.timers.after(ms, resolve);
    });
  }
}
