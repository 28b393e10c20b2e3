import type { RpcContext, RpcService } from '../../env/network.js';
import type { CancelSignal } from '../../lib/cancel.js';
import { TidemarkError } from '../../lib/errors.js';
import { VERSION } from '../../lib/version.js';
import { checkTimestamp } from '../../mvcc/timestamp.js';
import { checkEpoch } from '../../placement/epoch.js';
import type { BucketInfo, Placement } from '../../placement/map.js';
import type { PlacementChange } from '../../placement/record.js';
import type { ClusterView, RequestRouter } from './api.js';
import type * as wire from './messages.js';
import { momentOf, optionalMoment, outOfPlacement } from './translate.js';

/** Told unless more, or less, is asked for. */
const HEAT_BUCKETS = 20;
const HEAT_KEYS = 10;

/** `tidemark.v1.Cluster`. Inner names and message fields are the same here, so most of it passes through. */
export function clusterService(cluster: ClusterView, router: RequestRouter): RpcService {
  const now = (): number => router.now();
  return {
    Status: {
      kind: 'unary',
      handle: async () => ({ ...cluster.status(), version: VERSION }),
    },
    Buckets: {
      kind: 'unary',
      handle: async ({ ids }: wire.BucketsRequest) => {
        const { epoch, buckets, map } = cluster.placement();
        const wanted = ids.length === 0 ? map : ids.map((id) => existing(map, id, buckets));
        return { epoch, buckets: wanted.map((bucket) => ({ bucket, local: cluster.replica(bucket.id) })) };
      },
    },
    Placement: {
      kind: 'stream',
      handle: ({ knownEpoch }: wire.PlacementRequest, { signal }: RpcContext) => {
        const known = checkTimestamp(knownEpoch, 'known_epoch');
        checkEpoch(known, cluster.placement().epoch, 'known_epoch');
        return placements(cluster, known, signal);
      },
    },
    TransferLeader: {
      kind: 'unary',
      handle: async ({ bucket, node }: wire.TransferLeaderRequest, { deadlineMs }: RpcContext) => {
        const { buckets, map } = cluster.placement();
        existing(map, bucket, buckets);
        return { leader: await cluster.transferLeader(bucket, node, deadlineMs) };
      },
    },
    ChangePlacement: {
      kind: 'unary',
      handle: (request: wire.ChangePlacementRequest, { deadlineMs }: RpcContext) =>
        cluster.changePlacement(changeOfPlacement(request), deadlineMs),
    },
    PlacementProgress: {
      kind: 'unary',
      handle: async () => cluster.placementProgress(),
    },
    Heat: {
      kind: 'unary',
      handle: async ({ buckets, keys }: wire.HeatRequest) => cluster.heat(buckets || HEAT_BUCKETS, keys || HEAT_KEYS),
    },
    AddPin: {
      kind: 'unary',
      handle: async ({ name, moment, expires }: wire.AddPinRequest, { deadlineMs, signal }: RpcContext) => {
        const until = optionalMoment(expires, now, 'expires') ?? 0;
        const action = { kind: 'add', name, timestamp: momentOf(moment, now, 'moment'), expires: until } as const;
        return router.pins(action, { deadlineMs, signal });
      },
    },
    RemovePin: {
      kind: 'unary',
      handle: ({ name }: wire.RemovePinRequest, { deadlineMs, signal }: RpcContext) =>
        router.pins({ kind: 'remove', name }, { deadlineMs, signal }),
    },
    ListPins: {
      kind: 'unary',
      handle: (_request: unknown, { deadlineMs, signal }: RpcContext) => router.pins({ kind: 'list' }, { deadlineMs, signal }),
    },
  };
}

function changeOfPlacement(request: wire.ChangePlacementRequest): PlacementChange {
  const { change, move, lead, drain = 0, undrain = 0, remove = 0, replicas = 0, bucketReplicas } = request;
  switch (change) {
    case 'move':
      return { kind: 'move', bucket: move?.bucket ?? 0, from: move?.from ?? 0, to: move?.to ?? 0 };
    case 'lead':
      return { kind: 'lead', bucket: lead?.bucket ?? 0, node: lead?.node ?? 0 };
    case 'drain':
      return { kind: 'drain', node: drain };
    case 'undrain':
      return { kind: 'undrain', node: undrain };
    case 'remove':
      return { kind: 'remove', node: remove };
    case 'replicas':
      return { kind: 'replicas', count: replicas };
    case 'bucketReplicas':
      return { kind: 'ownReplicas', buckets: bucketReplicas?.buckets ?? [], count: bucketReplicas?.count };
    case 'rebalance':
      return { kind: 'rebalance' };
    default: {
      const expected = 'one of move, lead, drain, undrain, remove, replicas, bucket_replicas, rebalance';
      const message = `the request names no change: expected ${expected}`;
      throw new TidemarkError('INVALID_ARGUMENT', 'CHANGE_MISSING', message, { details: { field: 'change' } });
    }
  }
}

function existing(map: readonly BucketInfo[], id: number, buckets: number): BucketInfo {
  const info = map[id];
  if (info === undefined) throw outOfPlacement(id, buckets);
  return info;
}

/** The present placement if it is later than `known`, then each later one. */
async function* placements(cluster: ClusterView, known: number, signal: CancelSignal): AsyncGenerator<Placement> {
  let epoch = known;
  while (!signal.aborted) {
    const placement = cluster.placement();
    if (placement.epoch > epoch) {
      epoch = placement.epoch;
      yield placement;
    } else {
      await changeOf(cluster, signal);
    }
  }
}

function changeOf(cluster: ClusterView, signal: CancelSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stop();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const stop = cluster.watch(done);
    signal.addEventListener('abort', done);
  });
}
