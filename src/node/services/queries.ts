import type { RpcContext, RpcService } from '../../env/network.js';
import type { Record, Version } from '../../bucket/requests.js';
import type { GetManyEntry } from '../../router/router.js';
import type { RequestRouter, ServicePorts } from './api.js';
import type * as wire from './messages.js';
import { chunks, consistencyOf, headerOf, limitOf, optionalMoment, rangeOf } from './translate.js';

/**
 * `tidemark.v1.Queries`. Pages of the router become one or more replies, so that large values never add up to a message over
 * the limit. A caller that goes away ends its query.
 */
export function queriesService({ router, pageBytesMax }: ServicePorts): RpcService {
  return {
    Get: {
      kind: 'unary',
      async handle({ key, read }: wire.GetRequest, { deadlineMs, signal }: RpcContext): Promise<wire.GetReply> {
        const consistency = consistencyOf(read, () => router.now());
        const { record, served } = await router.get(key, { consistency, deadlineMs, signal });
        if (record === undefined) return { found: false, header: headerOf(served) };
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
  };
}

async function* getMany(
  router: RequestRouter,
  { keys, read }: wire.GetManyRequest,
  { deadlineMs, signal }: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.GetManyReply> {
  const consistency = consistencyOf(read, () => router.now());
  for await (const batch of router.getMany(keys, { consistency, deadlineMs, signal })) {
    for (const part of chunks(batch, ({ record }) => sizeOf(record), bytesMax)) {
      yield* byServer(part);
    }
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
  { deadlineMs, signal }: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.ScanReply> {
  const { read, reverse, keysOnly } = request;
  const consistency = consistencyOf(read, () => router.now());
  const options = { consistency, reverse, keysOnly, limit: limitOf(request.limit), deadlineMs, signal };
  for await (const { records, served } of router.scan(rangeOf(request), options)) {
    for (const part of chunks(records, sizeOf, bytesMax)) yield { records: part, header: headerOf(served) };
  }
}

async function* history(
  router: RequestRouter,
  { key, newest, oldest, limit }: wire.HistoryRequest,
  { deadlineMs, signal }: RpcContext,
  bytesMax: number,
): AsyncGenerator<wire.HistoryReply> {
  const now = (): number => router.now();
  const options = {
    newest: optionalMoment(newest, now, 'newest'),
    oldest: optionalMoment(oldest, now, 'oldest'),
    limit: limitOf(limit),
    deadlineMs,
    signal,
  };
  const versionSize = ({ value }: Version): number => value.length;
  for await (const { versions, served } of router.history(key, options)) {
    for (const part of chunks(versions, versionSize, bytesMax)) yield { versions: part, header: headerOf(served) };
  }
}

function sizeOf(record: Record | undefined): number {
  return record === undefined ? 0 : record.key.length + record.value.length;
}
