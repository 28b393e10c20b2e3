import type { RpcContext, RpcService } from '../../env/network.js';
import { type TidemarkError } from '../../lib/errors.js';
import type { Change } from '../../changes/change.js';
import type { StreamEvent, StreamFrom } from '../../router/change-stream.js';
import type { RequestRouter, ServicePorts } from './api.js';
import type * as wire from './messages.js';
import { momentOf, rangeOf } from './translate.js';

/** `tidemark.v1.Changes`. A consumer that goes away ends its stream; one that does not read is cut off. */
export function changesService({ router }: ServicePorts): RpcService {
  return {
    Subscribe: {
      kind: 'stream',
      handle: (request: wire.SubscribeRequest, context) => subscribe(router, request, context),
    },
  };
}

async function* subscribe(
  router: RequestRouter,
  request: wire.SubscribeRequest,
  context: RpcContext,
): AsyncGenerator<wire.SubscribeReply> {
  const { deadlineMs, signal } = context;
  const options = {
    from: fromOf(request, router),
    before: request.before,
    deadlineMs,
    signal,
    stalled: (error: TidemarkError) => context.fail(error),
    cut: () => context.cut(),
  };
  for await (const event of router.changes(rangeOf(request), options)) yield replyOf(event);
}

function fromOf(request: wire.SubscribeRequest, router: RequestRouter): StreamFrom {
  switch (request.from) {
    case 'cursor':
      return { kind: 'cursor', cursor: request.cursor ?? '' };
    case 'after':
      return { kind: 'timestamp', timestamp: momentOf(request.after ?? null, () => router.now(), 'after') };
    case 'beginning':
      return { kind: 'beginning' };
    default:
      return { kind: 'now' };
  }
}

function replyOf(event: StreamEvent): wire.SubscribeReply {
  const { cursor } = event;
  switch (event.kind) {
    case 'entries':
      return { entries: { timestamp: event.timestamp, entries: event.entries }, cursor };
    case 'changes':
      return { changes: { changes: event.changes.map(changeOf) }, cursor };
    case 'mark':
      return { mark: { timestamp: event.timestamp }, cursor };
  }
}

function changeOf({ at, key, deleted, value, before, transaction }: Change): wire.CommittedChangeMessage {
  const kind = deleted ? 'KIND_DELETE' : 'KIND_PUT';
  const change = { kind, key, value, timestamp: at.timestamp, transaction } as const;
  return before === undefined ? change : { ...change, before };
}
