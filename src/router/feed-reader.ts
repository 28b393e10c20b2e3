import type { Clock } from '../env/env.js';
import { checkWanted } from '../lib/cancel.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import type { KeyRange, Served, Timestamp } from '../bucket/requests.js';
import { comparePositions, endOf, wholeTimestamp, type FeedPage, type Position } from '../changes/change.js';
import { Merge } from '../changes/merge.js';
import type { MarkAnswer } from '../changes/mark-watch.js';
import type { BucketId, NodeId } from '../placement/map.js';
import type { Alarms } from './alarms.js';
import type { Call } from './call.js';
import { closedError } from './closing.js';
import type { Dispatcher } from './dispatch.js';
import type { FeedGroup, FeedReplicas } from './feed-replicas.js';
import type { Answer, Operation, StreamNeeds } from './operations.js';
import { Trail } from './trail.js';

/**
 * Reads the feeds of many buckets from the replicas that `FeedReplicas` chooses, one request per node for all of its buckets, and
 * from others where those fail. What is read goes into a Merge, which knows of each bucket how far it is; nothing else is kept,
 * so that no failure can lose or repeat anything.
 */
export interface FeedSpec {
  readonly range: KeyRange;
  readonly before: boolean;
  readonly limit: number;
  readonly needs: StreamNeeds;
}

export interface FeedReaderOptions {
  readonly dispatcher: Dispatcher;
  readonly replicas: FeedReplicas;
  readonly clock: Clock;
  readonly alarms: Alarms;
  readonly isClosed: () => boolean;
  /** This router serves others. */
  readonly isHop: boolean;
}

type FeedOperation = Extract<Operation, { kind: 'changes' | 'awaitMark' }>;

/** How long a node may let a request for a mark wait: well below the time after which it is thought dead. */
const WAIT_MS = 500;
const PAUSE_MS = 50;

export class FeedReader {
  readonly #options: FeedReaderOptions;
  /** Lengthens attempts while nodes are slow to answer. */
  readonly #trail = new Trail(false);

  constructor(options: FeedReaderOptions) {
    this.#options = options;
  }

  /**
   * One page of each group of these buckets into the merge. Answers which of the buckets have nothing more at present, and the
   * least mark; fewer than were asked for where nobody answered.
   */
  async read(merge: Merge, buckets: readonly BucketId[], spec: FeedSpec, call: Call): Promise<readonly PageRead[]> {
    const make = ({ buckets: some }: FeedGroup): Extract<Operation, { kind: 'changes' }> => {
      return { kind: 'changes', buckets: some, after: leastOf(merge, some), ...spec };
    };
    const parts = await this.#attemptAll(buckets, make, call);
    return parts.map(({ group, answer: { result, served } }) => {
      merge.add(group.buckets, result.changes, result.upTo);
      const isAtEnd = comparePositions(result.upTo, endOf(result.mark)) >= 0;
      return { buckets: group.buckets, page: result, isAtEnd, served };
    });
  }

  /** Waits until each group of these buckets may have more than the merge knows, or a moment. */
  async awaitMarks(merge: Merge, buckets: readonly BucketId[], needs: StreamNeeds, call: Call): Promise<void> {
    await this.#awaitAll(buckets, (some) => wholeTimestamp(leastOf(merge, some)), { waitMs: WAIT_MS, needs }, call);
  }

  /** Resolves when all of these buckets are complete up to the timestamp: nothing will be committed at or below it any more. */
  async complete(buckets: readonly BucketId[], timestamp: Timestamp, needs: StreamNeeds, callOf: () => Call): Promise<void> {
    const left = new Set(buckets);
    // Nobody has a timestamp yet where a cluster is new.
    const above = Math.max(0, timestamp - 1);
    while (left.size > 0) {
      const some = buckets.filter((bucket) => left.has(bucket));
      const parts = await this.#awaitAll(some, () => above, { waitMs: WAIT_MS, needs }, callOf());
      for (const { group, answer } of parts) {
        const behind = new Set(answer.result.behind);
        for (const bucket of group.buckets) if (!behind.has(bucket)) left.delete(bucket);
      }
    }
  }

  /** Says again what a stream needs that asks for nothing at present: to one node, which tells all others. */
  async keep(buckets: readonly BucketId[], needs: StreamNeeds, call: Call): Promise<void> {
    const [group] = this.#options.replicas.groups(buckets);
    const asked = group?.buckets.slice(0, 1) ?? [];
    if (group === undefined) return;
    const operation = { kind: 'awaitMark', buckets: asked, above: 0, waitMs: 0, needs } as const;
    await this.#attempt({ node: group.node, buckets: asked }, operation, call);
  }

  // --- for a sidecar, to which one node's clients are others' routers: the same for one request, without memory

  async page(operation: Extract<Operation, { kind: 'changes' }>, call: Call): Promise<Answer<'changes'>> {
    const { buckets, after, limit, ...spec } = operation;
    const merge = new Merge(buckets, after);
    const reads: PageRead[] = [];
    let left = buckets;
    while (left.length > 0) {
      const found = await this.read(merge, left, { ...spec, limit }, call);
      reads.push(...found);
      const served = new Set(found.flatMap((part) => part.buckets));
      left = left.filter((bucket) => !served.has(bucket));
      this.#checkTime(call, left);
    }
    const changes = merge.take(limit, Infinity);
    const mark = Math.min(...reads.map(({ page }) => page.mark));
    const result: FeedPage = { changes, upTo: merge.position, mark };
    return { result, served: servedBy(reads.map(({ served }) => served), mark) };
  }

