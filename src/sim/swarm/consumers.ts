import type { KeyRange, Timestamp } from '../../bucket/requests.js';
import { EMPTY } from '../../lib/bytes.js';
import { isTidemarkError, messageOf, type TidemarkError } from '../../lib/errors.js';
import { keyAfter, prefixEnd } from '../../lib/ordered.js';
import { earlier } from '../../mvcc/timestamp.js';
import type { StreamEvent, StreamFrom } from '../../router/change-stream.js';
import type { Router } from '../../router/router.js';
import type { SimLoop } from '../loop.js';
import type { SimRandom } from '../random.js';
import type { Told, ToldChain } from './check-streams.js';

/**
 * Consumers of change streams in a simulated run, and what they were told, for check-streams.ts.
 *
 * Each connection of a chain goes on from a cursor of the one before, mostly the last, through another client or node. Now and
 * then a new chain begins: from now, from the beginning with a snapshot, from a moment of the past, or from a cursor that anybody
 * was ever given.
 */
export interface Chain extends ToldChain {
  readonly told: Told[];
  /** Marks that the last connection has told since the consumer was asked to catch up. */
  lastMark: Timestamp;
  /** What comes next was collected. */
  isGone: boolean;
}

export interface ConsumersOptions {
  readonly loop: SimLoop;
  readonly random: SimRandom;
  readonly count: number;
  readonly keys: readonly string[];
  readonly routers: readonly Router[];
  /** The routers of the nodes that run at present. */
  gateways(): readonly Router[];
  /** What a stream may be told when nothing is wrong but what the faults broke, and wild clocks. */
  excuses(error: TidemarkError): boolean;
  /** No replica has ever collected anything above it. */
  horizon(): Timestamp;
}

/** A stream of a node that died says nothing any more; a live one has marks far more often. */
const SILENCE_MS = 2500;
const RECONNECT_CHANCE = 0.02;
const NEW_CHAIN_CHANCE = 0.2;
const SLOW_CHANCE = 0.02;
const CURSORS_MAX = 300;

export class Consumers {
  readonly chains: Chain[] = [];
  /** What no fault can explain. */
  readonly broken: string[] = [];
  readonly #options: ConsumersOptions;
  readonly #random: SimRandom;
  readonly #running: Promise<void>[] = [];
  /** Given to anybody, with the range of their stream. */
  readonly #cursors: { readonly cursor: string; readonly range: KeyRange }[] = [];
  readonly #proved: Timestamp[] = [];
  readonly #current: (Chain | undefined)[] = [];
  #stopped = false;
  #calm = false;

  constructor(options: ConsumersOptions) {
    this.#options = options;
    this.#random = options.random;
  }

