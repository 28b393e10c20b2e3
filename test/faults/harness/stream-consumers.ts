import type { Json } from '../../../src/check/history.js';
import { isTidemarkError, type ChangeEvent, type Database } from '../../../src/client/index.js';
import type { Record } from '../../../src/bucket/requests.js';
import type { Position } from '../../../src/changes/change.js';
import { decodeCursor } from '../../../src/changes/cursor.js';
import { systemClock } from '../../../src/env/real/clock.js';
import type { RpcClient } from '../../../src/env/real/grpc/client.js';
import { createNetwork } from '../../../src/env/real/network.js';
import type { SimRandom } from '../../../src/sim/random.js';
import type { Company, Group } from './group.js';
import { isHonest, type Answered, type Caller } from './recorder.js';
import { encodeChange, encodeEntry, encodeMark } from './stream-format.js';

/**
 * Consumers of change streams in a client process, each of which follows one connection after the other, through the client
 * library or as a plain gRPC client of any node. A connection goes on from the cursor of the one before; now and then a new chain
 * begins: from now, from the beginning with a snapshot, from a moment of the past, or from a cursor that another was given. They
 * break off behind any event, be it in the midst of a commit, and some are slow. What they were told goes to the history, an
 * operation for each connection.
 */
export interface ChainState {
  /** A number of its own in the whole run. */
  readonly name: number;
  readonly start: string;
  readonly end: string;
  readonly before: boolean;
  from: From;
}

/** As StreamFrom, for JSON. */
export type From =
  | { readonly kind: 'now' | 'beginning' }
  | { readonly kind: 'timestamp'; readonly timestamp: number }
  | { readonly kind: 'cursor'; readonly cursor: string };

const CONSUMERS = 2;
const LEAVE_CHANCE = 0.01;
const NEW_CHAIN_CHANCE = 0.25;
const NODE_CHANCE = 0.4;
const SLOW_CHANCE = 0.15;
const SLOW_MS = 30;
/** A live stream has marks far more often; one that has nothing for so long is left for another. */
const SILENCE_MS = 5000;
/** A call that nobody ends, such as that of a node that is stopped. */
const CALL_MS_MAX = 30_000;
const CATCH_UP_MS_MAX = 20_000;
const KNOWN_MAX = 100;

/** What a consumer takes from one event. */
interface Told {
  readonly events: readonly Json[];
  readonly cursor: string;
  /** Of a mark. */
  readonly mark: number;
}

export class StreamConsumers {
  readonly #group: Group;
  readonly #random: SimRandom;
  readonly #prefix: string;
  readonly #keys: readonly string[];
  readonly #current: (ChainState | undefined)[] = [];
  readonly #cursors: { readonly cursor: string; readonly start: string; readonly end: string }[] = [];
  readonly #moments: number[] = [];
  readonly #rpcs = new Map<string, RpcClient>();
  #company: Company | undefined;

  constructor(group: Group, prefix: string, keys: readonly string[]) {
    this.#group = group;
    this.#random = group.random.fork('consumers');
    this.#prefix = prefix;
    this.#keys = keys;
  }

  /** What each consumer follows, and from where it would go on. */
  get current(): ChainState[] {
    return this.#current.flatMap((chain) => (chain === undefined ? [] : [{ ...chain }]));
  }