  async awaitMark(operation: Extract<Operation, { kind: 'awaitMark' }>, call: Call): Promise<Answer<'awaitMark'>> {
    const { buckets, above, waitMs, needs } = operation;
    const parts = await this.#awaitAll(buckets, () => above, { waitMs, needs }, call);
    const answered = new Set(parts.flatMap(({ group }) => group.buckets));
    const mark = answered.size < buckets.length ? above : Math.min(...parts.map(({ answer }) => answer.result.mark));
    const behind = [...buckets.filter((bucket) => !answered.has(bucket)), ...parts.flatMap(({ answer }) => answer.result.behind)];
    const result: MarkAnswer = { mark, behind: behind.sort((a, b) => a - b) };
    return { result, served: servedBy(parts.map(({ answer }) => answer.served), mark) };
  }

  async #awaitAll(
    buckets: readonly BucketId[],
    aboveOf: (some: readonly BucketId[]) => Timestamp,
    how: { readonly waitMs: number; readonly needs: StreamNeeds },
    call: Call,
  ): Promise<readonly FeedPart<'awaitMark'>[]> {
    const make = ({ buckets: some }: FeedGroup): Extract<Operation, { kind: 'awaitMark' }> => {
      return { kind: 'awaitMark', buckets: some, above: aboveOf(some), ...how };
    };
    const parts = await this.#attemptAll(buckets, make, call);
    for (const { group, answer } of parts) this.#options.replicas.stuck(answer.result.behind, group.node);
    return parts;
  }

  /** What the chosen replicas answer; those that do not answer are noted. If there is nobody to ask, it takes a moment. */
  async #attemptAll<O extends FeedOperation>(
    buckets: readonly BucketId[],
    make: (group: FeedGroup) => O,
    call: Call,
  ): Promise<FeedPart<O['kind']>[]> {
    const { replicas } = this.#options;
    const groups = replicas.groups(buckets);
    if (groups.length === 0) await this.pause(PAUSE_MS, call);
    const parts: FeedPart<O['kind']>[] = [];
    await Promise.all(
      groups.map(async (group) => {
        const answer = await this.#attempt(group, make(group), call);
        if (answer !== undefined) parts.push({ group, answer });
      }),
    );
    return parts;
  }

  async #attempt<O extends FeedOperation>(group: FeedGroup, operation: O, call: Call): Promise<Answer<O['kind']> | undefined> {
    const { dispatcher, replicas } = this.#options;
    try {
      const answer = await dispatcher.attempt(group.node, operation, call, this.#trail);
      replicas.served(group);
      this.#trail.timeouts = 0;
      return answer;
    } catch (error) {
      replicas.failed(group, error);
      if (isTidemarkError(error)) this.#trail.failed(group.node, '', error);
      return undefined;
    }
  }

  #checkTime(call: Call, left: readonly BucketId[]): void {
    if (this.#options.isClosed()) throw closedError(this.#options.isHop);
    checkWanted(call.signal);
    if (left.length === 0 || this.#options.clock.monotonicMs() < call.giveUpMs) return;
    const message = `the changes of ${left.length} buckets could not be read in time; tried ${this.#trail.summary()}`;
    throw new TidemarkError('UNAVAILABLE', 'NO_REPLICA', message, { retriable: true });
  }

  /** Ends early when the caller goes away or the router is closed. */
  pause(ms: number, { signal }: Pick<Call, 'signal'>): Promise<void> {
    const { alarms, clock, isClosed } = this.#options;
    return new Promise((resolve) => {
      const done = (): void => {
        alarm.cancel();
        signal?.removeEventListener('abort', done);
        resolve();
      };
      const alarm = alarms.at(clock.monotonicMs() + ms, done);
      signal?.addEventListener('abort', done);
      // No alarm rings any more in a router that is closed.
      if (signal?.aborted === true || isClosed()) done();
    });
  }
}

export interface PageRead {
  readonly buckets: readonly BucketId[];
  readonly page: FeedPage;
  /** There is nothing more at present. */
  readonly isAtEnd: boolean;
  readonly served: Served;
}

interface FeedPart<K extends FeedOperation['kind']> {
  readonly group: FeedGroup;
  readonly answer: Answer<K>;
}

/** From where a request for all of these buckets must ask. */
function leastOf(merge: Merge, buckets: readonly BucketId[]): Position {
  const all = buckets.map((bucket) => merge.known(bucket));
  return all.reduce((least, known) => (comparePositions(known, least) < 0 ? known : least));
}

function servedBy(all: readonly Served[], timestamp: Timestamp): Served {
  const node: NodeId = all[0]?.node ?? 0;
  return { node, timestamp, consistency: 'asOf', hops: Math.max(1, ...all.map(({ hops }) => hops)) };
}