  start(): void {
    for (let at = 0; at < this.#options.count; at += 1) this.#running.push(this.#consume(at));
  }

  /** From now on nobody reconnects for fun. True once every chain is complete up to the timestamp. */
  hasReached(timestamp: Timestamp): boolean {
    this.#calm = true;
    return this.#current.every((chain) => chain === undefined || chain.lastMark >= timestamp);
  }

  /** All that was told, a line for each event. */
  *lines(): Generator<string> {
    for (const { name, range, from, told } of this.chains) {
      yield JSON.stringify([name, range, from]);
      for (const event of told) {
        const { kind } = event;
        if (kind === 'mark') yield `mark ${event.timestamp}`;
        else if (kind === 'entries') yield JSON.stringify([event.timestamp, event.entries.map(({ key }) => key.toString())]);
        else yield JSON.stringify(event.changes.map(({ at, before }) => [at, before?.version]));
      }
    }
  }

  /** Who lags, for a message. */
  describe(): string {
    return this.#current.map((chain) => `${chain?.name} is complete up to ${chain?.lastMark}`).join(', ');
  }

  stop(): Promise<unknown> {
    this.#stopped = true;
    return Promise.all(this.#running);
  }

  async #consume(at: number): Promise<void> {
    while (!this.#stopped) {
      const chain = this.#begin(at);
      this.#current[at] = chain;
      try {
        await this.#follow(chain);
      } catch (error) {
        this.broken.push(`stream ${chain.name}: ${messageOf(error)}`);
        return;
      }
    }
  }

  #begin(at: number): Chain {
    const range = this.#range();
    const from = this.#from(range);
    const name = `s${at}.${this.chains.length}`;
    const chain: Chain = { name, range, before: this.#random.chance(0.5), from, told: [], lastMark: 0, isGone: false };
    this.chains.push(chain);
    return chain;
  }

  #range(): KeyRange {
    const prefix = Buffer.from(this.#random.pick(['', '', 'k', 'k1', '{g', '{g0}', this.#random.pick(this.#options.keys)]));
    if (this.#random.chance(0.2)) {
      const key = Buffer.from(this.#random.pick(this.#options.keys));
      return { start: key, end: keyAfter(key) };
    }
    return prefix.length === 0 ? { start: EMPTY, end: EMPTY } : { start: prefix, end: prefixEnd(prefix) };
  }

  #from(range: KeyRange): StreamFrom {
    const past = this.#proved.length === 0 ? 0 : earlier(this.#random.pick(this.#proved), this.#random.pick([0, 0, 100, 2000]));
    const known = this.#cursors.length === 0 ? undefined : this.#random.pick(this.#cursors);
    const choices: StreamFrom[] = [{ kind: 'now' }, { kind: 'beginning' }, { kind: 'timestamp', timestamp: past }];
    const isOurs = known !== undefined && known.range.start.equals(range.start) && known.range.end.equals(range.end);
    if (isOurs) choices.push({ kind: 'cursor', cursor: known.cursor });
    return this.#random.pick(choices);
  }

  /** One connection after the other. */
  async #follow(chain: Chain): Promise<void> {
    let { from } = chain;
    while (!this.#stopped) {
      const reached = await this.#connection(chain, from);
      // What comes behind its cursor is gone: it begins anew.
      if (chain.isGone) return;
      if (reached !== undefined) from = { kind: 'cursor', cursor: reached };
      if (!this.#calm && this.#random.chance(NEW_CHAIN_CHANCE)) return;
      await this.#sleep(this.#random.pick([0, 5, 100]));
    }
  }

  /** Answers with the cursor to go on from; undefined if none was told. */
  async #connection(chain: Chain, from: StreamFrom): Promise<string | undefined> {
    const { routers } = this.#options;
    const nodes = this.#options.gateways();
    const isGateway = nodes.length > 0 && this.#random.chance(0.4);
    const router = this.#random.pick(isGateway ? nodes : routers);
    const stream = router.changes(chain.range, { from, before: chain.before });
    let cursor: string | undefined;
    try {
      for (;;) {
        const event = await this.#next(stream);
        // A node that died: nothing of its stream runs any more, and there is nothing to close.
        if (event === 'silence') return cursor;
        cursor = event.cursor;
        this.#tell(chain, event);
        if (this.#stopped || (!this.#calm && this.#random.chance(RECONNECT_CHANCE))) {
          await stream.return(undefined);
          return cursor;
        }
        if (this.#random.chance(SLOW_CHANCE)) await this.#sleep(this.#random.pick([50, 400]));
      }
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      if (error.reason === 'BEFORE_HORIZON') {
        const earliest = Number(error.details['earliestReadable']);
        if (!(earliest > 0 && earliest <= this.#options.horizon())) throw error;
        chain.isGone = true;
        return undefined;
      }
      if (!this.#options.excuses(error)) throw error;
      return cursor;
    }
  }

  async #next(stream: AsyncGenerator<StreamEvent>): Promise<StreamEvent | 'silence'> {
    const next = stream.next();
    // Nobody may wait for it any more when it fails.
    next.catch(() => undefined);
    const waited = await Promise.race([next, this.#sleep(SILENCE_MS)]);
    if (waited === undefined) return 'silence';
    if (waited.done === true) throw new Error('the stream ended');
    return waited.value;
  }

  #tell(chain: Chain, event: StreamEvent): void {
    if (this.#cursors.length < CURSORS_MAX) this.#cursors.push({ cursor: event.cursor, range: chain.range });
    else this.#cursors[this.#random.below(CURSORS_MAX)] = { cursor: event.cursor, range: chain.range };
    if (event.kind === 'mark') {
      chain.lastMark = Math.max(chain.lastMark, event.timestamp);
      this.#proved[this.#proved.length < CURSORS_MAX ? this.#proved.length : this.#random.below(CURSORS_MAX)] = event.timestamp;
    }
    chain.told.push(event);
  }

  #sleep(ms: number): Promise<undefined> {
    return new Promise((resolve) => {
      this.#options.loop.timers.after(ms, () => resolve(undefined));
    });
  }
}
