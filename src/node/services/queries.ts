import type { RpcContext, RpcService } from '../../env/network.js';
import type { Change, Record, Version } from '../../bucket/requests.js';
import type { CallOptions, GetManyEntry } from '../../router/options.js';
import type { RequestRouter, ServicePorts } from './api.js';
import type * as wire from './messages.js';
import { chunks, consistencyOf, headerOf, limitOf, momentOf, optionalMoment, rangeOf } from './translate.js';

/**
 * `tidemark.v1.Queries`. Pages of the router become one or more replies, so that large values never add up to a message over
 * the limit. A caller that goes away ends its query.
 */
export function queriesService({ router, pageBytesMax }: ServicePorts): RpcService {
  return {
    Get: {
      kind: 'unary',
      async handle({ key, read }: wire.GetRequest, context: RpcContext): Promise<wire.GetReply> {
        const { deadlineMs, signal } = context;
        const consistency = consistencyOf(read, () => router.now());
        const { record, served } = await router.get(key, { consistency, atLeast: read?.atLeast, deadlineMs, signal });
        if (record === undefined) return { found: false, header: headerOf(served) };
        keepUntilSent(router, sizeOf(record), context);
        return { found: true, value: record.value, version: record.version, header: headerOf(served) };
      },
    },
    GetMany: {
      kind: 'stream',
      handle: (request: wire.GetManyRequest, context) => getMany(router, request, context, pageBytesMax),
    },
    Scan: {
      kind: 'stream',
      handle: (request: wire.ScanRequest, context) => scan(router, request, context, pageBytesMax),
    },
    History: {
      kind: 'stream',
      handle: (request: wire.HistoryRequest, context) => history(router, request, context, pageBytesMax),
    },
    Diff: {
      kind: 'stream',
      handle: (request: wire.DiffRequest, context) => diff(router, request, context, pageBytesMax),
    },
  };
}

/** Smaller answers are bounded well enough by the number of calls, and this is the path of most. */
const COUNTED_BYTES_MIN = 4096;

/** Counts an answer that is handed over at once, until its caller has taken it. */
function keepUntilSent({ answers }: RequestRouter, bytes: number, context: RpcContext): void {
  if (bytes < COUNTED_BYTES_MIN) return;
  // Encoded, and in the buffer of the connection.
  const hold = answers.take(2 * bytes);
  hold.park(() => context.cut());
  context.onClosed(() => hold.release());
}

async function* getMany(
  router: RequestRouter,
  { keys, read }: wire.GetManyRequest,
  context: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.GetManyReply> {
  const consistency = consistencyOf(read, () => router.now());
  for await (const batch of router.getMany(keys, { consistency, atLeast: read?.atLeast, ...callOf(context) })) {
    for (const part of chunks(batch, ({ record }) => sizeOf(record), bytesMax)) {
      for (const reply of byServer(part)) {
        yield reply;
        drop(reply.entries);
      }
      drop(part);
    }
    drop(batch);
  }
}

/** Keys of one batch may be served by different nodes: one reply for each, as of the lowest of their timestamps. */
function* byServer(
  batch: readonly GetManyEntry[],
): Generator<wire.GetManyReply> {
  const groups = new Map<string, { header: wire.ReplyHeader; entries: wire.GetManyReply['entries'][number][] }>();
  for (const { index, record, served } of batch) {
    const name = `${served.node} ${served.hops} ${served.consistency}`;
    const group = groups.get(name);
    const entry = record === undefined ? { index, found: false } : { index, found: true, record };
    if (group === undefined) groups.set(name, { header: headerOf(served), entries: [entry] });
    else {
      group.entries.push(entry);
      group.header = { ...group.header, timestamp: Math.min(group.header.timestamp, served.timestamp) };
    }
  }
  yield* groups.values();
}

async function* scan(
  router: RequestRouter,
  request: wire.ScanRequest,
  context: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.ScanReply> {
  const { read, reverse, keysOnly } = request;
  const consistency = consistencyOf(read, () => router.now());
  const limit = limitOf(request.limit);
  const options = { consistency, atLeast: read?.atLeast, reverse, keysOnly, limit, ...callOf(context) };
  let told = false;
  for await (const { records, more, served } of router.scan(rangeOf(request), options)) {
    // Where nodes have looked at much and found nothing.
    if (records.length === 0 && (more || told)) continue;
    told = true;
    for (const part of chunks(records, sizeOf, bytesMax)) {
      yield { records: part, header: headerOf(served) };
      drop(part);
    }
    drop(records);
  }
}

async function* history(
  router: RequestRouter,
  { key, newest, oldest, limit, asOf }: wire.HistoryRequest,
  context: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.HistoryReply> {
  const now = (): number => router.now();
  const options = {
    newest: optionalMoment(newest, now, 'newest'),
    oldest: optionalMoment(oldest, now, 'oldest'),
    limit: limitOf(limit),
    ...(asOf === null ? {} : { consistency: { kind: 'asOf', timestamp: momentOf(asOf, now, 'as_of') } as const }),
    ...callOf(context),
  };
  const versionSize = ({ value }: Version): number => value.length;
  for await (const { versions, served } of router.history(key, options)) {
    for (const part of chunks(versions, versionSize, bytesMax)) {
      yield { versions: part, header: headerOf(served) };
      drop(part);
    }
    drop(versions);
  }
}

async function* diff(
  router: RequestRouter,
  request: wire.DiffRequest,
  context: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.DiffReply> {
  const now = (): number => router.now();
  const { from, to } = request;
  const options = { from: momentOf(from, now, 'from'), to: optionalMoment(to, now, 'to'), ...callOf(context) };
  const size = ({ key, before, after }: Change): number =>
    key.length + (before?.value.length ?? 0) + (after?.value.length ?? 0);
  for await (const { changes, served } of router.diff(rangeOf(request), options)) {
    for (const part of chunks(changes, size, bytesMax)) {
      yield { changes: part, header: headerOf(served) };
      drop(part);
    }
    drop(changes);
  }
}

/**
 * Empties what has been sent. A generator that waits keeps alive what its variables held last: the page before, for each of the
 * calls that wait for room for their next one.
 */
function drop(sent: readonly unknown[]): void {
  (sent as unknown[]).length = 0;
}

function callOf(context: RpcContext): CallOptions {
  const { deadlineMs, signal } = context;
  return { deadlineMs, signal, cut: () => context.cut() };
}

function sizeOf(record: Record | undefined): number {
  return record === undefined ? 0 : record.key.length + record.value.length;
}