  /** Everything from a moment on, with what there was before. */
  whole(version: number): ChainState {
    const name = this.#group.values.next();
    return { name, ...this.#all, before: true, from: { kind: 'timestamp', timestamp: version - 1 } };
  }

  get #all(): { readonly start: string; readonly end: string } {
    return { start: this.#prefix, end: `${this.#prefix.slice(0, -1)}0` };
  }

  async run(company: Company): Promise<void> {
    this.#company = company;
    await Promise.all(Array.from({ length: CONSUMERS }, (_, at) => this.#consume(at, company)));
    for (const rpc of this.#rpcs.values()) rpc.close();
    this.#rpcs.clear();
  }

  /** Until everything up to the moment was told; false if that took too long, or the connection was lost. */
  async catchUp(caller: Caller, database: Database, chain: ChainState, until: number): Promise<boolean> {
    const events = this.#byClient(database, chain);
    return this.#connection(caller, chain, 'client', events, { until, patienceMs: CATCH_UP_MS_MAX });
  }

  async #consume(at: number, { newCaller, databases, stopped }: Company): Promise<void> {
    const caller = newCaller();
    let chain: ChainState | undefined;
    while (!stopped.aborted) {
      if (chain === undefined || this.#random.chance(NEW_CHAIN_CHANCE)) this.#current[at] = chain = this.#begin();
      const isByNode = this.#random.chance(NODE_CHANCE);
      const events = isByNode ? this.#byNode(chain) : this.#byClient(this.#random.pick(databases), chain);
      await this.#connection(caller, chain, isByNode ? 'node' : 'client', events, { patienceMs: SILENCE_MS });
      await this.#pause(this.#random.pick([0, 20, 300]));
    }
  }

  #begin(): ChainState {
    const range = this.#range();
    const name = this.#group.values.next();
    return { name, ...range, before: this.#random.chance(0.5), from: this.#from(range.start, range.end) };
  }

  #range(): { readonly start: string; readonly end: string } {
    const luck = this.#random.float();
    if (luck < 0.7) return this.#all;
    const key = this.#random.pick(this.#keys);
    if (luck < 0.85) return { start: key, end: `${key}\0` };
    // All keys of one bucket: they end in a digit.
    return { start: key.slice(0, -1), end: `${key.slice(0, -1)}:` };
  }

  #from(start: string, end: string): From {
    const choices: From[] = [{ kind: 'now' }, { kind: 'beginning' }];
    if (this.#moments.length > 0) choices.push({ kind: 'timestamp', timestamp: this.#random.pick(this.#moments) });
    const known = this.#cursors.filter((each) => each.start === start && each.end === end);
    if (known.length > 0) choices.push({ kind: 'cursor', cursor: this.#random.pick(known).cursor });
    return this.#random.pick(choices);
  }

  // --- one connection

  async #connection(
    caller: Caller,
    chain: ChainState,
    by: 'client' | 'node',
    events: AsyncGenerator<Told>,
    { until, patienceMs }: { readonly until?: number; readonly patienceMs: number },
  ): Promise<boolean> {
    const { name, from, start, end, before } = chain;
    const asked = { f: 'follow', key: `chain ${name}`, value: { name, start, end, before, from: { ...from }, by } } as const;
    let isDone = false;
    await this.#group.recorder.record(caller, { ...asked, isRead: true }, async (): Promise<Answered> => {
      const told: Json[] = [];
      const isSlow = until === undefined && this.#random.chance(SLOW_CHANCE);
      const answer = (type: 'ok' | 'fail', fields: Answered = {}): Answered => ({ type, value: told, ...fields });
      try {
        for (;;) {
          const event = await this.#next(events, patienceMs);
          if (event === undefined) return answer('fail', { error: 'SILENCE' });
          told.push(...event.events);
          chain.from = { kind: 'cursor', cursor: event.cursor };
          this.#remember(chain, event);
          isDone = until !== undefined && event.mark >= until;
          if (isDone || (until === undefined && this.#leaves())) return answer('ok');
          if (isSlow) await this.#pause(SLOW_MS);
        }
      } catch (error) {
        // What was told before counts.
        if (!isTidemarkError(error) || !isHonest(error)) throw error;
        return answer('fail', { error: error.reason, message: error.message });
      } finally {
        // A node that is stopped does not hear that its call is cancelled.
        events.return(undefined).catch(() => undefined);
      }
    });
    return isDone;
  }

  #leaves(): boolean {
    return this.#company?.stopped.aborted === true || this.#random.chance(LEAVE_CHANCE);
  }

  /** Undefined when nothing came. */
  async #next(events: AsyncGenerator<Told>, patienceMs: number): Promise<Told | undefined> {
    const next = events.next();
    // Nobody may wait for it any more when it fails.
    next.catch(() => undefined);
    let timer: NodeJS.Timeout | undefined;
    const silence = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), patienceMs);
    });
    const result = await Promise.race([next, silence]);
    clearTimeout(timer);
    if (result?.done === true) throw new Error('a change stream ended by itself');
    return result?.value;
  }

  #remember({ start, end }: ChainState, { cursor, mark }: Told): void {
    keep(this.#cursors, { cursor, start, end }, this.#random);
    if (mark > 0) keep(this.#moments, mark, this.#random);
  }

  async #pause(ms: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, ms));
  }

  // --- the two ways

  async *#byClient(database: Database, { start, end, before, from }: ChainState): AsyncGenerator<Told> {
    const controller = new AbortController();
    const origin = from.kind === 'cursor' ? from.cursor : from.kind === 'timestamp' ? from.timestamp : from.kind;
    const clusterId = database.placement?.clusterId ?? '';
    const changes = database.changes({ start, end, before, from: origin, signal: controller.signal });
    try {
      for await (const event of changes) yield toldBy(event, clusterId);
    } finally {
      controller.abort();
    }
  }

  async *#byNode({ start, end, before, from }: ChainState): AsyncGenerator<Told> {
    const rpc = this.#rpc(this.#random.pick(this.#company?.endpoints ?? []));
    const origins = {
      now: () => ({ now: {} }),
      beginning: () => ({ beginning: {} }),
      timestamp: () => ({ after: { timestamp: from.kind === 'timestamp' ? from.timestamp : 0 } }),
      cursor: () => ({ cursor: from.kind === 'cursor' ? from.cursor : '' }),
    };
    const request = { start: Buffer.from(start), end: Buffer.from(end), before, ...origins[from.kind]() };
    for await (const reply of rpc.stream<Reply>('tidemark.v1.Changes', 'Subscribe', request, CALL_MS_MAX)) {
      yield toldByNode(reply);
    }
  }

  #rpc(endpoint: string): RpcClient {
    const known = this.#rpcs.get(endpoint);
    if (known !== undefined) return known;
    const onBug = (error: unknown): void => {
      throw error;
    };
    const rpc = createNetwork({ clock: systemClock(), onBug }).rpcClient(endpoint);
    this.#rpcs.set(endpoint, rpc);
    return rpc;
  }
}

