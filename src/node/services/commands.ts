import type { RpcContext, RpcService } from '../../env/network.js';
import type { RequestRouter } from './api.js';
import type * as wire from './messages.js';
import { conditionOf, headerOf, idOf, mutationOf } from './translate.js';

/**
 * `tidemark.v1.Commands`. A caller that goes away does not take its command back: it may be in a log already, and the outcome of
 * half a command would be known to nobody.
 */
export function commandsService(router: RequestRouter): RpcService {
  return {
    Put: {
      kind: 'unary',
      async handle({ key, value, id, atLeast }: wire.PutRequest, { deadlineMs }: RpcContext): Promise<wire.VersionReply> {
        const { timestamp, served } = await router.put(key, value, { id: idOf(id), atLeast, deadlineMs });
        return { version: timestamp, header: headerOf(served) };
      },
    },
    Delete: {
      kind: 'unary',
      async handle({ key, id, atLeast }: wire.DeleteRequest, { deadlineMs }: RpcContext): Promise<wire.VersionReply> {
        const { timestamp, served } = await router.delete(key, { id: idOf(id), atLeast, deadlineMs });
        return { version: timestamp, header: headerOf(served) };
      },
    },
    Write: {
      kind: 'unary',
      async handle(request: wire.WriteRequest, { deadlineMs }: RpcContext): Promise<wire.WriteReply> {
        const { conditions, mutations, id, atLeast } = request;
        const options = { id: idOf(id), atLeast, deadlineMs };
        const result = await router.write(conditions.map(conditionOf), mutations.map(mutationOf), options);
        const reply = { applied: result.applied, timestamp: result.timestamp, header: headerOf(result.served) };
        if (result.applied) return reply;
        return { ...reply, failed: { condition: result.failedCondition, version: result.failedVersion } };
      },
    },
  };
}