/** Of many, so many, old and new. */
function keep<T>(all: T[], one: T, random: SimRandom): void {
  if (all.length < KNOWN_MAX) all.push(one);
  else all[random.below(KNOWN_MAX)] = one;
}

/** Tail cursors hold for every range. */
const ANY_RANGE = { start: Buffer.alloc(0), end: Buffer.alloc(0) };

/** The cursor of a change is its position. */
function positionOf(cursor: string, clusterId: string): Position {
  const decoded = decodeCursor(cursor, clusterId, ANY_RANGE);
  if (decoded.kind !== 'tail') throw new TypeError(`the cursor of a change is one of a ${decoded.kind}`);
  return decoded.position;
}

function toldBy(event: ChangeEvent, clusterId: string): Told {
  const { cursor } = event;
  switch (event.kind) {
    case 'mark':
      return { events: [encodeMark(event.timestamp)], cursor, mark: event.timestamp };
    case 'entry':
      return { events: [encodeEntry(event.timestamp, event)], cursor, mark: 0 };
    default: {
      const { kind, key, value, before, transaction } = event;
      const id = Buffer.from(transaction, 'base64url');
      const change = { at: positionOf(cursor, clusterId), key, deleted: kind === 'delete', value, before, transaction: id };
      return { events: [encodeChange(change)], cursor, mark: 0 };
    }
  }
}

function toldByNode({ entries, changes, mark, cursor }: Reply): Told {
  if (mark !== undefined) return { events: [encodeMark(mark.timestamp)], cursor, mark: mark.timestamp };
  if (entries !== undefined) return { events: entries.entries.map((entry) => encodeEntry(entries.timestamp, entry)), cursor, mark: 0 };
  const events = (changes?.changes ?? []).map(({ kind, before, ...change }) => {
    return encodeChange({ ...change, at: change, deleted: kind === 'KIND_DELETE', before: before ?? undefined });
  });
  return { events, cursor, mark: 0 };
}

interface Reply {
  readonly entries?: { readonly timestamp: number; readonly entries: readonly Record[] };
  readonly changes?: { readonly changes: readonly ChangeReply[] };
  readonly mark?: { readonly timestamp: number };
  readonly cursor: string;
}

interface ChangeReply {
  readonly kind: 'KIND_PUT' | 'KIND_DELETE';
  readonly key: Buffer;
  readonly value: Buffer;
  readonly before: { readonly version: number; readonly value: Buffer } | null;
  readonly timestamp: number;
  readonly transaction: Buffer;
}
